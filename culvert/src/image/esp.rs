//! The partition of the boot loader, and the boot files on it.
//!
//! Invariant: it is mounted for this process alone, and gone with it; a boot file appears and changes by one rename.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use appliance::{ENTRIES, Entry, Slot};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::failure::Failure;
use crate::limits::{ESP_PAUSE, ESP_TRIES};

/// Where it is mounted, in a view of our own.
const PLACE: &str = "/run/culvert-esp";

/// A boot file that is not whole yet: no name that the boot loader takes.
const UNFINISHED: &str = "culvert.unfinished";

/// The mounted partition.
#[derive(Debug)]
pub(super) struct Esp {
    entries: PathBuf,
    is_mounted: bool,
}

impl Drop for Esp {
    /// Everything was synced before; a second mount with other rights needs the first to be gone.
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = umount2(PLACE, MntFlags::empty());
        }
    }
}

impl Esp {
    /// Mounts it where nobody else sees it.
    pub(super) fn mount(device: &Path, writable: bool) -> Result<Esp, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::failed(format!("{what} {}: {error}", device.display()))
        };
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed("a view of our own for", &error))?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(|error| failed("a view of our own for", &error))?;
        match DirBuilder::new().mode(0o700).create(PLACE) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Failure::failed(format!("make {PLACE}: {error}")));
            }
            Ok(()) | Err(_) => {}
        }
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        if !writable {
            flags |= MsFlags::MS_RDONLY;
        }
        for tries_left in (0..ESP_TRIES).rev() {
            match mount(Some(device), PLACE, Some("vfat"), flags, Some("umask=0077")) {
                Ok(()) => break,
                // Another of us has it with other rights, for a moment.
                Err(Errno::EBUSY) if tries_left > 0 => std::thread::sleep(ESP_PAUSE),
                Err(error) => return Err(failed("mount", &error)),
            }
        }
        Ok(Esp { entries: Path::new(PLACE).join(ENTRIES), is_mounted: true })
    }

    #[cfg(test)]
    pub(super) fn at(place: &Path) -> Esp {
        Esp { entries: place.join(ENTRIES), is_mounted: false }
    }

    /// Every boot file of ours, the highest first.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, Failure> {
        let files = fs::read_dir(&self.entries).map_err(|error| self.failed("list", ENTRIES, &error))?;
        let mut entries: Vec<Entry> =
            files.flatten().filter_map(|file| file.file_name().to_str()?.parse().ok()).collect();
        entries.sort_by(|one, other| other.cmp(one));
        Ok(entries)
    }

    /// What is free, were the boot files of `slot` gone.
    pub(super) fn room_without(&self, slot: Slot) -> Result<u64, Failure> {
        let space = nix::sys::statvfs::statvfs(&self.entries)
            .map_err(|error| self.failed("look at the room of", ENTRIES, &error))?;
        let mut room = space.blocks_available().saturating_mul(space.fragment_size());
        for entry in self.entries()?.iter().filter(|entry| entry.slot == slot) {
            room += fs::metadata(self.path(entry)).map_or(0, |file| file.len());
        }
        Ok(room)
    }

    /// Nothing starts this slot any more.
    pub(super) fn remove(&self, slot: Slot) -> Result<(), Failure> {
        match fs::remove_file(self.entries.join(UNFINISHED)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(self.failed("remove", UNFINISHED, &error));
            }
            Ok(()) | Err(_) => {}
        }
        for entry in self.entries()?.iter().filter(|entry| entry.slot == slot) {
            fs::remove_file(self.path(entry))
                .map_err(|error| self.failed("remove", &entry.to_string(), &error))?;
        }
        self.sync()
    }

    /// A new boot file, whole or not at all.
    pub(super) fn add(&self, entry: &Entry, content: &mut impl Read) -> Result<(), Failure> {
        let unfinished = self.entries.join(UNFINISHED);
        let mut file = File::create(&unfinished).map_err(|error| self.failed("make", UNFINISHED, &error))?;
        std::io::copy(content, &mut file)
            .and_then(|_| file.flush())
            .and_then(|()| file.sync_all())
            .map_err(|error| self.failed("write", UNFINISHED, &error))?;
        self.sync()?;
        fs::rename(&unfinished, self.path(entry))
            .map_err(|error| self.failed("name", &entry.to_string(), &error))?;
        self.sync()
    }

    /// The same boot file under a name with another count.
    pub(super) fn rename(&self, from: &Entry, to: &Entry) -> Result<(), Failure> {
        fs::rename(self.path(from), self.path(to))
            .map_err(|error| self.failed("rename", &from.to_string(), &error))?;
        self.sync()
    }

    pub(super) fn path(&self, entry: &Entry) -> PathBuf {
        self.entries.join(entry.to_string())
    }

    /// The whole file system, for a directory's own sync says nothing of FAT's tables.
    fn sync(&self) -> Result<(), Failure> {
        let directory = File::open(&self.entries).map_err(|error| self.failed("open", ENTRIES, &error))?;
        directory.sync_all().map_err(|error| self.failed("sync", ENTRIES, &error))?;
        nix::unistd::syncfs(&directory).map_err(|error| self.failed("sync", ENTRIES, &error))
    }

    fn failed(&self, what: &str, name: &str, error: &dyn std::fmt::Display) -> Failure {
        Failure::failed(format!("{what} {name} on the boot loader's partition: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn esp() -> (tempfile::TempDir, Esp) {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join(ENTRIES)).unwrap();
        let esp = Esp::at(place.path());
        (place, esp)
    }

    fn names(esp: &Esp) -> Vec<String> {
        esp.entries().unwrap().iter().map(Entry::to_string).collect()
    }

    #[test]
    fn boot_files_come_and_go_by_slot_and_others_are_left_alone() {
        let (_place, esp) = esp();
        let (one, two) = ("culvert-9-a-0.1.0-1.efi", "culvert-10-b-0.1.0-2+3.efi");
        for name in [one, two] {
            esp.add(&name.parse().unwrap(), &mut &b"kernel"[..]).unwrap();
        }
        fs::write(esp.entries.join("other.efi"), "x").unwrap();
        fs::write(esp.entries.join(UNFINISHED), "half").unwrap();
        assert_eq!(names(&esp), [two, one], "the newest first");
        esp.remove(Slot::B).unwrap();
        assert_eq!(names(&esp), [one]);
        assert!(esp.entries.join("other.efi").exists());
        assert!(!esp.entries.join(UNFINISHED).exists());
    }

    #[test]
    fn a_count_is_in_the_name_and_the_content_stays() {
        let (_place, esp) = esp();
        let from: Entry = "culvert-2-b-0.1.0-2+2-1.efi".parse().unwrap();
        esp.add(&from, &mut &b"kernel"[..]).unwrap();
        let to = Entry { tries: None, ..from };
        esp.rename(&from, &to).unwrap();
        assert_eq!(names(&esp), ["culvert-2-b-0.1.0-2.efi"]);
        assert_eq!(fs::read(esp.path(&to)).unwrap(), b"kernel");
    }
}
