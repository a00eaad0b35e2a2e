//! The heads of uploads that are sent as a whole: a file by itself, or in a form.
//!
//! What storaged is asked and what it is then brought are made of the same [`Reception`], so they cannot differ.

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, TRAILER,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use store_proto::headers::{
    CONTENT_DIGEST, CULVERT_ATTRIBUTE, CULVERT_FILE_TYPE, IDEMPOTENCY_KEY, REPR_DIGEST,
};
use store_proto::{
    Attributes, Cohort, ContentDigest, FileType, IdempotencyKey, LogicalPath, PermissionRequest,
    UploadPermission,
};

use super::{Policy, list, single};
use crate::refusal::Refusal;

/// What a client says of a file that it sends.
#[derive(Debug, Default)]
pub struct Announced {
    /// Its length.
    pub length: Option<u64>,
    /// Its hash; storaged verifies it.
    pub digest: Option<ContentDigest>,
    /// The content that it replaces by a new version.
    pub replaces: Option<ContentDigest>,
    /// What kind of data it is.
    pub file_type: Option<FileType>,
    /// What is to be remembered of it beside that.
    pub attributes: Attributes,
    /// What the client calls the request.
    pub key: Option<IdempotencyKey>,
    /// Whether its digest may follow the bytes.
    pub trailing: bool,
}

/// An upload that storaged is to be asked for, or has allowed.
#[derive(Debug)]
pub struct Reception {
    /// Where it goes.
    pub cohort: Cohort,
    /// Under which name.
    pub path: LogicalPath,
    /// What the client says of it.
    pub announced: Announced,
    /// The longest body that is taken.
    pub max_bytes: u64,
}

/// A form with a file.
#[derive(Debug)]
pub struct Form {
    /// Where the file goes.
    pub cohort: Cohort,
    /// What is between its parts.
    pub boundary: String,
    /// What the head says of the file; what it leaves out, a field may say.
    pub announced: Announced,
    /// The longest file that is taken here.
    pub max_bytes: Option<u64>,
}

impl Reception {
    /// As the client means it, within edge's own limit.
    pub fn new(cohort: Cohort, path: LogicalPath, announced: Announced, max_bytes: Option<u64>) -> Reception {
        Reception { cohort, path, announced, max_bytes: max_bytes.unwrap_or(u64::MAX) }
    }

    /// What storaged has to allow.
    pub fn question(&self) -> PermissionRequest {
        let Announced { length, digest, replaces, file_type, attributes, key, trailing: _ } = &self.announced;
        PermissionRequest::Upload {
            cohort: self.cohort.clone(),
            path: self.path.clone(),
            size: *length,
            replaces: *replaces,
            file_type: file_type.clone(),
            attributes: attributes.clone(),
            sha256: *digest,
            key: key.clone(),
        }
    }

    /// Within what storaged allows.
    pub fn granted(self, permission: &UploadPermission) -> Result<Reception, Refusal> {
        let max_bytes = self.max_bytes.min(permission.max_bytes);
        if self.announced.length.is_some_and(|length| length > max_bytes) {
            return Err(Refusal::TooLarge { limit: max_bytes });
        }
        Ok(Reception { max_bytes, ..self })
    }
}

/// Reads the head of an upload. What changes the meaning of a PUT and is not served is refused:
/// ignoring it would store something else than the client meant.
pub(super) fn upload_head(head: &Parts, policy: &Policy) -> Result<Announced, Refusal> {
    let headers = &head.headers;
    let refuse = |name, rule: &str| Refusal::Header { name, rule: rule.to_owned() };
    if headers.contains_key(CONTENT_RANGE) {
        return Err(refuse("Content-Range", "a PUT replaces a whole file (RFC 9110 §14.5)"));
    }
    if single(headers, &CONTENT_ENCODING, "Content-Encoding")?.is_some_and(|v| v != "identity") {
        return Err(refuse(
            "Content-Encoding",
            "bodies are stored as they come; leave the encoding to the file",
        ));
    }
    let replaces = one_etag(headers, &IF_MATCH, "If-Match")?;
    match single(headers, &IF_NONE_MATCH, "If-None-Match")? {
        None => {}
        Some("*") if replaces.is_none() => {}
        Some("*") => return Err(refuse("If-None-Match", "it contradicts If-Match")),
        Some(_) => return Err(refuse("If-None-Match", "only * is served: names are written once")),
    }
    let length = match single(headers, &CONTENT_LENGTH, "Content-Length")? {
        None => None,
        Some(text) => {
            Some(text.parse().map_err(|_| refuse("Content-Length", "it is not a number of bytes"))?)
        }
    };
    if let (Some(length), Some(limit)) = (length, policy.max_body_bytes)
        && length > limit
    {
        return Err(Refusal::TooLarge { limit });
    }
    let repr = digest(headers, REPR_DIGEST, "Repr-Digest")?;
    // Without a content coding the content is the representation, so both fields name one hash.
    let content = digest(headers, CONTENT_DIGEST, "Content-Digest")?;
    if let (Some(repr), Some(content)) = (repr, content)
        && repr != content
    {
        return Err(refuse("Content-Digest", "it differs from Repr-Digest"));
    }
    let (file_type, attributes, key) = (file_type(headers)?, attributes(headers)?, key(headers)?);
    let trailing = list(headers, &TRAILER).is_some_and(|names| {
        let is_digest =
            |name: &str| [REPR_DIGEST, CONTENT_DIGEST].iter().any(|one| name.eq_ignore_ascii_case(one));
        names.split(',').any(|name| is_digest(name.trim()))
    });
    Ok(Announced { length, digest: repr.or(content), replaces, file_type, attributes, key, trailing })
}

/// The head of a form. Its fields are in the body, and read when storaged knows the user.
pub(super) fn form(headers: &HeaderMap, cohort: Cohort, policy: &Policy) -> Result<Form, Refusal> {
    let boundary = single(headers, &CONTENT_TYPE, "Content-Type")?.and_then(crate::form::boundary);
    let boundary = boundary.ok_or(Refusal::MediaType { wanted: "multipart/form-data, with a boundary" })?;
    let announced = Announced {
        digest: digest(headers, REPR_DIGEST, "Repr-Digest")?,
        file_type: file_type(headers)?,
        attributes: attributes(headers)?,
        key: key(headers)?,
        ..Announced::default()
    };
    Ok(Form { cohort, boundary, announced, max_bytes: policy.max_body_bytes })
}

pub(super) fn file_type(headers: &HeaderMap) -> Result<Option<FileType>, Refusal> {
    single(headers, &HeaderName::from_static(CULVERT_FILE_TYPE), "Culvert-File-Type")?
        .map(FileType::parse)
        .transpose()
        .map_err(|error| Refusal::Header { name: "Culvert-File-Type", rule: error.to_string() })
}

/// `Culvert-Attribute`: one or several fields, each with one or several attributes.
pub(super) fn attributes(headers: &HeaderMap) -> Result<Attributes, Refusal> {
    let refuse = |rule: String| Refusal::Header { name: "Culvert-Attribute", rule };
    let fields = headers.get_all(HeaderName::from_static(CULVERT_ATTRIBUTE)).iter();
    let lists: Result<Vec<&str>, _> = fields.map(|field| field.to_str()).collect();
    let lists = lists.map_err(|_| refuse("it is not printable ASCII".to_owned()))?;
    Attributes::parse_lists(lists).map_err(|error| refuse(error.to_string()))
}

/// `Idempotency-Key`, which storaged keeps and compares. One that could not be compared is refused wherever it stands:
/// it shows a client that relies on it wrongly.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Refusal> {
    single(headers, &HeaderName::from_static(IDEMPOTENCY_KEY), "Idempotency-Key")?
        .map(IdempotencyKey::from_field)
        .transpose()
        .map_err(|error| Refusal::Header { name: "Idempotency-Key", rule: error.to_string() })
}

pub(super) fn digest(
    headers: &HeaderMap,
    key: &'static str,
    name: &'static str,
) -> Result<Option<ContentDigest>, Refusal> {
    single(headers, &HeaderName::from_static(key), name)?
        .map(ContentDigest::from_repr_digest)
        .transpose()
        .map_err(|_| Refusal::Header {
            name,
            rule: "it must hold one sha-256=:BASE64: (RFC 9530)".to_owned(),
        })
}

/// One strong entity tag of ours: the content that is to be replaced.
pub(super) fn one_etag(
    headers: &HeaderMap,
    key: &HeaderName,
    name: &'static str,
) -> Result<Option<ContentDigest>, Refusal> {
    let Some(value) = single(headers, key, name)? else { return Ok(None) };
    let digest = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let digest = digest.and_then(|digest| ContentDigest::parse(digest).ok());
    let rule = || "it names the one ETag of the version that is replaced".to_owned();
    digest.map(Some).ok_or_else(|| Refusal::Header { name, rule: rule() })
}
