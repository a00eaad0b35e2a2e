//! The bytes of files, on named volumes.
//!
//! **Invariant:** an object appears under its name only when all of its bytes are on the disk, and its
//! name is a random id: nothing of a user's path, cohort or name reaches the file system.
//!
//! `docs/formats/objects.md` describes the layout of a volume, `docs/formats/sealed-object.md` an object.

pub mod backend;
pub mod buffers;
pub mod get;
mod mounted;
pub mod network_fs;
pub mod part;
pub mod pipeline;
pub mod pool;
pub mod put;
pub mod volume;

#[cfg(test)]
mod tests;

pub use backend::{Backend, Found, Reading, Region, Space, Writing};
pub use buffers::{Buffer, Buffers, TransferSlot};
pub use part::Part;
pub use pipeline::Pipeline;
pub use pool::Pool;
pub use put::{Published, Put, PutError};
pub use volume::{NasVolume, VolumeError};
