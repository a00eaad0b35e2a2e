//! Every way to change a log behind its back is found, and nothing is found where nothing was changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _};
use store_proto::Cohort;

use super::*;
use crate::keys::KeyChange;
use crate::ledger::files::{ARRIVALS, FILES, OBJECTS};
use crate::ledger::intents::INTENTS;
use crate::ledger::seal::{Seal, Under};
use crate::ledger::tables::{BY_FILE, META_CHECKPOINT, RECORDS, TILES, by_file_key};
use crate::ledger::tests::{
    Keys, STORE, Silent, TestTime, begin_upload, finish_upload, first_record, fresh_keys,
};
use crate::ledger::{
    Action, Ending, Host, Ledger, Note, Opened, Origin, Record, cleanup, deletion, epoch, log, open_on,
    tables, upload,
};
use store_proto::FileId;

struct Lab {
    database: Arc<Database>,
    keys: Keys,
    ledger: Ledger,
}

fn lab(keys: &Keys) -> Lab {
    let database = open_on(InMemoryBackend::new()).unwrap();
    tables::initialize(&database, STORE, keys, first_record()).unwrap();
    let database = Arc::new(database);
    let opened = Opened::in_memory(Arc::clone(&database), STORE);
    let (ledger, _) =
        Ledger::start(opened, Arc::clone(keys), None, Host::default(), TestTime::default(), Silent).unwrap();
    Lab { database, keys: Arc::clone(keys), ledger }
}

impl Lab {
    fn note(&self) -> u64 {
        self.ledger
            .submit_blocking(Note::new(Action::AdminStatus, Ending::Succeeded, Origin::default()))
            .unwrap()
    }

    fn begin(&self, file: u8) -> u64 {
        let path = format!("f{file}");
        let begin = begin_upload(&self.keys, "c1", &path, FileId::from_bytes([file; 16]));
        let upload::Outcome::Begun { intent, .. } = self.ledger.submit_blocking(begin).unwrap() else {
            panic!()
        };
        intent
    }

    fn upload(&self, file: u8) -> u64 {
        let finish = finish_upload(self.begin(file), FileId::from_bytes([file; 16]), file);
        let upload::Outcome::Stored(row) = self.ledger.submit_blocking(finish).unwrap() else { panic!() };
        row.ledger_index
    }

    fn delete(&self, file: u8) {
        let file_id = FileId::from_bytes([file; 16]);
        let (origin, reason) = (Origin::default(), "case 1".to_owned());
        let decide = deletion::Command::Decide { origin, file_id, reason, retention_days: None };
        self.ledger.submit_blocking(decide).unwrap();
        let destroyed = self.ledger.submit_blocking(deletion::Command::DestroyKeys { file_id }).unwrap();
        let deletion::Outcome::At(row) = destroyed else { panic!() };
        for id in row.cleanups {
            let finish = cleanup::Command::Finish {
                id,
                origin: Origin::default(),
                evidence: cleanup::Evidence::AbsentByName,
                verified_by: cleanup::Verifier::System,
            };
            self.ledger.submit_blocking(finish).unwrap();
        }
        self.ledger.submit_blocking(deletion::Command::ObjectsGone { file_id }).unwrap();
    }

    /// Files that stay, one that was deleted, one that is being deleted, an upload that goes on.
    fn fill(&self) {
        for file in 1..=4 {
            self.upload(file);
        }
        self.delete(2);
        let (file_id, reason) = (FileId::from_bytes([3; 16]), "case 2".to_owned());
        let decide =
            deletion::Command::Decide { origin: Origin::default(), file_id, reason, retention_days: None };
        self.ledger.submit_blocking(decide).unwrap();
        self.begin(5);
        self.note();
    }

    fn verify(&self, against: &[Claim]) -> (Summary, Vec<Finding>) {
        let mut found = Vec::new();
        let summary = verify(self.ledger.reader(), self.ledger.log_key(), against, |event| {
            if let Event::Finding(finding) = event {
                found.push(finding);
            }
            ControlFlow::Continue(())
        });
        (summary.unwrap(), found)
    }

    fn kinds(&self) -> Vec<Kind> {
        self.verify(&[]).1.into_iter().map(|finding| finding.kind).collect()
    }

    /// Changes the database behind the ledger's back, looks what is found, and puts it back.
    fn tampered(&self, tamper: impl FnOnce(&mut tables::Tables<'_>)) -> Vec<Finding> {
        let mut before = Vec::new();
        let transaction = self.database.begin_write().unwrap();
        let save = |before: &mut Vec<_>, tables: &tables::Tables<'_>| {
            let records: Vec<(u64, Vec<u8>)> = tables
                .records
                .iter()
                .unwrap()
                .map(|row| row.unwrap())
                .map(|(k, v)| (k.value(), v.value().to_vec()))
                .collect();
            let tiles: Vec<(Vec<u8>, [u8; 32])> = tables
                .tiles
                .iter()
                .unwrap()
                .map(|row| row.unwrap())
                .map(|(k, v)| (k.value().to_vec(), *v.value()))
                .collect();
            let by_file: Vec<Vec<u8>> =
                tables.by_file.iter().unwrap().map(|row| row.unwrap().0.value().to_vec()).collect();
            let state: Vec<(Vec<u8>, Vec<u8>)> = tables
                .state
                .iter()
                .unwrap()
                .map(|row| row.unwrap())
                .map(|(k, v)| (k.value().to_vec(), v.value().to_vec()))
                .collect();
            let meta: Vec<(String, Vec<u8>)> = tables
                .meta
                .iter()
                .unwrap()
                .map(|row| row.unwrap())
                .map(|(k, v)| (k.value().to_owned(), v.value().to_vec()))
                .collect();
            before.push((records, tiles, by_file, state, meta));
        };
        {
            let mut tables = tables::Tables::open(&transaction).unwrap();
            save(&mut before, &tables);
            tamper(&mut tables);
        }
        transaction.commit().unwrap();
        let found = self.verify(&[]).1;
        let (records, tiles, by_file, state, meta) = before.pop().unwrap();
        let transaction = self.database.begin_write().unwrap();
        {
            let mut tables = tables::Tables::open(&transaction).unwrap();
            tables.records.retain(|_, _| false).unwrap();
            tables.tiles.retain(|_, _| false).unwrap();
            tables.by_file.retain(|_, ()| false).unwrap();
            tables.state.retain(|_, _| false).unwrap();
            for (key, value) in records {
                tables.records.insert(key, value.as_slice()).unwrap();
            }
            for (key, value) in tiles {
                tables.tiles.insert(key.as_slice(), &value).unwrap();
            }
            for key in by_file {
                tables.by_file.insert(key.as_slice(), ()).unwrap();
            }
            for (key, value) in state {
                tables.state.insert(key.as_slice(), value.as_slice()).unwrap();
            }
            for (key, value) in meta {
                tables.meta.insert(key.as_str(), value.as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
        found
    }

    fn keys_of(
        &self,
        table: redb::TableDefinition<'static, &'static [u8], &'static [u8; 32]>,
    ) -> Vec<Vec<u8>> {
        let transaction = self.database.begin_read().unwrap();
        let table = transaction.open_table(table).unwrap();
        table.iter().unwrap().map(|row| row.unwrap().0.value().to_vec()).collect()
    }
}

fn flip(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

fn row_of(tables: &tables::Tables<'_>, index: u64) -> Vec<u8> {
    tables.records.get(index).unwrap().unwrap().value().to_vec()
}

#[track_caller]
fn assert_found(found: &[Finding], kind: Kind, record: Option<u64>, what: &str) {
    let there = found.iter().any(|finding| {
        finding.kind == kind && (record.is_none() || finding.record == record) && finding.what.contains(what)
    });
    assert!(there, "{kind:?} of {record:?} with {what:?} is not among {found:#?}");
}

#[test]
fn an_untouched_log_is_fine() {
    let lab = lab(&fresh_keys());
    assert_eq!(lab.kinds(), []);
    lab.fill();
    let old = lab.ledger.reader().checkpoint().unwrap().unverified().clone();
    let (origin, reason) = (Origin::default(), "a drill".to_owned());
    let open = epoch::Command::Open { origin, old_size: old.size, old_root: old.root, reason };
    lab.ledger.submit_blocking(open).unwrap();
    for _ in 0..600 {
        lab.note();
    }
    let (summary, found) = lab.verify(&[]);
    assert_eq!(found, []);
    let size = lab.ledger.reader().size().unwrap();
    assert_eq!((summary.records, summary.findings, summary.files, summary.epoch), (size, 0, 2, 1));
    assert_eq!((summary.open_intents, summary.ended_early), (1, false));
    // Begun, arrived, streamed: three records fell with the deleted file's key.
    assert_eq!(summary.destroyed, 3);
}

#[test]
fn each_record_leaf_and_index_that_is_changed_or_removed_is_found() {
    let lab = lab(&fresh_keys());
    lab.fill();
    let size = lab.ledger.reader().size().unwrap();
    for index in 0..size {
        let entry = lab.ledger.reader().entry(index).unwrap().unwrap();
        let opens = entry.record().is_some();
        let length = { row_of_reader(&lab, index).len() };
        // The time, which key, the sealed bytes. What no longer opens for anybody only has its first bytes.
        let places = if opens { vec![8, 9, 40, length - 1] } else { vec![8, 9, 12] };
        for at in places {
            let found = lab.tampered(|tables| {
                let row = row_of(tables, index);
                tables.records.insert(index, flip(&row, at).as_slice()).unwrap();
            });
            assert!(!found.is_empty(), "byte {at} of record {index}");
            if opens && at >= 26 {
                assert_found(&found, Kind::Unreadable, Some(index), "");
            }
        }
        let found = lab.tampered(|tables| drop(tables.records.remove(index).unwrap()));
        if index + 1 < size {
            assert_found(&found, Kind::Missing, Some(index), "");
        }
        assert_found(&found, Kind::Size, None, "were signed");
    }
    for key in lab.keys_of(TILES) {
        let index = u64::from_be_bytes(key[1..].try_into().unwrap());
        let found = lab.tampered(|tables| {
            let mut hash: [u8; 32] = *tables.tiles.get(key.as_slice()).unwrap().unwrap().value();
            hash[3] ^= 1;
            tables.tiles.insert(key.as_slice(), &hash).unwrap();
        });
        let opens = lab.ledger.reader().record(index).unwrap().is_some();
        let kind = if opens { Kind::Commitment } else { Kind::Root };
        assert_found(&found, kind, opens.then_some(index), "");
        let found = lab.tampered(|tables| drop(tables.tiles.remove(key.as_slice()).unwrap()));
        assert!(!found.is_empty(), "leaf {index} removed");
    }
    let by_file: Vec<Vec<u8>> = {
        let transaction = lab.database.begin_read().unwrap();
        let table = transaction.open_table(BY_FILE).unwrap();
        table.iter().unwrap().map(|row| row.unwrap().0.value().to_vec()).collect()
    };
    for key in by_file {
        let index = u64::from_be_bytes(key[16..].try_into().unwrap());
        let found = lab.tampered(|tables| drop(tables.by_file.remove(key.as_slice()).unwrap()));
        assert_found(&found, Kind::Index, Some(index), "does not lead to it");
    }
    let found = lab.tampered(|tables| {
        let key = by_file_key(FileId::from_bytes([1; 16]), 0);
        tables.by_file.insert(key.as_slice(), ()).unwrap();
    });
    assert_found(&found, Kind::Index, None, "1 too many");
    assert_eq!(lab.kinds(), [], "all of it was put back");
}

fn row_of_reader(lab: &Lab, index: u64) -> Vec<u8> {
    let transaction = lab.database.begin_read().unwrap();
    transaction.open_table(RECORDS).unwrap().get(index).unwrap().unwrap().value().to_vec()
}

#[test]
fn a_record_that_was_written_anew_with_the_stores_own_keys_is_found() {
    let lab = lab(&fresh_keys());
    for _ in 0..300 {
        lab.note();
    }
    let rewrite = |mut record: Record| {
        let mut edge = receipt::merkle::Edge::default();
        for _ in 0..record.index {
            edge.append(receipt::merkle::empty_root(), |_| ()).unwrap();
        }
        record.detail = Some("another story".into());
        let seal = Seal::new(Arc::clone(&lab.keys));
        log::compose(&mut edge, &seal, Under::Store, &record).unwrap()
    };
    let record = lab.ledger.reader().record(7).unwrap().unwrap();
    let composed = rewrite(record);
    let found = lab.tampered(|tables| drop(tables.records.insert(7, composed.row.as_slice()).unwrap()));
    assert_found(&found, Kind::Commitment, Some(7), "");
    // With its leaf beside it: then the node above is another.
    let found = lab.tampered(|tables| {
        tables.records.insert(7, composed.row.as_slice()).unwrap();
        let (key, leaf) = &composed.nodes[0];
        tables.tiles.insert(key.as_slice(), leaf.as_bytes()).unwrap();
    });
    assert_found(&found, Kind::Tile, Some(255), "level 8");
    assert_found(&found, Kind::Root, None, "was signed");
}

#[test]
fn a_node_above_the_leaves_and_one_too_many_are_found() {
    let lab = lab(&fresh_keys());
    for _ in 0..600 {
        lab.note();
    }
    let key = [&[1][..], &1_u64.to_be_bytes()].concat();
    let found = lab.tampered(|tables| drop(tables.tiles.insert(key.as_slice(), &[7; 32]).unwrap()));
    assert_found(&found, Kind::Tile, Some(511), "node 1 of level 8");
    let key = [&[1][..], &2_u64.to_be_bytes()].concat();
    let found = lab.tampered(|tables| drop(tables.tiles.insert(key.as_slice(), &[7; 32]).unwrap()));
    assert_found(&found, Kind::Tile, None, "nodes are kept");
}

#[test]
fn a_checkpoint_that_is_not_the_newest_or_not_the_logs_is_found() {
    let lab = lab(&fresh_keys());
    lab.fill();
    let old = lab.ledger.reader().checkpoint().unwrap();
    lab.note();
    let put = |text: String| {
        lab.tampered(|tables| drop(tables.meta.insert(META_CHECKPOINT, text.as_bytes()).unwrap()))
    };
    assert_found(&put(old.as_str().to_owned()), Kind::Size, None, "were signed");
    let now = lab.ledger.reader().checkpoint().unwrap().as_str().to_owned();
    let other_root = receipt::merkle::leaf_hash(b"other").to_string();
    let root = lab.ledger.reader().checkpoint().unwrap().unverified().root.to_string();
    let found = put(now.replace(&root, &other_root));
    assert_found(&found, Kind::Checkpoint, None, "");
    assert_found(&found, Kind::Root, None, "was signed");
    assert_found(&put("no note".to_owned()), Kind::Checkpoint, None, "");
    let found = lab.tampered(|tables| drop(tables.meta.remove(META_CHECKPOINT).unwrap()));
    assert_found(&found, Kind::Checkpoint, None, "no checkpoint");
}

#[test]
fn a_file_and_an_open_operation_that_vanished_are_found() {
    let lab = lab(&fresh_keys());
    lab.fill();
    let file = FileId::from_bytes([1; 16]);
    let row = lab.ledger.reader().file(file).unwrap().unwrap();
    let found = lab.tampered(|tables| {
        tables.state.remove(FILES.place(file.as_bytes()).as_slice()).unwrap();
    });
    assert_found(&found, Kind::File, Some(row.ledger_index), "is not there");
    let key =
        [Cohort::parse("c1").unwrap().as_str().as_bytes(), &[0], &row.ledger_index.to_be_bytes()].concat();
    let found = lab.tampered(|tables| drop(tables.state.remove(ARRIVALS.place(&key).as_slice()).unwrap()));
    assert_found(&found, Kind::File, Some(row.ledger_index), "listing");
    // Another file's row in its place does not open there.
    let found = lab.tampered(|tables| {
        let other = FILES.place(FileId::from_bytes([4; 16]).as_bytes());
        let other = tables.state.get(other.as_slice()).unwrap().unwrap().value().to_vec();
        tables.state.insert(FILES.place(file.as_bytes()).as_slice(), other.as_slice()).unwrap();
    });
    assert_found(&found, Kind::File, Some(row.ledger_index), "");
    let (intent, _) = lab.ledger.reader().open_intents().unwrap()[0];
    let found = lab.tampered(|tables| {
        tables.state.remove(INTENTS.place(&intent.to_be_bytes()).as_slice()).unwrap();
    });
    assert_found(&found, Kind::Intent, Some(intent), "no outcome");
    // What is not the log's concern is not taken for it.
    let found =
        lab.tampered(|tables| drop(tables.state.remove(OBJECTS.place(file.as_bytes()).as_slice()).unwrap()));
    assert_eq!(found, []);
}

#[test]
fn keys_that_vanished_without_a_record_are_found() {
    let lab = lab(&fresh_keys());
    lab.fill();
    let file = FileId::from_bytes([4; 16]);
    let first = lab.ledger.reader().about(file, 0, 1).unwrap()[0];
    lab.keys.commit(&[KeyChange::Destroy { file }]).unwrap();
    let (summary, found) = lab.verify(&[]);
    assert_found(&found, Kind::KeyGone, Some(first), "no record says");
    assert!(found.iter().any(|finding| finding.file == Some(file)));
    assert_eq!(summary.findings, found.len() as u64);
}

#[test]
fn a_log_that_was_rolled_back_or_forked_is_found_by_whoever_kept_a_receipt() {
    let keys = fresh_keys();
    let (honest, other) = (lab(&keys), lab(&keys));
    honest.note();
    let index = honest.upload(1);
    let receipt = honest.ledger.receipt(index).unwrap().unwrap().to_json();
    let claim = Claim::parse("mine".into(), receipt.as_bytes()).unwrap();
    honest.note();
    let checkpoint = honest.ledger.reader().checkpoint().unwrap().as_str().to_owned();
    let witness = Claim::parse("witness".into(), checkpoint.as_bytes()).unwrap();
    honest.note();
    let claims = [claim, witness];
    assert_eq!(honest.verify(&claims).1, []);
    // The same store, set back and gone on with: by itself it is without fault.
    assert_eq!(other.kinds(), []);
    let (_, found) = other.verify(&claims);
    assert_eq!(found.len(), 2);
    assert_found(&found, Kind::Against, None, "rolled back; no record tells of a restore");
    for _ in 0..20 {
        other.note();
    }
    let (_, found) = other.verify(&claims);
    assert_eq!(found.len(), 2);
    assert_found(&found, Kind::Against, None, "forked; no record tells");
    let then = claims[1].checkpoint.unverified();
    let (origin, reason) = (Origin::default(), "a disk".to_owned());
    let open = epoch::Command::Open { origin, old_size: then.size, old_root: then.root, reason };
    other.ledger.submit_blocking(open).unwrap();
    assert_found(&other.verify(&claims).1, Kind::Against, None, "was restored (epoch 1)");
    let stranger = lab(&(Arc::new(crate::keys::Keys::in_memory(STORE).unwrap()) as Keys));
    assert_found(&stranger.verify(&claims).1, Kind::Against, None, "not of this log");
}

#[test]
fn a_receipt_that_contradicts_itself_is_no_claim() {
    let lab = lab(&fresh_keys());
    let index = lab.upload(1);
    let receipt = lab.ledger.receipt(index).unwrap().unwrap().to_json();
    let changed = receipt.replace("\\\"cohort\\\":\\\"c1\\\"", "\\\"cohort\\\":\\\"c2\\\"");
    assert_ne!(changed, receipt);
    assert!(matches!(Claim::parse("r".into(), changed.as_bytes()), Err(ClaimError::Broken(_))));
    assert!(matches!(Claim::parse("r".into(), b"hello"), Err(ClaimError::Neither { .. })));
    assert!(matches!(Claim::parse("r".into(), &[0xff, 0]), Err(ClaimError::Neither { .. })));
}

#[test]
fn the_walk_finds_nothing_while_writing_and_deleting_go_on() {
    let lab = lab(&fresh_keys());
    lab.fill();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for file in 10..90 {
                lab.upload(file);
                lab.begin(file + 100);
                if file % 2 == 0 {
                    lab.delete(file);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut walks = 0;
        while !done.load(Ordering::Relaxed) || walks == 0 {
            assert_eq!(lab.verify(&[]).1, []);
            walks += 1;
        }
        writer.join().unwrap();
    });
    let (summary, found) = lab.verify(&[]);
    assert_eq!((found.len(), summary.files), (0, 2 + 40));
}

#[test]
fn whoever_has_enough_ends_the_walk() {
    let lab = lab(&fresh_keys());
    for _ in 0..20 {
        lab.note();
    }
    let summary = verify(lab.ledger.reader(), lab.ledger.log_key(), &[], |_| ControlFlow::Break(())).unwrap();
    assert!(summary.ended_early);
    assert_eq!(summary.findings, 0);
}
