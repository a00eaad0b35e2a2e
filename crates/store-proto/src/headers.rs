//! Header names, lower-case as HTTP libraries want them.

/// The internal key (requirement C-01: canonical).
pub const X_INTERNAL_KEY: &str = "x-internal-key";
/// The internal key (requirement C-01: alias; both present and different is an error).
pub const X_API_KEY: &str = "x-api-key";
/// base64url JSON of [`RequestContext`](crate::RequestContext).
pub const CULVERT_CONTEXT: &str = "culvert-context";
/// Which store the request is for: what the ids that it makes begin with, eight digits. Edge says it once it knows.
pub const CULVERT_STORE: &str = "culvert-store";
/// The cohort of an upload.
pub const CULVERT_COHORT: &str = "culvert-cohort";
/// The path of an upload, percent-encoded UTF-8.
pub const CULVERT_PATH: &str = "culvert-path";
/// The type of an uploaded file.
pub const CULVERT_FILE_TYPE: &str = "culvert-file-type";
/// An attribute of an uploaded file, `NAME=VALUE`; it may stand several times, and hold several.
pub const CULVERT_ATTRIBUTE: &str = "culvert-attribute";
/// Names a request that may come twice and is to be done once.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// `sha-256=:BASE64:` (RFC 9530).
pub const REPR_DIGEST: &str = "repr-digest";
/// The same over the content of one message; without a content coding it is the representation's.
pub const CONTENT_DIGEST: &str = "content-digest";
/// Where an upload goes on (tus, IETF draft).
pub const UPLOAD_OFFSET: &str = "upload-offset";
/// How long an upload will be.
pub const UPLOAD_LENGTH: &str = "upload-length";
/// `sha256 BASE64` of the bytes of one request (tus).
pub const UPLOAD_CHECKSUM: &str = "upload-checksum";
/// The key that signs the store's log: `NAME+KEYID+BASE64`.
pub const CULVERT_LOG_KEY: &str = "culvert-log-key";
/// The media type of problems (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Why a file is to be deleted, for the record.
pub const CULVERT_REASON: &str = "culvert-reason";
