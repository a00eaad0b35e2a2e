//! A file that is either complete under its name or not there.
//!
//! Invariant: bytes go to `FILE.part`; `FILE` appears by a rename after they are on disk, and a dropped
//! `PartFile` leaves nothing but what a next try can go on with.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Seek as _, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::failure::Failure;

/// May `FILE` be replaced?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Keep,
    Replace,
}

/// The file while it is being written.
pub(crate) struct PartFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
    existing: Existing,
    published: bool,
    /// Whether what came is left for the next try.
    stays: bool,
}

impl PartFile {
    /// Refuses an existing `FILE` before the first byte is fetched.
    pub(crate) fn create(path: &Path, existing: Existing) -> Result<Self, Failure> {
        let mut part = Self::take_over(path, existing)?;
        part.stays = false;
        part.empty()?;
        Ok(part)
    }

    /// The same, with what is left of an earlier try; what is written goes behind it once it is read.
    pub(crate) fn take_over(path: &Path, existing: Existing) -> Result<Self, Failure> {
        if path.is_dir() {
            return Err(Failure::usage(format!("{} is a directory; name the file", path.display())));
        }
        if existing == Existing::Keep && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Somebody else's link must not choose what is overwritten, nor their pipe keep us waiting.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&part);
        let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", part.display()));
        let file = opened.map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("{}: another download is writing it", part.display());
                return Err(Failure::refused(message));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        check_ours(&file, &part)?;
        Ok(Self { file, part, path: path.to_owned(), existing, published: false, stays: true })
    }

    /// How much an earlier try left.
    pub(crate) fn length(&self) -> Result<u64, Failure> {
        self.file.metadata().map(|found| found.len()).map_err(|error| self.failed("look at", &error))
    }

    /// Throws away what is in it.
    pub(crate) fn empty(&self) -> Result<(), Failure> {
        let mut file = &self.file;
        self.file.set_len(0).and_then(|()| file.rewind()).map_err(|error| self.failed("empty", &error))
    }

    /// What came is of no use: it is not left for a next try.
    pub(crate) fn discard(mut self) {
        self.stays = false;
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| self.failed("write", &error))
    }

    /// The file, for a daemon that writes it in our place.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where the bytes are until they are published.
    pub(crate) fn part(&self) -> &Path {
        &self.part
    }

    /// Makes the bytes durable, then visible, then the name durable.
    pub(crate) fn publish(mut self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| self.failed("sync", &error))?;
        self.rename()?;
        self.published = true;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| Failure::failed(format!("sync {}: {error}", directory.display())))
    }

    fn rename(&self) -> Result<(), Failure> {
        let flags = match self.existing {
            Existing::Keep => RenameFlags::RENAME_NOREPLACE,
            Existing::Replace => RenameFlags::empty(),
        };
        match renameat2(AT_FDCWD, &self.part, AT_FDCWD, &self.path, flags) {
            Ok(()) => Ok(()),
            Err(nix::Error::EEXIST) => Err(exists(&self.path)),
            // Some file systems cannot promise it (NFS); the look at the start has to do.
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) if self.existing == Existing::Keep => {
                if self.path.symlink_metadata().is_ok() {
                    return Err(exists(&self.path));
                }
                std::fs::rename(&self.part, &self.path).map_err(|error| self.failed("rename", &error))
            }
            Err(error) => Err(self.failed("rename", &error.into())),
        }
    }

    pub(crate) fn failed(&self, what: &str, error: &io::Error) -> Failure {
        Failure::failed(format!("{what} {}: {error}", self.part.display()))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        let is_left = self.stays && self.file.metadata().is_ok_and(|found| found.len() > 0);
        if !self.published && !is_left {
            // Nothing more can be done about a file that cannot be removed; its name says that it is a part.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// What was there already must be what this program leaves behind when it is killed: a file of our own that
/// nobody else can read through another name. And it must still be there: another download may have made it
/// its `FILE` between our opening and our locking it.
fn check_ours(file: &File, part: &Path) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::refused(format!("{}: {why}", part.display())));
    let failed = |error: io::Error| Failure::failed(format!("{}: {error}", part.display()));
    let found = file.metadata().map_err(failed)?;
    let ours = found.uid() == nix::unistd::geteuid().as_raw();
    if !found.is_file() || !ours || found.nlink() > 1 {
        return refused("is there already and is not a part file of yours; remove it or name another file");
    }
    match part.symlink_metadata() {
        Ok(named) if (named.dev(), named.ino()) == (found.dev(), found.ino()) => {}
        Ok(_) | Err(_) => return refused("another download has just ended; try again"),
    }
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)
}

fn exists(path: &Path) -> Failure {
    Failure::refused(format!("{} exists; --force replaces it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_dropped_part_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut part = PartFile::create(&path, Existing::Keep).unwrap();
        part.write(b"half").unwrap();
        drop(part);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_existing_file_is_replaced_only_when_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "old").unwrap();
        let refusal = PartFile::create(&path, Existing::Keep).err().unwrap();
        assert_eq!(refusal.exit(), Exit::Refused);
        let mut part = PartFile::create(&path, Existing::Replace).unwrap();
        part.write(b"new").unwrap();
        part.publish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let part = PartFile::create(&path, Existing::Keep).unwrap();
        std::fs::write(&path, "theirs").unwrap();
        assert_eq!(part.publish().unwrap_err().exit(), Exit::Refused);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_downloads_do_not_write_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let _first = PartFile::create(&path, Existing::Keep).unwrap();
        assert_eq!(PartFile::create(&path, Existing::Keep).err().unwrap().exit(), Exit::Refused);
    }

    #[test]
    fn a_planted_file_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let (path, part) = (directory.path().join("f"), directory.path().join("f.part"));
        std::fs::write(directory.path().join("theirs"), "kept").unwrap();
        std::fs::hard_link(directory.path().join("theirs"), &part).unwrap();
        assert_eq!(PartFile::create(&path, Existing::Keep).err().unwrap().exit(), Exit::Refused);
        assert_eq!(std::fs::read_to_string(&part).unwrap(), "kept");
        std::fs::remove_file(&part).unwrap();
        nix::unistd::mkfifo(&part, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(PartFile::create(&path, Existing::Keep).is_err(), "a pipe keeps nobody waiting");
    }

    #[test]
    fn what_a_killed_download_left_is_taken_over_and_is_ours_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (path, part) = (directory.path().join("f"), directory.path().join("f.part"));
        std::fs::write(&part, "half").unwrap();
        std::fs::set_permissions(&part, Permissions::from_mode(0o644)).unwrap();
        let mut new = PartFile::create(&path, Existing::Keep).unwrap();
        new.write(b"x").unwrap();
        new.publish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_part_that_became_its_file_is_not_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let (path, part) = (directory.path().join("f"), directory.path().join("f.part"));
        std::fs::write(&part, "whole").unwrap();
        let opened = OpenOptions::new().write(true).open(&part).unwrap();
        std::fs::rename(&part, &path).unwrap();
        assert_eq!(check_ours(&opened, &part).unwrap_err().exit(), Exit::Refused);
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("f.part")).unwrap();
        assert!(PartFile::create(&directory.path().join("f"), Existing::Keep).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
    }
}
