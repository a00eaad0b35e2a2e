//! What a store can prove with no server: Merkle proofs, signed checkpoints, receipts.
//!
//! Hashing and proofs are those of RFC 6962 §2.1; notes and checkpoints those of C2SP (`signed-note`,
//! `tlog-checkpoint`); tiles those of C2SP `tlog-tiles`.
//!
//! **Invariant:** this crate does no IO but through readers and closures it is given, reads no clock, and knows
//! neither a database nor a socket. A verifier accepts only what it has recomputed from its arguments.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod limits;
pub mod merkle;
pub mod note;
pub mod receipt;
pub mod record;
pub mod verify;

pub use checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
pub use merkle::Hash;
pub use note::{LogKey, LogSigner, Note, NoteError};
pub use receipt::{Parts, Receipt, ReceiptError};
pub use record::{StoredFile, commitment, commitment_leaf};
pub use verify::{Fault, Report, Step, Trust, verify, verify_hashed};
