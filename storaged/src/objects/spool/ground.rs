//! The ground of a spool on a mounted volume.
//!
//! **Invariant:** it touches the mount that it was made for and no other: a volume that is mounted anew gets another one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use nix::unistd::fdatasync;
use store_proto::FileId;

use crate::objects::backend::Reading as _;
use crate::objects::mounted::Mounted;
use crate::objects::spool::Ground;

/// The volume's file for it, and its directories.
#[derive(Debug)]
pub(in crate::objects) struct MountedGround {
    pub(in crate::objects) file: File,
    pub(in crate::objects) mounted: Arc<Mounted>,
}

impl Ground for MountedGround {
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], at + filled as u64) {
                Ok(0) => {
                    buffer[filled..].fill(0);
                    break;
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.mounted.sync_all()
    }

    fn holds(&self, object: FileId, sealed: &[u8]) -> io::Result<bool> {
        let own = match self.mounted.read(object) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            own => own?,
        };
        if own.length() != sealed.len() as u64 {
            return Ok(false);
        }
        let mut found = vec![0; sealed.len()];
        let mut filled = 0;
        while filled < found.len() {
            match own.read_at(&mut found[filled..], filled as u64)? {
                0 => return Ok(false),
                count => filled += count,
            }
        }
        Ok(found == sealed)
    }

    fn replace(&self, object: FileId, sealed: &[u8]) -> io::Result<()> {
        Mounted::replace(&self.mounted, object, sealed)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.mounted.space()?.size_bytes)
    }
}
