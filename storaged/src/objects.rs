//! The bytes of files, on named volumes.
//!
//! **Invariant:** an object belongs to a file only when all of its bytes and its name are on the disk; until then an
//! open intent claims it. Its name is a random id: nothing of a user's path, cohort or name reaches the file system.
//!
//! `docs/formats/objects.md` describes the layout of a volume, `docs/formats/sealed-object.md` an object.

pub mod backend;
pub mod buffers;
pub mod content;
pub mod get;
mod mounted;
pub mod network_fs;
pub mod part;
pub mod pipeline;
pub mod pool;
pub mod put;
pub mod spool;
pub mod together;
pub mod volume;

#[cfg(test)]
mod tests;

pub use backend::{Backend, Found, Reading, Region, Space, Writing};
pub use buffers::{Buffer, Buffers, TransferSlot};
pub use content::{Opening, OtherContent};
pub use part::Part;
pub use pipeline::Pipeline;
pub use pool::Pool;
pub use put::{Published, Put, PutError};
pub use spool::Spool;
pub use volume::{NasVolume, VolumeError};
