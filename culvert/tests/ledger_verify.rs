//! `culvert ledger verify` by itself, where no storaged runs.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use storaged::ledger::tables::{RECORDS, TILES};
use storaged::offline::Offline;

#[test]
fn a_store_that_does_not_run_is_walked_over() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path());
    let fine = offline(folder.path(), &[]);
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine.stderr));
    assert!(text(&fine.stdout).contains("the log is what was signed"), "{}", text(&fine.stdout));
    // Its own checkpoint is part of it; that of another store is not.
    let checkpoint = checkpoint(folder.path());
    let own = folder.path().join("own.checkpoint");
    fs::write(&own, &checkpoint).unwrap();
    let fine = offline(folder.path(), &["--against", own.to_str().unwrap()]);
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine.stderr));
    let other = tempfile::tempdir().unwrap();
    init(other.path());
    let found = offline(other.path(), &["--against", own.to_str().unwrap(), "--json"]);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found.stderr));
    let lines: Vec<Value> =
        text(&found.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["finding"], "against");
    assert_eq!(lines.last().unwrap()["findings"], 1);
    // A copy, without a configuration.
    let (state, key) = (folder.path().join("state"), folder.path().join("root.key"));
    let copy = run(&["--offline", "--state", state.to_str().unwrap(), "--root-key", key.to_str().unwrap()]);
    assert_eq!(copy.status.code(), Some(0), "{}", text(&copy.stderr));
}

#[test]
fn what_was_changed_is_named_and_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path());
    let ledger = folder.path().join("state/ledger.redb");
    let opened = storaged::ledger::open(&ledger).unwrap();
    // Somebody has it: nothing can be said.
    let busy = offline(folder.path(), &[]);
    assert_eq!(busy.status.code(), Some(4), "{}", text(&busy.stderr));
    let transaction = opened.database.begin_write().unwrap();
    transaction.open_table(TILES).unwrap().insert([0; 9].as_slice(), &[7; 32]).unwrap();
    transaction.commit().unwrap();
    drop(opened);
    let found = offline(folder.path(), &[]);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found.stderr));
    assert!(text(&found.stdout).contains("commitment  record 0"), "{}", text(&found.stdout));
    // Such that storaged itself would not open it.
    let opened = storaged::ledger::open(&ledger).unwrap();
    let transaction = opened.database.begin_write().unwrap();
    transaction.open_table(RECORDS).unwrap().remove(0).unwrap();
    transaction.commit().unwrap();
    drop(opened);
    let found = offline(folder.path(), &[]);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found.stderr));
}

#[test]
fn a_wrong_file_is_wrong_usage_and_silence_is_not_knowing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    fs::write(&file, "hello").unwrap();
    let wrong = run(&["--against", file.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
    assert!(text(&wrong.stderr).contains("neither a receipt"), "{}", text(&wrong.stderr));
    let socket = folder.path().join("s.sock");
    let nobody = run(&["--socket", socket.to_str().unwrap()]);
    assert_eq!(nobody.status.code(), Some(4), "{}", text(&nobody.stderr));
    let missing = run(&["--offline", "--config", folder.path().join("none.toml").to_str().unwrap()]);
    assert_eq!(missing.status.code(), Some(4), "{}", text(&missing.stderr));
    // Who refuses has not looked.
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        let refusal = json!({"error": {"code": "busy", "message": "the log is being verified already"}});
        writeln!(stream, "{refusal}").unwrap();
        line
    });
    let refused = run(&["--socket", socket.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(server.join().unwrap().contains("ledger.verify"));
}

fn init(folder: &Path) {
    let made = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["init", "storaged", "--profile", "lab", "--edge", "web1"])
        .arg("--config")
        .arg(folder.join("storaged.toml"))
        .arg("--internal-key")
        .arg(folder.join("internal.key"))
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--volume")
        .arg(format!("main={}", folder.join("volume").display()))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
}

fn offline(folder: &Path, more: &[&str]) -> Output {
    let config = folder.join("storaged.toml");
    run(&[&["--offline", "--config", config.to_str().unwrap()], more].concat())
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert")).args(["ledger", "verify"]).args(arguments).output().unwrap()
}

fn checkpoint(folder: &Path) -> String {
    let store = Offline::open_at(&folder.join("state"), folder.join("root.key").to_str().unwrap()).unwrap();
    store.reader.checkpoint().unwrap().as_str().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
