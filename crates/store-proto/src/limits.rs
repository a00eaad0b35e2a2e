//! Every bound of the protocol between `edge` and `storaged`, with its reason.

// ---- From the specification ---------------------------------------------------------------------

/// Seconds that the clocks of edge and storaged may differ (requirement A-138).
pub const MAX_CLOCK_SKEW_SECONDS: u64 = 60;

/// A capability runs out within seven days (requirements C.2).
pub const MAX_CAPABILITY_SECONDS: u64 = 7 * 24 * 3600;

// ---- Our choice ---------------------------------------------------------------------------------

/// A whole path: what fits a header line and every operating system's path limit on the client's side.
pub const MAX_PATH_BYTES: usize = 1024;
/// One segment: `NAME_MAX` of the file systems people download to.
pub const MAX_SEGMENT_BYTES: usize = 255;
/// A cohort stands in URLs, metrics of operators and file names of reports: a DNS label's length.
pub const MAX_COHORT_BYTES: usize = 63;
/// An edge's name is a WireGuard peer's friendly name.
pub const MAX_EDGE_NAME_BYTES: usize = 64;
/// A user's name; long enough for a mail address.
pub const MAX_USER_NAME_BYTES: usize = 128;
/// A file type is a short token such as `raw_csv`.
pub const MAX_FILE_TYPE_BYTES: usize = 64;
/// The end of a file's name: `tar.gz` and longer, none so long.
pub const MAX_EXTENSION_BYTES: usize = 32;
/// Attributes of one file: what people sort their files by, not a data set.
pub const MAX_ATTRIBUTES: usize = 16;
/// An attribute's name: as long as a file type's.
pub const MAX_ATTRIBUTE_NAME_BYTES: usize = 64;
/// Its value: a year, a site, a visit's id. With the lines above a file's are under 4 KiB.
pub const MAX_ATTRIBUTE_VALUE_BYTES: usize = 128;
/// Attributes that a cohort names, and values of each: years, sites.
pub const MAX_ATTRIBUTE_RULES: usize = 64;
/// An `Idempotency-Key`: twice a UUID's text, and some.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;
/// A request id: UUID, ULID or W3C trace id, with room.
pub const MAX_REQUEST_ID_BYTES: usize = 64;
/// A token of an identity provider. They come to 1 to 3 KiB; with a hundred groups by UUID to 6 KiB.
pub const MAX_JWT_BYTES: usize = 8 * 1024;
/// The certificates that a client proved, in base64: a leaf and an authority of RSA 4096 come to 6 KiB.
pub const MAX_CHAIN_BYTES: usize = 8 * 1024;
/// A leaf, and what leads to an authority that is known.
pub const MAX_CHAIN_CERTIFICATES: usize = 4;
/// The `Culvert-Context` header before decoding: the longest token of a provider in base64, and names and ids, which
/// come to under 700 bytes.
pub const MAX_CONTEXT_HEADER_BYTES: usize = 12 * 1024;
/// A `POST /internal/v1/permissions` or `…/uploads` body: the longest path, `Upload-Metadata` and attributes, escaped.
pub const MAX_PERMISSION_REQUEST_BYTES: usize = 32 * 1024;
/// Files in one page of a listing when the caller names no limit.
pub const DEFAULT_LIST_LIMIT: u32 = 100;
/// Files in one page of a listing at most: about 1 MiB of JSON with the longest paths.
pub const MAX_LIST_LIMIT: u32 = 1000;
/// A capability's text: prefix, version, method, ids, expiry, range, network, certificate and signature come to 234 characters
/// at most; the rest is room for a later version.
pub const MAX_CAPABILITY_BYTES: usize = 256;
/// Uses that one capability may be made for: a link for a class, not a public address.
pub const MAX_CAPABILITY_USES: u32 = 10_000;
