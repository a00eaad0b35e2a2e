//! What must not stay on a volume goes, and is marked as gone only when nobody finds it there.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use storaged::ledger::cleanup::{self, CleanupKind, Command, Outcome, Temporary, Verifier};
use storaged::ledger::{Action, Origin, tables};
use storaged::reaper::{self, Before, Look};
use store_proto::FileId;
use support::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_there_is_not_marked_whoever_says_so() {
    let lab = Lab::start().await;
    let disk = lab.store.volumes[0].backend.clone();
    let object: FileId = tables::random_id().unwrap();
    let mut writing = disk.create(object).unwrap();
    writing.write(b"left over").unwrap();
    drop(writing);
    let id = require(&lab, object, disk.id()).await;

    let operator = || Verifier::Operator("uid=0".into());
    let row = reaper::pending(&lab.store).unwrap()[0].1.clone();
    let told = reaper::look(&lab.store, id, &row, Before::OnlyLook, Origin::default(), operator()).await;
    assert_eq!(told.unwrap(), Look::Still("it is still there".into()));
    let gone = reaper::look(&lab.store, id, &row, Before::Remove, Origin::default(), operator()).await;
    assert_eq!(gone.unwrap(), Look::Gone);
    assert!(disk.is_absent(object).unwrap());
    assert!(reaper::pending(&lab.store).unwrap().is_empty());
    let row = cleanup::find(&lab.store.ledger.reader().snapshot().unwrap(), id).unwrap().unwrap();
    assert_eq!((row.attempted_count, row.cleaned_up.unwrap().verified_by), (1, operator()));
    let records = lab.store.ledger.reader().records(0, 1000).unwrap();
    let about: Vec<_> = records.iter().filter(|record| record.action == Action::ScratchCleanup).collect();
    assert_eq!(about.len(), 3, "asked for, tried, done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_away_proves_nothing() {
    let lab = Lab::start().await;
    let object: FileId = tables::random_id().unwrap();
    let id = require(&lab, object, lab.store.volumes[0].backend.id()).await;
    // As if it were unmounted: the directory is there and empty.
    let volume = lab.folder.path().join("volume");
    std::fs::rename(&volume, lab.folder.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&volume).unwrap();
    let row = reaper::pending(&lab.store).unwrap()[0].1.clone();
    for before in [Before::OnlyLook, Before::Remove] {
        let looked = reaper::look(&lab.store, id, &row, before, Origin::default(), Verifier::System).await;
        assert!(matches!(looked.unwrap(), Look::Still(_)));
    }
    let unknown = require(&lab, object, FileId::from_bytes([9; 16])).await;
    let (_, row) = reaper::pending(&lab.store).unwrap().into_iter().find(|(id, _)| *id == unknown).unwrap();
    let looked =
        reaper::look(&lab.store, unknown, &row, Before::Remove, Origin::default(), Verifier::System).await;
    assert_eq!(looked.unwrap(), Look::Still("its volume is not configured".into()));
}

async fn require(lab: &Lab, object: FileId, volume: FileId) -> u64 {
    let temporary = Temporary {
        kind: CleanupKind::UnfinishedObject,
        cohort: None,
        file_id: object,
        object,
        volume,
        expected_by_ms: 1,
    };
    let command = Command::Require { origin: Origin::default(), temporary };
    match lab.store.ledger.submit(command).await.unwrap() {
        Outcome::Required(id) => id,
        Outcome::Retry { .. } | Outcome::Done(_) | Outcome::AlreadyDone | Outcome::Unknown => {
            panic!("asked for, and not answered so")
        }
    }
}
