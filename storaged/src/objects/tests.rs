//! An object's way to the disk, stopped at each step.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId};

use super::get::{Get, Recorded};
use super::{Buffers, Disk, NasVolume, Put, PutError, Space};
use crate::ledger::StoreId;

#[test]
fn a_crash_at_any_step_leaves_a_whole_object_or_what_recovery_removes() {
    for fail_at in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let volume = made(folder.path());
        let disk =
            Arc::new(Faulty { inner: Arc::clone(&volume), left: AtomicUsize::new(fail_at), dead: true });
        let finished = put(disk);
        match &finished {
            Ok(digest) => {
                assert_eq!(objects(&volume), 1);
                assert_eq!(&read_back(&volume), digest, "an object that was published is whole");
            }
            Err(_) => {
                // What a start does with an open intent.
                volume.remove(ID).unwrap();
                assert_eq!(objects(&volume), 0, "something is left after a crash at step {fail_at}");
            }
        }
        if finished.is_ok() {
            assert!(fail_at >= 6, "a put has at least six steps, {fail_at} were tried");
            return;
        }
    }
}

#[test]
fn a_full_disk_at_any_step_is_told_and_can_be_tidied_at_once() {
    for fail_at in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let volume = made(folder.path());
        let disk =
            Arc::new(Faulty { inner: Arc::clone(&volume), left: AtomicUsize::new(fail_at), dead: false });
        let error = put(Arc::clone(&disk) as Arc<dyn Disk>).unwrap_err();
        assert!(matches!(error, PutError::Full { .. }), "step {fail_at}: {error}");
        disk.remove(ID).unwrap();
        assert_eq!(objects(&volume), 0, "something is left of step {fail_at}");
    }
}

#[test]
fn an_object_of_another_length_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let sha256 = put(Arc::clone(&volume)).unwrap();
    let error = Get::open(volume, ID, Recorded { size: SIZE + 1, sha256 }, 0..SIZE + 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn an_object_that_shrinks_while_it_is_read_is_an_error_and_no_short_answer() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let sha256 = put(Arc::clone(&volume)).unwrap();
    let mut get = Get::open(Arc::clone(&volume), ID, Recorded { size: SIZE, sha256 }, 0..SIZE).unwrap();
    File::options().write(true).open(object(folder.path())).unwrap().set_len(10).unwrap();
    let slot = Buffers::new(1).slot(std::time::Duration::from_secs(1)).await.unwrap();
    let mut buffer = slot.take().await;
    assert_eq!(get.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn of_an_object_with_other_bytes_the_last_do_not_leave() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let sha256 = put(Arc::clone(&volume)).unwrap();
    File::options().write(true).open(object(folder.path())).unwrap().write_all_at(b"x", 5).unwrap();
    let recorded = Recorded { size: SIZE, sha256 };
    let slot = Buffers::new(1).slot(std::time::Duration::from_secs(1)).await.unwrap();
    let mut get = Get::open(Arc::clone(&volume), ID, recorded, 0..SIZE).unwrap();
    let mut buffer = slot.take().await;
    get.read(&mut buffer).unwrap();
    assert_eq!(get.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(buffer.is_empty());
    let mut get = Get::open(volume, ID, recorded, 1..3).unwrap();
    get.read(&mut buffer).unwrap();
    assert_eq!(buffer.filled(), [7, 7], "a stretch can only be taken as it is");
}

#[test]
fn an_id_is_never_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let _first = Put::begin(Arc::clone(&volume), ID).unwrap();
    Put::begin(volume, ID).unwrap_err();
}

const ID: FileId = FileId::from_bytes([0xab; 16]);
const SIZE: u64 = 300_000;

fn put(disk: Arc<dyn Disk>) -> Result<ContentDigest, PutError> {
    let bytes = vec![7; 100_000];
    let mut put = Put::begin(disk, ID)?;
    for _ in 0..3 {
        put.write(&bytes)?;
    }
    assert_eq!(put.size(), SIZE);
    let digest = put.digest();
    put.publish()?;
    Ok(digest)
}

fn read_back(volume: &Arc<dyn Disk>) -> ContentDigest {
    let (file, length) = volume.open(ID).unwrap();
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    assert_eq!(volume.read(&file, &mut bytes, 0).unwrap(), bytes.len());
    ContentDigest::from_bytes(Sha256::digest(&bytes).into())
}

fn object(folder: &Path) -> std::path::PathBuf {
    let name = ID.to_string();
    folder.join("v/objects").join(&name[..2]).join(&name[2..])
}

fn objects(volume: &Arc<dyn Disk>) -> usize {
    let mut count = 0;
    volume.walk(&mut |_| count += 1).unwrap();
    count
}

fn made(folder: &Path) -> Arc<dyn Disk> {
    let store = StoreId(FileId::from_bytes([1; 16]));
    let path = folder.join("v");
    NasVolume::create("main", &path, store, FileId::from_bytes([2; 16])).unwrap();
    Arc::new(NasVolume::open("main", &path, store).unwrap())
}

/// Does so many steps, then fails: for good, as a process that died, or once, as a full disk.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Disk>,
    left: AtomicUsize,
    dead: bool,
}

impl Faulty {
    fn step(&self) -> io::Result<()> {
        match self.left.load(Ordering::Relaxed) {
            0 => {
                if !self.dead {
                    self.left.store(usize::MAX, Ordering::Relaxed);
                }
                Err(io::ErrorKind::StorageFull.into())
            }
            left => {
                self.left.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl Disk for Faulty {
    fn id(&self) -> FileId {
        self.inner.id()
    }
    fn create_temporary(&self, id: FileId) -> io::Result<File> {
        self.step()?;
        self.inner.create_temporary(id)
    }
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.step() {
            // As a real disk: some of it arrives.
            self.inner.write(file, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.inner.write(file, bytes)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        self.step()?;
        self.inner.sync(file)
    }
    fn publish(&self, id: FileId) -> io::Result<()> {
        self.step()?;
        self.inner.publish(id)
    }
    fn sync_directories(&self, id: FileId) -> io::Result<()> {
        self.step()?;
        self.inner.sync_directories(id)
    }
    fn remove(&self, id: FileId) -> io::Result<()> {
        self.step()?;
        self.inner.remove(id)
    }
    fn open(&self, id: FileId) -> io::Result<(File, u64)> {
        self.inner.open(id)
    }
    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read(file, buffer, offset)
    }
    fn check(&self) -> io::Result<()> {
        self.inner.check()
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn walk(&self, found: &mut dyn FnMut(Option<FileId>)) -> io::Result<()> {
        self.inner.walk(found)
    }
}
