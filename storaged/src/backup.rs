//! Backups: what a host needs beside its volumes, at one moment, in one encrypted file.
//!
//! **Invariant:** ledger and keys in a backup are those of one moment between two groups of commands; nothing of it is
//! on a disk in the clear, but in the scratch directory of whoever opens it, and there the rows are sealed and the keys
//! wrapped as in the store.
//!
//! The bytes are described in `docs/formats/backup.md`.

pub mod check;
pub mod make;
pub mod pieces;
pub(crate) mod rows;
pub mod unpack;

#[cfg(test)]
mod tests;

pub use pieces::{Head, Part};
