//! An object's way to the disk, stopped at each step.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId};

use self::faulty::{Fault, Faulty};
use super::get::{Get, Recorded};
use super::{Backend, Buffers, Found, NasVolume, Put, PutError, Reading, Space, Writing};
use crate::ledger::StoreId;

#[path = "../../testing/faulty.rs"]
mod faulty;

#[test]
fn a_crash_at_any_step_leaves_a_whole_object_or_what_recovery_removes() {
    for fault in [Fault::Stop, Fault::Tear] {
        for fail_at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let volume = made(folder.path());
            let finished = put(&Faulty::new(Arc::clone(&volume), fail_at, fault));
            match &finished {
                Ok(digest) => {
                    assert_eq!(objects(&volume), 1);
                    assert_eq!(&read_back(&volume), digest, "an object that was published is whole");
                    assert!(fail_at >= 7, "a put has at least seven steps, {fail_at} were tried");
                    break;
                }
                Err(_) => {
                    // What a start does with an open intent.
                    volume.remove(ID).unwrap();
                    assert_eq!(objects(&volume), 0, "something is left after a crash at step {fail_at}");
                }
            }
        }
    }
}

#[test]
fn a_full_or_failing_disk_at_any_step_is_told_and_can_be_tidied_at_once() {
    for (errno, full) in [
        (libc::ENOSPC, true),
        (libc::EDQUOT, true),
        (libc::EFBIG, true),
        (libc::EIO, false),
        (libc::ESTALE, false),
    ] {
        // A network file system may have done what it answers with an error.
        for fault in [Fault::Fail(errno), Fault::DoneButFail(errno)] {
            for fail_at in 0..7 {
                let folder = tempfile::tempdir().unwrap();
                let volume = made(folder.path());
                let disk = Faulty::new(Arc::clone(&volume), fail_at, fault);
                let error = put(&disk).unwrap_err();
                assert_eq!(matches!(error, PutError::Full { .. }), full, "step {fail_at}: {error}");
                disk.remove(ID).unwrap();
                assert_eq!(objects(&volume), 0, "something is left of step {fail_at}");
            }
        }
    }
}

#[test]
fn an_object_of_another_length_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let sha256 = put(volume.as_ref()).unwrap();
    let error = Get::open(volume.as_ref(), ID, Recorded { size: SIZE + 1, sha256 }, 0..SIZE + 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn an_object_that_shrinks_while_it_is_read_is_an_error_and_no_short_answer() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let sha256 = put(volume.as_ref()).unwrap();
    let mut get = Get::open(volume.as_ref(), ID, Recorded { size: SIZE, sha256 }, 0..SIZE).unwrap();
    File::options().write(true).open(object(folder.path())).unwrap().set_len(10).unwrap();
    let slot = Buffers::new(1).slot(std::time::Duration::from_secs(1)).await.unwrap();
    let mut buffer = slot.take().await;
    assert_eq!(get.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn of_an_object_with_other_bytes_the_last_do_not_leave() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let sha256 = put(volume.as_ref()).unwrap();
    File::options().write(true).open(object(folder.path())).unwrap().write_all_at(b"x", 5).unwrap();
    let recorded = Recorded { size: SIZE, sha256 };
    let slot = Buffers::new(1).slot(std::time::Duration::from_secs(1)).await.unwrap();
    let mut get = Get::open(volume.as_ref(), ID, recorded, 0..SIZE).unwrap();
    let mut buffer = slot.take().await;
    get.read(&mut buffer).unwrap();
    assert_eq!(get.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(buffer.is_empty());
    let mut get = Get::open(volume.as_ref(), ID, recorded, 1..3).unwrap();
    get.read(&mut buffer).unwrap();
    assert_eq!(buffer.filled(), [7, 7], "a stretch can only be taken as it is");
}

#[test]
fn an_id_is_never_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let _first = Put::begin(volume.as_ref(), ID).unwrap();
    Put::begin(volume.as_ref(), ID).unwrap_err();
}

const ID: FileId = FileId::from_bytes([0xab; 16]);
const SIZE: u64 = 300_000;

fn put(disk: &dyn Backend) -> Result<ContentDigest, PutError> {
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

fn read_back(volume: &Arc<dyn Backend>) -> ContentDigest {
    let object = volume.open(ID).unwrap();
    let mut bytes = vec![0; usize::try_from(object.length()).unwrap()];
    assert_eq!(object.read_at(&mut bytes, 0).unwrap(), bytes.len());
    ContentDigest::from_bytes(Sha256::digest(&bytes).into())
}

fn object(folder: &Path) -> std::path::PathBuf {
    let name = ID.to_string();
    folder.join("v/objects").join(&name[..2]).join(&name[2..])
}

fn objects(volume: &Arc<dyn Backend>) -> usize {
    let mut count = 0;
    volume.walk(&mut |_| count += 1).unwrap();
    count
}

fn made(folder: &Path) -> Arc<dyn Backend> {
    let store = StoreId(FileId::from_bytes([1; 16]));
    let path = folder.join("v");
    NasVolume::create("main", &path, store, FileId::from_bytes([2; 16])).unwrap();
    Arc::new(NasVolume::open("main", &path, store).unwrap())
}
