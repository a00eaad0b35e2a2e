//! The log ahead: what a killed process leaves in it, and what is not taken from it.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use vault::Key256;

use super::journal::{Lab, assert_same, upload, work};
use super::*;
use crate::keys::{KeyChange, KeyStore, KeysError, StorePurpose};
use crate::ledger::ahead::frame::{Envelope, Walk};
use crate::ledger::journal::replay::replay;
use crate::ledger::writer::{MirrorPlace, StartError};
use crate::limits::JOURNAL_DELAY;

fn ahead(lab: &Lab) -> std::path::PathBuf {
    lab.folder.join(AHEAD_FILE)
}

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

/// A store that was killed while it worked, with frames of earlier rounds behind those of this one, and its mirror.
fn killed(lab: &Lab) -> Lab {
    lab.run(0..20);
    let (ledger, keys, thread) = lab.start().unwrap();
    for number in 20.. {
        upload(&ledger, &keys, number);
        let copy = lab.copy(&format!("killed-{number}"));
        let (this_round, earlier) = frames(&copy);
        if this_round.len() >= 4 && earlier > 0 {
            drop((ledger, keys));
            thread.join().unwrap();
            return copy;
        }
    }
    unreachable!("a round has five frames and more")
}

/// Where the frames of this round lie, from the first byte of each to behind the last one, and how many of earlier rounds
/// lie behind them.
fn frames(lab: &Lab) -> (Vec<std::ops::Range<u64>>, usize) {
    let (opened, keys) = lab.open();
    drop(opened);
    let bytes = std::fs::read(ahead(lab)).unwrap();
    let storage = redb::backends::FileBackend::new(std::fs::File::open(ahead(lab)).unwrap()).unwrap();
    let envelope = Envelope { store: STORE, key: keys.store_key(StorePurpose::Journal) };
    let mut walk = Walk::new(&storage, envelope).unwrap();
    let (mut this_round, mut earlier) = (Vec::new(), 0);
    while let Some(found) = walk.next_frame().unwrap() {
        if walk.broken_at().is_some() {
            earlier += 1;
            continue;
        }
        let at = usize::try_from(found.at).unwrap();
        let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        this_round.push(found.at..found.at + 52 + u64::from(length));
    }
    (this_round, earlier)
}

fn flip(lab: &Lab, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(ahead(lab)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn brought_forward(lab: &Lab) -> (Option<Gap>, u64) {
    let (mut opened, keys) = lab.open();
    let gap = opened.bring_forward(&keys).unwrap();
    let reader = Reader::new(opened.database, Arc::clone(&keys));
    assert_sound(&reader, &keys);
    (gap, reader.size().unwrap())
}

/// Places of a frame: marker, length, hash, and the end of what is sealed.
fn places(frame: &std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    let start = frame.start;
    [0, 9, 30].into_iter().map(move |of| start + of).chain([frame.end - 1])
}

#[test]
fn a_torn_frame_was_never_acknowledged_and_is_not_taken() {
    let lab = Lab::new();
    let killed = killed(&lab);
    let whole = brought_forward(&killed.copy("whole")).1;
    let last = frames(&killed).0.pop().unwrap();
    for at in places(&last) {
        let torn = killed.copy(&format!("torn-{at}"));
        flip(&torn, at);
        let (gap, records) = brought_forward(&torn);
        assert_eq!(gap, None, "byte {at}");
        assert!(records < whole, "byte {at}");
    }
}

#[test]
fn a_frame_that_is_damaged_before_others_is_told_and_its_group_comes_back_from_the_mirror() {
    let lab = Lab::new();
    let killed = killed(&lab);
    let whole = killed.copy("whole");
    assert_eq!(brought_forward(&whole).0, None);
    let mut this_round = frames(&killed).0;
    this_round.pop();
    for at in this_round.iter().flat_map(places) {
        let bad = killed.copy(&format!("bad-{at}"));
        flip(&bad, at);
        let error = bad.start().err().unwrap();
        assert!(matches!(error, StartError::Gap(Gap::Damaged { .. })), "byte {at}: {error}");
        let told = error.to_string();
        assert!(told.contains(AHEAD_FILE) && told.contains("culvert restore --replay"), "{told}");
        // Again, for nothing is overwritten.
        let (mut opened, keys) = bad.open();
        assert_eq!(opened.bring_forward(&keys).unwrap().map(StartError::from).unwrap().to_string(), told);
        replay(&lab.journal(), &opened.database, STORE, &keys).unwrap();
        assert_eq!(opened.bring_forward(&keys).unwrap(), None);
        drop((opened, keys));
        assert_same(&bad, &lab);
    }
}

#[test]
fn what_stands_behind_the_damage_is_taken_when_the_mirror_ends_within_it() {
    let lab = Lab::new();
    let killed = killed(&lab);
    let this_round = frames(&killed).0;
    let (damaged, rest) = (this_round[0].clone(), this_round.len() - 1);
    // A mirror that has the damaged group and none behind it: of a copy where the round ends there.
    let short = killed.copy("short");
    flip(&short, this_round[1].start);
    for frame in &this_round[2..] {
        flip(&short, frame.start);
    }
    let (ledger, keys, thread) = short.start().unwrap();
    drop((ledger, keys));
    thread.join().unwrap();
    let whole = killed.copy("whole");
    assert_eq!(brought_forward(&whole).0, None);
    let bad = killed.copy("bad");
    flip(&bad, damaged.start + 60);
    let (mut opened, keys) = bad.open();
    assert!(opened.bring_forward(&keys).unwrap().is_some());
    assert_eq!(
        replay(&short.journal(), &opened.database, STORE, &keys).unwrap().groups,
        1,
        "of {}",
        rest + 1
    );
    assert_eq!(opened.bring_forward(&keys).unwrap(), None);
    drop((opened, keys));
    assert_same(&bad, &whole);
}

#[test]
fn damage_in_what_the_databases_have_costs_nothing() {
    let lab = Lab::new();
    lab.run(0..20);
    let this_round = frames(&lab).0;
    assert!(!this_round.is_empty());
    for at in this_round.iter().flat_map(places) {
        let bad = lab.copy(&format!("bad-{at}"));
        flip(&bad, at);
        assert_eq!(brought_forward(&bad).0, None, "byte {at}");
        assert_same(&bad, &lab);
    }
}

#[test]
fn what_was_forgotten_is_in_no_later_history() {
    let lab = Lab::new();
    let killed = killed(&lab);
    let (mut opened, keys) = killed.open();
    opened.forget_ahead().unwrap();
    drop((opened, keys));
    assert_eq!(frames(&killed), (vec![], 0));
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
    assert!(matches!(error, StartError::Gap(Gap::SetBack { .. })), "{error}");
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
    let mirror =
        MirrorPlace { directory: lab.journal(), patience: Duration::from_secs(10), delay: JOURNAL_DELAY };
    let (host, time) = (Host::default(), TestTime::default());
    let (ledger, thread) =
        Ledger::start(opened, Arc::clone(&keys), Some(mirror), host, time, Silent).unwrap();
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
