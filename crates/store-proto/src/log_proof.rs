//! Proofs about the store's log, on their way to edge and to auditors.

use receipt::Hash;
use serde::{Deserialize, Serialize};

/// That the log of `to` records continues that of `from` (RFC 6962 §2.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyProof {
    /// The earlier size.
    pub from: u64,
    /// The later size.
    pub to: u64,
    /// Base64 of 32 bytes each.
    pub hashes: Vec<Hash>,
}

/// That a record is in the log of `size` records (RFC 6962 §2.1.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InclusionProof {
    /// The record's number.
    pub index: u64,
    /// The records of the checkpoint.
    pub size: u64,
    /// Base64 of the leaf's hash.
    pub leaf: Hash,
    /// Base64 of 32 bytes each, from the leaf upwards.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: String,
}
