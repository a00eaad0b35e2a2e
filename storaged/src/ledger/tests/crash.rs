//! A disk that fails at its n-th operation and then loses, tears and reorders what was not synced.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use store_proto::FileId;

use super::*;
use crate::ledger::recover::recover;

#[test]
fn what_was_acknowledged_survives_a_failure_at_any_operation() {
    let mut failures = 0;
    for fail_at in 1.. {
        let disk = Disk::empty();
        let keys = fresh_keys();
        let acknowledged = work(&disk, &keys, fail_at);
        let failed = disk.0.lock().unwrap().failed;
        for seed in 0..4 {
            check(disk.after_crash(seed), &keys, &acknowledged, fail_at, seed);
        }
        if !failed {
            break;
        }
        failures += 1;
    }
    assert!(failures > 50, "only {failures} operations were tried");
}

#[test]
fn a_ledger_that_cannot_sync_refuses_and_says_so() {
    let disk = Disk::empty();
    let keys = fresh_keys();
    let database = open_on(disk.clone()).unwrap();
    tables::initialize(&database, STORE, &keys, first_record()).unwrap();
    let (ledger, _) = Ledger::start(
        Opened { database: Arc::new(database), store: STORE },
        Arc::clone(&keys),
        None,
        Host::default(),
        TestTime::default(),
        Silent,
    )
    .unwrap();
    assert!(ledger.is_usable());
    disk.0.lock().unwrap().operations_left = 0;
    let refused = ledger.submit_blocking(begin_upload(&keys, "c", "p", FileId::from_bytes([2; 16])));
    assert_eq!(refused, Err(LedgerUnavailable));
    assert!(!ledger.is_usable());
}

/// What the writer acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    initialized: bool,
    begun: Vec<FileId>,
    stored: Vec<FileId>,
}

fn work(disk: &Disk, keys: &Keys, fail_at: usize) -> Acknowledged {
    disk.0.lock().unwrap().operations_left = fail_at;
    let mut acknowledged = Acknowledged::default();
    let Ok(database) = open_on(disk.clone()) else { return acknowledged };
    if tables::initialize(&database, STORE, keys, first_record()).is_err() {
        return acknowledged;
    }
    acknowledged.initialized = true;
    let started = Ledger::start(
        Opened { database: Arc::new(database), store: STORE },
        Arc::clone(keys),
        None,
        Host::default(),
        TestTime::default(),
        Silent,
    );
    let Ok((ledger, writer)) = started else { return acknowledged };
    for number in 0..12u8 {
        let id = FileId::from_bytes([number; 16]);
        let begun = ledger.submit_blocking(begin_upload(keys, "c", &format!("p{number}"), id));
        let Ok(upload::Outcome::Begun { intent, .. }) = begun else { break };
        acknowledged.begun.push(id);
        // Every third is left open, as a crash would.
        if number % 3 != 2 {
            let Ok(upload::Outcome::Stored(_)) = ledger.submit_blocking(finish_upload(intent, id, number))
            else {
                break;
            };
            acknowledged.stored.push(id);
        }
    }
    drop(ledger);
    writer.join().unwrap();
    acknowledged
}

fn check(disk: Disk, keys: &Keys, acknowledged: &Acknowledged, fail_at: usize, seed: u64) {
    let context = format!("failure at operation {fail_at}, seed {seed}");
    let database = match open_on(disk) {
        Ok(database) => database,
        Err(error) => {
            assert!(!acknowledged.initialized, "{context}: {error}");
            return;
        }
    };
    if tables::check_format(&redb::ReadableDatabase::begin_read(&database).unwrap()).is_err() {
        assert!(!acknowledged.initialized, "{context}: the ledger is gone");
        return;
    }
    let (ledger, _) = Ledger::start(
        Opened { database: Arc::new(database), store: STORE },
        Arc::clone(keys),
        None,
        Host::default(),
        TestTime::default(),
        Silent,
    )
    .unwrap();
    let reader = ledger.reader();
    assert_sound(reader, keys);
    let stored = reader.totals().unwrap().files;
    for id in &acknowledged.stored {
        assert!(reader.file(*id).unwrap().is_some(), "{context}: {id} was acknowledged and is gone");
    }
    // At most the one command whose answer never came.
    let most = acknowledged.stored.len() as u64 + 1;
    assert!(stored <= most, "{context}: {stored} files, {most} were asked for");
    let open = reader.open_intents().unwrap();
    for id in acknowledged.begun.iter().filter(|id| !acknowledged.stored.contains(id)) {
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
    assert!(
        removed.iter().all(|id| reader.file(*id).unwrap().is_none()),
        "{context}: a stored file was removed"
    );
    assert!(reader.open_intents().unwrap().is_empty());
    assert_sound(reader, keys);
}

#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a power cut leaves for sure.
    durable: Vec<u8>,
    /// What the program sees.
    seen: Vec<u8>,
    /// What may or may not have reached the disk.
    pending: Vec<Pending>,
    operations_left: usize,
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
    fn empty() -> Disk {
        Disk(Arc::new(Mutex::new(State { operations_left: usize::MAX, ..State::default() })))
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
        let state =
            State { durable: image.clone(), seen: image, operations_left: usize::MAX, ..State::default() };
        Disk(Arc::new(Mutex::new(state)))
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match self.operations_left.checked_sub(1) {
            Some(left) => {
                self.operations_left = left;
                Ok(())
            }
            None => {
                self.failed = true;
                Err(io::Error::other("the disk has failed"))
            }
        }
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
