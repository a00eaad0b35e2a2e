//! Uploads that end badly: each leaves its records and nothing else.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test panics where it fails")]

mod support;

use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use storaged::ledger::cleanup::{CleanupKind, Verifier};
use storaged::ledger::{Action, Ending, Origin, verify};
use storaged::objects::{Backend, Found, Reading, Region, Space, Writing};
use storaged::reaper::{self, Before, Look};
use storaged::volumes::VolumeState;
use store_proto::{FileId, headers};
use support::{Lab, digest, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_is_refused() {
    let lab = Lab::start().await;
    let told =
        lab.upload("f", "one").with(headers::REPR_DIGEST, &digest(b"two").to_repr_digest()).send().await;
    assert_eq!((told.status, told.problem().as_str()), (StatusCode::BAD_REQUEST, "digest-mismatch"));
    nothing_is_left(&lab, Ending::Failed).await;
    assert_eq!(lab.upload("f", "one").send().await.status, StatusCode::CREATED, "the path is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_away_leaves_nothing() {
    let lab = Lab::start().await;
    let mut stream = raw_upload(&lab, 3_000_000);
    stream.write_all(&vec![7; 2_000_000]).unwrap();
    drop(stream);
    nothing_is_left(&lab, Ending::Aborted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_shorter_than_announced_is_refused() {
    let lab = Lab::start().await;
    let mut stream = raw_upload(&lab, 1000);
    stream.write_all(&[7; 999]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    nothing_is_left(&lab, Ending::Aborted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_falls_silent_is_given_up() {
    let lab = Lab::start_edited(&|text| text + "\n[limits]\nbody_idle_timeout_seconds = 1\n").await;
    let mut stream = raw_upload(&lab, 1000);
    stream.write_all(&[7; 500]).unwrap();
    let answer = read_answer(stream);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body-timeout"), "{answer}");
    nothing_is_left(&lab, Ending::Aborted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_longer_than_allowed_is_refused_when_it_is_announced_and_when_it_is_not() {
    let limited = |text: String| text + "\n[limits]\nmax_file_bytes = 100000\n";
    let lab = Lab::start_edited(&limited).await;
    let told = lab.upload("f", vec![7; 100_001]).send().await;
    assert_eq!((told.status, told.problem().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "too-large"));
    assert_eq!(lab.trail(), [(Action::AccessDenied, Some(Ending::Denied))]);

    let mut stream = raw_request(&lab, "transfer-encoding: chunked");
    for _ in 0..30 {
        stream.write_all(format!("2710\r\n{}\r\n", "x".repeat(10_000)).as_bytes()).unwrap();
    }
    let answer = read_answer(stream);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    nothing_is_left(&lab, Ending::Failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_leaves_nothing() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a small tmpfs: run it as root, or under `unshare -Urm`"
    );
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mount = SmallDisk::mount(folder.path().join("volume"), "4m");
    let lab = Lab::start_in(folder, Some(mount.path.clone()), &|text| text).await;
    let told = lab.upload("big", vec![7; 6_000_000]).send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (507, "quota"), "{told:?}");
    // It does not fit, so it does not begin; that it was tried is recorded.
    assert_eq!(lab.trail(), [(Action::FileUploadedViaStream, Some(Ending::Failed))]);
    // One that does not say how long it is begins, and fails where the disk ends.
    let mut stream = raw_request(&lab, "transfer-encoding: chunked");
    for _ in 0..60 {
        if stream.write_all(format!("186a0\r\n{}\r\n", "x".repeat(100_000)).as_bytes()).is_err() {
            break;
        }
    }
    let answer = read_answer(stream);
    assert!(answer.starts_with("HTTP/1.1 507"), "{answer}");
    nothing_is_left(&lab, Ending::Failed).await;
    let fits = vec![7; 2_000_000];
    assert_eq!(lab.upload("small", fits).send().await.status, StatusCode::CREATED, "the room is free again");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_midst_is_tidied_by_the_next_start() {
    let lab = Lab::start().await;
    let mut stream = raw_upload(&lab, 3_000_000);
    stream.write_all(&vec![7; 2_000_000]).unwrap();
    eventually("the upload has begun", || !lab.on_volume().is_empty()).await;
    let stranger = lab.volume().join("objects/ab");
    std::fs::create_dir_all(&stranger).unwrap();
    std::fs::write(stranger.join("cd".repeat(15)), b"of another ledger").unwrap();
    // A copy of the disk as it is now is what a crash leaves.
    let crashed = lab.copy_of_disk();
    let after = Lab::open(crashed, lab.tokens.clone()).await;
    assert!(after.store.ledger.reader().open_intents().unwrap().is_empty());
    let last = after.records().pop().unwrap();
    assert_eq!((last.action, last.ending), (Action::FileUploadedViaStream, Some(Ending::Failed)));
    assert_eq!(last.error.as_deref(), Some("crash"));
    let left = after.on_volume();
    assert_eq!(left.len(), 1, "what no intent names stays: {left:?}");
    Arc::clone(&after.store).count_unclaimed().await;
    assert_eq!(after.store.metrics.unclaimed_objects.get(), 1);
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_hangs_is_told_and_tidied_when_it_comes_back() {
    let (folder, tokens) = Lab::start().await.stop().await;
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = Arc::clone(&hangs);
    let lab = Lab::open_changed(folder, tokens, |store| {
        store.io_patience = Duration::from_millis(300);
        let first = &store.volumes[0];
        let hangs = Hanging { inner: Arc::clone(&first.backend), hangs: hanging, keeps: Arc::default() };
        let state = VolumeState::new("main".into(), Arc::new(hangs), first.pool.clone(), Some(0));
        store.volumes = vec![Arc::new(state)];
    })
    .await;
    let told = lab.upload("f", vec![7; 1_000_000]).send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (503, "backend-unavailable"));
    assert_eq!(lab.store.ledger.reader().open_intents().unwrap().len(), 1, "it is not over yet");
    assert_eq!(lab.on_volume().len(), 1);
    hangs.store(false, Ordering::Relaxed);
    nothing_is_left(&lab, Ending::Failed).await;
    assert_eq!(lab.upload("f", "x").send().await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_is_a_cleanup_until_it_is_gone() {
    let (folder, tokens) = Lab::start().await.stop().await;
    let stays = Arc::new(AtomicBool::new(true));
    let keeps = Arc::clone(&stays);
    let lab = Lab::open_changed(folder, tokens, |store| {
        let first = &store.volumes[0];
        let keeping = Hanging { inner: Arc::clone(&first.backend), hangs: Arc::default(), keeps };
        let state = VolumeState::new("main".into(), Arc::new(keeping), first.pool.clone(), Some(0));
        store.volumes = vec![Arc::new(state)];
    })
    .await;
    let other = digest(b"something else").to_repr_digest();
    let told = lab.upload("f", vec![7; 600_000]).with("repr-digest", &other).send().await;
    assert_eq!(told.problem(), "digest-mismatch", "what was wrong first is what the sender is told");
    assert_eq!(lab.on_volume().len(), 1, "it is still there");
    assert!(lab.store.ledger.reader().open_intents().unwrap().is_empty(), "its end is recorded all the same");
    let usage = lab.store.ledger.reader().usage(&"c1".parse().unwrap()).unwrap();
    assert_eq!(usage.reserved_bytes, 0);
    let pending = reaper::pending(&lab.store).unwrap();
    assert_eq!(pending.len(), 1, "{pending:?}");
    let (id, row) = &pending[0];
    assert_eq!(row.kind, CleanupKind::UnfinishedObject);
    let unclaimed = lab.store.unclaimed(&lab.store.volumes[0]).await.unwrap();
    assert!(unclaimed.is_empty(), "this ledger knows what it is: {unclaimed:?}");
    let look = || reaper::look(&lab.store, *id, row, Before::Remove, Origin::default(), Verifier::System);
    assert!(matches!(look().await.unwrap(), Look::Still(_)));
    stays.store(false, Ordering::Relaxed);
    assert_eq!(look().await.unwrap(), Look::Gone);
    assert!(lab.on_volume().is_empty());
    // The log says so from one end to the other.
    let (reader, key) = (lab.store.ledger.reader(), lab.store.ledger.log_key());
    let walked = verify::verify(reader, key, &[], |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(walked.findings, 0);
}

/// A volume whose syncs wait, or that keeps what should go, while a test says so.
#[derive(Debug)]
struct Hanging {
    inner: Arc<dyn Backend>,
    hangs: Arc<AtomicBool>,
    keeps: Arc<AtomicBool>,
}

impl Backend for Hanging {
    fn id(&self) -> FileId {
        self.inner.id()
    }
    fn create(&self, object: FileId) -> io::Result<Box<dyn Writing>> {
        Ok(Box::new(HangingWriting { inner: self.inner.create(object)?, hangs: Arc::clone(&self.hangs) }))
    }
    fn open(&self, object: FileId) -> io::Result<Box<dyn Reading>> {
        self.inner.open(object)
    }
    fn remove(&self, object: FileId) -> io::Result<()> {
        if self.keeps.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        self.inner.remove(object)
    }
    fn remove_temporary(&self, object: FileId) -> io::Result<()> {
        self.inner.remove_temporary(object)
    }
    fn set_aside(&self, object: FileId) -> io::Result<()> {
        self.inner.set_aside(object)
    }
    fn is_absent(&self, object: FileId) -> io::Result<bool> {
        self.inner.is_absent(object)
    }
    fn check(&self) -> io::Result<()> {
        self.inner.check()
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn walk(&self, region: Region, found: &mut dyn FnMut(Found)) -> io::Result<()> {
        self.inner.walk(region, found)
    }
}

#[derive(Debug)]
struct HangingWriting {
    inner: Box<dyn Writing>,
    hangs: Arc<AtomicBool>,
}

impl Writing for HangingWriting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        while self.hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.inner.sync()
    }
    fn publish(&mut self) -> io::Result<()> {
        self.inner.publish()
    }
    fn settle(&mut self) -> io::Result<()> {
        self.inner.settle()
    }
}

async fn nothing_is_left(lab: &Lab, ending: Ending) {
    eventually("the upload's end is recorded", || {
        lab.trail().last() == Some(&(Action::FileUploadedViaStream, Some(ending)))
    })
    .await;
    assert!(lab.on_volume().is_empty(), "{:?}", lab.on_volume());
    assert!(lab.store.ledger.reader().open_intents().unwrap().is_empty());
    let cleaned = (Action::ScratchCleanup, Some(Ending::Succeeded));
    assert!(lab.trail().contains(&cleaned));
}

fn raw_upload(lab: &Lab, announced: usize) -> std::net::TcpStream {
    raw_request(lab, &format!("content-length: {announced}"))
}

fn raw_request(lab: &Lab, framing: &str) -> std::net::TcpStream {
    let mut head =
        String::from("POST /internal/storage/upload HTTP/1.1\r\nculvert-cohort: c1\r\nculvert-path: f\r\n");
    for (name, value) in &lab.good_headers("ada") {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    head.push_str(&format!("{framing}\r\n\r\n"));
    let mut stream = std::net::TcpStream::connect(lab.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn read_answer(mut stream: std::net::TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains('}') {
        let length = stream.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the connection ended: {answer:?}");
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> SmallDisk {
        use nix::mount::{MsFlags, mount};
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size},mode=700");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        SmallDisk { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.path, nix::mount::MntFlags::MNT_DETACH);
    }
}
