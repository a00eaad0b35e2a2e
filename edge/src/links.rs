//! Links: made and ended for users, and opened for whoever holds one.
//!
//! **Invariant:** edge decides nothing about a link. It passes storaged's answer on, and no field of it but those that
//! describe bytes; the link itself is in no log and no metric.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::json;
use store_proto::headers::REPR_DIGEST;
use store_proto::{FileId, MadeCapability, PresignRequest, routes};

use crate::answer::Payload;
use crate::client_body::ClientBody;
use crate::limits::PRESIGN_BYTES;
use crate::plan::Visit;
use crate::refusal::Refusal;
use crate::store::Asker;

/// `POST /v1/files/{id}/presign`.
pub(crate) async fn presign(
    asker: &Asker<'_>,
    file: FileId,
    body: ClientBody,
    idle: Duration,
) -> Result<Response<Payload>, Refusal> {
    let body = match tokio::time::timeout(idle, Limited::new(body, PRESIGN_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err(Refusal::TooLarge { limit: PRESIGN_BYTES as u64 }),
        Err(_) => return Err(Refusal::SlowBody { after: idle }),
    };
    let asked = serde_json::from_slice::<PresignRequest>(&body)
        .map_err(|error| format!("line {} column {} of the JSON", error.line(), error.column()))
        .and_then(|asked| asked.of_file(file))
        .map_err(Refusal::Body)?;
    let question = serde_json::to_vec(&asked).map_err(|_| Refusal::StoreAnswer)?;
    let made = asker.small(Method::POST, routes::CAPABILITIES, question.into(), StatusCode::CREATED).await?;
    let made: MadeCapability = serde_json::from_slice(&made).map_err(|_| Refusal::StoreAnswer)?;
    let answer = json!({
        "url": format!("/p/{}", made.capability.expose()),
        "capability_id": made.capability_id,
        "expires": made.expires,
    });
    let mut response = Response::new(Payload::Whole(Full::new(Bytes::from(answer.to_string()))));
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// `DELETE /v1/presign/{id}`.
pub(crate) async fn revoke(asker: &Asker<'_>, id: FileId) -> Result<Response<Payload>, Refusal> {
    let path = format!("{}/{id}", routes::CAPABILITIES);
    asker.small(Method::DELETE, &path, Bytes::new(), StatusCode::OK).await?;
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// `GET /p/{capability}`.
pub(crate) async fn visit(asker: &Asker<'_>, visit: &Visit) -> Result<Response<Payload>, Refusal> {
    let method = if visit.with_body { Method::GET } else { Method::HEAD };
    let mut builder = asker.request(method, &routes::file(visit.link.unverified_file_id()));
    if let Some(range) = &visit.range {
        builder = builder.header(header::RANGE, range);
    }
    let exchange = asker.begin(builder).await?;
    let status = exchange.response.status();
    if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Err(asker.refused(exchange).await);
    }
    let told = exchange.response.headers();
    let length = told.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let Some(length) = length else { return Err(Refusal::StoreAnswer) };
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = status;
    let fields = response.headers_mut();
    let digest = HeaderName::from_static(REPR_DIGEST);
    for name in [header::CONTENT_RANGE, header::ETAG, header::ACCEPT_RANGES, digest] {
        if let Some(value) = told.get(&name) {
            fields.insert(name, value.clone());
        }
    }
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // Without a name: whoever holds a link need not know what its maker calls the file.
    fields.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    if !visit.with_body {
        return Ok(response);
    }
    Ok(response.map(|_| asker.pass(exchange, Some(length))))
}
