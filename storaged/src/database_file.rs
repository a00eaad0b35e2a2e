//! The file below a redb database, with blocks that are on the disk before they are needed.
//!
//! A sync that must first give the file new blocks waits for a commit of the file system's journal; one that
//! writes over blocks that are there waits for the disk alone, about a fifth as long. A ledger grows with every
//! record, so the blocks that it will need next are written, as zeros, a step ahead.
//!
//! **Invariant:** zeros are written only behind the last place that ever held data, so never over any; redb
//! asks nothing of pages that it has not written. Where the step ahead cannot be made, the write goes on
//! without it.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use redb::backends::FileBackend;
use redb::{BackendError, Database, DatabaseError, StorageBackend};

use crate::limits::DATABASE_STEP_BYTES;

/// What is written at once.
const ZEROS: &[u8] = &[0; 64 * 1024];

/// A database's storage that keeps a step ahead of its writes.
#[derive(Debug)]
pub(crate) struct DatabaseFile<B> {
    storage: B,
    /// Up to here the file has its blocks.
    prepared: Mutex<u64>,
}

/// How a database of ours is opened: with a bound to its page cache, and with a word when it has to be repaired.
pub(crate) fn builder(name: &'static str, cache_bytes: usize) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder.set_repair_callback(move |session| {
        let percent = (session.progress() * 100.0).round();
        tracing::info!(name, percent, "was not closed in order, and is repaired");
    });
    builder
}

impl DatabaseFile<FileBackend> {
    /// Over a new file, or one that is there.
    pub(crate) fn new(file: File) -> Result<Self, DatabaseError> {
        let prepared = end_of_data(&file).map_err(redb::StorageError::from)?;
        Ok(DatabaseFile { storage: FileBackend::new(file)?, prepared: Mutex::new(prepared) })
    }

    /// Over a file that must be there and hold something: redb would make an empty one a database.
    pub(crate) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let io = redb::StorageError::from;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(io(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")).into());
        }
        Self::new(file)
    }
}

impl<B: StorageBackend> DatabaseFile<B> {
    /// Over any storage; all that it has may be data.
    pub(crate) fn over(storage: B) -> Result<Self, DatabaseError> {
        let prepared = storage.len().map_err(redb::StorageError::from)?;
        Ok(DatabaseFile { storage, prepared: Mutex::new(prepared) })
    }

    /// Gives the file its blocks up to a step behind `end`, before something is written from `begin` to `end`.
    fn prepare(&self, begin: u64, end: u64) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if end <= *prepared {
            return;
        }
        // What redb leaves out on purpose (the rest of a region) stays a hole.
        let mut at = if begin - (*prepared).min(begin) > DATABASE_STEP_BYTES { begin } else { *prepared };
        let length = self.storage.len().unwrap_or(0);
        let goal = end.saturating_add(DATABASE_STEP_BYTES).min(length);
        while at < goal {
            let piece = (goal - at).min(ZEROS.len() as u64);
            let zeros = &ZEROS[..usize::try_from(piece).expect("at most the length of a slice")];
            if self.storage.write(at, zeros).is_err() {
                break;
            }
            at += piece;
        }
        *prepared = at.max(end);
    }
}

impl<B: StorageBackend> StorageBackend for DatabaseFile<B> {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.set_len(len)?;
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        *prepared = (*prepared).min(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.prepare(offset, offset.saturating_add(data.len() as u64));
        self.storage.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.query_lock_range(start, end)
    }
}

/// The end of the last stretch that is not a hole; of a file system that does not tell, the end of the file.
fn end_of_data(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = 0;
    loop {
        let Ok(from) = i64::try_from(end) else { return Ok(length) };
        let data = match lseek(file, from, Whence::SeekData) {
            Ok(data) => data,
            // No data behind this.
            Err(Errno::ENXIO) => return Ok(end),
            Err(_) => return Ok(length),
        };
        match lseek(file, data, Whence::SeekHole).map(u64::try_from) {
            Ok(Ok(hole)) => end = hole,
            Ok(Err(_)) | Err(_) => return Ok(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        (folder, path)
    }

    fn make(path: &Path) -> File {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    #[test]
    fn the_next_writes_find_blocks_that_are_there() {
        let (_folder, path) = file();
        let storage = DatabaseFile::new(make(&path)).unwrap();
        storage.set_len(64 << 20).unwrap();
        storage.write(0, &[1; 4096]).unwrap();
        storage.sync_data().unwrap();
        let blocks = path.metadata().unwrap().blocks();
        assert!(blocks * 512 >= DATABASE_STEP_BYTES, "{blocks} blocks");
        storage.write(8192, &[2; 4096]).unwrap();
        storage.sync_data().unwrap();
        assert_eq!(path.metadata().unwrap().blocks(), blocks);
    }

    #[test]
    fn what_lies_behind_a_hole_is_not_overwritten() {
        let (_folder, path) = file();
        let made = make(&path);
        made.set_len(8 << 20).unwrap();
        made.write_all_at(&[7; 4096], 2 << 20).unwrap();
        drop(made);
        let storage = DatabaseFile::open(&path).unwrap();
        storage.write(0, &[1; 4096]).unwrap();
        storage.write((2 << 20) - 4096, &[1; 4096]).unwrap();
        storage.write((2 << 20) + 4096, &[1; 4096]).unwrap();
        let mut found = vec![0; 3 * 4096];
        storage.read((2 << 20) - 4096, &mut found).unwrap();
        assert_eq!(found, [[1; 4096], [7; 4096], [1; 4096]].concat());
    }

    #[test]
    fn writes_in_any_order_are_read_back() {
        let (_folder, path) = file();
        let storage = DatabaseFile::new(make(&path)).unwrap();
        let pages = 2048_u64;
        storage.set_len(pages * 4096).unwrap();
        let page = |number: u64| [u8::try_from(number % 251).unwrap() + 1; 4096];
        // 1021 is prime to the number of pages: each once, far and near, behind and before what is prepared.
        for step in 0..pages {
            let number = step * 1021 % pages;
            storage.write(number * 4096, &page(number)).unwrap();
        }
        let mut found = [0; 4096];
        for number in 0..pages {
            storage.read(number * 4096, &mut found).unwrap();
            assert!(found == page(number), "page {number}");
        }
    }

    #[test]
    fn an_empty_file_is_no_database() {
        let (_folder, path) = file();
        drop(make(&path));
        DatabaseFile::open(&path).unwrap_err();
    }

    #[test]
    fn a_full_disk_takes_what_still_fits() {
        #[derive(Debug)]
        struct Full;
        impl StorageBackend for Full {
            fn len(&self) -> io::Result<u64> {
                Ok(64 << 20)
            }
            fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
                Ok(())
            }
            fn set_len(&self, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn sync_data(&self) -> io::Result<()> {
                Ok(())
            }
            fn write(&self, _: u64, data: &[u8]) -> io::Result<()> {
                if data.len() > 4096 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            }
        }
        let storage = DatabaseFile { storage: Full, prepared: Mutex::new(0) };
        storage.write(0, &[1; 4096]).unwrap();
        storage.write(4096, &[1; 4096]).unwrap();
    }
}
