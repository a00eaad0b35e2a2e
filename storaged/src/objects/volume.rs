//! A volume: a directory on a local or network file system, with a marker that says whose it is.
//!
//! **Invariant:** nothing is read or written below a directory whose marker does not name this volume and
//! this store. An unmounted file system leaves an empty directory without a marker, so it can never mean
//! that files land on the root disk. All names are resolved below the volume (`openat2`,
//! `RESOLVE_BENEATH`), without following a symbolic link.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fdatasync, fsync, unlinkat};
use serde::{Deserialize, Serialize};
use store_proto::FileId;

use crate::ledger::StoreId;
use crate::objects::disk::{Disk, Space};

/// The marker's file name.
pub const MARKER: &str = ".culvert-volume";
const OBJECTS: &str = "objects";
const TEMPORARY: &str = "tmp";
/// A marker is below 200 bytes; more is not ours.
const MARKER_BYTES: u64 = 4096;

/// The marker's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// The store that may use the volume.
    pub store_id: StoreId,
    /// The format of marker and layout.
    pub v: u32,
    /// The volume.
    pub volume_id: FileId,
}

/// Why a volume cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A step on the file system failed.
    #[error("volume `{name}`, {path}: {step}: {error}", path = .path.display())]
    Io {
        /// The volume.
        name: String,
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// There is no marker.
    #[error(
        "volume `{name}`: {path} has no {MARKER}: is its file system mounted? (`culvert init storaged` makes the marker)",
        path = .path.display()
    )]
    NoMarker {
        /// The volume.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// The marker is not readable as one.
    #[error("volume `{name}`: {path}/{MARKER} is not a marker: {why}", path = .path.display())]
    BadMarker {
        /// The volume.
        name: String,
        /// Its directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The volume belongs to another store.
    #[error("volume `{name}`: {path} belongs to store {found}, this is store {expected}", path = .path.display())]
    ForeignStore {
        /// The volume.
        name: String,
        /// Its directory.
        path: PathBuf,
        /// The marker's.
        found: StoreId,
        /// The ledger's.
        expected: StoreId,
    },
    /// Something is there already.
    #[error("volume `{name}`: {path} exists already", path = .path.display())]
    Exists {
        /// The volume.
        name: String,
        /// What is there.
        path: PathBuf,
    },
}

/// An open volume.
#[derive(Debug)]
pub struct NasVolume {
    name: String,
    path: PathBuf,
    marker: Marker,
    /// (device, inode) of the directory at start.
    identity: (u64, u64),
    objects: OwnedFd,
    temporary: OwnedFd,
    /// The shards whose names are known to be on the disk, a bit each.
    durable_shards: Mutex<[u128; 2]>,
}

impl NasVolume {
    /// Makes the marker and the directories of a new volume. The directory may exist if it is empty but
    /// for `lost+found`; nothing in it is ever overwritten.
    pub fn create(name: &str, path: &Path, store: StoreId, volume: FileId) -> Result<(), VolumeError> {
        let fail = |step, at: &Path| {
            let (name, path) = (name.to_owned(), at.to_owned());
            move |error| VolumeError::Io { name, path, step, error }
        };
        std::fs::create_dir_all(path).map_err(fail("make the directory", path))?;
        for entry in std::fs::read_dir(path).map_err(fail("read the directory", path))? {
            let entry = entry.map_err(fail("read the directory", path))?;
            if entry.file_name() != "lost+found" {
                return Err(VolumeError::Exists { name: name.to_owned(), path: entry.path() });
            }
        }
        for directory in [OBJECTS, TEMPORARY] {
            let directory = path.join(directory);
            std::fs::create_dir(&directory).map_err(fail("make the directory", &directory))?;
        }
        let file = path.join(MARKER);
        let mut marker = File::create_new(&file).map_err(fail("make the marker", &file))?;
        let text = serde_json::to_string(&Marker { store_id: store, v: 1, volume_id: volume })
            .expect("ids and numbers always serialize");
        marker.write_all(text.as_bytes()).map_err(fail("write the marker", &file))?;
        marker.sync_all().map_err(fail("sync the marker", &file))?;
        let directory = File::open(path).map_err(fail("open the directory", path))?;
        directory.sync_all().map_err(fail("sync the directory", path))
    }

    /// Opens a volume whose marker names `store`.
    pub fn open(name: &str, path: &Path, store: StoreId) -> Result<NasVolume, VolumeError> {
        let fail = |step, at: &Path| {
            let (name, path) = (name.to_owned(), at.to_owned());
            move |error: io::Error| VolumeError::Io { name, path, step, error }
        };
        let directory = open_directory(path).map_err(fail("open the directory", path))?;
        let marker = read_marker(name, path, &directory)?;
        if marker.store_id != store {
            let (found, expected) = (marker.store_id, store);
            return Err(VolumeError::ForeignStore {
                name: name.to_owned(),
                path: path.to_owned(),
                found,
                expected,
            });
        }
        let metadata = directory.metadata().map_err(fail("look at the directory", path))?;
        let below = |directory: &File, below: &str| {
            open_below(directory, below, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
                .map_err(fail("open the directory", &path.join(below)))
        };
        Ok(NasVolume {
            name: name.to_owned(),
            path: path.to_owned(),
            marker,
            identity: (metadata.dev(), metadata.ino()),
            objects: below(&directory, OBJECTS)?.into(),
            temporary: below(&directory, TEMPORARY)?.into(),
            durable_shards: Mutex::default(),
        })
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn shard(&self, shard: &str) -> io::Result<File> {
        open_below(&self.objects, shard, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
    }

    /// Opens the shard of an object that is about to be published, making it if it is not there. Its name is
    /// then on the disk: a directory that is there may have been made by a thread that has yet to sync it, or
    /// by a process that died before it did, so the first use of each shard syncs whoever made it.
    fn shard_to_publish(&self, id: FileId) -> io::Result<File> {
        let (shard, _) = place(id);
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
        if !self.is_durable(id) {
            fsync(&self.objects)?;
            let (word, bit) = shard_bit(id);
            self.durable_shards()[word] |= bit;
        }
        Ok(opened)
    }

    fn is_durable(&self, id: FileId) -> bool {
        let (word, bit) = shard_bit(id);
        self.durable_shards()[word] & bit != 0
    }

    fn durable_shards(&self) -> MutexGuard<'_, [u128; 2]> {
        self.durable_shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for NasVolume {
    fn id(&self) -> FileId {
        self.marker.volume_id
    }

    fn create_temporary(&self, id: FileId) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        open_below(&self.temporary, &id.to_string(), flags, Mode::from_bits_truncate(0o600))
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let mut file = file;
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        Ok(fdatasync(file)?)
    }

    fn publish(&self, id: FileId) -> io::Result<()> {
        let (_, name) = place(id);
        let directory = self.shard_to_publish(id)?;
        let temporary = id.to_string();
        match renameat(&self.temporary, temporary.as_str(), &directory, name.as_str()) {
            Ok(()) => Ok(()),
            // A network file system may answer with an error although it did it (a lost reply, repeated):
            // what is there decides.
            Err(error) => {
                let moved = fstatat(&directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
                    && fstatat(&self.temporary, temporary.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                        == Err(Errno::ENOENT);
                if moved { Ok(()) } else { Err(error.into()) }
            }
        }
    }

    fn sync_directories(&self, id: FileId) -> io::Result<()> {
        fsync(self.shard(&place(id).0)?)?;
        fsync(&self.temporary)?;
        Ok(())
    }

    fn remove(&self, id: FileId) -> io::Result<()> {
        remove_if_there(&self.temporary, &id.to_string())?;
        fsync(&self.temporary)?;
        let (shard, name) = place(id);
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

    fn open(&self, id: FileId) -> io::Result<(File, u64)> {
        let (shard, name) = place(id);
        let file = open_below(&self.objects, &format!("{shard}/{name}"), OFlag::O_RDONLY, Mode::empty())?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an object is not a regular file"));
        }
        Ok((file, metadata.len()))
    }

    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(buffer, offset)
    }

    fn check(&self) -> io::Result<()> {
        let directory = open_directory(&self.path)?;
        let metadata = directory.metadata()?;
        if (metadata.dev(), metadata.ino()) != self.identity {
            return Err(io::Error::other("another directory is in the volume's place"));
        }
        let marker = read_marker(&self.name, &self.path, &directory).map_err(io::Error::other)?;
        if marker != self.marker {
            return Err(io::Error::other("the marker has changed"));
        }
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let found = nix::sys::statvfs::fstatvfs(&self.objects)?;
        let unit = found.fragment_size();
        Ok(Space {
            available_bytes: found.blocks_available().saturating_mul(unit),
            size_bytes: found.blocks().saturating_mul(unit),
        })
    }

    fn walk(&self, found: &mut dyn FnMut(Option<FileId>)) -> io::Result<()> {
        for name in names(&self.temporary, ".")? {
            found(FileId::parse(&name).ok());
        }
        for shard in names(&self.objects, ".")? {
            let is_shard = shard.len() == 2 && shard.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
            if !is_shard {
                found(None);
                continue;
            }
            for rest in names(&self.objects, &shard)? {
                found(FileId::parse(&format!("{shard}{rest}")).ok());
            }
        }
        Ok(())
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

fn open_directory(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().read(true).custom_flags((OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).bits()).open(path)
}

fn read_marker(name: &str, path: &Path, directory: &File) -> Result<Marker, VolumeError> {
    let (name, path) = (name.to_owned(), path.to_owned());
    let file = match open_below(directory, MARKER, OFlag::O_RDONLY, Mode::empty()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(VolumeError::NoMarker { name, path });
        }
        Err(error) => {
            return Err(VolumeError::Io { name, path: path.join(MARKER), step: "open the marker", error });
        }
    };
    let mut text = String::new();
    if let Err(error) = file.take(MARKER_BYTES).read_to_string(&mut text) {
        return Err(VolumeError::Io { name, path: path.join(MARKER), step: "read the marker", error });
    }
    let marker: Marker = match serde_json::from_str(&text) {
        Ok(marker) => marker,
        Err(error) => return Err(VolumeError::BadMarker { name, path, why: error.to_string() }),
    };
    if marker.v != 1 {
        let why = format!("it has version {}, this program knows 1", marker.v);
        return Err(VolumeError::BadMarker { name, path, why });
    }
    Ok(marker)
}

/// Opens `name` below `directory`: no `..`, no symbolic link, no other file system.
fn open_below(directory: impl std::os::fd::AsFd, name: &str, flags: OFlag, mode: Mode) -> io::Result<File> {
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
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
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
    fn a_volume_without_its_marker_is_refused() {
        let (folder, store) = made();
        std::fs::remove_file(folder.path().join("v").join(MARKER)).unwrap();
        let error = NasVolume::open("main", &folder.path().join("v"), store).unwrap_err();
        assert!(matches!(error, VolumeError::NoMarker { .. }), "{error}");
        assert!(error.to_string().contains("`main`") && error.to_string().contains("mounted"), "{error}");
    }

    #[test]
    fn a_volume_of_another_store_is_refused() {
        let (folder, _) = made();
        let other = StoreId(FileId::from_bytes([9; 16]));
        let error = NasVolume::open("main", &folder.path().join("v"), other).unwrap_err();
        assert!(matches!(error, VolumeError::ForeignStore { .. }), "{error}");
    }

    #[test]
    fn a_marker_that_disappears_or_changes_is_noticed() {
        let (folder, store) = made();
        let path = folder.path().join("v");
        let volume = NasVolume::open("main", &path, store).unwrap();
        volume.check().unwrap();
        let marker = std::fs::read(path.join(MARKER)).unwrap();
        std::fs::remove_file(path.join(MARKER)).unwrap();
        volume.check().unwrap_err();
        std::fs::write(path.join(MARKER), marker).unwrap();
        volume.check().unwrap();
        std::fs::rename(&path, folder.path().join("away")).unwrap();
        NasVolume::create("main", &path, store, FileId::from_bytes([3; 16])).unwrap();
        volume.check().unwrap_err();
    }

    #[test]
    fn nothing_that_exists_is_overwritten() {
        let (folder, store) = made();
        let error = NasVolume::create("main", &folder.path().join("v"), store, FileId::from_bytes([3; 16]));
        assert!(matches!(error, Err(VolumeError::Exists { .. })));
    }

    #[test]
    fn an_object_is_not_followed_through_a_link() {
        let (folder, store) = made();
        let volume = NasVolume::open("main", &folder.path().join("v"), store).unwrap();
        let id = FileId::from_bytes([0xab; 16]);
        let (shard, name) = place(id);
        std::fs::create_dir(folder.path().join("v/objects").join(&shard)).unwrap();
        std::fs::write(folder.path().join("secret"), b"x").unwrap();
        std::os::unix::fs::symlink("../../../secret", folder.path().join("v/objects").join(shard).join(name))
            .unwrap();
        assert!(volume.open(id).is_err());
    }

    #[test]
    fn a_walk_names_what_is_there() {
        let (folder, store) = made();
        let volume = NasVolume::open("main", &folder.path().join("v"), store).unwrap();
        let (a, b) = (FileId::from_bytes([1; 16]), FileId::from_bytes([2; 16]));
        for id in [a, b] {
            volume.create_temporary(id).unwrap();
        }
        volume.publish(a).unwrap();
        std::fs::write(folder.path().join("v/tmp/stray"), b"").unwrap();
        let mut found = Vec::new();
        volume.walk(&mut |id| found.push(id)).unwrap();
        found.sort();
        assert_eq!(found, [None, Some(a), Some(b)]);
    }

    #[test]
    fn a_shard_that_a_dead_process_made_is_synced_before_it_is_used() {
        let (folder, store) = made();
        let volume = NasVolume::open("main", &folder.path().join("v"), store).unwrap();
        let (id, other) = (FileId::from_bytes([0xab; 16]), FileId::from_bytes([0x2b; 16]));
        std::fs::create_dir(folder.path().join("v/objects/ab")).unwrap();
        assert!(!volume.is_durable(id));
        volume.create_temporary(id).unwrap();
        volume.publish(id).unwrap();
        assert!(volume.is_durable(id) && !volume.is_durable(other));
    }

    fn made() -> (tempfile::TempDir, StoreId) {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreId(FileId::from_bytes([1; 16]));
        NasVolume::create("main", &folder.path().join("v"), store, FileId::from_bytes([2; 16])).unwrap();
        (folder, store)
    }
}
