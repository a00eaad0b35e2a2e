//! Writing an object: temporary → bytes → `fdatasync` → rename → `fsync` of its directory.
//!
//! **Invariant:** until [`Put::publish`] has returned, nothing under `objects/` is promised; when it has,
//! the object is whole and its name durable. [`Backend::remove`] takes away whatever a failed put left,
//! and must succeed before its intent may be closed.

use std::io;

use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId};

use crate::objects::{Backend, Writing};

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
    writing: Box<dyn Writing>,
    hash: Sha256,
    size: u64,
}

impl Put {
    /// Makes the temporary file.
    pub fn begin(disk: &dyn Backend, id: FileId) -> Result<Put, PutError> {
        let writing = disk.create(id).map_err(at("make the temporary file"))?;
        Ok(Put { writing, hash: Sha256::new(), size: 0 })
    }

    /// Hashes and writes. Both at once, while the bytes are in the cache.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PutError> {
        self.hash.update(bytes);
        self.writing.write(bytes).map_err(at("write"))?;
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
    pub fn publish(mut self) -> Result<(), PutError> {
        // Network file systems report a full disk or a broken server here, and not at the write.
        self.writing.sync().map_err(at("sync"))?;
        self.writing.publish().map_err(at("rename"))?;
        self.writing.settle().map_err(at("sync the directory"))
    }
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> PutError {
    move |error| {
        let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge]
            .contains(&error.kind());
        if is_full { PutError::Full { step, error } } else { PutError::Io { step, error } }
    }
}
