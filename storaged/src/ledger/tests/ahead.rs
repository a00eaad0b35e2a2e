//! The log ahead: what a killed process leaves in it, and what is not taken from it.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use vault::Key256;

use super::journal::{Lab, assert_same, upload, work};
use super::*;
use crate::keys::{KeyChange, KeyStore, KeysError, StorePurpose};
use crate::ledger::writer::{MirrorPlace, StartError};

fn ahead(lab: &Lab) -> std::path::PathBuf {
    lab.folder.join(AHEAD_FILE)
}

/// Where the first frame begins.
const FIRST: u64 = 4096;

#[test]
fn what_a_killed_process_had_not_brought_to_the_databases_is_done_again() {
    let lab = Lab::new();
    let (ledger, keys, thread) = lab.start().unwrap();
    for number in 0..60 {
        let id = upload(&ledger, &keys, number);
        if number % 7 == 0 {
            // As the files are at this moment: a kill.
            let copy = lab.copy(&format!("killed-{number}"));
            let records = ledger.reader().size().unwrap();
            let (opened, its_keys) = copy.open();
            let behind = Reader::new(Arc::clone(&opened.database), Arc::clone(&its_keys)).size().unwrap();
            drop((opened, its_keys));
            copy.run(200..201);
            let (opened, its_keys) = copy.open();
            let reader = Reader::new(opened.database, Arc::clone(&its_keys));
            assert!(reader.file(id).unwrap().is_some(), "the last one, {number}");
            assert!(its_keys.file_key(id, RECORD_SLOT).unwrap().is_some());
            assert_sound(&reader, &its_keys);
            assert!(behind <= records, "{behind} {records}");
        }
    }
    drop((ledger, keys));
    thread.join().unwrap();
}

#[test]
fn a_kill_and_an_end_in_order_leave_the_same_ledger() {
    let lab = Lab::new();
    let (ledger, keys, thread) = lab.start().unwrap();
    work(&ledger, &keys, 0..3);
    let killed = lab.copy("killed");
    let (opened, its_keys) = killed.open();
    let lacks = Reader::new(Arc::clone(&opened.database), Arc::clone(&its_keys)).size().unwrap();
    assert!(lacks < ledger.reader().size().unwrap(), "nothing is in memory alone: the test shows nothing");
    drop((opened, its_keys));
    drop((ledger, keys));
    thread.join().unwrap();
    let (mut opened, its_keys) = killed.open();
    assert_eq!(opened.bring_forward(&its_keys).unwrap(), None);
    // Again: nothing changes.
    assert_eq!(opened.bring_forward(&its_keys).unwrap(), None);
    drop((opened, its_keys));
    assert_same(&lab, &killed);
}

#[test]
fn a_start_after_a_kill_reads_no_more_than_it_must() {
    let lab = Lab::new();
    lab.run(0..100);
    let (ledger, keys, thread) = lab.start().unwrap();
    work(&ledger, &keys, 100..140);
    let killed = lab.copy("killed");
    for (file, name) in [("ledger.redb", "ledger"), ("keys.redb", "keys")] {
        let file = std::fs::File::options().read(true).write(true).open(killed.folder.join(file)).unwrap();
        let mut builder = redb::Database::builder();
        builder.set_repair_callback(|_| panic!("all of it is read"));
        let opened = builder.create_with_backend(redb::backends::FileBackend::new(file).unwrap());
        assert!(opened.is_ok(), "{name}: {opened:?}");
    }
    drop((ledger, keys));
    thread.join().unwrap();
}

#[test]
fn a_torn_frame_was_never_acknowledged_and_is_not_taken() {
    let lab = Lab::new();
    let (ledger, keys, thread) = lab.start().unwrap();
    work(&ledger, &keys, 0..1);
    let whole = lab.copy("whole");
    let torn = lab.copy("torn");
    // The first frame: nothing of this round is left.
    let file = std::fs::File::options().read(true).write(true).open(ahead(&torn)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, FIRST + 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], FIRST + 100).unwrap();
    let records = |lab: &Lab| {
        let (mut opened, keys) = lab.open();
        assert_eq!(opened.bring_forward(&keys).unwrap(), None);
        let reader = Reader::new(opened.database, Arc::clone(&keys));
        assert_sound(&reader, &keys);
        reader.size().unwrap()
    };
    assert!(records(&torn) < records(&whole));
    drop((ledger, keys));
    thread.join().unwrap();
}

#[test]
fn a_ledger_that_was_set_back_under_its_log_ahead_does_not_start() {
    let lab = Lab::new();
    lab.run(0..1);
    let old = lab.copy("old");
    lab.run(1..30);
    let (ledger, keys, thread) = lab.start().unwrap();
    work(&ledger, &keys, 30..31);
    let killed = lab.copy("killed");
    drop((ledger, keys));
    thread.join().unwrap();
    std::fs::copy(old.folder.join("ledger.redb"), killed.folder.join("ledger.redb")).unwrap();
    let error = killed.start().err().unwrap();
    assert!(matches!(error, StartError::SetBack(_)), "{error}");
    assert!(error.to_string().contains("culvert restore --replay"), "{error}");
}

#[test]
fn a_shred_between_a_put_and_a_kill_leaves_every_file_its_key_and_the_deleted_one_none() {
    let lab = Lab::new();
    let (opened, keys) = {
        let (opened, keys) = lab.open_with_keys();
        (opened, Arc::new(keys))
    };
    let shared: Keys = Arc::clone(&keys) as Keys;
    let (ledger, thread) =
        Ledger::start(opened, Arc::clone(&shared), None, Host::default(), TestTime::default(), Silent)
            .unwrap();
    let (gone, stays) = (upload(&ledger, &shared, 1), upload(&ledger, &shared, 2));
    keys.commit(&[KeyChange::Destroy { file: gone }]).unwrap();
    keys.shred().unwrap().unwrap();
    let late = upload(&ledger, &shared, 3);
    let killed = lab.copy("killed");
    drop((ledger, shared));
    thread.join().unwrap();
    // The first two frames bring keys of an epoch that is gone.
    let (mut opened, its_keys) = killed.open();
    assert_eq!(opened.bring_forward(&its_keys).unwrap(), None);
    for (file, there) in [(gone, false), (stays, true), (late, true)] {
        assert_eq!(its_keys.file_key(file, RECORD_SLOT).unwrap().is_some(), there, "{file}");
    }
}

#[test]
fn another_file_in_its_place_is_refused() {
    let lab = Lab::new();
    lab.run(0..1);
    std::fs::write(ahead(&lab), b"something else, and longer than what stands at the beginning").unwrap();
    let error = open(&lab.folder.join("ledger.redb")).unwrap_err();
    assert!(error.to_string().contains(AHEAD_FILE), "{error}");
}

/// Keys that cannot be destroyed while a disk says so.
#[derive(Debug)]
struct Stuck {
    keys: Keys,
    fails: AtomicBool,
}

impl KeyStore for Stuck {
    fn store_key(&self, purpose: StorePurpose) -> &Key256 {
        self.keys.store_key(purpose)
    }

    fn new_file_key(
        &self,
        cohort: &Cohort,
        file: FileId,
        slot: u32,
    ) -> Result<(Key256, KeyChange), KeysError> {
        self.keys.new_file_key(cohort, file, slot)
    }

    fn commit_ahead(&self, mark: u64, changes: &[KeyChange]) -> Result<(), KeysError> {
        let destroys = changes.iter().any(|change| matches!(change, KeyChange::Destroy { .. }));
        if destroys && self.fails.swap(false, Ordering::Relaxed) {
            return Err(KeysError::Corrupt("the disk does not answer".into()));
        }
        self.keys.commit_ahead(mark, changes)
    }

    fn mark(&self) -> Result<u64, KeysError> {
        self.keys.mark()
    }

    fn settle(&self) -> Result<(), KeysError> {
        self.keys.settle()
    }

    fn file_key(&self, file: FileId, slot: u32) -> Result<Option<Key256>, KeysError> {
        self.keys.file_key(file, slot)
    }
}

#[test]
fn a_durable_group_that_was_taken_over_by_half_ends_the_writing_and_a_new_start_does_the_rest() {
    let lab = Lab::new();
    let (opened, keys) = lab.open();
    let stuck = Arc::new(Stuck { keys, fails: AtomicBool::new(false) });
    let keys = Arc::clone(&stuck) as Keys;
    let mirror = Some(MirrorPlace { directory: lab.journal(), patience: Duration::from_secs(10) });
    let (host, time) = (Host::default(), TestTime::default());
    let (ledger, thread) = Ledger::start(opened, Arc::clone(&keys), mirror, host, time, Silent).unwrap();
    let (file_id, other) = (upload(&ledger, &keys, 1), upload(&ledger, &keys, 2));
    let decide = |file_id| {
        let (origin, reason) = (Origin::default(), "case 1".to_owned());
        deletion::Command::Decide { origin, file_id, reason, retention_days: None }
    };
    ledger.submit_blocking(decide(file_id)).unwrap();
    stuck.fails.store(true, Ordering::Relaxed);
    assert_eq!(ledger.submit_blocking(deletion::Command::DestroyKeys { file_id }), Err(LedgerUnavailable));
    // The disk is well again; what is in memory is not.
    assert_eq!(ledger.submit_blocking(decide(other)), Err(LedgerUnavailable));
    assert!(!ledger.is_usable());
    drop((ledger, keys, stuck));
    thread.join().unwrap();
    let (ledger, keys, thread) = lab.start().unwrap();
    assert_eq!(keys.file_key(file_id, RECORD_SLOT).unwrap().map(drop), None);
    assert!(keys.file_key(other, RECORD_SLOT).unwrap().is_some());
    let mut found = Vec::new();
    let walk = verify::verify(ledger.reader(), ledger.log_key(), &[], |event| {
        found.extend(matches!(event, verify::Event::Finding(_)).then_some(event));
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!((found, walk.unwrap().destroyed > 0), (vec![], true));
    let deletion::Outcome::At(row) =
        ledger.submit_blocking(deletion::Command::DestroyKeys { file_id }).unwrap()
    else {
        panic!("it was decided")
    };
    assert!(matches!(row.step, deletion::Step::KeysDestroyed { .. }), "{:?}", row.step);
    assert!(ledger.submit_blocking(decide(other)).is_ok());
    drop((ledger, keys));
    thread.join().unwrap();
}
