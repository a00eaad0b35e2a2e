//! What clients are told of a file: the answer to its upload, and the headers of its downloads.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use store_proto::headers::{CULVERT_ATTRIBUTE, CULVERT_FILE_TYPE, REPR_DIGEST};
use store_proto::{ContentDigest, FileMeta, StoredBefore, UploadReceipt};

use crate::answer::Payload;
use crate::plan::Digests;

/// What an upload is answered with.
pub(super) fn stored(
    json: Bytes,
    status: StatusCode,
    receipt: &UploadReceipt,
    location: &str,
) -> Response<Payload> {
    let mut response = json_answer(json);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    insert(headers, header::ETAG, &receipt.etag);
    insert(headers, header::LOCATION, location);
    response
}

/// The answer to a request that came before.
pub(super) fn stored_before(before: StoredBefore, location: &str) -> Response<Payload> {
    let StoredBefore { created, receipt } = before;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    // It was parsed from JSON.
    let json = serde_json::to_vec(&receipt).unwrap_or_default();
    stored(json.into(), status, &receipt, location)
}

pub(super) fn json_answer(json: Bytes) -> Response<Payload> {
    let mut response = Response::new(Payload::Whole(Full::new(json)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The headers that say what a file is.
pub(super) fn describe(file: &FileMeta, digests: Digests, headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(headers, header::ETAG, &file.etag);
    if digests.file {
        insert(headers, HeaderName::from_static(REPR_DIGEST), &digest_field(&file.sha256));
    }
    insert(headers, HeaderName::from_static("culvert-file-id"), &file.file_id.to_string());
    insert(headers, header::CONTENT_DISPOSITION, &disposition(file.path.file_name()));
    if let Some(file_type) = &file.file_type {
        insert(headers, HeaderName::from_static(CULVERT_FILE_TYPE), file_type.as_str());
    }
    if !file.attributes.is_empty() {
        insert(headers, HeaderName::from_static(CULVERT_ATTRIBUTE), &file.attributes.to_list());
    }
}

pub(super) fn digest_field(digest: &ContentDigest) -> String {
    digest.to_repr_digest()
}

/// `attachment` with the file's name, encoded so that no name can end the parameter (RFC 8187).
fn disposition(name: &str) -> String {
    format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

/// Inserts a header whose value is built from parsed parts; one that is no header value is left out.
pub(crate) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_name_can_end_the_disposition() {
        assert_eq!(disposition("a b\".csv"), "attachment; filename*=UTF-8''a%20b%22%2Ecsv");
        assert_eq!(disposition("ü;x"), "attachment; filename*=UTF-8''%C3%BC%3Bx");
    }
}
