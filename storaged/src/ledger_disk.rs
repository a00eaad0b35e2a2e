//! The room on the disk that holds ledger and keys.
//!
//! **Invariant:** uploads end while there is still room to record that they did: below the reserve none is
//! begun, and what records and deletes goes on.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::volumes::default_reserve;

/// The state directory's file system.
#[derive(Debug)]
pub struct LedgerDisk {
    /// Held open, because the sealed process may look at descriptors alone.
    directory: File,
    reserve_bytes: Option<u64>,
    full: AtomicBool,
}

impl LedgerDisk {
    /// Looks for the first time.
    pub fn open(state_dir: &Path, reserve_bytes: Option<u64>) -> io::Result<LedgerDisk> {
        let disk =
            LedgerDisk { directory: File::open(state_dir)?, reserve_bytes, full: AtomicBool::new(false) };
        disk.look()?;
        Ok(disk)
    }

    /// Whether the last look found less than the reserve.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Looks again; the bytes that are left.
    pub fn look(&self) -> io::Result<u64> {
        let found = nix::sys::statvfs::fstatvfs(&self.directory)?;
        let unit = found.fragment_size();
        let available = found.blocks_available().saturating_mul(unit);
        let reserve =
            self.reserve_bytes.unwrap_or_else(|| default_reserve(found.blocks().saturating_mul(unit)));
        self.full.store(available < reserve, Ordering::Relaxed);
        Ok(available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_its_reserve_the_disk_is_full() {
        let folder = tempfile::tempdir().unwrap();
        assert!(LedgerDisk::open(folder.path(), Some(u64::MAX)).unwrap().is_full());
        assert!(!LedgerDisk::open(folder.path(), Some(0)).unwrap().is_full());
    }
}
