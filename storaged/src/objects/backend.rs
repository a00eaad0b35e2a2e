//! What a place for objects can do, one method a step, so that a test can fail or stop at any of them.
//!
//! **Invariant:** an object is known by a random id and nothing else, and appears under it whole or not at
//! all: what [`Writing`] has not published is a temporary, and what it has not settled may be gone after a
//! power cut, or not whole if it was not synced before either. A directory on a disk or a network file system is one such place ([`NasVolume`]); an object
//! store, where publishing completes an upload of several pieces and there is nothing to settle, would be
//! another.
//!
//! [`NasVolume`]: crate::objects::NasVolume

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use store_proto::FileId;

use crate::objects::spool::Spool;

/// A volume. All calls block; they run on the volume's [`Pool`](crate::objects::Pool).
pub trait Backend: Send + Sync + Debug + 'static {
    /// The volume's id, as its marker says.
    fn id(&self) -> FileId;
    /// Makes a temporary for an object that must not exist.
    fn create(&self, object: FileId) -> io::Result<Box<dyn Writing>>;
    /// Opens a published object.
    fn open(&self, object: FileId) -> io::Result<Box<dyn Reading>>;
    /// Removes the temporary and the published object, whichever is there, durably.
    fn remove(&self, object: FileId) -> io::Result<()>;
    /// Removes the temporary alone: what a power cut may bring back of an object that was published.
    fn remove_temporary(&self, object: FileId) -> io::Result<()>;
    /// Whether neither the object nor its temporary is there: what a cleanup needs to know.
    fn is_absent(&self, object: FileId) -> io::Result<bool>;
    /// Moves what nobody claims out of the way, to where nothing looks: it is kept.
    fn set_aside(&self, object: FileId) -> io::Result<()>;
    /// Whether this is still the volume it was at start. What was away and is back is taken back.
    fn check(&self) -> io::Result<()>;
    /// Room.
    fn space(&self) -> io::Result<Space>;
    /// Where small objects are durable before they are in their own files. None: each is synced by itself. Another one
    /// after the volume was mounted anew.
    fn spool(&self) -> Option<Arc<Spool>> {
        None
    }
    /// Calls back with everything that lies in one region of where objects lie.
    fn walk(&self, region: Region, found: &mut dyn FnMut(Found)) -> io::Result<()>;
}

/// A part of a volume that is small enough to be walked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// What is being written, and what lies beside the shards.
    Top,
    /// The objects whose id begins so.
    Shard(u8),
}

impl Region {
    /// Everything. What is being written comes first: an object that is published meanwhile is met twice, not never.
    pub fn all() -> impl Iterator<Item = Region> {
        std::iter::once(Region::Top).chain((0..=u8::MAX).map(Region::Shard))
    }
}

/// An object on its way to a volume. Dropped before it is published, it leaves its temporary behind, which
/// [`Backend::remove`] takes away.
pub trait Writing: Send + Debug {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Brings the bytes to the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Gives the object its name.
    fn publish(&mut self) -> io::Result<()>;
    /// Brings the name to the disk.
    fn settle(&mut self) -> io::Result<()>;
}

/// A published object.
pub trait Reading: Send + Sync + Debug {
    /// Its length when it was opened.
    fn length(&self) -> u64;
    /// Reads at an offset, as much as there is.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// Something on a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// An object that is being written, or was when a process died.
    Temporary(FileId),
    /// A published object.
    Object(FileId),
    /// Something whose name is no id: nobody's that we know. The path is below the volume's directory.
    Stray(String),
}

/// Room on a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub available_bytes: u64,
    /// Bytes of the file system.
    pub size_bytes: u64,
}
