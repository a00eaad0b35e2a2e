//! Reading an object, or a stretch of it.
//!
//! **Invariant:** an object whose length is not the recorded one is not served at all, and one that ends
//! early is an error in the middle of the body, never a short answer that looks whole.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use store_proto::FileId;

use crate::objects::{Buffer, Disk};

/// An object being read.
#[derive(Debug)]
pub struct Get {
    disk: Arc<dyn Disk>,
    file: File,
    range: Range<u64>,
}

impl Get {
    /// Opens an object that must have `size` bytes, for the bytes of `range`, which lie in it.
    pub fn open(disk: Arc<dyn Disk>, id: FileId, size: u64, range: Range<u64>) -> io::Result<Get> {
        let (file, found) = disk.open(id)?;
        if found != size {
            let why = format!("object {id} has {found} bytes, the ledger says {size}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Get { disk, file, range })
    }

    /// The next stretch; an empty buffer when all of the range was read.
    pub fn read(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let wanted = self.range.end - self.range.start;
        let count = buffer.refill(|space| {
            let most = usize::try_from(wanted).map_or(space.len(), |wanted| wanted.min(space.len()));
            let mut filled = 0;
            while filled < most {
                match self.disk.read(&self.file, &mut space[filled..most], self.range.start + filled as u64) {
                    Ok(0) => {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the object ended early"));
                    }
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(filled)
        })?;
        self.range.start += count as u64;
        Ok(())
    }
}
