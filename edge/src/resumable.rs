//! Uploads that resume, in the words of tus and of the IETF's draft.
//!
//! **Invariant:** nothing of an upload is known here. Its offset, its length and its owner are storaged's, asked for with
//! each request; a body is read only after storaged said where the upload is. The draft's early answer 104 is not sent:
//! a client that wants to resume asks for the upload before it sends bytes.

use bytes::Bytes;
use http::header::{self, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body as _;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use store_proto::headers::{UPLOAD_CHECKSUM, UPLOAD_LENGTH, UPLOAD_OFFSET};
use store_proto::{FileId, UploadState, routes};

use crate::answer::Payload;
use crate::client_body::{ClientBody, Waits};
use crate::dialect::{Dialect, UPLOAD_COMPLETE};
use crate::limits::TUS_VERSION;
use crate::plan::{Addition, Beginning, Stretch};
use crate::refusal::Refusal;
use crate::store::{Asker, Bringing, insert};
use crate::stream::Inbound;

/// What of tus is served beside its core.
const TUS_EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination";

/// `OPTIONS`: which uploads are taken.
pub(crate) fn discover(allow: &str, max_bytes: Option<u64>) -> Response<Payload> {
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let fields = response.headers_mut();
    insert(fields, HeaderName::from_static("tus-resumable"), TUS_VERSION);
    insert(fields, HeaderName::from_static("tus-version"), TUS_VERSION);
    insert(fields, HeaderName::from_static("tus-extension"), TUS_EXTENSIONS);
    insert(fields, HeaderName::from_static("tus-checksum-algorithm"), "sha256");
    insert(fields, header::ALLOW, allow);
    insert(fields, HeaderName::from_static("accept-patch"), "application/partial-upload");
    let limit = match max_bytes {
        None => "min-size=0".to_owned(),
        Some(bytes) => {
            insert(fields, HeaderName::from_static("tus-max-size"), &bytes.to_string());
            format!("max-size={bytes}")
        }
    };
    insert(fields, HeaderName::from_static("upload-limit"), &limit);
    response
}

/// `POST /v1/cohorts/{c}/uploads`.
pub(crate) async fn begin(
    asker: &Asker<'_>,
    beginning: Beginning,
    body: ClientBody,
    waits: Waits,
) -> Result<Response<Payload>, Refusal> {
    let Beginning { new, dialect, first } = beginning;
    let question = serde_json::to_vec(&new).map_err(|_| Refusal::StoreAnswer)?;
    let begun = asker.small(Method::POST, routes::UPLOADS, question.into(), StatusCode::CREATED).await?;
    let mut state: UploadState = serde_json::from_slice(&begun).map_err(|_| Refusal::StoreAnswer)?;
    let brings = !body.is_end_stream();
    // The same request again, and its bytes have arrived, or some of them: the client goes on behind those.
    let came_before = state.offset > 0;
    let mut is_read = !brings;
    if came_before {
        let room = new.length.or(first.max_bytes).unwrap_or(u64::MAX);
        is_read |= waits == Waits::No && asker.passed_over(Inbound::Raw(body), room).await;
    } else if brings || (first.is_last && !state.complete) {
        state = append(asker, &state, new.length, first, body).await?;
        is_read = true;
    }
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::CREATED;
    tell(asker, &state, &mut response, dialect);
    if !is_read {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    insert(response.headers_mut(), header::LOCATION, &format!("/v1/uploads/{}", state.upload_id));
    if dialect == Dialect::Tus && !brings {
        response.headers_mut().remove(UPLOAD_OFFSET);
    }
    Ok(response)
}

/// `PATCH /v1/uploads/{id}`.
pub(crate) async fn add(
    asker: &Asker<'_>,
    addition: Addition,
    body: ClientBody,
) -> Result<Response<Payload>, Refusal> {
    let Addition { upload, dialect, offset, length, stretch } = addition;
    // The round trip before the body: whose it is, and where it goes on. Another request that writes it ends now.
    let state = state(asker, upload).await?;
    if offset != state.offset {
        return Err(Refusal::Offset { at: state.offset });
    }
    let state = append(asker, &state, length, stretch, body).await?;
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    tell(asker, &state, &mut response, dialect);
    Ok(response)
}

/// `HEAD /v1/uploads/{id}`.
pub(crate) async fn look(
    asker: &Asker<'_>,
    upload: FileId,
    dialect: Dialect,
) -> Result<Response<Payload>, Refusal> {
    let state = state(asker, upload).await?;
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    tell(asker, &UploadState { receipt: None, ..state.clone() }, &mut response, dialect);
    if dialect != Dialect::Draft
        && let Some(metadata) = &state.metadata
    {
        insert(response.headers_mut(), HeaderName::from_static("upload-metadata"), metadata);
    }
    Ok(response)
}

/// `DELETE /v1/uploads/{id}`.
pub(crate) async fn give_up(asker: &Asker<'_>, upload: FileId) -> Result<Response<Payload>, Refusal> {
    asker.small(Method::DELETE, &routes::upload(upload), Bytes::new(), StatusCode::NO_CONTENT).await?;
    let mut response = Response::new(Payload::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

async fn state(asker: &Asker<'_>, upload: FileId) -> Result<UploadState, Refusal> {
    let told = asker.small(Method::GET, &routes::upload(upload), Bytes::new(), StatusCode::OK).await?;
    serde_json::from_slice(&told).map_err(|_| Refusal::StoreAnswer)
}

/// Brings the bytes of one request to an upload that is at `state`.
async fn append(
    asker: &Asker<'_>,
    state: &UploadState,
    length: Option<u64>,
    stretch: Stretch,
    body: ClientBody,
) -> Result<UploadState, Refusal> {
    let Stretch { content_length, checksum, is_last, max_bytes } = stretch;
    let length = length.filter(|_| state.length.is_none() || length != state.length);
    let whole = state.length.or(length).or(max_bytes).unwrap_or(u64::MAX);
    let room = whole.saturating_sub(state.offset);
    if content_length.is_some_and(|bytes| bytes > room) {
        return Err(Refusal::TooLarge { limit: room });
    }
    let brings = content_length != Some(0) && !body.is_end_stream();
    let mut state = state.clone();
    if brings || (length.is_some() && !is_last) {
        let mut builder = asker
            .request(Method::PATCH, &routes::upload(state.upload_id))
            .header(UPLOAD_OFFSET, state.offset)
            .header(header::CONTENT_TYPE, "application/octet-stream");
        if let Some(length) = length {
            builder = builder.header(UPLOAD_LENGTH, length);
        }
        if let Some(checksum) = checksum {
            builder = builder.header(UPLOAD_CHECKSUM, checksum.to_upload_checksum());
        }
        if let Some(bytes) = content_length {
            builder = builder.header(CONTENT_LENGTH, bytes);
        }
        let collected = asker
            .bring(Bringing { builder, body: Inbound::Raw(body), trailing: false, max_bytes: room })
            .await?;
        if collected.head.status != StatusCode::OK {
            return Err(asker.problem(&collected));
        }
        state = asker.parse(&collected)?;
        collected.settle().await;
    }
    if is_last && !state.complete {
        // The draft lets the last request be the first to know the length.
        let request = asker
            .request(Method::PATCH, &routes::upload(state.upload_id))
            .header(UPLOAD_OFFSET, state.offset)
            .header(UPLOAD_LENGTH, state.offset);
        let told = asker.committed(request).await?;
        state = serde_json::from_slice(&told).map_err(|_| Refusal::StoreAnswer)?;
    }
    Ok(state)
}

/// Writes how far an upload is into an answer, and the receipt where it has become a file.
fn tell(asker: &Asker<'_>, state: &UploadState, response: &mut Response<Payload>, dialect: Dialect) {
    let fields = response.headers_mut();
    fields.insert(UPLOAD_OFFSET, HeaderValue::from(state.offset));
    match state.length {
        Some(length) => {
            fields.insert(UPLOAD_LENGTH, HeaderValue::from(length));
        }
        None if dialect == Dialect::Tus => {
            insert(fields, HeaderName::from_static("upload-defer-length"), "1")
        }
        None => {}
    }
    if dialect != Dialect::Tus {
        insert(fields, UPLOAD_COMPLETE, if state.complete { "?1" } else { "?0" });
    }
    if !state.complete {
        expires(fields, &state.expires_at, asker.unix_milliseconds(), dialect);
    }
    let Some(receipt) = &state.receipt else { return };
    insert(fields, header::ETAG, &receipt.etag);
    insert(fields, HeaderName::from_static("culvert-file-id"), &receipt.file_id.to_string());
    insert(fields, header::CONTENT_LOCATION, &format!("/v1/files/{}", receipt.file_id));
    if dialect == Dialect::Draft {
        // The last answer is the one that a plain upload would have got.
        if let Ok(json) = serde_json::to_vec(receipt) {
            insert(fields, header::CONTENT_TYPE, "application/json");
            if response.status() == StatusCode::NO_CONTENT {
                *response.status_mut() = StatusCode::OK;
            }
            *response.body_mut() = Payload::Whole(Full::from(json));
        }
    }
}

/// When the upload is given up: a date for tus, seconds for the draft.
fn expires(fields: &mut HeaderMap, expires_at: &str, now_ms: u64, dialect: Dialect) {
    let Ok(at) = expires_at.parse::<Timestamp>() else { return };
    if dialect != Dialect::Draft
        && let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&at)
    {
        insert(fields, HeaderName::from_static("upload-expires"), &date);
    }
    if dialect != Dialect::Tus {
        let left_ms = u64::try_from(at.as_millisecond()).unwrap_or(0).saturating_sub(now_ms);
        insert(fields, HeaderName::from_static("upload-limit"), &format!("max-age={}", left_ms / 1000));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_says_in_its_own_way_when_an_upload_ends() {
        let seen = |dialect| {
            let mut fields = HeaderMap::new();
            expires(&mut fields, "2026-11-22T12:00:10.5Z", 1_795_348_800_000, dialect);
            let text = |name: &str| fields.get(name).map(|value| value.to_str().unwrap().to_owned());
            (text("upload-expires"), text("upload-limit"))
        };
        let date = Some("Sun, 22 Nov 2026 12:00:10 GMT".to_owned());
        let age = Some("max-age=10".to_owned());
        assert_eq!(seen(Dialect::Tus), (date.clone(), None));
        assert_eq!(seen(Dialect::Draft), (None, age.clone()));
        assert_eq!(seen(Dialect::Plain), (date, age));
    }

    #[test]
    fn discovery_tells_both_kinds_of_client_the_limit() {
        let fields = discover("OPTIONS, POST", Some(1000)).headers().clone();
        assert_eq!(
            (&fields["tus-max-size"], &fields["upload-limit"]),
            (&"1000".parse().unwrap(), &"max-size=1000".parse().unwrap())
        );
        assert_eq!(fields["allow"], "OPTIONS, POST");
        assert!(!discover("OPTIONS, POST", None).headers().contains_key("tus-max-size"));
    }
}
