//! An object's way to the disk, stopped at each step.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use store_proto::{Cohort, ContentDigest, FileId};
use vault::Key256;
use vault::stream::Layout;

use self::faulty::{Fault, Faulty};
use super::get::{Get, Recorded, stretches};
use super::part::associated_data;
use super::put::Spooled;
use super::{
    Backend, Buffers, Found, NasVolume, Part, Pipeline, Pool, Published, Put, PutError, Reading, Region,
    Space, Spool, Writing,
};
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
                Ok(published) => {
                    assert_eq!(objects(&volume), 1);
                    let sealed = std::fs::read(object(folder.path())).unwrap();
                    let whole = *blake3::hash(&sealed).as_bytes();
                    assert_eq!(published.blake3, whole, "an object that was published is whole");
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

#[tokio::test]
async fn a_small_object_that_waits_for_others_is_whole_or_can_be_removed_after_a_crash_at_any_step() {
    for fault in [Fault::Stop, Fault::Tear] {
        for fail_at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let volume = made(folder.path());
            let finished = put_with_others(&volume, fail_at, fault).await;
            match finished {
                Ok(published) => {
                    let sealed = std::fs::read(object(folder.path())).unwrap();
                    assert_eq!(published.blake3, *blake3::hash(&sealed).as_bytes());
                    assert_eq!(fail_at, 3, "it is made, written and named; the spool is synced");
                    break;
                }
                Err(_) => {
                    volume.remove(ID).unwrap();
                    assert_eq!(objects(&volume), 0, "something is left after a crash at step {fail_at}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_small_object_that_waits_for_others_is_told_of_a_full_or_failing_disk() {
    for (errno, full) in [(libc::ENOSPC, true), (libc::EDQUOT, true), (libc::EIO, false)] {
        for fault in [Fault::Fail(errno), Fault::DoneButFail(errno)] {
            for fail_at in 0..3 {
                let folder = tempfile::tempdir().unwrap();
                let volume = made(folder.path());
                let error = put_with_others(&volume, fail_at, fault).await.unwrap_err();
                assert_eq!(matches!(error, PutError::Full { .. }), full, "step {fail_at}: {error}");
                volume.remove(ID).unwrap();
                assert_eq!(objects(&volume), 0, "something is left of step {fail_at}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_objects_at_once_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let pool = Pool::start(4).unwrap();
    let slots = Buffers::new(64);
    let puts = (0..64).map(|number| {
        let (volume, pool, slots) = (Arc::clone(&volume), pool.clone(), slots.clone());
        tokio::spawn(async move {
            let slot = slots.own_slot(std::time::Duration::from_secs(1)).await.unwrap();
            let part = Part { object: FileId::from_bytes([number; 16]), ..part() };
            let mut pipeline = Pipeline::new(pool, slot, volume, part, Sha256::new()).await;
            pipeline.push(&content(1000)).await.unwrap();
            pipeline.finish().await.unwrap()
        })
    });
    for put in puts.collect::<Vec<_>>() {
        let Published { object, sealed_size, blake3, .. } = put.await.unwrap();
        let reading = volume.open(object).unwrap();
        let mut sealed = vec![0; usize::try_from(sealed_size).unwrap()];
        assert_eq!(reading.read_at(&mut sealed, 0).unwrap(), sealed.len());
        assert_eq!(blake3, *blake3::hash(&sealed).as_bytes());
    }
    assert_eq!(objects(&volume), 64);
}

#[test]
fn what_was_written_to_a_mount_that_went_away_is_not_taken_for_synced() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    into_the_spool(&volume).settled(Ok(()), volume.as_ref()).unwrap();
    volume.remove(ID).unwrap();
    let written = into_the_spool(&volume);
    let (path, away) = (folder.path().join("v"), folder.path().join("away"));
    std::fs::rename(&path, &away).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(&away).arg(&path).status().unwrap();
    assert!(copied.success());
    volume.check().unwrap();
    written.settled(Ok(()), volume.as_ref()).unwrap_err();
}

#[test]
fn a_start_makes_small_objects_again_that_a_crash_took_and_none_that_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    into_the_spool(&volume).settled(volume.spool().unwrap().sync(), volume.as_ref()).unwrap();
    let sealed = std::fs::read(object(folder.path())).unwrap();
    drop(volume);
    // What a power cut leaves of a file that was never synced: half of it, or nothing.
    for lost in [Some(&sealed[..sealed.len() / 2]), Some(&[]), None] {
        match lost {
            Some(part) => std::fs::write(object(folder.path()), part).unwrap(),
            None => std::fs::remove_file(object(folder.path())).unwrap(),
        }
        let spool = std::fs::read(folder.path().join("v/.spool")).unwrap();
        let volume = opened(folder.path());
        assert_eq!(std::fs::read(object(folder.path())).unwrap(), sealed);
        assert_eq!(objects(&volume), 1, "nothing is left in tmp");
        drop(volume);
        std::fs::write(folder.path().join("v/.spool"), spool).unwrap();
    }
    let volume = opened(folder.path());
    volume.remove(ID).unwrap();
    into_the_spool(&volume);
    assert!(!volume.is_absent(ID).unwrap());
    std::fs::remove_file(object(folder.path())).unwrap();
    assert!(!volume.is_absent(ID).unwrap(), "a start would make it again");
    volume.remove(ID).unwrap();
    assert!(volume.is_absent(ID).unwrap());
    drop(volume);
    let volume = opened(folder.path());
    assert!(volume.is_absent(ID).unwrap());
}

#[tokio::test]
async fn what_goes_through_the_pipeline_comes_back_whatever_its_length() {
    let full = FULL_FIRST;
    for size in [0, 1, full - 1, full, full + 1, full + FULL, full + FULL + 1, 3 * FULL + 77] {
        let folder = tempfile::tempdir().unwrap();
        let volume = made(folder.path());
        let bytes = content(size);
        let (published, digest) = piped(&volume, &bytes, 70_001).await;
        assert_eq!(
            (published.size, digest),
            (size as u64, ContentDigest::from_bytes(Sha256::digest(&bytes).into()))
        );
        let sealed = std::fs::read(object(folder.path())).unwrap();
        assert_eq!(published.sealed_size, sealed.len() as u64);
        assert_eq!(&published.blake3, blake3::hash(&sealed).as_bytes());
        assert!(size < 64 || !contains(&sealed, &bytes[..64]), "plain bytes on the volume");
        let whole = 0..size as u64;
        assert_eq!(read(&volume, vec![published.size], whole).await.unwrap(), bytes, "{size} bytes");
    }
}

#[tokio::test]
async fn a_range_is_what_it_would_be_of_the_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let size = FULL_FIRST + 2 * FULL + 9;
    let bytes = content(size);
    piped(&volume, &bytes, size).await;
    let edges =
        [0, 1, FULL_FIRST - 1, FULL_FIRST, FULL_FIRST + 1, FULL_FIRST + FULL, size - 9, size - 1, size];
    for (i, &start) in edges.iter().enumerate() {
        for &end in &edges[i + 1..] {
            let range = start as u64..end as u64;
            assert_eq!(
                read(&volume, vec![size as u64], range).await.unwrap(),
                &bytes[start..end],
                "{start}..{end}"
            );
        }
    }
}

#[tokio::test]
async fn an_object_of_another_length_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    piped(&volume, &content(300_000), 300_000).await;
    let error = read(&volume, vec![300_001], 0..300_001).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn an_object_that_shrinks_while_it_is_read_is_an_error_and_no_short_answer() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    piped(&volume, &content(300_000), 300_000).await;
    let mut get = Get::open(recorded(&volume, &[300_000], 0..300_000)).unwrap();
    File::options().write(true).open(object(folder.path())).unwrap().set_len(100).unwrap();
    let slot = Buffers::new(1).own_slot(std::time::Duration::from_secs(1)).await.unwrap();
    let mut buffer = slot.take().await;
    assert_eq!(get.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(buffer.is_empty());
}

#[tokio::test]
async fn of_a_segment_that_was_changed_nothing_leaves_and_of_a_range_beside_it_all() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let size = FULL_FIRST + FULL + 10;
    let bytes = content(size);
    piped(&volume, &bytes, size).await;
    let second = (FULL_FIRST + 5) as u64;
    let sealed = File::options().read(true).write(true).open(object(folder.path())).unwrap();
    // Another byte than there is: any one of them is there by chance.
    let mut byte = [0];
    sealed.read_exact_at(&mut byte, second + 100).unwrap();
    sealed.write_all_at(&[byte[0] ^ 1], second + 100).unwrap();
    let sizes = vec![size as u64];
    let whole = read(&volume, sizes.clone(), 0..size as u64).await.unwrap_err();
    assert_eq!(whole.kind(), io::ErrorKind::InvalidData);
    for range in [second..second + 1, size as u64 - 12..size as u64] {
        assert!(read(&volume, sizes.clone(), range).await.is_err(), "a range is authenticated too");
    }
    assert_eq!(read(&volume, sizes, 5..10).await.unwrap(), &bytes[5..10]);
}

#[tokio::test]
async fn a_part_that_is_taken_for_another_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    piped(&volume, &content(1000), 1000).await;
    for change in 0..3 {
        let mut parts = recorded(&volume, &[1000], 0..1000);
        match change {
            0 => parts[0].0.part.aad = associated_data(ID, 1, &cohort()),
            1 => parts[0].0.part.aad = associated_data(OTHER, 0, &cohort()),
            _ => parts[0].0.part.key = Key256::from_bytes([2; 32]),
        }
        let mut get = Get::open(parts).unwrap();
        let slot = Buffers::new(1).own_slot(std::time::Duration::from_secs(1)).await.unwrap();
        let mut buffer = slot.take().await;
        assert_eq!(get.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(buffer.is_empty());
    }
}

#[tokio::test]
async fn a_small_body_touches_the_volume_in_one_job_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let mut pipeline = pipeline(&volume).await;
    pipeline.push(&content(FULL_FIRST)).await.unwrap();
    assert_eq!(objects(&volume), 0);
    assert_eq!(pipeline.unwritten().map(<[u8]>::len), Some(FULL_FIRST));
    pipeline.push(b"x").await.unwrap();
    assert_eq!(pipeline.unwritten(), None);
    pipeline.finish().await.unwrap();
    assert_eq!(objects(&volume), 1);
}

#[test]
fn an_id_is_never_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    let volume = made(folder.path());
    let _first = Put::begin(volume.as_ref(), &part()).unwrap();
    Put::begin(volume.as_ref(), &part()).unwrap_err();
}

const ID: FileId = FileId::from_bytes([0xab; 16]);
const OTHER: FileId = FileId::from_bytes([0xac; 16]);
/// Plain bytes in a segment, and in the first.
const FULL: usize = 256 * 1024 - 16;
const FULL_FIRST: usize = FULL - 40;

/// Three segments, and so at least seven steps.
fn put(disk: &dyn Backend) -> Result<Published, PutError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let slot = runtime.block_on(Buffers::new(1).own_slot(std::time::Duration::from_secs(1))).unwrap();
    let mut put = Put::begin(disk, &part())?;
    for number in 0..3 {
        let mut buffer = runtime.block_on(slot.take());
        if number == 0 {
            buffer.begin_stream()
        } else {
            buffer.continue_stream()
        }
        buffer.fill(&vec![7; FULL]);
        put.write(&mut buffer, number == 2)?;
    }
    put.publish()
}

async fn pipeline(volume: &Arc<dyn Backend>) -> Pipeline {
    let slot = Buffers::new(1).own_slot(std::time::Duration::from_secs(1)).await.unwrap();
    Pipeline::new(Pool::start(1).unwrap(), slot, Arc::clone(volume), part(), Sha256::new()).await
}

/// An object of one segment on a disk that fails.
async fn put_with_others(
    volume: &Arc<dyn Backend>,
    fail_at: usize,
    fault: Fault,
) -> Result<Published, PutError> {
    assert!(volume.spool().is_some(), "this test's directory must be on ext4, xfs or btrfs");
    let disk: Arc<dyn Backend> = Arc::new(Faulty::new(Arc::clone(volume), fail_at, fault));
    let pool = Pool::start(1).unwrap();
    let slot = Buffers::new(1).own_slot(std::time::Duration::from_secs(1)).await.unwrap();
    let mut pipeline = Pipeline::new(pool, slot, disk, part(), Sha256::new()).await;
    pipeline.push(&content(1000)).await?;
    pipeline.finish().await
}

/// An object of one segment, before the spool is synced.
fn into_the_spool(volume: &Arc<dyn Backend>) -> Spooled {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let slot = runtime.block_on(Buffers::new(1).own_slot(std::time::Duration::from_secs(1))).unwrap();
    let mut buffer = runtime.block_on(slot.take());
    buffer.begin_stream();
    buffer.fill(&content(1000));
    let spool = volume.spool().unwrap();
    let place = spool.place(ID, buffer.stream().len()).unwrap();
    let mut put = Put::begin(volume.as_ref(), &part()).unwrap();
    put.write(&mut buffer, true).unwrap();
    put.spool(&spool, place, buffer.stream()).unwrap()
}

async fn piped(volume: &Arc<dyn Backend>, bytes: &[u8], frame: usize) -> (Published, ContentDigest) {
    let mut pipeline = pipeline(volume).await;
    for frame in bytes.chunks(frame.max(1)) {
        pipeline.push(frame).await.unwrap();
    }
    let digest = pipeline.digest();
    (pipeline.finish().await.unwrap(), digest)
}

fn recorded(volume: &Arc<dyn Backend>, sizes: &[u64], range: Range<u64>) -> Vec<(Recorded, Range<u64>)> {
    let one = |(number, range): (usize, Range<u64>)| {
        let size = sizes[number];
        let sealed_size = Layout::STORE.of_plain(size).unwrap().sealed_bytes();
        (Recorded { backend: Arc::clone(volume), part: part(), size, sealed_size }, range)
    };
    stretches(sizes.iter().copied(), &range).into_iter().map(one).collect()
}

#[test]
fn a_range_is_cut_where_the_parts_meet() {
    let of = |range| stretches([10, 0, 5], &range);
    assert_eq!(of(0..15), [(0, 0..10), (2, 0..5)]);
    assert_eq!(of(9..11), [(0, 9..10), (2, 0..1)]);
    assert_eq!(of(10..12), [(2, 0..2)]);
    assert_eq!(stretches([0], &(0..0)), [(0, 0..0)]);
}

async fn read(volume: &Arc<dyn Backend>, sizes: Vec<u64>, range: Range<u64>) -> io::Result<Vec<u8>> {
    let slot = Buffers::new(1).own_slot(std::time::Duration::from_secs(1)).await.unwrap();
    let mut get = Get::open(recorded(volume, &sizes, range))?;
    let mut bytes = Vec::new();
    loop {
        let mut buffer = slot.take().await;
        get.read(&mut buffer)?;
        if buffer.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(buffer.filled());
    }
}

fn part() -> Part {
    Part { object: ID, key: Key256::from_bytes([1; 32]), aad: associated_data(ID, 0, &cohort()) }
}

fn cohort() -> Cohort {
    Cohort::parse("c1").unwrap()
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect()
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn object(folder: &Path) -> std::path::PathBuf {
    let name = ID.to_string();
    folder.join("v/objects").join(&name[..2]).join(&name[2..])
}

fn objects(volume: &Arc<dyn Backend>) -> usize {
    let mut count = 0;
    Region::all().for_each(|region| volume.walk(region, &mut |_| count += 1).unwrap());
    count
}

fn made(folder: &Path) -> Arc<dyn Backend> {
    let store = StoreId(FileId::from_bytes([1; 16]));
    let path = folder.join("v");
    NasVolume::create("main", &path, store, FileId::from_bytes([2; 16])).unwrap();
    opened(folder)
}

fn opened(folder: &Path) -> Arc<dyn Backend> {
    let store = StoreId(FileId::from_bytes([1; 16]));
    Arc::new(NasVolume::open("main", &folder.join("v"), store).unwrap())
}
