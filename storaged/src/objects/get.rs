//! Reading an object, or a stretch of it.
//!
//! **Invariant:** an object whose length is not the recorded one is not served at all, and one that ends
//! early is an error in the middle of the body, never a short answer that looks whole. An object that is read
//! as a whole and has another SHA-256 than recorded is such an error before its last bytes; of a stretch
//! only the length can be checked.

use std::io;
use std::ops::Range;

use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId};

use crate::objects::{Backend, Buffer, Reading};

/// An object being read.
#[derive(Debug)]
pub struct Get {
    object: Box<dyn Reading>,
    range: Range<u64>,
    /// Of a whole object, until it was compared.
    check: Option<(Sha256, ContentDigest)>,
}

/// What the ledger says of an object.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// Its length.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: ContentDigest,
}

/// What is wrong with an object that is not what the ledger says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Another length.
    #[error("the object has {found} bytes, the ledger says {recorded}")]
    Length {
        /// What the volume says.
        found: u64,
        /// What the ledger says.
        recorded: u64,
    },
    /// Shorter than when it was opened.
    #[error("the object ended early")]
    Short,
    /// Other bytes.
    #[error("the object's SHA-256 is not the recorded one")]
    Content,
}

impl Damage {
    fn into_error(self) -> io::Error {
        let kind = match self {
            Damage::Length { .. } | Damage::Content => io::ErrorKind::InvalidData,
            Damage::Short => io::ErrorKind::UnexpectedEof,
        };
        io::Error::new(kind, self)
    }
}

impl Get {
    /// Opens an object that must be as recorded, for the bytes of `range`, which lie in it.
    pub fn open(disk: &dyn Backend, id: FileId, recorded: Recorded, range: Range<u64>) -> io::Result<Get> {
        let object = disk.open(id)?;
        let found = object.length();
        if found != recorded.size {
            return Err(Damage::Length { found, recorded: recorded.size }.into_error());
        }
        let check = (range == (0..recorded.size)).then(|| (Sha256::new(), recorded.sha256));
        Ok(Get { object, range, check })
    }

    /// The next stretch; an empty buffer when all of the range was read.
    pub fn read(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let wanted = self.range.end - self.range.start;
        let count = buffer.refill(|space| {
            let most = usize::try_from(wanted).map_or(space.len(), |wanted| wanted.min(space.len()));
            let mut filled = 0;
            while filled < most {
                match self.object.read_at(&mut space[filled..most], self.range.start + filled as u64) {
                    Ok(0) => return Err(Damage::Short.into_error()),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(filled)
        })?;
        self.range.start += count as u64;
        if let Some((hash, _)) = &mut self.check {
            // While the bytes are in the cache.
            hash.update(buffer.filled());
        }
        if self.range.is_empty()
            && let Some((hash, recorded)) = self.check.take()
            && ContentDigest::from_bytes(hash.finalize().into()) != recorded
        {
            buffer.clear();
            return Err(Damage::Content.into_error());
        }
        Ok(())
    }
}
