//! Writing a part: temporary → sealed segments → `fdatasync` → rename → `fsync` of its directory. Or, of a small one:
//! temporary → sealed segment → rename, and its bytes in the volume's spool, whose sync several of them share.
//!
//! **Invariant:** until [`Put::publish`] has returned, or a sync of the spool after [`Put::spool`], nothing under
//! `objects/` is promised; then the object is whole and its name durable, or a start makes it so. [`Backend::remove`] takes away whatever a failed put left,
//! and must succeed before its intent may be closed. Nothing is written that was not sealed before.

use std::io;
use std::sync::Arc;

use store_proto::FileId;
use vault::stream::{Layout, Sealer};

use crate::objects::spool::{Place, Spool};
use crate::objects::{Backend, Buffer, OtherContent, Part, Writing};

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
    /// It is not what its name says; nothing of it was written.
    #[error(transparent)]
    Content(#[from] OtherContent),
    /// Anything else.
    #[error("{step}: {error}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

/// A part on its way to a volume.
#[derive(Debug)]
pub struct Put {
    object: FileId,
    writing: Box<dyn Writing>,
    sealer: Sealer,
    header: Option<[u8; vault::stream::HEADER_BYTES]>,
    sealed_hash: Box<blake3::Hasher>,
    sealed_size: u64,
    size: u64,
}

/// A part that is an object now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The object.
    pub object: FileId,
    /// Its plain bytes.
    pub size: u64,
    /// Its bytes on the volume.
    pub sealed_size: u64,
    /// BLAKE3 of those.
    pub blake3: [u8; 32],
}

/// A part that has its name and stands in the spool, which has yet to be synced.
#[derive(Debug)]
pub struct Spooled {
    published: Published,
    spool: Arc<Spool>,
}

impl Spooled {
    /// After a sync of the spool that began after it stood there. A spool that is not the volume's any more was another
    /// mount's.
    pub fn settled(self, synced: io::Result<()>, backend: &dyn Backend) -> Result<Published, PutError> {
        synced.map_err(at("sync the spool"))?;
        if backend.spool().is_none_or(|spool| !Arc::ptr_eq(&spool, &self.spool)) {
            let error = io::Error::other("the volume was mounted anew while this was written");
            return Err(PutError::Io { step: "sync the spool", error });
        }
        Ok(self.published)
    }
}

impl Put {
    /// Makes the temporary.
    pub fn begin(backend: &dyn Backend, part: &Part) -> Result<Put, PutError> {
        let (sealer, header) = Sealer::new(&part.key, &part.aad, Layout::STORE)
            .map_err(|error| PutError::Io { step: "draw a salt", error: io::Error::other(error) })?;
        let writing = backend.create(part.object).map_err(at("make the temporary file"))?;
        Ok(Put {
            object: part.object,
            writing,
            sealer,
            header: Some(header),
            sealed_hash: Box::default(),
            sealed_size: 0,
            size: 0,
        })
    }

    /// Seals what is in the buffer as the next segment, in place, and writes it. All but the last are full.
    pub fn write(&mut self, buffer: &mut Buffer, last: bool) -> Result<(), PutError> {
        self.size += buffer.filled().len() as u64;
        self.sealer
            .seal_segment(buffer.sealing(), last)
            .map_err(|error| PutError::Io { step: "seal", error: io::Error::other(error) })?;
        let sealed = match self.header.take() {
            Some(header) => buffer.sealed_with_header(&header),
            None => buffer.sealed(),
        };
        // While the bytes are in the cache.
        self.sealed_hash.update(sealed);
        self.sealed_size += sealed.len() as u64;
        self.writing.write(sealed).map_err(at("write"))
    }

    /// Makes it an object, after its last segment.
    pub fn publish(mut self) -> Result<Published, PutError> {
        // Network file systems report a full disk or a broken server here, and not at the write.
        self.writing.sync().map_err(at("sync"))?;
        self.writing.publish().map_err(at("rename"))?;
        self.writing.settle().map_err(at("sync the directory"))?;
        Ok(self.settled())
    }

    /// Gives it its name, and `stream`, all of its sealed bytes, a place in the spool. Whoever calls this has the spool
    /// synced next.
    pub fn spool(mut self, spool: &Arc<Spool>, place: Place, stream: &[u8]) -> Result<Spooled, PutError> {
        self.writing.publish().map_err(at("rename"))?;
        let published = self.settled();
        assert_eq!(published.sealed_size, stream.len() as u64, "an object of one segment is in one buffer");
        place.write(stream, &published.blake3).map_err(at("write to the spool"))?;
        Ok(Spooled { published, spool: Arc::clone(spool) })
    }

    fn settled(&self) -> Published {
        Published {
            object: self.object,
            size: self.size,
            sealed_size: self.sealed_size,
            blake3: *self.sealed_hash.finalize().as_bytes(),
        }
    }
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> PutError {
    move |error| {
        let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge]
            .contains(&error.kind());
        if is_full { PutError::Full { step, error } } else { PutError::Io { step, error } }
    }
}
