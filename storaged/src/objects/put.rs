//! Writing an object: temporary → bytes → `fdatasync` → rename → `fsync` of both directories.
//!
//! **Invariant:** until [`Put::publish`] has returned, nothing under `objects/` is promised; when it has,
//! the object is whole and its name durable. [`Disk::remove`] takes away whatever a failed put left,
//! and must succeed before its intent may be closed.

use std::fs::File;
use std::io;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId};

use crate::objects::Disk;

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The disk or a quota is full.
    #[error("{step}: the volume is full: {error}")]
    Full {
        /// What was tried.
        step: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// Anything else.
    #[error("{step}: {error}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

/// An object on its way to a volume.
#[derive(Debug)]
pub struct Put {
    disk: Arc<dyn Disk>,
    id: FileId,
    file: File,
    hash: Sha256,
    size: u64,
}

impl Put {
    /// Makes the temporary file.
    pub fn begin(disk: Arc<dyn Disk>, id: FileId) -> Result<Put, PutError> {
        let file = disk.create_temporary(id).map_err(at("make the temporary file"))?;
        Ok(Put { disk, id, file, hash: Sha256::new(), size: 0 })
    }

    /// Hashes and writes. Both at once, while the bytes are in the cache.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PutError> {
        self.hash.update(bytes);
        self.disk.write(&self.file, bytes).map_err(at("write"))?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> ContentDigest {
        ContentDigest::from_bytes(self.hash.clone().finalize().into())
    }

    /// Makes it an object.
    pub fn publish(&self) -> Result<(), PutError> {
        // Network file systems report a full disk or a broken server here, and not at the write.
        self.disk.sync(&self.file).map_err(at("sync"))?;
        self.disk.publish(self.id).map_err(at("rename"))?;
        self.disk.sync_directories(self.id).map_err(at("sync the directories"))
    }
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> PutError {
    move |error| {
        let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge]
            .contains(&error.kind());
        if is_full { PutError::Full { step, error } } else { PutError::Io { step, error } }
    }
}
