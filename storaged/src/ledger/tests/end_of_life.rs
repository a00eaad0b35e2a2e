//! What must go, and what must not.

use std::sync::atomic::Ordering;

use super::*;
use crate::ledger::cleanup::{
    CleanupKind, Command as Clean, Evidence, Outcome as Cleaned, Temporary, Verifier,
};
use crate::ledger::hold::{self, Command as Hold, Outcome as Held, Target};

#[test]
fn what_must_go_is_pending_until_somebody_found_it_gone() {
    let (ledger, _keys, time) = start();
    let late = require(&ledger, 9_000, 1);
    let soon = require(&ledger, 5_000, 2);
    let pending = |now: u64| {
        let rows = cleanup::pending(&ledger.reader().snapshot().unwrap(), 10).unwrap();
        rows.into_iter().map(|(id, row)| (id, row.is_overdue(now))).collect::<Vec<_>>()
    };
    assert_eq!(pending(6_000), [(soon, true), (late, false)], "the most urgent first");

    time.0.store(6_000, Ordering::Relaxed);
    let attempt = Clean::Attempted { id: soon, origin: Origin::default(), error: "it hangs".repeat(100) };
    let first = ledger.submit_blocking(attempt.clone()).unwrap();
    assert_eq!(first, Cleaned::Retry { next_attempt_ms: 66_000 });
    assert_eq!(ledger.submit_blocking(attempt).unwrap(), Cleaned::Retry { next_attempt_ms: 126_000 });
    let row = cleanup::find(&ledger.reader().snapshot().unwrap(), soon).unwrap().unwrap();
    assert_eq!((row.attempted_count, row.cleaned_up), (2, None));
    assert_eq!(row.last_error.unwrap().len(), crate::limits::CLEANUP_ERROR_BYTES);

    let done = finish(&ledger, soon);
    let Cleaned::Done(index) = done else { panic!("{done:?}") };
    assert_eq!(finish(&ledger, soon), Cleaned::AlreadyDone);
    assert_eq!(finish(&ledger, 4_711), Cleaned::Unknown);
    assert_eq!(pending(6_000), [(late, false)]);
    let record = ledger.reader().record(index).unwrap().unwrap();
    let fields = record.cleanup.unwrap();
    assert_eq!((record.action, record.intent), (Action::ScratchCleanup, Some(soon)));
    assert!(fields.cleaned_up && fields.cleanup_required);
    assert_eq!(fields.cleanup_attempted_count, 2);
    assert_eq!(fields.cleanup_verified_by.as_deref(), Some("system"));
    assert_eq!(fields.cleaned_up_at_ms, Some(6_000));
    assert_eq!(fields.expected_cleanup_by_ms, 5_000);
}

#[test]
fn the_pause_between_attempts_has_an_end() {
    let (ledger, _keys, _time) = start();
    let id = require(&ledger, 1, 1);
    let mut last = 0;
    for _ in 0..80 {
        let attempt = Clean::Attempted { id, origin: Origin::default(), error: "no".into() };
        let Cleaned::Retry { next_attempt_ms } = ledger.submit_blocking(attempt).unwrap() else { panic!() };
        last = next_attempt_ms;
    }
    assert_eq!(last, crate::limits::CLEANUP_RETRY_LAST_MS, "the test's clock stands at 0");
}

#[test]
fn holds_stand_on_files_and_on_whole_cohorts() {
    let (ledger, keys, _time) = start();
    let file = FileId::from_bytes([7; 16]);
    let begun = ledger.submit_blocking(begin_upload(&keys, "c1", "a", file)).unwrap();
    let upload::Outcome::Begun { intent, .. } = begun else { panic!("{begun:?}") };
    ledger.submit_blocking(finish_upload(intent, file, 3)).unwrap();
    let cohort = Cohort::parse("c1").unwrap();
    let other = Cohort::parse("c12").unwrap();
    let on_file = |of: &Cohort| hold::on_file(&ledger.reader().snapshot().unwrap(), file, of).unwrap();
    assert_eq!(on_file(&cohort), None);

    let place = |target| {
        let command = Hold::Place { origin: Origin::default(), target, reason: "case 12".into() };
        ledger.submit_blocking(command).unwrap()
    };
    assert_eq!(place(Target::File(FileId::from_bytes([8; 16]))), Held::UnknownFile);
    let Held::Placed(whole) = place(Target::Cohort(cohort.clone())) else { panic!() };
    let Held::Placed(single) = place(Target::File(file)) else { panic!() };
    assert_eq!(on_file(&cohort), Some(whole));
    assert_eq!(on_file(&other), Some(single), "a cohort's hold is not another's with a longer name");
    let standing = hold::standing(&ledger.reader().snapshot().unwrap(), 10).unwrap();
    assert_eq!(standing.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [whole, single]);

    let release = |id| {
        let command = Hold::Release { origin: Origin::default(), id, reason: "closed".into() };
        ledger.submit_blocking(command).unwrap()
    };
    assert!(matches!(release(whole), Held::Released(row) if row.reason == "case 12"));
    assert_eq!(release(whole), Held::UnknownHold);
    assert_eq!(on_file(&cohort), Some(single));
    release(single);
    assert_eq!(on_file(&cohort), None);
}

fn start() -> (Ledger, Keys, TestTime) {
    let (keys, time) = (fresh_keys(), TestTime::default());
    let ledger = fresh_ledger(&keys, &time);
    (ledger, keys, time)
}

fn require(ledger: &Ledger, expected_by_ms: u64, object: u8) -> u64 {
    let temporary = Temporary {
        kind: CleanupKind::UnfinishedObject,
        cohort: Some(Cohort::parse("c1").unwrap()),
        file_id: FileId::from_bytes([object; 16]),
        object: FileId::from_bytes([object; 16]),
        volume: FileId::from_bytes([0xee; 16]),
        expected_by_ms,
    };
    let command = Clean::Require { origin: Origin::default(), temporary };
    match ledger.submit_blocking(command).unwrap() {
        Cleaned::Required(id) => id,
        other @ (Cleaned::Retry { .. } | Cleaned::Done(_) | Cleaned::AlreadyDone | Cleaned::Unknown) => {
            panic!("{other:?}")
        }
    }
}

fn finish(ledger: &Ledger, id: u64) -> Cleaned {
    let command = Clean::Finish {
        id,
        origin: Origin::default(),
        evidence: Evidence::AbsentByName,
        verified_by: Verifier::System,
    };
    ledger.submit_blocking(command).unwrap()
}
