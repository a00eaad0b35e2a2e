//! The heads of uploads that resume: creation, more bytes.
//!
//! Both protocols are read into the same plan ([`Dialect`]); what would change the meaning of a request and is not
//! served is refused.

use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use store_proto::headers::{CONTENT_DIGEST, REPR_DIGEST, UPLOAD_CHECKSUM, UPLOAD_LENGTH, UPLOAD_OFFSET};
use store_proto::{Cohort, ContentDigest, FileId, LogicalPath, NewUpload};

use super::reception::{attributes, digest, file_type, key, one_etag};
use super::{Policy, single};
use crate::dialect::{Dialect, UPLOAD_COMPLETE};
use crate::disposition::Disposition;
use crate::refusal::Refusal;
use crate::upload_metadata::UploadMetadata;

const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");

/// An upload that is to begin.
#[derive(Debug)]
pub struct Beginning {
    /// What is asked of storaged.
    pub new: NewUpload,
    /// How the client speaks.
    pub dialect: Dialect,
    /// The bytes that come with it, if any do.
    pub first: Stretch,
}

/// More bytes for an upload.
#[derive(Debug)]
pub struct Addition {
    /// Which upload.
    pub upload: FileId,
    /// How the client speaks.
    pub dialect: Dialect,
    /// Where the client goes on.
    pub offset: u64,
    /// The whole length, if it is said now.
    pub length: Option<u64>,
    /// The bytes.
    pub stretch: Stretch,
}

/// What a head says of a body that is a part of an upload.
#[derive(Debug, Default)]
pub struct Stretch {
    /// How long it is, if announced.
    pub content_length: Option<u64>,
    /// What it must hash to.
    pub checksum: Option<ContentDigest>,
    /// Whether it is the last (draft).
    pub is_last: bool,
    /// The longest upload that is taken here.
    pub max_bytes: Option<u64>,
}

/// `POST /v1/cohorts/{c}/uploads`.
pub(super) fn beginning(head: &Parts, cohort: Cohort, policy: &Policy) -> Result<Beginning, Refusal> {
    let headers = &head.headers;
    let dialect = Dialect::of(headers)?;
    let mut first = stretch(headers, dialect, policy)?;
    let length = match dialect {
        Dialect::Tus => Some(tus_length(headers)?),
        Dialect::Draft => {
            let is_last = first.is_last.then_some(first.content_length).flatten();
            Some(number(headers, UPLOAD_LENGTH, "Upload-Length")?.or(is_last))
        }
        Dialect::Plain => None,
    };
    let Some(length) = length else { return Err(no_protocol()) };
    if dialect == Dialect::Tus {
        let body = first.content_length.is_none_or(|bytes| bytes > 0) && headers.contains_key(CONTENT_TYPE);
        if body {
            media_type(headers, "application/offset+octet-stream")?;
        }
        first.is_last = false;
    }
    if let (Some(length), Some(limit)) = (length, policy.max_body_bytes)
        && length > limit
    {
        return Err(Refusal::TooLarge { limit });
    }
    let text = single(headers, &UPLOAD_METADATA, "Upload-Metadata")?;
    let metadata = match text {
        None => UploadMetadata::default(),
        Some(text) => {
            UploadMetadata::parse(text).map_err(|rule| Refusal::Header { name: "Upload-Metadata", rule })?
        }
    };
    let path = match metadata.path {
        Some(path) => path,
        None => named(headers)?,
    };
    let file_type = file_type(headers)?;
    let attributes = attributes(headers)?;
    let new = NewUpload {
        cohort,
        path,
        file_type: file_type.or(metadata.file_type),
        attributes: if attributes.is_empty() { metadata.attributes } else { attributes },
        metadata: text.map(str::to_owned),
        key: key(headers)?,
        length,
        sha256: digest(headers, REPR_DIGEST, "Repr-Digest")?,
        replaces: one_etag(headers, &IF_MATCH, "If-Match")?,
    };
    Ok(Beginning { new, dialect, first })
}

/// `PATCH /v1/uploads/{id}`.
pub(super) fn addition(head: &Parts, upload: FileId, policy: &Policy) -> Result<Addition, Refusal> {
    let headers = &head.headers;
    let dialect = Dialect::of(headers)?;
    match dialect {
        Dialect::Tus => media_type(headers, "application/offset+octet-stream")?,
        // The early drafts had no type of their own, and clients of theirs send none, or what their library adds.
        Dialect::Draft if !headers.contains_key(CONTENT_TYPE) => {}
        Dialect::Draft => media_type(headers, "application/partial-upload")?,
        Dialect::Plain => return Err(no_protocol()),
    }
    let stretch = stretch(headers, dialect, policy)?;
    let offset = number(headers, UPLOAD_OFFSET, "Upload-Offset")?;
    let offset = offset.ok_or(Refusal::Header { name: "Upload-Offset", rule: "it is missing".to_owned() })?;
    let end = match stretch.content_length {
        None => Some(offset),
        Some(bytes) => offset.checked_add(bytes),
    };
    let limit = policy.max_body_bytes.unwrap_or(u64::MAX);
    let end = end.filter(|end| *end <= limit).ok_or(Refusal::TooLarge { limit })?;
    let said = number(headers, UPLOAD_LENGTH, "Upload-Length")?;
    let length = match (said, stretch.is_last && stretch.content_length.is_some()) {
        (Some(length), true) if length != end => {
            return Err(Refusal::Header {
                name: "Upload-Length",
                rule: "this request is the last and ends elsewhere".to_owned(),
            });
        }
        (None, true) => Some(end),
        (said, _) => said,
    };
    Ok(Addition { upload, dialect, offset, length, stretch })
}

fn no_protocol() -> Refusal {
    Refusal::Header {
        name: "Upload-Complete",
        rule: "say Tus-Resumable: 1.0.0, or Upload-Complete: ?0 or ?1, so that the protocol is known"
            .to_owned(),
    }
}

fn stretch(headers: &HeaderMap, dialect: Dialect, policy: &Policy) -> Result<Stretch, Refusal> {
    let content_length = number(headers, CONTENT_LENGTH.as_str(), "Content-Length")?;
    let checksum = match dialect {
        Dialect::Tus => single(headers, &HeaderName::from_static(UPLOAD_CHECKSUM), "Upload-Checksum")?
            .map(ContentDigest::from_upload_checksum)
            .transpose()
            .map_err(|error| Refusal::Header { name: "Upload-Checksum", rule: error.to_string() })?,
        Dialect::Draft | Dialect::Plain => digest(headers, CONTENT_DIGEST, "Content-Digest")?,
    };
    let is_last = match (dialect, single(headers, &UPLOAD_COMPLETE, "Upload-Complete")?) {
        (Dialect::Tus | Dialect::Plain, _) | (Dialect::Draft, Some("?0")) => false,
        (Dialect::Draft, Some("?1")) => true,
        (Dialect::Draft, None | Some(_)) => {
            return Err(Refusal::Header { name: "Upload-Complete", rule: "it is ?0 or ?1".to_owned() });
        }
    };
    Ok(Stretch { content_length, checksum, is_last, max_bytes: policy.max_body_bytes })
}

/// `Upload-Length`, or `Upload-Defer-Length: 1` in its place.
fn tus_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let length = number(headers, UPLOAD_LENGTH, "Upload-Length")?;
    match (length, single(headers, &UPLOAD_DEFER_LENGTH, "Upload-Defer-Length")?) {
        (Some(_), None) => Ok(length),
        (None, Some("1")) => Ok(None),
        (None, None) => Err(Refusal::Header {
            name: "Upload-Length",
            rule: "it is missing; without a length, Upload-Defer-Length: 1 says so".to_owned(),
        }),
        (None | Some(_), Some(_)) => Err(Refusal::Header {
            name: "Upload-Defer-Length",
            rule: "it is 1, and stands where Upload-Length does not".to_owned(),
        }),
    }
}

/// The file's name where `Upload-Metadata` has none.
fn named(headers: &HeaderMap) -> Result<LogicalPath, Refusal> {
    let missing = || Refusal::Header {
        name: "Upload-Metadata",
        rule: "it must name the file: path (or filename) and the name in base64".to_owned(),
    };
    let value = single(headers, &CONTENT_DISPOSITION, "Content-Disposition")?.ok_or_else(missing)?;
    let read = Disposition::parse(value);
    let read = read.map_err(|rule| Refusal::Header { name: "Content-Disposition", rule: rule.to_owned() })?;
    LogicalPath::parse(&read.filename.ok_or_else(missing)?).map_err(|error| Refusal::Path(error.to_string()))
}

fn media_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), Refusal> {
    let found = single(headers, &CONTENT_TYPE, "Content-Type")?.unwrap_or("");
    let found = found.split(';').next().unwrap_or("").trim();
    if found.eq_ignore_ascii_case(wanted) { Ok(()) } else { Err(Refusal::MediaType { wanted }) }
}

fn number(headers: &HeaderMap, key: &'static str, name: &'static str) -> Result<Option<u64>, Refusal> {
    let refuse = || Refusal::Header { name, rule: "it is not a number of bytes".to_owned() };
    match single(headers, &HeaderName::from_static(key), name)? {
        None => Ok(None),
        Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map(Some).map_err(|_| refuse())
        }
        Some(_) => Err(refuse()),
    }
}
