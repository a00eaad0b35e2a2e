//! The vault: how files, rows and keys are sealed at rest, as bytes to bytes.
//!
//! **Invariant:** no key seals two messages under one nonce: each row, wrapped key and stream gets a key of
//! its own, derived with a fresh random salt. Nothing here opens a file, reads a clock or logs.
#![forbid(unsafe_code)]

pub mod age;
pub mod blind;
pub mod key;
pub mod provider;
pub mod row;
pub mod stream;
pub mod wrap;

pub use key::Key256;
pub use provider::RandomError;
pub use row::OpenError;
