//! The ledger against a model, and on a disk that fails.

mod ahead;
mod crash;
mod damaged;
mod end_of_life;
mod fail_closed;
mod journal;
mod model;
mod moments;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use receipt::merkle::{self, Edge};
use redb::backends::InMemoryBackend;
use store_proto::{Cohort, ContentDigest, FileId, LogicalPath, UserName};

use super::writer::{Observer, Time};
use super::*;
use crate::keys::{self, RECORD_SLOT};

pub(super) type Keys = Arc<dyn KeyStore>;

pub(super) const STORE: StoreId = StoreId(FileId::from_bytes([1; 16]));

pub(super) fn fresh_keys() -> Keys {
    Arc::new(keys::Keys::in_memory(STORE).unwrap())
}

/// A new ledger in memory, without a mirror.
pub(super) fn fresh_ledger(keys: &Keys, time: &TestTime) -> Ledger {
    let database = open_on(InMemoryBackend::new()).unwrap();
    tables::initialize(&database, STORE, keys, first_record()).unwrap();
    let opened = Opened::in_memory(Arc::new(database), STORE);
    Ledger::start(opened, Arc::clone(keys), None, Host::default(), time.clone(), Silent).unwrap().0
}

/// A clock that a test sets; it may go back.
#[derive(Debug, Clone, Default)]
pub(super) struct TestTime(pub(super) Arc<AtomicU64>);

impl Time for TestTime {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn running_ms(&self) -> u64 {
        0
    }

    fn steady_seconds(&self) -> f64 {
        0.0
    }
}

pub(super) struct Silent;

impl Observer for Silent {
    fn committed(&self, _commands: usize, _seconds: f64) {}
    fn failed(&self, _commands: usize) {}
}

pub(super) fn begin_upload(keys: &Keys, cohort: &str, path: &str, id: FileId) -> upload::Command {
    upload::Command::Begin {
        origin: Origin { user: Some(UserName::parse("ada").unwrap()), ..Origin::default() },
        wanted: upload::Announced {
            content: intents::Content::Raw,
            cohort: Cohort::parse(cohort).unwrap(),
            path: LogicalPath::parse(path).unwrap(),
            file_type: None,
            attributes: Default::default(),
            size: None,
            replaces: None,
            scan_required: false,
        },
        file_id: id,
        claim: intents::Claim { object: id, part: 1, volume: FileId::from_bytes([0xee; 16]) },
        keys: vec![keys.new_file_key(&Cohort::parse(cohort).unwrap(), id, RECORD_SLOT).unwrap().1],
        quota: usage::Quota::default(),
        said: None,
    }
}

pub(super) fn finish_upload(intent: u64, object: FileId, content: u8) -> upload::Command {
    upload::Command::Finish { intent, part: part(object, content), sha256: content_digest(content) }
}

pub(super) fn part(object: FileId, content: u8) -> files::PartRow {
    files::PartRow {
        blake3: files::SealedDigest([content; 32]),
        object,
        part: 1,
        sealed_size: u64::from(content) + 56,
        size: u64::from(content),
        volume: FileId::from_bytes([0xee; 16]),
    }
}

pub(super) fn content_digest(content: u8) -> ContentDigest {
    ContentDigest::from_bytes([content; 32])
}

pub(super) fn first_record() -> Record {
    Record::new(Action::AdminInit, Phase::Outcome, Host::default(), Origin::default())
}

/// What must hold of any ledger, whatever happened to it.
pub(super) fn assert_sound(reader: &Reader, keys: &Keys) {
    let totals = reader.totals().unwrap();
    let records = assert_log(reader, keys);
    assert_eq!(records.len() as u64, totals.records);
    let mut last_time = 0;
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record.index, i as u64, "indices count without gaps");
        assert!(record.time_ms >= last_time, "time went back at {i}");
        last_time = record.time_ms;
    }
    // Each file has its record, each arrival its file, and the stored bytes are their sum.
    let arrivals: Vec<&Record> = records.iter().filter(|r| r.action == Action::NasRawCreated).collect();
    assert_eq!(arrivals.len() as u64, totals.files);
    let mut bytes = 0;
    for arrival in arrivals {
        let file = reader.file(arrival.file_id.unwrap()).unwrap().unwrap();
        assert_eq!((file.ledger_index, Some(file.sha256)), (arrival.index, arrival.sha256));
        let found = reader.file_at(&file.cohort, &file.path).unwrap().unwrap();
        assert_eq!(found, file);
        bytes += file.size;
    }
    assert_eq!(bytes, totals.stored_bytes);
    // An intent is open if and only if no outcome names it.
    let open: Vec<u64> = reader.open_intents().unwrap().into_iter().map(|(index, _)| index).collect();
    for record in records.iter().filter(|record| record.phase == Phase::Intent) {
        let closed = records.iter().any(|other| other.intent == Some(record.index));
        assert_eq!(open.contains(&record.index), !closed, "intent {}", record.index);
    }
}

/// From each leaf to the signed checkpoint; the records, all of which can be read.
fn assert_log(reader: &Reader, keys: &Keys) -> Vec<Record> {
    let key = checkpoint::log_key(STORE, keys.as_ref()).unwrap();
    let snapshot = reader.snapshot().unwrap();
    let stored = snapshot.checkpoint().unwrap();
    let checkpoint = stored.verify(&key).unwrap();
    let entries = reader.entries(0, usize::MAX).unwrap();
    assert_eq!(entries.len() as u64, checkpoint.size);
    let mut edge = Edge::default();
    let mut records = Vec::new();
    for entry in entries {
        let Content::Record(open) = entry.content else { panic!("{} cannot be read", entry.index) };
        let leaf = open.leaf();
        let path = snapshot.inclusion(entry.index, checkpoint.size).unwrap();
        merkle::verify_inclusion(&leaf, entry.index, checkpoint.size, &path, &checkpoint.root).unwrap();
        edge.append(leaf, |_| ()).unwrap();
        assert_eq!(open.record.to_bytes(), open.bytes);
        records.push(open.record);
    }
    assert_eq!(edge.root(), checkpoint.root);
    records
}

#[tokio::test]
async fn a_ledger_whose_thread_has_died_is_not_usable() {
    struct Dies;
    impl Observer for Dies {
        fn committed(&self, _commands: usize, _seconds: f64) {
            panic!("on purpose");
        }
        fn failed(&self, _commands: usize) {}
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let keys = fresh_keys();
    create(&path, StoreId::random().unwrap(), &keys, first_record()).unwrap();
    let opened = open(&path).unwrap();
    let (ledger, thread) =
        Ledger::start(opened, Arc::clone(&keys), None, Host::default(), TestTime::default(), Dies).unwrap();
    assert!(ledger.is_usable());
    assert!(ledger.submit(begin_upload(&keys, "c1", "f", FileId::from_bytes([1; 16]))).await.is_err());
    assert!(thread.join().is_err());
    assert!(!ledger.is_usable());
}
