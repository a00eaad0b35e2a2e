//! A volume: a directory on a local or network file system, with a marker that says whose it is.
//!
//! **Invariant:** nothing is read or written below a directory whose marker does not name this volume and
//! this store. An unmounted file system leaves an empty directory without a marker, so it can never mean
//! that files land on the root disk. All names are resolved below the volume (`openat2`,
//! `RESOLVE_BENEATH`), without following a symbolic link.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use arc_swap::{ArcSwap, ArcSwapOption};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use store_proto::FileId;

use crate::ledger::StoreId;
use crate::objects::backend::{Backend, Found, Reading, Region, Space, Writing};
use crate::objects::mounted::{Mounted, OBJECTS, TEMPORARY, open_below};
use crate::objects::spool::Spool;
use crate::objects::spool::ground::MountedGround;

/// The marker's file name.
pub const MARKER: &str = ".culvert-volume";
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
    /// Whether this kernel's `syncfs` tells of what it could not write.
    errors_are_told: bool,
    /// What is mounted there now.
    mounted: ArcSwap<Mounted>,
    /// Where small objects are durable before their own files are.
    spool: ArcSwapOption<Spool>,
    /// Nothing is removed while what stands in a spool is brought to its place: it would come back.
    taking_back: RwLock<()>,
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
        let mounted = Arc::new(Mounted::open(directory).map_err(fail("open its directories", path))?);
        mounted.make_shards();
        let errors_are_told = errors_are_told();
        let spool = open_spool(name, &mounted, errors_are_told)
            .map_err(fail("bring what stands in its spool to its place", path))?;
        Ok(NasVolume {
            name: name.to_owned(),
            path: path.to_owned(),
            marker,
            errors_are_told,
            mounted: ArcSwap::new(mounted),
            spool: ArcSwapOption::new(spool),
            taking_back: RwLock::default(),
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

    fn in_place(&self) -> RwLockReadGuard<'_, ()> {
        self.taking_back.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away what stands under an object's id, in the spool too.
    fn without(&self, object: FileId, take: impl FnOnce(&Mounted) -> io::Result<()>) -> io::Result<()> {
        let _in_place = self.in_place();
        let mounted = self.mounted.load_full();
        match self.spool() {
            Some(spool) => spool.removing(object, || take(&mounted)),
            None => take(&mounted),
        }
    }
}

/// The spool of a mount, if its file system has one: with what a dead process left in it brought to its place.
fn open_spool(name: &str, mounted: &Arc<Mounted>, errors_are_told: bool) -> io::Result<Option<Arc<Spool>>> {
    if !(errors_are_told && mounted.syncs_all) {
        return Ok(None);
    }
    let file = match mounted.spool() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match mounted.make_spool() {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(volume = name, %error, "no spool can be made: small objects are synced one by one");
                return Ok(None);
            }
        },
        opened => opened?,
    };
    let spool = Spool::open(MountedGround { file, mounted: Arc::clone(mounted) })?;
    Ok(Some(Arc::new(spool)))
}

impl Backend for NasVolume {
    fn id(&self) -> FileId {
        self.marker.volume_id
    }

    fn create(&self, object: FileId) -> io::Result<Box<dyn Writing>> {
        Ok(Box::new(Mounted::create(&self.mounted.load_full(), object)?))
    }

    fn open(&self, object: FileId) -> io::Result<Box<dyn Reading>> {
        Ok(Box::new(self.mounted.load().read(object)?))
    }

    fn remove(&self, object: FileId) -> io::Result<()> {
        self.without(object, |mounted| mounted.remove(object))
    }

    fn remove_temporary(&self, object: FileId) -> io::Result<()> {
        self.mounted.load().remove_temporary(object)
    }

    fn is_absent(&self, object: FileId) -> io::Result<bool> {
        let stands = self.spool().is_some_and(|spool| spool.has(object));
        Ok(!stands && self.mounted.load().is_absent(object)?)
    }

    fn set_aside(&self, object: FileId) -> io::Result<()> {
        self.without(object, |mounted| mounted.set_aside(object))
    }

    fn check(&self) -> io::Result<()> {
        let directory = open_directory(&self.path)?;
        let marker = read_marker(&self.name, &self.path, &directory).map_err(io::Error::other)?;
        if marker != self.marker {
            return Err(io::Error::other("another volume's marker is in its place"));
        }
        if !self.mounted.load().is_still(&directory) {
            // Unmounted and mounted again, or served anew: the marker says that it is ours. Whatever is
            // being written through the old mount fails there.
            let mounted = Arc::new(Mounted::open(directory)?);
            mounted.make_shards();
            let _nobody_removes = self.taking_back.write().unwrap_or_else(PoisonError::into_inner);
            self.spool.store(None);
            let spool = open_spool(&self.name, &mounted, self.errors_are_told)?;
            self.mounted.store(mounted);
            self.spool.store(spool);
            tracing::warn!(volume = %self.name, "the volume was mounted anew and is taken back");
        }
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.mounted.load().space()
    }

    fn spool(&self) -> Option<Arc<Spool>> {
        self.spool.load_full()
    }

    fn walk(&self, region: Region, found: &mut dyn FnMut(Found)) -> io::Result<()> {
        self.mounted.load().walk(region, found)
    }
}

/// Linux 5.8 and later. Asked before the seal, which knows no `uname`.
fn errors_are_told() -> bool {
    let Ok(name) = uname() else { return false };
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 8),
        _ => false,
    }
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
    fn a_volume_that_is_mounted_anew_is_taken_back() {
        let (folder, store) = made();
        let path = folder.path().join("v");
        let volume = NasVolume::open("main", &path, store).unwrap();
        let id = FileId::from_bytes([0xab; 16]);
        let mut before = volume.create(id).unwrap();
        before.write(b"whole").unwrap();
        before.publish().unwrap();
        // The same files under another inode, as after a mount.
        let away = folder.path().join("away");
        std::fs::rename(&path, &away).unwrap();
        volume.check().unwrap_err();
        let copied = std::process::Command::new("cp").arg("-a").arg(&away).arg(&path).status().unwrap();
        assert!(copied.success());
        std::fs::remove_dir_all(&away).unwrap();
        assert!(volume.open(id).is_err(), "the old directories are gone");
        volume.check().unwrap();
        assert_eq!(volume.open(id).unwrap().length(), 5);
        volume.create(FileId::from_bytes([0xac; 16])).unwrap().publish().unwrap();
    }

    fn made() -> (tempfile::TempDir, StoreId) {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreId(FileId::from_bytes([1; 16]));
        NasVolume::create("main", &folder.path().join("v"), store, FileId::from_bytes([2; 16])).unwrap();
        (folder, store)
    }
}
