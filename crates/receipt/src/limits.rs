//! Every bound of this crate, with its reason.

// ---- From the specification ---------------------------------------------------------------------

/// Bytes of an Ed25519 public key and of its seed (RFC 8032 §5.1.5).
pub const ED25519_KEY_BYTES: usize = 32;
/// Bytes of an Ed25519 signature (RFC 8032 §5.1.6).
pub const ED25519_SIGNATURE_BYTES: usize = 64;
/// Hashes in a full tile (C2SP `tlog-tiles`: height 8).
pub const TILE_HASHES: usize = 256;

// ---- Our choice ---------------------------------------------------------------------------------

/// Leaves in a tree at most: far more than a store can hold, and no sum of two indices overflows.
pub const MAX_TREE_SIZE: u64 = 1 << 62;
/// Hashes in a proof at most: one for each level of the largest tree, and one for its start.
pub const MAX_PROOF_HASHES: usize = 64;
/// A signed note with a checkpoint of five lines and every signature it may carry.
pub const MAX_NOTE_BYTES: usize = 16 * 1024;
/// Signatures of a note: the log's own and some witnesses'.
pub const MAX_NOTE_SIGNATURES: usize = 16;
/// A key's name, which is the log's origin.
pub const MAX_KEY_NAME_BYTES: usize = 128;
/// A record's bytes: the longest path, each byte of it escaped, and some.
pub const MAX_RECORD_BYTES: usize = 16 * 1024;
/// A receipt as JSON: record, proof and checkpoint, escaped once more.
pub const MAX_RECEIPT_BYTES: usize = 64 * 1024;
/// A piece of the file that is hashed at once.
pub const READ_BYTES: usize = 256 * 1024;
