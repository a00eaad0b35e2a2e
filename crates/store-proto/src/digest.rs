//! The SHA-256 of a file's bytes: its identity, its ETag and its `Repr-Digest`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::hex;

/// A strong ETag, quoted, as it stands in the header.
pub type ETag = String;

/// Why a digest cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("a SHA-256 must be 64 lower-case hexadecimal digits")]
    Hex,
    /// Not a dictionary of `name=:base64:` (RFC 9530).
    #[error("`Repr-Digest` must be `sha-256=:BASE64:` (RFC 9530)")]
    Field,
    /// Not `sha256 BASE64`.
    #[error("`Upload-Checksum` must be `sha256` and 32 bytes in base64: the one algorithm")]
    Checksum,
    /// The field holds no `sha-256`, or two.
    #[error("`Repr-Digest` must hold one `sha-256`")]
    Algorithm,
}

/// SHA-256 over the bytes of a file as the user sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    /// A digest the caller computed.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Takes 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        hex::decode(text).map(Self).ok_or(DigestError::Hex)
    }

    /// Takes a `Repr-Digest` field (RFC 9530 §3). Other algorithms beside `sha-256` are passed over.
    pub fn from_repr_digest(field: &str) -> Result<Self, DigestError> {
        let mut found = None;
        for member in field.split(',') {
            let (name, value) = member.trim().split_once('=').ok_or(DigestError::Field)?;
            let value =
                value.strip_prefix(':').and_then(|v| v.strip_suffix(':')).ok_or(DigestError::Field)?;
            let bytes = STANDARD.decode(value).map_err(|_| DigestError::Field)?;
            if name.eq_ignore_ascii_case("sha-256") {
                let bytes: [u8; 32] = bytes.try_into().map_err(|_| DigestError::Field)?;
                if found.replace(Self(bytes)).is_some() {
                    return Err(DigestError::Algorithm);
                }
            }
        }
        found.ok_or(DigestError::Algorithm)
    }

    /// Takes an `Upload-Checksum` field, as tus writes it: `sha256 BASE64`.
    pub fn from_upload_checksum(field: &str) -> Result<Self, DigestError> {
        let encoded = field.strip_prefix("sha256 ").ok_or(DigestError::Checksum)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| DigestError::Checksum)?;
        bytes.try_into().map(Self).map_err(|_| DigestError::Checksum)
    }

    /// The value of an `Upload-Checksum` field.
    pub fn to_upload_checksum(&self) -> String {
        format!("sha256 {}", STANDARD.encode(self.0))
    }

    /// The value of a `Repr-Digest` field.
    pub fn to_repr_digest(&self) -> String {
        format!("sha-256=:{}:", STANDARD.encode(self.0))
    }

    /// The strong ETag of these bytes, quoted.
    pub fn to_etag(&self) -> ETag {
        format!("\"{self}\"")
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl FromStr for ContentDigest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ContentDigest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<ContentDigest> for String {
    fn from(digest: ContentDigest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repr_digest_there_and_back() {
        let digest = ContentDigest::from_bytes([7; 32]);
        assert_eq!(ContentDigest::from_repr_digest(&digest.to_repr_digest()), Ok(digest));
        let with_others = format!("unixsum=:AAA=:, SHA-256{}", &digest.to_repr_digest()[7..]);
        assert_eq!(ContentDigest::from_repr_digest(&with_others), Ok(digest));
    }

    #[test]
    fn malformed_repr_digests_are_refused() {
        let good = ContentDigest::from_bytes([7; 32]).to_repr_digest();
        for bad in
            ["", "sha-256", "sha-256=abc", "sha-256=:abc:", "sha-256=:!!!:", "md5=:AAAA:", ",", "sha-256=::"]
        {
            assert!(ContentDigest::from_repr_digest(bad).is_err(), "{bad}");
        }
        assert_eq!(ContentDigest::from_repr_digest(&format!("{good},{good}")), Err(DigestError::Algorithm));
    }

    #[test]
    fn upload_checksum_there_and_back() {
        let digest = ContentDigest::from_bytes([7; 32]);
        assert_eq!(ContentDigest::from_upload_checksum(&digest.to_upload_checksum()), Ok(digest));
        for bad in ["", "sha1 AAAA", "sha256", "sha256 ", "sha256 ====", "sha256 AAAA:, sha-256=:AAAA"] {
            assert_eq!(ContentDigest::from_upload_checksum(bad), Err(DigestError::Checksum), "{bad}");
        }
    }

    #[test]
    fn the_etag_is_quoted_hex() {
        let etag = ContentDigest::from_bytes([0xab; 32]).to_etag();
        assert_eq!(etag.len(), 66);
        assert!(etag.starts_with("\"abab"));
    }
}
