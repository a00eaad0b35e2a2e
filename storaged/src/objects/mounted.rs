//! The directories of a mounted volume, and what is done in them.
//!
//! **Invariant:** every name that is used below is made from an id, and is resolved beneath a directory that
//! was opened with the volume (`openat2`, `RESOLVE_BENEATH`), without following a symbolic link or crossing
//! into another file system. What a network file system answers to a rename or an unlink is believed only
//! after a look: a lost reply that is repeated is an error for something that was done.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fdatasync, fsync, syncfs, unlinkat};
use store_proto::FileId;

use crate::objects::backend::{Found, Reading, Region, Space, Writing};
use crate::objects::network_fs::syncs_whole;

/// Where objects are.
pub(super) const OBJECTS: &str = "objects";
/// Where they are written.
pub(super) const TEMPORARY: &str = "tmp";
/// What small objects are durable in, before their own files are.
const SPOOL: &str = ".spool";
/// Where an operator has put what nobody claims.
const ASIDE: &str = "aside";

/// The directories of a volume, held open: a mount that goes away below us fails and does not lead elsewhere.
#[derive(Debug)]
pub(super) struct Mounted {
    /// (device, inode) of the volume's directory.
    identity: (u64, u64),
    volume: File,
    objects: OwnedFd,
    temporary: OwnedFd,
    /// Whether the file system is one whose sync of everything is known to be whole, and to tell of errors.
    pub(super) syncs_all: bool,
    /// The shards whose names are known to be on the disk, a bit each.
    durable_shards: Mutex<[u128; 2]>,
}

impl Mounted {
    /// Opens the directories below a volume's.
    pub(super) fn open(directory: File) -> io::Result<Mounted> {
        let metadata = directory.metadata()?;
        let below = |name| open_below(&directory, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
        let (objects, temporary) = (below(OBJECTS)?.into(), below(TEMPORARY)?.into());
        let syncs_all = syncs_whole(&directory);
        Ok(Mounted {
            identity: (metadata.dev(), metadata.ino()),
            syncs_all,
            volume: directory,
            objects,
            temporary,
            durable_shards: Mutex::default(),
        })
    }

    /// Whether these are the directories below `directory`, and still answer.
    pub(super) fn is_still(&self, directory: &File) -> bool {
        let same = directory.metadata().is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        // A server that was set up anew leaves descriptors stale although the path leads to the same inode.
        same && fstat(&self.objects).is_ok() && fstat(&self.temporary).is_ok()
    }

    /// Makes the temporary file `tmp/ID`, which must not exist.
    pub(super) fn create(this: &Arc<Mounted>, object: FileId) -> io::Result<NasWriting> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = open_below(&this.temporary, &object.to_string(), flags, Mode::from_bits_truncate(0o600))?;
        Ok(NasWriting { mounted: Arc::clone(this), object, file })
    }

    /// Opens `objects/ab/cdef…`.
    pub(super) fn read(&self, object: FileId) -> io::Result<NasReading> {
        let (shard, name) = place(object);
        let path = format!("{shard}/{name}");
        let file = retry_stale(|| open_below(&self.objects, &path, OFlag::O_RDONLY, Mode::empty()))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an object is not a regular file"));
        }
        Ok(NasReading { file, length: metadata.len() })
    }

    /// Removes the temporary file and the object, durably.
    pub(super) fn remove(&self, object: FileId) -> io::Result<()> {
        self.remove_temporary(object)?;
        let (shard, name) = place(object);
        match self.shard(&shard) {
            Ok(directory) => {
                remove_if_there(&directory, &name)?;
                fsync(&directory)?;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the temporary file, durably.
    pub(super) fn remove_temporary(&self, object: FileId) -> io::Result<()> {
        remove_if_there(&self.temporary, &object.to_string())?;
        Ok(fsync(&self.temporary)?)
    }

    /// Whether neither is there.
    pub(super) fn is_absent(&self, object: FileId) -> io::Result<bool> {
        if is_there(&self.temporary, &object.to_string())? {
            return Ok(false);
        }
        let (shard, name) = place(object);
        match self.shard(&shard) {
            Ok(directory) => Ok(!is_there(&directory, &name)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Moves object and temporary, whichever is there, to `aside/`, durably.
    pub(super) fn set_aside(&self, object: FileId) -> io::Result<()> {
        let volume = &self.volume;
        match mkdirat(volume, ASIDE, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let aside = open_below(volume, ASIDE, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        let (shard, name) = place(object);
        let to = object.to_string();
        let mut moved = false;
        if let Ok(directory) = self.shard(&shard) {
            moved |= rename_if_there(&directory, &name, &aside, &to)?;
            fsync(&directory)?;
        }
        moved |= rename_if_there(&self.temporary, &to, &aside, &format!("{to}.tmp"))?;
        fsync(&self.temporary)?;
        fsync(&aside)?;
        fsync(volume)?;
        if moved { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Brings all that was written on this file system to the disk. Of an error in the background the system tells
    /// whoever asks next by this descriptor.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        syncfs(&self.volume)?;
        // ext4 without a journal writes its own blocks behind the flush of the disk's cache: this flushes it again.
        Ok(fsync(&self.volume)?)
    }

    /// Opens the file of the spool.
    pub(super) fn spool(&self) -> io::Result<File> {
        open_below(&self.volume, SPOOL, OFlag::O_RDWR, Mode::empty())
    }

    /// Makes it.
    pub(super) fn make_spool(&self) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = open_below(&self.volume, SPOOL, flags, Mode::from_bits_truncate(0o600))?;
        fsync(&self.volume)?;
        Ok(file)
    }

    /// Makes an object's own file anew from all of its bytes. Nothing of it is durable yet.
    pub(super) fn replace(this: &Arc<Mounted>, object: FileId, sealed: &[u8]) -> io::Result<()> {
        remove_if_there(&this.temporary, &object.to_string())?;
        let mut writing = Mounted::create(this, object)?;
        writing.write(sealed)?;
        writing.publish()
    }

    /// Room.
    pub(super) fn space(&self) -> io::Result<Space> {
        let found = nix::sys::statvfs::fstatvfs(&self.objects)?;
        let unit = found.fragment_size();
        Ok(Space {
            available_bytes: found.blocks_available().saturating_mul(unit),
            size_bytes: found.blocks().saturating_mul(unit),
        })
    }

    /// Everything below `tmp` and `objects`.
    pub(super) fn walk(&self, region: Region, found: &mut dyn FnMut(Found)) -> io::Result<()> {
        match region {
            Region::Top => self.walk_top(found),
            Region::Shard(shard) => self.walk_shard(&format!("{shard:02x}"), found),
        }
    }

    fn walk_top(&self, found: &mut dyn FnMut(Found)) -> io::Result<()> {
        for name in names(&self.temporary, ".")? {
            match FileId::parse(&name) {
                Ok(object) => found(Found::Temporary(object)),
                Err(_) => found(Found::Stray(format!("{TEMPORARY}/{name}"))),
            }
        }
        for shard in names(&self.objects, ".")? {
            let is_shard = shard.len() == 2 && shard.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
            if !is_shard {
                found(Found::Stray(format!("{OBJECTS}/{shard}")));
            }
        }
        Ok(())
    }

    fn walk_shard(&self, shard: &str, found: &mut dyn FnMut(Found)) -> io::Result<()> {
        let names = match names(&self.objects, shard) {
            // Nothing was ever published there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        for rest in names {
            match FileId::parse(&format!("{shard}{rest}")) {
                Ok(object) => found(Found::Object(object)),
                Err(_) => found(Found::Stray(format!("{OBJECTS}/{shard}/{rest}"))),
            }
        }
        Ok(())
    }

    fn shard(&self, shard: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        retry_stale(|| open_below(&self.objects, shard, flags, Mode::empty()))
    }

    /// Makes the shards that are missing and brings their names to the disk, so that no upload waits for that.
    /// What cannot be made now is made when it is needed.
    pub(super) fn make_shards(&self) {
        let Ok(there) = names(&self.objects, ".") else { return };
        for shard in (0..=u8::MAX).map(|shard| format!("{shard:02x}")).filter(|shard| !there.contains(shard))
        {
            match mkdirat(&self.objects, shard.as_str(), Mode::from_bits_truncate(0o700)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(_) => return,
            }
        }
        if fsync(&self.objects).is_ok() {
            *self.durable_shards() = [u128::MAX; 2];
        }
    }

    /// Opens the shard of an object that is about to be published, making it if it is not there. Its name is
    /// then on the disk: a directory that is there may have been made by a thread that has yet to sync it, or
    /// by a process that died before it did, so the first use of each shard syncs whoever made it.
    fn shard_to_publish(&self, object: FileId) -> io::Result<File> {
        let (shard, _) = place(object);
        let opened = match self.shard(&shard) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match mkdirat(&self.objects, shard.as_str(), Mode::from_bits_truncate(0o700)) {
                    // Another thread was first: as good.
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                self.shard(&shard)?
            }
            other => other?,
        };
        if !self.is_durable(object) {
            fsync(&self.objects)?;
            let (word, bit) = shard_bit(object);
            self.durable_shards()[word] |= bit;
        }
        Ok(opened)
    }

    fn is_durable(&self, object: FileId) -> bool {
        let (word, bit) = shard_bit(object);
        self.durable_shards()[word] & bit != 0
    }

    fn durable_shards(&self) -> MutexGuard<'_, [u128; 2]> {
        self.durable_shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A temporary file that becomes an object.
#[derive(Debug)]
pub(super) struct NasWriting {
    mounted: Arc<Mounted>,
    object: FileId,
    file: File,
}

impl Writing for NasWriting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn publish(&mut self) -> io::Result<()> {
        let (_, name) = place(self.object);
        let directory = self.mounted.shard_to_publish(self.object)?;
        let (from, temporary) = (&self.mounted.temporary, self.object.to_string());
        match renameat(from, temporary.as_str(), &directory, name.as_str()) {
            Ok(()) => Ok(()),
            Err(error) => {
                let moved = fstatat(&directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
                    && fstatat(from, temporary.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT);
                if moved { Ok(()) } else { Err(error.into()) }
            }
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        // The name it had in `tmp` may come back after a power cut, if the file system writes the two
        // directories apart. A start removes temporaries of objects that a file has.
        Ok(fsync(self.mounted.shard(&place(self.object).0)?)?)
    }
}

/// An object that is read.
#[derive(Debug)]
pub(super) struct NasReading {
    file: File,
    length: u64,
}

impl Reading for NasReading {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

/// `ab/cdef…`: 256 directories keep each small without a second level.
fn place(id: FileId) -> (String, String) {
    let text = id.to_string();
    (text[..2].to_owned(), text[2..].to_owned())
}

/// Where the bit of an object's shard is.
fn shard_bit(id: FileId) -> (usize, u128) {
    let shard = id.as_bytes()[0];
    (usize::from(shard >> 7), 1 << (shard & 0x7f))
}

/// Whether there was something to rename.
fn rename_if_there(from: impl AsFd, name: &str, to: impl AsFd, new_name: &str) -> io::Result<bool> {
    match renameat(from, name, to, new_name) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A handle that a server no longer knows is looked up again, once: the name may still lead to the file.
fn retry_stale<T>(mut step: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match step() {
        Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => step(),
        other => other,
    }
}

/// Opens `name` below `directory`: no `..`, no symbolic link, no other file system.
pub(super) fn open_below(
    directory: impl std::os::fd::AsFd,
    name: &str,
    flags: OFlag,
    mode: Mode,
) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let how = OpenHow::new().flags(flags).mode(mode).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    let opened = match openat2(directory.as_fd(), name, how) {
        // Kernels before 5.6, and sandboxes that do not know the call. Names are ids, so this is a second
        // line of defence and its absence opens nothing.
        Err(Errno::ENOSYS) => openat(directory.as_fd(), name, flags, mode),
        other => other,
    };
    Ok(File::from(opened?))
}

fn remove_if_there(directory: impl std::os::fd::AsFd, name: &str) -> io::Result<()> {
    match unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => {
            let gone = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT);
            if gone { Ok(()) } else { Err(error.into()) }
        }
    }
}

fn is_there(directory: impl std::os::fd::AsFd, name: &str) -> io::Result<bool> {
    match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn names(directory: &OwnedFd, below: &str) -> io::Result<Vec<String>> {
    let opened = open_below(directory, below, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(opened.into())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_not_followed_through_a_link() {
        let (folder, mounted) = made();
        let id = FileId::from_bytes([0xab; 16]);
        let (shard, name) = place(id);
        std::fs::create_dir(folder.path().join("v/objects").join(&shard)).unwrap();
        std::fs::write(folder.path().join("secret"), b"x").unwrap();
        std::os::unix::fs::symlink("../../../secret", folder.path().join("v/objects").join(shard).join(name))
            .unwrap();
        assert!(mounted.read(id).is_err());
    }

    #[test]
    fn a_shard_that_leads_out_of_the_volume_is_not_followed() {
        let (folder, mounted) = made();
        let id = FileId::from_bytes([0xab; 16]);
        std::fs::create_dir(folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../../elsewhere", folder.path().join("v/objects/ab")).unwrap();
        let mut writing = Mounted::create(&mounted, id).unwrap();
        assert!(writing.publish().is_err());
        assert_eq!(std::fs::read_dir(folder.path().join("elsewhere")).unwrap().count(), 0);
        assert!(mounted.read(id).is_err());
    }

    #[test]
    fn a_name_that_climbs_is_not_opened() {
        let (folder, mounted) = made();
        std::fs::write(folder.path().join("v/secret"), b"x").unwrap();
        for name in ["../secret", "../objects", "..", "/etc/passwd", "a/../../secret"] {
            assert!(open_below(&mounted.objects, name, OFlag::O_RDONLY, Mode::empty()).is_err(), "{name}");
        }
    }

    #[test]
    fn a_walk_names_what_is_there() {
        let (folder, mounted) = made();
        let (a, b) = (FileId::from_bytes([1; 16]), FileId::from_bytes([2; 16]));
        let mut published = Mounted::create(&mounted, a).unwrap();
        let _left = Mounted::create(&mounted, b).unwrap();
        published.publish().unwrap();
        for stray in ["tmp/stray", "objects/stray", "objects/01/stray"] {
            std::fs::write(folder.path().join("v").join(stray), b"").unwrap();
        }
        let mut found = Vec::new();
        Region::all().for_each(|region| mounted.walk(region, &mut |thing| found.push(thing)).unwrap());
        found.sort();
        let strays = ["objects/01/stray", "objects/stray", "tmp/stray"];
        let mut expected = vec![Found::Temporary(b), Found::Object(a)];
        expected.extend(strays.map(|stray| Found::Stray(stray.to_owned())));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_shard_that_a_dead_process_made_is_synced_before_it_is_used() {
        let (folder, mounted) = made();
        let (id, other) = (FileId::from_bytes([0xab; 16]), FileId::from_bytes([0x2b; 16]));
        std::fs::create_dir(folder.path().join("v/objects/ab")).unwrap();
        assert!(!mounted.is_durable(id));
        Mounted::create(&mounted, id).unwrap().publish().unwrap();
        assert!(mounted.is_durable(id) && !mounted.is_durable(other));
    }

    #[test]
    fn shards_that_were_made_ahead_need_no_sync_and_no_making() {
        let (folder, mounted) = made();
        std::fs::create_dir(folder.path().join("v/objects/ab")).unwrap();
        mounted.make_shards();
        let objects = folder.path().join("v/objects");
        assert_eq!(std::fs::read_dir(&objects).unwrap().count(), 256);
        let ids = (0..=u8::MAX).map(|shard| FileId::from_bytes([shard; 16]));
        assert!(ids.into_iter().all(|id| mounted.is_durable(id)));
        Mounted::create(&mounted, FileId::from_bytes([0xfe; 16])).unwrap().publish().unwrap();
        assert_eq!(std::fs::read_dir(objects.join("fe")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_set_aside_is_kept_and_no_longer_found() {
        let (folder, mounted) = made();
        let id = FileId::from_bytes([0xab; 16]);
        let mut writing = Mounted::create(&mounted, id).unwrap();
        writing.write(b"kept").unwrap();
        writing.publish().unwrap();
        mounted.set_aside(id).unwrap();
        let mut found = Vec::new();
        Region::all().for_each(|region| mounted.walk(region, &mut |thing| found.push(thing)).unwrap());
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(std::fs::read(folder.path().join("v/aside").join(id.to_string())).unwrap(), b"kept");
        assert_eq!(mounted.set_aside(id).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_rename_that_was_done_and_answered_with_an_error_is_believed() {
        let (folder, mounted) = made();
        let id = FileId::from_bytes([0xab; 16]);
        let mut writing = Mounted::create(&mounted, id).unwrap();
        // What a lost reply leaves: it is there, and the repeated call finds no temporary.
        std::fs::create_dir(folder.path().join("v/objects/ab")).unwrap();
        let (shard, name) = place(id);
        let (from, to) = (format!("v/tmp/{id}"), format!("v/objects/{shard}/{name}"));
        std::fs::rename(folder.path().join(from), folder.path().join(&to)).unwrap();
        writing.publish().unwrap();
        std::fs::remove_file(folder.path().join(&to)).unwrap();
        assert!(writing.publish().is_err(), "neither here nor there");
    }

    fn made() -> (tempfile::TempDir, Arc<Mounted>) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["v", "v/objects", "v/tmp"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mounted = Mounted::open(File::open(folder.path().join("v")).unwrap()).unwrap();
        (folder, Arc::new(mounted))
    }
}
