//! A disk that fails at its n-th operation and then loses, tears and reorders what was not synced.

use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use store_proto::FileId;

use super::*;
use crate::ledger::ahead::Ahead;
use crate::ledger::recover::recover;

#[test]
fn what_was_acknowledged_survives_a_failure_at_any_operation() {
    crash_at_each_operation(5, 3, 1);
}

/// The long run: more work before each crash, and more orders in which what was not synced is lost.
#[test]
fn what_was_acknowledged_survives_the_long_run() {
    if std::env::var_os("CULVERT_SLOW").is_some() {
        crash_at_each_operation(24, 12, 1);
    }
}

fn crash_at_each_operation(uploads: u8, seeds: u64, step: usize) {
    let root = keys::Keys::in_memory(STORE).unwrap();
    let (mut points, mut failures) = (0, 0);
    for fail_at in (1..).step_by(step) {
        let disks = Disks::new(fail_at);
        let acknowledged = work(&disks, &root, uploads);
        for seed in 0..seeds {
            check(
                &disks,
                &root,
                &acknowledged,
                &format!("failure at operation {fail_at}, seed {seed}"),
                seed,
            );
            points += 1;
        }
        if ![&disks.ledger, &disks.ahead, &disks.keys].iter().any(|disk| disk.failed()) {
            break;
        }
        failures += 1;
    }
    assert!(failures > 100, "only {failures} operations were tried, {points} crashes");
}

/// The storage of the ledger, of the log ahead of it and of the keys, which fail together.
struct Disks {
    ledger: Disk,
    ahead: Disk,
    keys: Disk,
}

impl Disks {
    fn new(fail_at: usize) -> Disks {
        let left = Arc::new(AtomicUsize::new(fail_at));
        let disk = || Disk::with(Arc::clone(&left));
        Disks { ledger: disk(), ahead: disk(), keys: disk() }
    }
}

#[test]
fn a_ledger_that_cannot_sync_refuses_and_says_so() {
    let disk = Disk::empty();
    let keys = fresh_keys();
    let database = open_on(disk.clone()).unwrap();
    tables::initialize(&database, STORE, &keys, first_record()).unwrap();
    let (ledger, _) = Ledger::start(
        Opened { database: Arc::new(database), store: STORE, ahead: Ahead::over(disk.beside()).unwrap() },
        Arc::clone(&keys),
        None,
        Host::default(),
        TestTime::default(),
        Silent,
    )
    .unwrap();
    assert!(ledger.is_usable());
    disk.fail();
    let refused = ledger.submit_blocking(begin_upload(&keys, "c", "p", FileId::from_bytes([2; 16])));
    assert_eq!(refused, Err(LedgerUnavailable));
    assert!(!ledger.is_usable());
}

/// What the writer acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    initialized: bool,
    begun: Vec<FileId>,
    /// With the proof that was there when it was acknowledged.
    stored: Vec<(FileId, Proof)>,
}

fn work(disks: &Disks, root: &keys::Keys, uploads: u8) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let Ok(database) = open_on(disks.keys.clone()) else { return acknowledged };
    let Ok(keys) = root.over(database) else { return acknowledged };
    let keys: Keys = Arc::new(keys);
    let Ok(database) = open_on(disks.ledger.clone()) else { return acknowledged };
    if tables::initialize(&database, STORE, &keys, first_record()).is_err() {
        return acknowledged;
    }
    acknowledged.initialized = true;
    let Ok(ahead) = Ahead::over(disks.ahead.clone()) else { return acknowledged };
    let opened = Opened { database: Arc::new(database), store: STORE, ahead };
    let started =
        Ledger::start(opened, Arc::clone(&keys), None, Host::default(), TestTime::default(), Silent);
    let Ok((ledger, writer)) = started else { return acknowledged };
    for number in 0..uploads {
        let id = FileId::from_bytes([number; 16]);
        let begun = ledger.submit_blocking(begin_upload(&keys, "c", &format!("p{number}"), id));
        let Ok(upload::Outcome::Begun { intent, .. }) = begun else { break };
        acknowledged.begun.push(id);
        // Every third is left open, as a crash would.
        if number % 3 != 2 {
            let finished = ledger.submit_blocking(finish_upload(intent, id, number));
            let Ok(upload::Outcome::Stored(file)) = finished else { break };
            // What the sender would hold in his hand.
            let proof = ledger.reader().proof(file.ledger_index).unwrap().unwrap();
            acknowledged.stored.push((id, proof));
        }
    }
    drop(ledger);
    writer.join().unwrap();
    acknowledged
}

fn check(disks: &Disks, root: &keys::Keys, acknowledged: &Acknowledged, context: &str, seed: u64) {
    let lost = |error: &dyn std::fmt::Display| {
        assert!(!acknowledged.initialized, "{context}: {error}");
    };
    let keys = match open_on(disks.keys.after_crash(seed)).map(|database| root.over(database)) {
        Ok(Ok(keys)) => Arc::new(keys) as Keys,
        Ok(Err(error)) => return lost(&error),
        Err(error) => return lost(&error),
    };
    let database = match open_on(disks.ledger.after_crash(seed)) {
        Ok(database) => database,
        Err(error) => return lost(&error),
    };
    if let Err(error) = tables::check_format(&redb::ReadableDatabase::begin_read(&database).unwrap()) {
        return lost(&error);
    }
    let ahead =
        Ahead::over(disks.ahead.after_crash(seed)).unwrap_or_else(|error| panic!("{context}: {error}"));
    let opened = Opened { database: Arc::new(database), store: STORE, ahead };
    let started =
        Ledger::start(opened, Arc::clone(&keys), None, Host::default(), TestTime::default(), Silent);
    let (ledger, _) = started.unwrap_or_else(|error| panic!("{context}: {error}"));
    let reader = ledger.reader();
    // Every record opens, so each has its key, and the log leads from each leaf to the signed checkpoint.
    assert_sound(reader, &keys);
    let stored = reader.totals().unwrap().files;
    let snapshot = reader.snapshot().unwrap();
    let size = snapshot.checkpoint().unwrap().unverified().size;
    for (id, proof) in &acknowledged.stored {
        assert!(reader.file(*id).unwrap().is_some(), "{context}: {id} was acknowledged and is gone");
        assert!(keys.file_key(*id, RECORD_SLOT).unwrap().is_some(), "{context}: the key of {id} is gone");
        // The same record under the same index, and the tree that was signed then is what this one begins with.
        let Content::Record(now) = reader.entry(proof.index).unwrap().unwrap().content else {
            panic!("{context}: record {} cannot be read", proof.index)
        };
        assert_eq!(*now, proof.record, "{context}: index {} holds another record", proof.index);
        let then = proof.checkpoint.unverified();
        assert!(then.size <= size, "{context}: a checkpoint of {} records was shown", then.size);
        assert_eq!(snapshot.root(then.size).unwrap(), then.root, "{context}: the history changed");
    }
    // At most the one command whose answer never came.
    let most = acknowledged.stored.len() as u64 + 1;
    assert!(stored <= most, "{context}: {stored} files, {most} were asked for");
    let open = reader.open_intents().unwrap();
    for id in &acknowledged.begun {
        let known = open.iter().any(|(_, row)| row.file_id == *id) || reader.file(*id).unwrap().is_some();
        assert!(known, "{context}: the intent of {id} was acknowledged and is gone");
    }
    let mut removed = Vec::new();
    let recovered = recover(&ledger, |claim| {
        removed.push(claim.object);
        Ok(())
    })
    .unwrap();
    assert_eq!(recovered.uploads, open.len() as u64, "{context}");
    let left = removed.iter().all(|id| reader.file(*id).unwrap().is_none());
    assert!(left, "{context}: a stored file was removed");
    assert!(reader.open_intents().unwrap().is_empty());
    assert_sound(reader, &keys);
}

#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a power cut leaves for sure.
    durable: Vec<u8>,
    /// What the program sees.
    seen: Vec<u8>,
    /// What may or may not have reached the disk.
    pending: Vec<Pending>,
    operations_left: Arc<AtomicUsize>,
    failed: bool,
}

#[derive(Debug, Clone)]
enum Pending {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Pending {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Pending::Length(length) => to.resize(*length, 0),
            Pending::Write(offset, bytes) => {
                if to.len() < offset + bytes.len() {
                    to.resize(offset + bytes.len(), 0);
                }
                to[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

impl Disk {
    pub(super) fn empty() -> Disk {
        Disk::with(Arc::new(AtomicUsize::new(usize::MAX)))
    }

    fn with(operations_left: Arc<AtomicUsize>) -> Disk {
        Disk(Arc::new(Mutex::new(State { operations_left, ..State::default() })))
    }

    /// Another one, which fails with this one.
    pub(super) fn beside(&self) -> Disk {
        Disk::with(Arc::clone(&self.0.lock().unwrap().operations_left))
    }

    /// From now on nothing can be written.
    pub(super) fn fail(&self) {
        self.0.lock().unwrap().operations_left.store(0, Ordering::Relaxed);
    }

    fn failed(&self) -> bool {
        self.0.lock().unwrap().failed
    }

    /// The disk after a power cut: of what was not synced, some writes are lost, some are torn at a
    /// sector, and they came in any order.
    fn after_crash(&self, seed: u64) -> Disk {
        let state = self.0.lock().unwrap();
        let mut image = state.durable.clone();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut pending = state.pending.clone();
        if seed == 0 {
            pending.clear();
        }
        for i in (1..pending.len()).rev() {
            let other = usize::try_from(next() % (i as u64 + 1)).unwrap();
            // Lengths keep their order: the file system's own journal sees to that.
            if matches!((&pending[i], &pending[other]), (Pending::Write(..), Pending::Write(..))) {
                pending.swap(i, other);
            }
        }
        for write in &pending {
            match (next() % 3, write) {
                (0, Pending::Write(..)) => {}
                (1, Pending::Write(offset, bytes)) => {
                    let sectors = bytes.len() / 512;
                    let kept = usize::try_from(next() % (sectors as u64 + 1)).unwrap() * 512;
                    Pending::Write(*offset, bytes[..kept].to_vec()).apply(&mut image);
                }
                _ => write.apply(&mut image),
            }
        }
        let operations_left = Arc::new(AtomicUsize::new(usize::MAX));
        let state = State { durable: image.clone(), seen: image, operations_left, ..State::default() };
        Disk(Arc::new(Mutex::new(state)))
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        let spend = |left: usize| left.checked_sub(1);
        if self.operations_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_err() {
            self.failed = true;
            return Err(io::Error::other("the disk has failed"));
        }
        Ok(())
    }

    fn change(&mut self, change: Pending) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let bytes = state.seen.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        state.change(Pending::Length(usize::try_from(len).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        state.durable = state.seen.clone();
        state.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        state.change(Pending::Write(usize::try_from(offset).unwrap(), data.to_vec()));
        Ok(())
    }
}
