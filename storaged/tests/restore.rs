//! A state directory that was set back comes forward again from the journal mirror, and loses nothing.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use http::Method;
use storaged::config::Environment;
use storaged::offline::OfflineError;
use storaged::restore::{Doubt, Forward, Known, RestoreError, refuse_undecided, replay_mirror};
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
    let refused = replay_mirror(&config, &Environment::default(), Known::default()).unwrap_err();
    assert!(matches!(refused, RestoreError::Open(OfflineError::Ledger(_))), "{refused}");
    let (folder, tokens) = lab.stop().await;

    std::fs::remove_dir_all(folder.path().join("state")).unwrap();
    copy("copy", "state");
    let Forward { replayed, doubt } = forward(&config, Known::default());
    assert_eq!(doubt, None);
    assert!(replayed.groups > 0 && replayed.records_before < replayed.records, "{replayed:?}");
    let again = forward(&config, Known::default()).replayed;
    assert_eq!((again.groups, again.records), (0, replayed.records));
    let lab = Lab::open(folder, tokens).await;
    assert!(lab.store.ledger.reader().totals().unwrap().records >= records);
    for (file, content) in [(before, "yesterday"), (after, "today")] {
        assert_eq!(lab.request(Method::GET, &routes::file(file)).send().await.body, content);
    }
}

/// A frame in the midst of the newest file is damaged: what stands behind it was acknowledged and cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_frame_in_the_midst_of_the_mirror_is_not_taken_for_its_torn_end() {
    let lab = Lab::start().await;
    let (folder, tokens) = lab.stop().await;
    let cp = |from: &str, to: &str| {
        let done =
            Command::new("cp").arg("-a").arg(folder.path().join(from)).arg(folder.path().join(to)).status();
        assert!(done.unwrap().success());
    };
    cp("state", "copy");
    let journal = folder.path().join("volume/.journal");
    let newest = std::fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let before = std::fs::read(&newest).unwrap().len();
    let lab = Lab::open(folder.clone(), tokens).await;
    for number in 0..6 {
        id(&lab.upload(&format!("f{number}"), "acknowledged").send().await);
    }
    let log = lab.store.ledger.reader().checkpoint().unwrap();
    let seen = (log.unverified().size, log.unverified().root);
    let (folder, tokens) = lab.stop().await;
    let config = folder.path().join("storaged.toml");
    let state = folder.path().join("state");
    let set_back = || {
        std::fs::remove_dir_all(&state).unwrap();
        cp("copy", "state");
        std::fs::write(state.join(storaged::restore::RESTORED_FILE), b"{}").unwrap();
    };
    let good = std::fs::read(&newest).unwrap();

    // In the midst of what came since the copy.
    let mut bad = good.clone();
    let middle = before + (good.len() - before) / 2;
    bad[middle] ^= 1;
    std::fs::write(&newest, &bad).unwrap();
    set_back();
    let Forward { replayed, doubt } = forward(&config, Known::default());
    let Some(Doubt::LeftBehind(left)) = &doubt else { panic!("{doubt:?}, {replayed:?}") };
    assert!(replayed.records < seen.0 && left.path == newest, "{replayed:?}");
    // A seal may end with zeros.
    let end = bad.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    assert_eq!(left.offset + left.bytes, end, "all that is behind it is told");
    assert!(refuse_undecided(&state).is_err(), "it does not start");
    // Whoever has seen the log knows that it was no torn end.
    let knows = Known { seen: Some(seen), torn_end: true };
    let records = replayed.records;
    assert_eq!(forward(&config, knows).doubt, Some(Doubt::Behind { seen: seen.0, records }));
    assert!(refuse_undecided(&state).is_err());
    // A state that no backup made is refused by the start itself.
    std::fs::remove_file(state.join(storaged::restore::RESTORED_FILE)).unwrap();
    let refused = support::refusal_to_start(folder.path()).await;
    assert!(refused.contains("bytes behind byte") && refused.contains("--accept-torn-end"), "{refused}");

    // The whole mirror is found elsewhere.
    std::fs::write(&newest, &good).unwrap();
    let knows = Known { seen: Some(seen), torn_end: false };
    assert_eq!(forward(&config, knows).doubt, None);
    let lab = Lab::open(folder, tokens).await;
    assert_eq!(lab.store.ledger.reader().checkpoint().unwrap().as_str(), log.as_str());
}

/// A frame of the log ahead is damaged, and others stand behind it, in what a killed storaged left.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_ahead_is_refused_by_name_and_mended_from_the_mirror() {
    let lab = Lab::start().await;
    let mut files = Vec::new();
    for number in 0..4 {
        files.push(id(&lab.upload(&format!("f{number}"), "acknowledged").send().await));
    }
    let log = lab.store.ledger.reader().checkpoint().unwrap();
    let state = lab.folder.path().join("state");
    let killed = lab.folder.path().join("killed");
    let done = Command::new("cp").arg("-a").arg(&state).arg(&killed).status();
    assert!(done.unwrap().success());
    let (folder, tokens) = lab.stop().await;
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&killed, &state).unwrap();
    let ahead = state.join(storaged::ledger::AHEAD_FILE);
    let mut bytes = std::fs::read(&ahead).unwrap();
    let frames: Vec<usize> =
        (4096..bytes.len()).step_by(4096).filter(|at| bytes[*at..].starts_with(b"frame 2\n")).collect();
    assert!(frames.len() > 8, "{frames:?}");
    bytes[frames[2] + 100] ^= 1;
    std::fs::write(&ahead, &bytes).unwrap();

    let refused = support::refusal_to_start(folder.path()).await;
    let place = format!("byte {} ", frames[2]);
    for word in ["ledger.ahead", place.as_str(), "culvert restore --replay"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    let config = folder.path().join("storaged.toml");
    assert_eq!(forward(&config, Known::default()).doubt, None);
    let lab = Lab::open(folder, tokens).await;
    let now = lab.store.ledger.reader().snapshot().unwrap();
    assert_eq!(now.root(log.unverified().size).unwrap(), log.unverified().root);
    drop(now);
    for file in files {
        assert_eq!(lab.request(Method::GET, &routes::file(file)).send().await.body, "acknowledged");
    }
}

/// Power was lost while frames were written.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_of_the_mirror_is_gone_without_only_by_an_operators_word() {
    let lab = Lab::start().await;
    id(&lab.upload("f", "acknowledged").send().await);
    let (folder, tokens) = lab.stop().await;
    let config = folder.path().join("storaged.toml");
    let journal = folder.path().join("volume/.journal");
    let newest = std::fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let whole = std::fs::read(&newest).unwrap();
    // A frame of which the first half arrived, and room that was made ahead.
    let mut torn = whole.clone();
    torn.extend_from_slice(&400_u32.to_be_bytes());
    torn.extend_from_slice(&[7; 200]);
    torn.extend_from_slice(&[0; 4096]);
    std::fs::write(&newest, &torn).unwrap();
    let doubt = forward(&config, Known::default()).doubt;
    let Some(Doubt::LeftBehind(left)) = doubt else { panic!("{doubt:?}") };
    assert_eq!((left.offset, left.bytes), (whole.len() as u64, 204));
    assert_eq!(forward(&config, Known { seen: None, torn_end: true }).doubt, None);
    assert_eq!(std::fs::read(&newest).unwrap(), whole, "it is cut off");
    let lab = Lab::open(folder, tokens).await;
    id(&lab.upload("g", "goes on").send().await);
}

fn forward(config: &std::path::Path, known: Known) -> Forward {
    replay_mirror(config, &Environment::default(), known).unwrap()
}

fn id(told: &support::Told) -> FileId {
    FileId::parse(told.json()["file_id"].as_str().unwrap()).unwrap()
}
