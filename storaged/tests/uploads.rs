//! Uploads that resume: in pieces, over breaks and starts, one file with the right hash.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test panics where it fails")]

mod support;

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use storaged::ledger::{Action, Ending};
use storaged::objects::{Backend, Found, Reading, Region, Space, Writing};
use storaged::volumes::VolumeState;
use store_proto::{FileId, headers, routes};
use support::{Lab, Told, digest, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn pieces_become_one_file() {
    let lab = Lab::start().await;
    let bytes = content(700_001);
    let id = created(&lab, "a/b.csv", Some(bytes.len())).await;
    let mut offset = 0;
    for piece in [1, 255_999, 0, 300_000, 100_000, 44_001] {
        assert_eq!(told_offset(&look(&lab, &id).await), offset as u64);
        let told = append(&lab, &id, offset, &bytes[offset..offset + piece]).await;
        assert_eq!(told.status, StatusCode::OK, "{told:?}");
        offset += piece;
        assert_eq!(told_offset(&told), offset as u64);
        assert_eq!(told.json()["complete"], offset == bytes.len());
    }
    let told = look(&lab, &id).await;
    let receipt = &told.json()["receipt"];
    assert_eq!(receipt["sha256"], digest(&bytes).to_string());
    assert_eq!(receipt["size"], 700_001);
    assert_eq!(get(&lab, receipt["file_id"].as_str().unwrap()).await, bytes);
    // Once more, as somebody does who missed the answer.
    let again = append(&lab, &id, 656_000, &bytes[656_000..]).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_same_file(&again.json()["receipt"], receipt);
    let subject = format!("urn:culvert:upload:{id}");
    let about = lab.records().into_iter().filter(|record| record.subject_ref.as_deref() == Some(&subject));
    let about: Vec<Action> = about.map(|record| record.action).collect();
    let stream = Action::FileUploadedViaStream;
    assert_eq!(about, [stream, Action::NasRawCreated, stream], "each record of the upload names it");
    let file = lab.store.ledger.reader().versions(&"c1".parse().unwrap(), &"a/b.csv".parse().unwrap());
    let parts = &file.unwrap()[0].parts;
    assert!(parts.len() <= 3, "small pieces are gathered: {parts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_complete_at_once() {
    let lab = Lab::start().await;
    let told = create(&lab, "empty", Some(0)).await;
    assert_eq!((told.status, &told.json()["complete"]), (StatusCode::CREATED, &json!(true)));
    let receipt = told.json()["receipt"].clone();
    assert_eq!(get(&lab, receipt["file_id"].as_str().unwrap()).await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_can_be_said_later_and_once() {
    let lab = Lab::start().await;
    let id = created(&lab, "f", None).await;
    assert_eq!(append(&lab, &id, 0, b"abc").await.status, StatusCode::OK);
    let last = |length: &'static str| {
        lab.request(Method::PATCH, &upload(&id))
            .with(headers::UPLOAD_OFFSET, "3")
            .with(headers::UPLOAD_LENGTH, length)
    };
    assert_eq!(last("2").body("").send().await.problem(), "length-mismatch");
    assert_eq!(last("5").body("d").send().await.status, StatusCode::OK);
    let told = lab
        .request(Method::PATCH, &upload(&id))
        .with(headers::UPLOAD_OFFSET, "4")
        .with(headers::UPLOAD_LENGTH, "6");
    assert_eq!(told.body("e").send().await.problem(), "length-mismatch");
    assert_eq!(append(&lab, &id, 4, b"ef").await.problem(), "too-large");
    let told = append(&lab, &id, 4, b"e").await;
    assert_eq!(told.json()["receipt"]["sha256"], digest(b"abcde").to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_offset_is_told_and_nothing_changes() {
    let lab = Lab::start().await;
    let id = created(&lab, "f", Some(6)).await;
    append(&lab, &id, 0, b"abc").await;
    for offset in [0, 2, 4] {
        let told = append(&lab, &id, offset, b"x").await;
        assert_eq!((told.status.as_u16(), told.problem().as_str()), (409, "offset-mismatch"));
    }
    assert_eq!(append(&lab, &id, 3, b"def").await.json()["receipt"]["sha256"], digest(b"abcdef").to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_wrong_checksum_is_taken_back_as_a_whole() {
    let lab = Lab::start().await;
    let bytes = content(600_000);
    let id = created(&lab, "f", Some(bytes.len())).await;
    let checksum = |of: &[u8]| {
        let repr = digest(of).to_repr_digest();
        format!("sha256 {}", repr.strip_prefix("sha-256=:").unwrap().trim_end_matches(':'))
    };
    let with = |sum: String| {
        lab.request(Method::PATCH, &upload(&id))
            .with(headers::UPLOAD_OFFSET, "0")
            .with(headers::UPLOAD_CHECKSUM, &sum)
    };
    let told = with(checksum(b"other")).body(bytes.clone()).send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (400, "digest-mismatch"));
    assert_eq!(told_offset(&look(&lab, &id).await), 0);
    assert!(lab.on_volume().is_empty());
    assert_eq!(with("md5 AAAA".into()).body("x").send().await.problem(), "bad-request");
    let told = with(checksum(&bytes)).body(bytes.clone()).send().await;
    assert_eq!(told.json()["receipt"]["sha256"], digest(&bytes).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_that_has_another_digest_than_announced_is_no_file() {
    let lab = Lab::start().await;
    let new = json!({"cohort": "c1", "path": "f", "length": 3, "sha256": digest(b"abd").to_string()});
    let id = id_of(&lab.request(Method::POST, routes::UPLOADS).body(new.to_string()).send().await);
    assert_eq!(append(&lab, &id, 0, b"abc").await.problem(), "digest-mismatch");
    assert_eq!(look_status(&lab, &id).await, 404);
    nothing_is_left(&lab, Ending::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_break_is_kept() {
    let lab = Lab::start().await;
    let bytes = content(3_000_000);
    let id = created(&lab, "f", Some(bytes.len())).await;
    let mut stream = raw_patch(&lab, &id, 0, bytes.len());
    stream.write_all(&bytes[..2_000_000]).unwrap();
    eventually("bytes arrive", || !lab.on_volume().is_empty()).await;
    drop(stream);
    // Looking waits until the broken request has made durable what it has.
    let mut offset = 0;
    for _ in 0..2000 {
        offset = told_offset(&look(&lab, &id).await) as usize;
        if offset > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((1..=2_000_000).contains(&offset), "{offset}");
    let told = append(&lab, &id, offset, &bytes[offset..]).await;
    assert_eq!(told.json()["receipt"]["sha256"], digest(&bytes).to_string());
    assert_eq!(get(&lab, told.json()["receipt"]["file_id"].as_str().unwrap()).await, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_request_gives_way_to_a_newer_one() {
    let lab = Lab::start().await;
    let bytes = content(1_500_000);
    let id = created(&lab, "f", Some(bytes.len())).await;
    let mut stalled = raw_patch(&lab, &id, 0, bytes.len());
    stalled.write_all(&bytes[..1_000_000]).unwrap();
    eventually("bytes arrive", || !lab.on_volume().is_empty()).await;
    // The sender neither goes on nor away.
    let mut offset = told_offset(&look(&lab, &id).await) as usize;
    assert!(offset <= 1_000_000);
    let told = append(&lab, &id, offset, &bytes[offset..offset + 100_000]).await;
    assert_eq!(told.status, StatusCode::OK);
    offset += 100_000;
    let told = append(&lab, &id, offset, &bytes[offset..]).await;
    assert_eq!(told.json()["receipt"]["sha256"], digest(&bytes).to_string());
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_the_midst_costs_nothing_that_was_told() {
    let lab = Lab::start().await;
    let bytes = content(1_200_000);
    let id = created(&lab, "f", Some(bytes.len())).await;
    append(&lab, &id, 0, &bytes[..700_000]).await;
    // One stretch is under way when the process dies: a copy of the disk is what a crash leaves.
    let mut stream = raw_patch(&lab, &id, 700_000, 500_000);
    stream.write_all(&bytes[700_000..1_100_000]).unwrap();
    eventually("the stretch has begun", || lab.on_volume().len() == 2).await;
    let crashed = lab.copy_of_disk();
    let after = Lab::open(crashed, lab.tokens.clone()).await;
    assert_eq!(after.on_volume().len(), 1, "the stretch is removed: {:?}", after.on_volume());
    assert_eq!(told_offset(&look(&after, &id).await), 700_000);
    let told = append(&after, &id, 700_000, &bytes[700_000..]).await;
    assert_eq!(told.json()["receipt"]["sha256"], digest(&bytes).to_string());
    assert_eq!(get(&after, told.json()["receipt"]["file_id"].as_str().unwrap()).await, bytes);
    Arc::clone(&after.store).count_unclaimed().await;
    assert_eq!(after.store.metrics.unclaimed_objects.get(), 0);
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_belongs_to_the_user_who_began_it() {
    let lab = Lab::start().await;
    let id = created(&lab, "f", Some(3)).await;
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let asking = lab.request(method, &upload(&id)).of_user("adm").with(headers::UPLOAD_OFFSET, "0");
        let told = asking.send().await;
        assert_eq!((told.status.as_u16(), told.problem().as_str()), (404, "unknown-upload"));
    }
    let of = |told: Told| told.json()["uploads"].as_array().unwrap().len();
    assert_eq!(of(lab.request(Method::GET, routes::UPLOADS).send().await), 1);
    assert_eq!(of(lab.request(Method::GET, routes::UPLOADS).of_user("adm").send().await), 0);
    let told = lab.request(Method::POST, routes::UPLOADS).of_user("vic");
    let told = told.body(json!({"cohort": "c1", "path": "g"}).to_string()).send().await;
    assert_eq!(told.problem(), "cohort-forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_again_is_the_first_file_and_other_content_a_conflict() {
    let lab = Lab::start().await;
    // Both begin before either has ended.
    let ids = [
        created(&lab, "f", Some(3)).await,
        created(&lab, "f", Some(3)).await,
        created(&lab, "f", Some(3)).await,
    ];
    let first = append(&lab, &ids[0], 0, b"abc").await.json();
    let same = append(&lab, &ids[1], 0, b"abc").await;
    assert_eq!(same.status, StatusCode::OK);
    assert_same_file(&same.json()["receipt"], &first["receipt"]);
    assert_same_file(&look(&lab, &ids[1]).await.json()["receipt"], &first["receipt"]);
    let other = append(&lab, &ids[2], 0, b"abd").await;
    assert_eq!((other.status.as_u16(), other.problem().as_str()), (409, "conflict"));
    assert_eq!(lab.on_volume().len(), 1);
    assert!(lab.store.ledger.reader().open_intents().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_given_up_or_expires_leaves_nothing() {
    let lab = Lab::start().await;
    let id = created(&lab, "f", Some(1_000_000)).await;
    append(&lab, &id, 0, &content(600_000)).await;
    assert_eq!(lab.on_volume().len(), 1);
    assert_eq!(lab.request(Method::DELETE, &upload(&id)).send().await.status, StatusCode::NO_CONTENT);
    assert_eq!(look_status(&lab, &id).await, 404);
    nothing_is_left(&lab, Ending::Aborted);

    let (folder, tokens) = lab.stop().await;
    let lab =
        Lab::open_changed(folder, tokens, |store| store.upload_expiry = Duration::from_millis(50)).await;
    let id = created(&lab, "f", Some(1_000_000)).await;
    append(&lab, &id, 0, &content(600_000)).await;
    storaged::serve::expiry::expire_now(&lab.store).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    storaged::serve::expiry::expire_now(&lab.store).await;
    assert_eq!(look_status(&lab, &id).await, 404);
    nothing_is_left(&lab, Ending::Aborted);
    let done = created(&lab, "g", Some(1)).await;
    append(&lab, &done, 0, b"x").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    storaged::serve::expiry::expire_now(&lab.store).await;
    assert_eq!(look_status(&lab, &done).await, 404, "the marker of a finished one is forgotten too");
    assert_eq!(lab.on_volume().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_removal_broke_off_is_not_gone_on_with() {
    let lab = recorded(Lab::start().await.stop().await, &Sealed::default()).await;
    let bytes = content(1_000_000);
    let id = created(&lab, "f", Some(bytes.len())).await;
    append(&lab, &id, 0, &bytes[..600_000]).await;
    // What was sent is removed, and there the process might as well have died.
    let sealed = Sealed { removal_breaks: Arc::new(true.into()), ..Sealed::default() };
    let lab = recorded(lab.stop().await, &sealed).await;
    assert_eq!(
        lab.request(Method::DELETE, &upload(&id)).send().await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert!(lab.on_volume().is_empty());
    let told = append(&lab, &id, 600_000, &bytes[600_000..]).await;
    assert_eq!(told.problem(), "unknown-upload", "no file may come of what lacks its beginning");
    // Its end is not forgotten.
    sealed.removal_breaks.store(false, std::sync::atomic::Ordering::Relaxed);
    storaged::serve::expiry::expire_now(&lab.store).await;
    nothing_is_left(&lab, Ending::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_nobody_said_has_no_bound_but_the_cohorts() {
    let lab = Lab::start().await;
    let bytes = Bytes::from(content(70_000_001));
    let id = created(&lab, "f", None).await;
    let asking = lab.request(Method::PATCH, &upload(&id)).with(headers::UPLOAD_OFFSET, "0");
    let told = asking.body(bytes.clone()).send().await;
    assert_eq!((told.status, told_offset(&told)), (StatusCode::OK, 70_000_001), "{told:?}");
    let last = lab.request(Method::PATCH, &upload(&id)).with(headers::UPLOAD_OFFSET, "70000001");
    let told = last.with(headers::UPLOAD_LENGTH, "70000001").body("").send().await;
    assert_eq!(told.json()["receipt"]["sha256"], digest(&bytes).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_leaves_the_uploads_of_others_alone() {
    let lab = Lab::start().await;
    let done = created(&lab, "f", Some(3)).await;
    let receipt = append(&lab, &done, 0, b"abc").await.json()["receipt"].clone();
    let other = created(&lab, "g", Some(3)).await;
    let file = routes::file(FileId::parse(receipt["file_id"].as_str().unwrap()).unwrap());
    let told = lab.request(Method::DELETE, &file).of_user("adm").send().await;
    assert_eq!(told.status, StatusCode::OK, "{told:?}");
    assert_eq!(look_status(&lab, &done).await, 404);
    let told = lab.request(Method::GET, routes::UPLOADS).send().await;
    assert_eq!(told.json()["uploads"].as_array().map(Vec::len), Some(1), "{told:?}");
    let rows = lab.store.ledger.reader().partials(None).unwrap();
    assert_eq!(rows.len(), 2, "whoever looks for expired ones can read all");
    assert_eq!(append(&lab, &other, 0, b"abc").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_does_not_begin_uploads_without_end() {
    let lab = Lab::start().await;
    let mut ids = Vec::new();
    for number in 0..storaged::limits::UPLOADS_PER_USER {
        ids.push(created(&lab, &format!("f{number}"), Some(1)).await);
    }
    let told = create(&lab, "more", Some(1)).await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (429, "rate-limited"));
    let told = lab.request(Method::POST, routes::UPLOADS).of_user("adm");
    let told = told.body(json!({"cohort": "c1", "path": "g"}).to_string()).send().await;
    assert_eq!(told.status, StatusCode::CREATED, "{told:?}");
    // One that ends, in either way, makes room.
    append(&lab, &ids[0], 0, b"x").await;
    lab.request(Method::DELETE, &upload(&ids[1])).send().await;
    created(&lab, "more", Some(1)).await;
    created(&lab, "and more", Some(1)).await;
    assert_eq!(create(&lab, "too much", Some(1)).await.status.as_u16(), 429);
}

/// What a client and the world do.
#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Break(usize),
    Look,
    Restart,
    Crash(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![0..2000_usize, 250_000..270_000_usize, 0..900_000_usize];
    let step = prop_oneof![
        5 => size.clone().prop_map(Step::Append),
        3 => size.clone().prop_map(Step::Break),
        1 => Just(Step::Look),
        1 => Just(Step::Restart),
        1 => size.prop_map(Step::Crash),
    ];
    proptest::collection::vec(step, 1..12)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_of_pieces_breaks_crashes_and_starts_is_one_file_sealed_once() {
    let mut runner = TestRunner::default();
    for _ in 0..cases() {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        one_file(&steps).await;
    }
}

/// More in a long run.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(12)
}

async fn one_file(steps: &[Step]) {
    let bytes = content(2_000_000);
    let sealed = Sealed::default();
    let mut lab = recorded(Lab::start().await.stop().await, &sealed).await;
    let id = created(&lab, "f", Some(bytes.len())).await;
    let mut offset = 0;
    for step in steps {
        match step {
            Step::Append(size) => {
                let end = (offset + size).min(bytes.len());
                let told = append(&lab, &id, offset, &bytes[offset..end]).await;
                assert_eq!(told.status, StatusCode::OK, "{steps:?}: {told:?}");
                offset = end;
            }
            Step::Break(size) => {
                let end = (offset + size).min(bytes.len());
                let mut stream = raw_patch(&lab, &id, offset, bytes.len() - offset);
                stream.write_all(&bytes[offset..end]).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let now = told_offset(&look(&lab, &id).await) as usize;
                assert!((offset..=end).contains(&now), "{steps:?}");
                // The broken request may come to its turn only now: it is over when its connection is.
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let over = tokio::task::block_in_place(|| stream.read_to_end(&mut Vec::new()));
                assert!(over.is_ok() || over.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
                offset = told_offset(&look(&lab, &id).await) as usize;
                assert!((now..=end).contains(&offset), "{steps:?}");
            }
            Step::Look => assert_eq!(told_offset(&look(&lab, &id).await), offset as u64, "{steps:?}"),
            Step::Restart => lab = recorded(lab.stop().await, &sealed).await,
            Step::Crash(size) => {
                let end = (offset + size).min(bytes.len().saturating_sub(1));
                let mut stream = raw_patch(&lab, &id, offset, bytes.len() - offset);
                let _ = stream.write_all(&bytes[offset..end.max(offset)]);
                tokio::time::sleep(Duration::from_millis(5)).await;
                let disk = lab.copy_of_disk();
                let tokens = lab.tokens.clone();
                drop(stream);
                lab.stop().await;
                lab = recorded((disk, tokens), &sealed).await;
                let now = told_offset(&look(&lab, &id).await) as usize;
                assert!((offset..=end.max(offset)).contains(&now), "{steps:?}");
                offset = now;
            }
        }
        if offset == bytes.len() {
            break;
        }
    }
    let told = append(&lab, &id, offset, &bytes[offset..]).await;
    let receipt = &told.json()["receipt"];
    assert_eq!(receipt["sha256"], digest(&bytes).to_string(), "{steps:?}");
    assert_eq!(get(&lab, receipt["file_id"].as_str().unwrap()).await, bytes, "{steps:?}");
    let row = lab.store.ledger.reader().file(FileId::parse(receipt["file_id"].as_str().unwrap()).unwrap());
    assert_eq!(lab.on_volume().len(), row.unwrap().unwrap().parts.len(), "{steps:?}: nothing else is left");
    sealed.assert_once();
}

/// The header of each stream (its salt makes the key of its segments) and what was written under it.
#[derive(Debug, Clone, Default)]
struct Sealed {
    streams: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Whether what was removed is answered with an error.
    removal_breaks: Arc<std::sync::atomic::AtomicBool>,
}

impl Sealed {
    /// With one salt for each stream, and each stream written once from its begin to its end, no segment was
    /// sealed twice under one key.
    fn assert_once(&self) {
        let streams = self.streams.lock().unwrap();
        let distinct: HashSet<&Vec<u8>> = streams.iter().collect();
        assert_eq!(distinct.len(), streams.len(), "a salt was used twice");
        assert!(streams.iter().all(|header| header.len() == 40 && header[0] == 40));
    }
}

async fn recorded(
    (folder, tokens): (Arc<tempfile::TempDir>, std::collections::HashMap<String, store_proto::Token>),
    sealed: &Sealed,
) -> Lab {
    Lab::open_changed(folder, tokens, |store| {
        let first = &store.volumes[0];
        let backend = Recording { inner: Arc::clone(&first.backend), sealed: sealed.clone() };
        let state = VolumeState::new("main".into(), Arc::new(backend), first.pool.clone(), Some(0));
        store.volumes = vec![Arc::new(state)];
    })
    .await
}

#[derive(Debug)]
struct Recording {
    inner: Arc<dyn Backend>,
    sealed: Sealed,
}

impl Backend for Recording {
    fn id(&self) -> FileId {
        self.inner.id()
    }
    fn create(&self, object: FileId) -> std::io::Result<Box<dyn Writing>> {
        let inner = self.inner.create(object)?;
        Ok(Box::new(RecordingWriting { inner, sealed: self.sealed.clone(), begun: false }))
    }
    fn open(&self, object: FileId) -> std::io::Result<Box<dyn Reading>> {
        self.inner.open(object)
    }
    fn remove(&self, object: FileId) -> std::io::Result<()> {
        self.inner.remove(object)?;
        match self.sealed.removal_breaks.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(std::io::Error::other("gone, and so is whoever asked")),
            false => Ok(()),
        }
    }
    fn remove_temporary(&self, object: FileId) -> std::io::Result<()> {
        self.inner.remove_temporary(object)
    }
    fn set_aside(&self, object: FileId) -> std::io::Result<()> {
        self.inner.set_aside(object)
    }
    fn is_absent(&self, object: FileId) -> std::io::Result<bool> {
        self.inner.is_absent(object)
    }
    fn check(&self) -> std::io::Result<()> {
        self.inner.check()
    }
    fn space(&self) -> std::io::Result<Space> {
        self.inner.space()
    }
    fn walk(&self, region: Region, found: &mut dyn FnMut(Found)) -> std::io::Result<()> {
        self.inner.walk(region, found)
    }
}

#[derive(Debug)]
struct RecordingWriting {
    inner: Box<dyn Writing>,
    sealed: Sealed,
    begun: bool,
}

impl Writing for RecordingWriting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.sealed.streams.lock().unwrap().push(bytes[..40].to_vec());
        }
        self.inner.write(bytes)
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.inner.sync()
    }
    fn publish(&mut self) -> std::io::Result<()> {
        self.inner.publish()
    }
    fn settle(&mut self) -> std::io::Result<()> {
        self.inner.settle()
    }
}

fn nothing_is_left(lab: &Lab, ending: Ending) {
    assert!(lab.on_volume().is_empty(), "{:?}", lab.on_volume());
    assert!(lab.store.ledger.reader().open_intents().unwrap().is_empty());
    let trail = lab.trail();
    assert!(trail.contains(&(Action::ScratchCleanup, Some(Ending::Succeeded))), "{trail:?}");
    assert!(trail.contains(&(Action::FileUploadedViaStream, Some(ending))), "{trail:?}");
    let usage = lab.store.ledger.reader().usage(&"c1".parse().unwrap()).unwrap();
    assert_eq!((usage.reserved_bytes, usage.reserved_files), (0, 0));
}

async fn create(lab: &Lab, path: &str, length: Option<usize>) -> Told {
    let new = match length {
        Some(length) => json!({"cohort": "c1", "path": path, "length": length}),
        None => json!({"cohort": "c1", "path": path}),
    };
    lab.request(Method::POST, routes::UPLOADS).body(new.to_string()).send().await
}

async fn created(lab: &Lab, path: &str, length: Option<usize>) -> String {
    let told = create(lab, path, length).await;
    assert_eq!(told.status, StatusCode::CREATED, "{told:?}");
    let id = id_of(&told);
    assert_eq!(told.headers["location"], upload(&id).as_str());
    id
}

fn id_of(told: &Told) -> String {
    told.json()["upload_id"].as_str().unwrap().to_owned()
}

fn upload(id: &str) -> String {
    routes::upload(FileId::parse(id).unwrap())
}

async fn append(lab: &Lab, id: &str, offset: usize, bytes: &[u8]) -> Told {
    let asking = lab.request(Method::PATCH, &upload(id)).with(headers::UPLOAD_OFFSET, &offset.to_string());
    asking.body(Bytes::copy_from_slice(bytes)).send().await
}

async fn look(lab: &Lab, id: &str) -> Told {
    let told = lab.request(Method::GET, &upload(id)).send().await;
    assert_eq!(told.status, StatusCode::OK, "{told:?}");
    told
}

async fn look_status(lab: &Lab, id: &str) -> u16 {
    lab.request(Method::GET, &upload(id)).send().await.status.as_u16()
}

fn told_offset(told: &Told) -> u64 {
    let json: Value = told.json();
    assert_eq!(told.headers[headers::UPLOAD_OFFSET], json["offset"].to_string().as_str());
    json["offset"].as_u64().unwrap()
}

async fn get(lab: &Lab, id: &str) -> Vec<u8> {
    let told = lab.request(Method::GET, &routes::file(FileId::parse(id).unwrap())).send().await;
    assert_eq!(told.status, StatusCode::OK, "{told:?}");
    told.body.to_vec()
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn raw_patch(lab: &Lab, id: &str, offset: usize, announced: usize) -> std::net::TcpStream {
    let mut head = format!("PATCH {} HTTP/1.1\r\nupload-offset: {offset}\r\n", upload(id));
    for (name, value) in &lab.good_headers("ada") {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    head.push_str(&format!("content-length: {announced}\r\n\r\n"));
    let mut stream = std::net::TcpStream::connect(lab.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// The same answer, and the same record proven: by the log as it is by now, which has grown meanwhile.
fn assert_same_file(now: &Value, then: &Value) {
    let (mut now, mut then) = (now.clone(), then.clone());
    let (proof_now, proof_then) = (now["receipt"].take(), then["receipt"].take());
    for key in ["record", "salt", "leaf_index", "log_key"] {
        assert_eq!(proof_now[key], proof_then[key], "{key}");
    }
    assert!(proof_now["record"].is_string(), "there is a proof");
    assert_eq!(now, then);
}
