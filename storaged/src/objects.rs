//! The bytes of files, on named volumes.
//!
//! **Invariant:** an object appears under its name only when all of its bytes are on the disk, and its
//! name is a random id: nothing of a user's path, cohort or name reaches the file system.
//!
//! **The bytes at rest are not encrypted yet.** Whoever reads the volume reads the files; the vault that
//! seals them is a later part of storaged. `docs/formats/objects.md` describes the layout and says that it
//! may still change.

pub mod backend;
pub mod buffers;
pub mod get;
mod mounted;
pub mod network_fs;
pub mod pool;
pub mod put;
pub mod volume;

#[cfg(test)]
mod tests;

pub use backend::{Backend, Found, Reading, Space, Writing};
pub use buffers::{Buffer, Buffers, TransferSlot};
pub use pool::Pool;
pub use put::{Put, PutError};
pub use volume::{NasVolume, VolumeError};
