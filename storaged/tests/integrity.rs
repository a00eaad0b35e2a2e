//! Objects are looked at, and what is not what was sealed is found, recorded, and stays found.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use storaged::integrity::{Depth, Pace, Verdict, existence, look, scrub, settle};
use storaged::ledger::integrity::{FindingKind, cycle, standing};
use storaged::ledger::{Action, Ending, FileRow, Note, Origin, Record};
use storaged::objects::{Backend, Found, Pool, Reading, Region, Space, Writing};
use storaged::store::Store;
use storaged::volumes::VolumeState;
use store_proto::{FileId, routes};
use support::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_by_the_scrub_recorded_once_and_stays_found() {
    let lab = quick(Lab::start().await, |_| ()).await;
    let large = file(&lab, "large", &vec![7; 3 << 20]).await;
    let small = file(&lab, "small", b"small").await;
    scrub_all(&lab).await;
    assert_eq!(found(&lab), []);
    let scrubbed: Vec<Record> = of(&lab, Action::IntegrityScrubbed);
    assert_eq!(scrubbed.len(), 1);
    assert!(
        scrubbed[0].detail.as_ref().unwrap().ends_with("2 objects, 0 findings, 0 could not be looked at")
    );
    // It has read all there is, and nothing more is due for a month.
    let row = cycle(&lab.store.ledger.reader().snapshot().unwrap(), volume(&lab).backend.id()).unwrap();
    assert_eq!(row.read_bytes, large.parts[0].sealed_size + small.parts[0].sealed_size);
    assert!(!scrub::step(&lab.store, volume(&lab)).await.unwrap());

    // In the last byte but some, behind two chunks; its length stays.
    flip(&object(&lab, &large), 3 << 20);
    assert_eq!(look(&lab.store, &large.parts[0], Depth::Existence, Pace::InTurns).await, Verdict::Right);
    let damaged = look(&lab.store, &large.parts[0], Depth::Bytes, Pace::InTurns).await;
    assert_eq!(damaged, Verdict::Wrong(FindingKind::HashMismatch));
    assert_eq!(look(&lab.store, &small.parts[0], Depth::Bytes, Pace::InTurns).await, Verdict::Right);
    // The next cycle, as if its month were over.
    let lab = quick(lab, |store| store.scrub.cycle = Duration::ZERO).await;
    scrub_all(&lab).await;
    scrub_all(&lab).await;
    assert_eq!(found(&lab), [(large.file_id, FindingKind::HashMismatch)]);
    let failed = of(&lab, Action::IntegrityFailed);
    assert_eq!(failed.len(), 1, "once, however often it is seen");
    assert_eq!(failed[0].error.as_deref(), Some("Hash mismatch - file corrupted"));
    assert_eq!((failed[0].file_id, failed[0].path.clone()), (Some(large.file_id), None));
    // Who only looks whether it is there cannot say that it is right.
    existence::pass(&lab.store).await.unwrap();
    assert_eq!(found(&lab).len(), 1);
    flip(&object(&lab, &large), 3 << 20);
    scrub_all(&lab).await;
    assert_eq!(found(&lab), []);
    assert_eq!(of(&lab, Action::IntegrityRestored).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_gone_or_cut_is_found_by_the_existence_pass() {
    let lab = quick(Lab::start().await, |_| ()).await;
    let gone = file(&lab, "gone", b"gone").await;
    let cut = file(&lab, "cut", b"cut").await;
    file(&lab, "there", b"there").await;
    assert_eq!(existence::pass(&lab.store).await.unwrap(), 3);
    assert_eq!(found(&lab), []);
    let kept = std::fs::read(object(&lab, &gone)).unwrap();
    std::fs::remove_file(object(&lab, &gone)).unwrap();
    let short = std::fs::OpenOptions::new().write(true).open(object(&lab, &cut)).unwrap();
    short.set_len(10).unwrap();
    existence::pass(&lab.store).await.unwrap();
    let mut expected = [(gone.file_id, FindingKind::Missing), (cut.file_id, FindingKind::Length)];
    expected.sort_by_key(|(file, _)| *file.as_bytes());
    assert_eq!(found(&lab), expected);
    let errors: Vec<_> =
        of(&lab, Action::IntegrityFailed).into_iter().map(|record| record.error.unwrap()).collect();
    assert!(errors.contains(&"File does not exist".to_owned()), "{errors:?}");
    // It was put back; of the other it is over when its file is deleted, which nobody takes for missing.
    std::fs::write(object(&lab, &gone), kept).unwrap();
    existence::pass(&lab.store).await.unwrap();
    assert_eq!(found(&lab), [(cut.file_id, FindingKind::Length)]);
    storaged::deletion::delete(&lab.store, Origin::default(), cut.file_id, "case 1".into()).await.unwrap();
    assert_eq!(found(&lab), []);
    let verdict = Verdict::Wrong(FindingKind::Missing);
    settle(&lab.store, &Origin::default(), cut.file_id, &cut.parts[0], Depth::Bytes, &verdict).await.unwrap();
    assert_eq!(existence::pass(&lab.store).await.unwrap(), 2);
    assert_eq!(found(&lab), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_away_has_no_missing_files() {
    let lab = quick(Lab::start().await, |_| ()).await;
    let row = file(&lab, "f", b"f").await;
    // As if it were unmounted: the directory is there and empty.
    std::fs::rename(lab.volume(), lab.folder.path().join("elsewhere")).unwrap();
    std::fs::create_dir(lab.volume()).unwrap();
    for depth in [Depth::Existence, Depth::Bytes] {
        let verdict = look(&lab.store, &row.parts[0], depth, Pace::InTurns).await;
        assert!(matches!(verdict, Verdict::CannotTell(_)), "{verdict:?}");
    }
    existence::pass(&lab.store).await.unwrap();
    // The scrub waits for it, at the place where it was.
    assert!(!scrub::step(&lab.store, volume(&lab)).await.unwrap());
    let at =
        |lab: &Lab| cycle(&lab.store.ledger.reader().snapshot().unwrap(), volume(lab).backend.id()).unwrap();
    assert_eq!((at(&lab).number, at(&lab).objects, at(&lab).ended_ms), (1, 0, None));
    assert_eq!((found(&lab), of(&lab, Action::IntegrityFailed).len()), (vec![], 0));
    std::fs::remove_dir(lab.volume()).unwrap();
    std::fs::rename(lab.folder.path().join("elsewhere"), lab.volume()).unwrap();
    lab.store.look_at(volume(&lab)).await;
    scrub_all(&lab).await;
    assert_eq!((at(&lab).number, at(&lab).objects, found(&lab)), (1, 1, vec![]));
    let elsewhere =
        storaged::ledger::files::PartRow { volume: FileId::from_bytes([9; 16]), ..row.parts[0].clone() };
    let verdict = look(&lab.store, &elsewhere, Depth::Bytes, Pace::InTurns).await;
    assert_eq!(verdict, Verdict::CannotTell("its volume is not configured".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_hangs_stops_the_scrub_and_nothing_else() {
    let lab = quick(Lab::start().await, |_| ()).await;
    for name in ["a", "b"] {
        file(&lab, name, name.as_bytes()).await;
    }
    let row = file(&lab, "c", b"c").await;
    let steps = Arc::new(AtomicUsize::new(0));
    let hanging = Arc::clone(&steps);
    let lab = quick(lab, move |store| {
        store.io_patience = Duration::from_millis(300);
        let volume = &store.volumes[0];
        let backend = Trouble { inner: Arc::clone(&volume.backend), opens: hanging, after: 0, hangs: true };
        let pool = Pool::start(4).unwrap();
        store.volumes[0] = Arc::new(VolumeState::new(volume.name.clone(), Arc::new(backend), pool, None));
    })
    .await;
    let begun = daemon::Clock.now();
    assert!(!scrub::step(&lab.store, volume(&lab)).await.unwrap());
    // The watch has found out, so nobody else goes there.
    assert!(!volume(&lab).is_usable());
    for _ in 0..20 {
        assert!(!scrub::step(&lab.store, volume(&lab)).await.unwrap());
    }
    existence::pass(&lab.store).await.unwrap();
    assert!(
        daemon::Clock.now().duration_since(begun) < Duration::from_secs(10),
        "{:?}",
        daemon::Clock.now().duration_since(begun)
    );
    assert_eq!(steps.load(Ordering::Relaxed), 1, "one thread is lost to it, not one for each file");
    assert_eq!((found(&lab), of(&lab, Action::IntegrityFailed).len()), (vec![], 0));
    // The ledger goes on, and answers.
    lab.store.note(Note::new(Action::AdminStatus, Ending::Succeeded, Origin::default())).await.unwrap();
    assert_eq!(lab.request(Method::HEAD, &routes::file(row.file_id)).send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_goes_on_after_a_start_where_it_was() {
    let lab = quick(Lab::start().await, |_| ()).await;
    for number in 0..5 {
        file(&lab, &format!("f{number}"), format!("content {number}").as_bytes()).await;
    }
    let opens = Arc::new(AtomicUsize::new(0));
    let trouble = |after| {
        let opens = Arc::clone(&opens);
        move |store: &mut Store| {
            let volume = &store.volumes[0];
            let inner = Arc::clone(&volume.backend);
            let backend = Trouble { inner, opens, after, hangs: false };
            let pool = Pool::start(2).unwrap();
            store.volumes[0] = Arc::new(VolumeState::new(volume.name.clone(), Arc::new(backend), pool, None));
        }
    };
    // After three objects the volume goes away, and the process ends.
    let lab = quick(lab, trouble(3)).await;
    assert!(!scrub::step(&lab.store, volume(&lab)).await.unwrap());
    assert_eq!(opens.load(Ordering::Relaxed), 3);
    let lab = quick(lab, trouble(usize::MAX)).await;
    scrub_all(&lab).await;
    assert_eq!(opens.load(Ordering::Relaxed), 5, "none was read twice");
    let scrubbed = of(&lab, Action::IntegrityScrubbed);
    assert_eq!(scrubbed.len(), 1);
    assert!(scrubbed[0].detail.as_ref().unwrap().contains(": 5 objects, 0 findings"), "{scrubbed:?}");
}

/// The lab started anew, with a scrub that needs no patience.
async fn quick(lab: Lab, change: impl FnOnce(&mut Store)) -> Lab {
    let (folder, tokens) = lab.stop().await;
    Lab::open_changed(folder, tokens, |store| {
        store.scrub.bytes_per_second = Some(1 << 32);
        change(store);
    })
    .await
}

async fn file(lab: &Lab, path: &str, content: &[u8]) -> FileRow {
    let told = lab.upload(path, content.to_vec()).send().await;
    assert_eq!(told.status, 201, "{told:?}");
    let receipt: store_proto::UploadReceipt = serde_json::from_slice(&told.body).unwrap();
    lab.store.ledger.reader().file(receipt.file_id).unwrap().unwrap()
}

async fn scrub_all(lab: &Lab) {
    let number = || {
        let snapshot = lab.store.ledger.reader().snapshot().unwrap();
        let row = cycle(&snapshot, volume(lab).backend.id()).unwrap();
        if row.ended_ms.is_some() { row.number } else { row.number.saturating_sub(1) }
    };
    let ended = number();
    while number() == ended {
        scrub::step(&lab.store, volume(lab)).await.unwrap();
    }
}

fn volume(lab: &Lab) -> &VolumeState {
    &lab.store.volumes[0]
}

fn object(lab: &Lab, file: &FileRow) -> PathBuf {
    let name = file.parts[0].object.to_string();
    lab.volume().join("objects").join(&name[..2]).join(&name[2..])
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn found(lab: &Lab) -> Vec<(FileId, FindingKind)> {
    let snapshot = lab.store.ledger.reader().snapshot().unwrap();
    standing(&snapshot, None, 100).unwrap().into_iter().map(|row| (row.file_id, row.kind)).collect()
}

fn of(lab: &Lab, action: Action) -> Vec<Record> {
    lab.records().into_iter().filter(|record| record.action == action).collect()
}

/// A volume that hangs or goes away when so many objects were opened.
#[derive(Debug)]
struct Trouble {
    inner: Arc<dyn Backend>,
    opens: Arc<AtomicUsize>,
    after: usize,
    hangs: bool,
}

impl Trouble {
    fn is_due(&self) -> bool {
        self.opens.load(Ordering::Relaxed) >= self.after
    }
}

impl Backend for Trouble {
    fn id(&self) -> FileId {
        self.inner.id()
    }
    fn create(&self, object: FileId) -> io::Result<Box<dyn Writing>> {
        self.inner.create(object)
    }
    fn open(&self, object: FileId) -> io::Result<Box<dyn Reading>> {
        self.opens.fetch_add(1, Ordering::Relaxed);
        if self.hangs {
            std::thread::sleep(Duration::from_secs(60));
        }
        self.inner.open(object)
    }
    fn remove(&self, object: FileId) -> io::Result<()> {
        self.inner.remove(object)
    }
    fn remove_temporary(&self, object: FileId) -> io::Result<()> {
        self.inner.remove_temporary(object)
    }
    fn is_absent(&self, object: FileId) -> io::Result<bool> {
        self.inner.is_absent(object)
    }
    fn set_aside(&self, object: FileId) -> io::Result<()> {
        self.inner.set_aside(object)
    }
    fn check(&self) -> io::Result<()> {
        let away = if self.hangs { self.opens.load(Ordering::Relaxed) > 0 } else { self.is_due() };
        if away { Err(io::ErrorKind::NotFound.into()) } else { self.inner.check() }
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn walk(&self, region: Region, found: &mut dyn FnMut(Found)) -> io::Result<()> {
        self.inner.walk(region, found)
    }
}
