//! The Merkle tree of RFC 6962 §2.1: heads, proofs of inclusion, proofs of consistency.
//!
//! A node is named by `(level, index)`: it covers the leaves from `index << level` up to, without,
//! `(index + 1) << level`. Functions that read take a closure for such nodes and ask it only for *complete* ones,
//! that is for those all of whose leaves exist: these never change once the tree has reached them.
//!
//! **Invariant:** reading a head or a proof takes O(log n) nodes.

mod edge;
mod prove;
pub mod tile;
mod verify;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use edge::{Edge, EdgeError, Node};
pub use prove::{ProveError, consistency, inclusion, root};
pub use verify::{ProofError, verify_consistency, verify_inclusion};

/// SHA-256 of a leaf, of a node, or of a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    /// A hash that was computed or read elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Hash {
        Hash(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Standard base64 with padding, in its one canonical spelling.
    pub fn parse(text: &str) -> Option<Hash> {
        // 44 characters: a longer text is not decoded at all.
        if text.len() != 44 {
            return None;
        }
        STANDARD.decode(text).ok()?.try_into().ok().map(Hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl TryFrom<String> for Hash {
    type Error = HashTextError;
    fn try_from(text: String) -> Result<Self, HashTextError> {
        Self::parse(&text).ok_or(HashTextError)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> String {
        hash.to_string()
    }
}

/// The text is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash must be base64 of 32 bytes")]
pub struct HashTextError;

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash of a leaf: `SHA-256(0x00 ‖ data)`.
pub fn leaf_hash(data: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0]).chain_update(data).finalize().into())
}

/// The hash of a node: `SHA-256(0x01 ‖ left ‖ right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The head of the tree without leaves: `SHA-256()`.
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// The largest power of two below `length`, where RFC 6962 splits a tree of so many leaves.
fn split(length: u64) -> u64 {
    debug_assert!(length > 1, "a leaf is not split");
    1 << (length - 1).ilog2()
}

#[cfg(test)]
mod tests;
