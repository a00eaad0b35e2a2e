//! The steps that a volume is asked for, one method each, so that a test can fail or stop at any of them.

use std::fs::File;
use std::io;

use store_proto::FileId;

/// What can be done with a volume. All calls block; they run on the [`Pool`](crate::objects::Pool).
pub trait Disk: Send + Sync + std::fmt::Debug + 'static {
    /// The volume's id, as its marker says.
    fn id(&self) -> FileId;
    /// Makes the temporary file `tmp/ID`, which must not exist.
    fn create_temporary(&self, id: FileId) -> io::Result<File>;
    /// Appends to a temporary file.
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    /// Brings a temporary file's bytes to the disk (`fdatasync`).
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Renames `tmp/ID` to its place under `objects/`.
    fn publish(&self, id: FileId) -> io::Result<()>;
    /// Brings the rename to the disk (`fsync` of both directories).
    fn sync_directories(&self, id: FileId) -> io::Result<()>;
    /// Removes the temporary file and the published object, whichever is there, durably.
    fn remove(&self, id: FileId) -> io::Result<()>;
    /// Opens a published object; the number is its length.
    fn open(&self, id: FileId) -> io::Result<(File, u64)>;
    /// Reads at an offset, as much as there is.
    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Whether this is still the volume it was at start.
    fn check(&self) -> io::Result<()>;
    /// Room.
    fn space(&self) -> io::Result<Space>;
    /// Calls back with every object and temporary file whose name is an id; others are passed as `None`.
    fn walk(&self, found: &mut dyn FnMut(Option<FileId>)) -> io::Result<()>;
}

/// Room on a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub available_bytes: u64,
    /// Bytes of the file system.
    pub size_bytes: u64,
}
