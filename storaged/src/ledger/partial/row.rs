//! What the ledger keeps of an upload that has not ended.
//!
//! **Invariant:** the tail and the state of the hash are never printed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use store_proto::{ContentDigest, FileId, UserName};

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialRow {
    /// Whether its objects are being removed: nothing may go on behind what is no longer there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub condemned: bool,
    /// When it began.
    pub created_ms: u64,
    /// When it is given up, unless more arrives.
    pub expires_ms: u64,
    /// The file that it will be, or has become.
    pub file_id: FileId,
    /// Whether the file is there: kept until it expires, for a client that missed the answer.
    pub finished: bool,
    /// The state of SHA-256 over all bytes so far; none, before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Blob>,
    /// The intent that stands for it.
    pub intent: u64,
    /// How long the file will be, if it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// `Upload-Metadata`, for its sender; it may hold the file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// The number of the next part.
    pub next_part: u32,
    /// Bytes that are durable.
    pub offset: u64,
    /// How many parts there are.
    pub parts: u32,
    /// What the whole must have, if it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<ContentDigest>,
    /// The last bytes before the offset, which are in no part yet.
    #[serde(default, skip_serializing_if = "Blob::is_empty")]
    pub tail: Blob,
    /// Whose it is.
    pub user: UserName,
    /// The row's format.
    pub v: u32,
}

impl PartialRow {
    /// Whether all bytes are there, in parts.
    pub fn is_whole(&self) -> bool {
        self.length == Some(self.offset) && self.tail.is_empty() && self.parts > 0
    }
}

/// Bytes, base64 in JSON; never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Blob {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text.as_bytes()).map(Blob).map_err(serde::de::Error::custom)
    }
}
