//! The clock, epochs, and what a record proves.

use std::sync::atomic::Ordering;

use receipt::checkpoint::SignedCheckpoint;

use super::*;

const HOUR: u64 = 3_600_000;

#[test]
fn a_clock_that_jumps_holds_what_deletes_until_it_is_confirmed() {
    let (keys, time) = (fresh_keys(), TestTime::default());
    let ledger = fresh_ledger(&keys, &time);
    let note = || Note::new(Action::AccessDenied, Ending::Denied, Origin::default());
    ledger.submit_blocking(note()).unwrap();
    time.0.store(HOUR, Ordering::Relaxed);
    ledger.submit_blocking(note()).unwrap();
    assert_eq!(ledger.reader().time_hold().unwrap(), None, "an hour is not over an hour");
    time.0.store(3 * HOUR, Ordering::Relaxed);
    ledger.submit_blocking(note()).unwrap();
    let hold = ledger.reader().time_hold().unwrap().unwrap();
    assert_eq!((hold.from_ms, hold.to_ms), (HOUR, 3 * HOUR));
    assert!(!ledger.trusts_clock(daemon::Clock), "neither a hold nor the years since 1970");
    // Back again: the hold stands, and the ledger's time does not go back.
    time.0.store(2 * HOUR, Ordering::Relaxed);
    let last = ledger.submit_blocking(note()).unwrap();
    assert_eq!(ledger.reader().time_of(last).unwrap(), Some(3 * HOUR));
    assert!(ledger.reader().time_hold().unwrap().is_some());
    let confirm = moment::Command::Confirm { origin: Origin::default() };
    assert!(matches!(ledger.submit_blocking(confirm.clone()).unwrap(), moment::Outcome::Confirmed(_)));
    assert_eq!(ledger.submit_blocking(confirm).unwrap(), moment::Outcome::NoHold);
    assert_eq!(ledger.reader().time_hold().unwrap(), None);
    let actions: Vec<Action> = ledger.reader().records(0, 100).unwrap().iter().map(|r| r.action).collect();
    assert!(actions.contains(&Action::AdminTimeHeld) && actions.contains(&Action::AdminTimeConfirmed));
    assert_sound(ledger.reader(), &keys);
}

#[test]
fn a_new_epoch_is_recorded_and_in_every_checkpoint_from_then_on() {
    let (keys, time) = (fresh_keys(), TestTime::default());
    let ledger = fresh_ledger(&keys, &time);
    let epoch = |ledger: &Ledger| ledger.reader().checkpoint().unwrap().unverified().epoch;
    assert_eq!(epoch(&ledger), 0);
    let old_root = receipt::merkle::empty_root();
    let command = epoch::Command::Open {
        origin: Origin::default(),
        old_size: 1234,
        old_root,
        reason: "the system disk was lost".into(),
    };
    let epoch::Outcome::Opened { epoch: number, index } = ledger.submit_blocking(command).unwrap();
    assert_eq!((number, epoch(&ledger)), (1, 1));
    let record = ledger.reader().record(index).unwrap().unwrap();
    assert_eq!(record.action, Action::AdminEpoch);
    assert_eq!(record.metadata.get("old_size"), Some("1234"));
    assert_eq!(record.metadata.get("old_root"), Some(old_root.to_string().as_str()));
    ledger.submit_blocking(Note::new(Action::AccessDenied, Ending::Denied, Origin::default())).unwrap();
    assert_eq!(epoch(&ledger), 1);
    assert_sound(ledger.reader(), &keys);
}

#[test]
fn a_receipt_proves_the_file_to_who_has_the_key() {
    let (keys, time) = (fresh_keys(), TestTime::default());
    let ledger = fresh_ledger(&keys, &time);
    let begin = begin_upload(&keys, "c", "f", FileId::from_bytes([1; 16]));
    let upload::Outcome::Begun { intent, .. } = ledger.submit_blocking(begin).unwrap() else {
        panic!("begun")
    };
    let upload::Outcome::Stored(file) =
        ledger.submit_blocking(finish_upload(intent, FileId::from_bytes([1; 16]), 5)).unwrap()
    else {
        panic!("stored")
    };
    let receipt = ledger.receipt(file.ledger_index).unwrap().unwrap();
    let proof = ledger.reader().proof(file.ledger_index).unwrap().unwrap();
    assert_eq!(proof.record.record.sha256, Some(content_digest(5)));
    let text = serde_json::to_string(&receipt).unwrap();
    let read = receipt::Receipt::parse(text.as_bytes()).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    let checkpoint = SignedCheckpoint::parse(proof.checkpoint.as_str()).unwrap();
    assert_eq!(checkpoint.verify(ledger.log_key()).unwrap().size, ledger.reader().size().unwrap());
    assert_eq!(ledger.receipt(u64::MAX).unwrap(), None);
}

#[test]
fn a_record_whose_keys_are_destroyed_leaves_its_leaf() {
    let (keys, time) = (fresh_keys(), TestTime::default());
    let ledger = fresh_ledger(&keys, &time);
    let file = FileId::from_bytes([1; 16]);
    ledger.submit_blocking(begin_upload(&keys, "c", "f", file)).unwrap();
    let index = ledger.reader().about(file, 0, 10).unwrap()[0];
    assert!(ledger.reader().record(index).unwrap().is_some());
    let before = ledger.reader().checkpoint().unwrap();
    keys.commit(&[crate::keys::KeyChange::Destroy { file }]).unwrap();
    let entry = ledger.reader().entry(index).unwrap().unwrap();
    assert_eq!(entry.content, Content::Destroyed(file));
    assert_eq!(ledger.reader().proof(index).unwrap(), None);
    let snapshot = ledger.reader().snapshot().unwrap();
    let state = before.unverified();
    assert_eq!(snapshot.root(state.size).unwrap(), state.root, "its proofs still stand");
    assert!(snapshot.inclusion(index, state.size).is_ok());
}
