//! Changes of the keys, as commands carry them and as the journal repeats them.
//!
//! **Invariant:** a change is whole in itself: an insertion brings the wrapped cohort key along that opens it,
//! so it can be repeated onto an older copy of the keys (of the same epoch). What is serialized is wrapped.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use store_proto::{Cohort, FileId};
use vault::Key256;
use vault::wrap::WrappedKey;

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyChange {
    /// A new key in a slot of a file.
    Insert(Box<Insertion>),
    /// All keys of a file go.
    Destroy {
        /// The file.
        file: FileId,
    },
    /// One key of a file goes.
    DestroySlot {
        /// The file.
        file: FileId,
        /// The slot.
        slot: u32,
    },
}

/// A new key in a slot of a file, wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Insertion {
    /// The file.
    pub file: FileId,
    /// The slot.
    pub slot: u32,
    /// Whose key wraps it.
    pub cohort: Cohort,
    /// Which version of it.
    pub kek_version: u32,
    /// When that version was made.
    pub kek_created_ms: u64,
    /// That version, wrapped by the epoch key.
    #[serde(with = "wrapped_text")]
    pub kek: WrappedKey,
    /// The key itself, wrapped by that version.
    #[serde(with = "wrapped_text")]
    pub wrapped: WrappedKey,
    /// In the process that drew it: when the cohort's key is replaced between drawing and commit, the key is
    /// wrapped anew.
    #[serde(skip)]
    pub(super) fresh: Fresh,
}

/// The key in the clear, for as long as the change lives in the process that made it.
#[derive(Clone, Default)]
pub(super) struct Fresh(pub(super) Option<Key256>);

/// Not part of what a change says.
impl PartialEq for Fresh {
    fn eq(&self, _other: &Fresh) -> bool {
        true
    }
}

impl Eq for Fresh {}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fresh(…)")
    }
}

/// Wrapped keys as base64.
mod wrapped_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(key: &WrappedKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(key.as_bytes()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WrappedKey, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        WrappedKey::try_from(bytes.as_slice()).map_err(serde::de::Error::custom)
    }
}
