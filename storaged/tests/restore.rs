//! A state directory that was set back comes forward again from the journal mirror, and loses nothing.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use http::Method;
use storaged::config::Environment;
use storaged::restore::{RestoreError, replay_mirror};
use store_proto::{FileId, routes};
use support::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn yesterdays_state_comes_forward_to_what_was_acknowledged() {
    let lab = Lab::start().await;
    let before = id(&lab.upload("before", "yesterday").send().await);
    let (folder, tokens) = lab.stop().await;
    let copy = |from: &str, to: &str| {
        let done =
            Command::new("cp").arg("-a").arg(folder.path().join(from)).arg(folder.path().join(to)).status();
        assert!(done.unwrap().success());
    };
    copy("state", "copy");
    let lab = Lab::open(folder.clone(), tokens).await;
    let after = id(&lab.upload("after", "today").send().await);
    let records = lab.store.ledger.reader().totals().unwrap().records;
    let config = folder.path().join("storaged.toml");
    // While somebody has it open, nothing is done beside them.
    let refused = replay_mirror(&config, &Environment::default()).unwrap_err();
    assert!(matches!(refused, RestoreError::Ledger(_)), "{refused}");
    let (folder, tokens) = lab.stop().await;

    std::fs::remove_dir_all(folder.path().join("state")).unwrap();
    copy("copy", "state");
    let (replayed, whole) = replay_mirror(&config, &Environment::default()).unwrap();
    assert!(whole);
    assert!(replayed.groups > 0 && replayed.records_before < replayed.records, "{replayed:?}");
    let (again, _) = replay_mirror(&config, &Environment::default()).unwrap();
    assert_eq!((again.groups, again.records), (0, replayed.records));
    let lab = Lab::open(folder, tokens).await;
    assert!(lab.store.ledger.reader().totals().unwrap().records >= records);
    for (file, content) in [(before, "yesterday"), (after, "today")] {
        assert_eq!(lab.request(Method::GET, &routes::file(file)).send().await.body, content);
    }
}

fn id(told: &support::Told) -> FileId {
    FileId::parse(told.json()["file_id"].as_str().unwrap()).unwrap()
}
