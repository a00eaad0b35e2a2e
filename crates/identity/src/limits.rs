//! Every bound of what identity providers say, with its reason.

// ---- From the specification ---------------------------------------------------------------------

/// A subject (OpenID Connect Core 1.0 §2: at most 255 ASCII characters).
pub const SUBJECT_BYTES: usize = 255;
/// The clocks of an identity provider and of ours may differ as those of edge and storaged may.
pub const LEEWAY_SECONDS: u64 = store_proto::limits::MAX_CLOCK_SKEW_SECONDS;

// ---- Our choice ---------------------------------------------------------------------------------

/// A file of keys: providers publish two to ten, each of 2 KiB at most, with certificates of 6 KiB beside them.
pub const JWKS_BYTES: u64 = 128 * 1024;
/// The keys of one provider.
pub const KEYS: usize = 64;
/// Providers: a site has one or two; each takes a descriptor of a reload.
pub const ISSUERS: usize = 6;
/// A file of authorities that sign clients' certificates, or of what they revoked.
pub const AUTHORITIES_BYTES: u64 = 1024 * 1024;
/// Authorities in such a file, or lists.
pub const AUTHORITIES: usize = 64;
/// Names of certificates that are mapped to users.
pub const CERTIFICATES: usize = 4096;
/// Audiences of one provider.
pub const AUDIENCES: usize = 16;
/// Mappings of all providers together.
pub const MAPPINGS: usize = 4096;
/// A provider's short name, which stands before the subject in records.
pub const ISSUER_NAME_BYTES: usize = 32;
/// A provider's URL, an audience, a claim's name or a group.
pub const TEXT_BYTES: usize = 512;
