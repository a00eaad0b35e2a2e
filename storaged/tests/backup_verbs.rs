//! Backups as an operator asks a sealed storaged for them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/made.rs"]
mod made;
mod support;

use std::fs::File;
use std::os::fd::AsFd as _;

use daemon::admin::CallError;
use made::Made;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use storaged::backup::check::check;
use storaged::backup::unpack::{STATE, unpack};
use storaged::keys::RootKey;
use vault::age::Identity;

fn make(made: &Made, name: &str, identity: &Identity) -> Result<Value, CallError> {
    let to = File::create_new(made.path(name)).unwrap();
    let config = File::open(made.path("storaged.toml")).unwrap();
    let args = json!({ "recipients": [identity.to_recipient().to_string()], "parts": ["storaged.toml"] });
    daemon::admin::call(&made.path("admin.sock"), "backup.make", args, &[to.as_fd(), config.as_fd()], |_| ())
}

#[test]
fn a_sealed_storaged_makes_backups_and_knows_which_of_them_serve() {
    let made = Made::new();
    let running = made.start();
    made.upload(b"x");
    let identity = Identity::generate().unwrap();
    assert!(made.get_metrics().contains("storaged_backup_keys_outdated 1"));
    let told = make(&made, "b.age", &identity).unwrap();
    // It does not count before somebody keeps it, and not with another hash.
    let metrics = made.get_metrics();
    assert!(metrics.contains("storaged_backup_last_success_timestamp_seconds 0"), "{metrics}");
    let (id, sha256) = (&told["backup"]["backup"], &told["backup"]["sha256"]);
    assert_eq!(*sha256, support::digest(&std::fs::read(made.path("b.age")).unwrap()).to_string());
    made.call("backup.kept", json!({"backup": id, "sha256": "0".repeat(64)})).unwrap_err();
    made.call("backup.kept", json!({"backup": id, "sha256": sha256})).unwrap();
    let metrics = made.get_metrics();
    assert!(metrics.contains("storaged_backup_keys_outdated 0"), "{metrics}");
    assert!(!metrics.contains("storaged_backup_last_success_timestamp_seconds 0"), "{metrics}");
    let verified = made.call("backup.verified", json!({"backup": id})).unwrap();
    assert_eq!(verified["journal_files_removed"], 0, "the newest file of the journal stays");
    made.call("backup.verified", json!({"backup": "00112233445566778899aabbccddeeff"})).unwrap_err();
    let mut known = Vec::new();
    let status = daemon::admin::call(&made.path("admin.sock"), "backup.status", Value::Null, &[], |item| {
        known.push(item)
    });
    assert_eq!(status.unwrap()["needed"], Value::Null);
    assert_eq!((known.len(), &known[0]["backup"]), (1, id));
    assert!(known[0]["verified"].is_string());

    // After a shred it is of keys that are no more.
    let uploaded = made.call("audit.trail", json!({"action": "nas_raw_created"}));
    uploaded.unwrap();
    let mut files = Vec::new();
    let args = json!({"action": "nas_raw_created"});
    daemon::admin::call(&made.path("admin.sock"), "audit.trail", args, &[], |item| files.push(item)).unwrap();
    let file = files[0]["file_id"].clone();
    made.call("shred.file", json!({"file": file, "reason": "a test"})).unwrap();
    let shred = made.call("kek.shred", Value::Null).unwrap();
    assert_ne!(shred["destroyed"], 0);
    assert!(made.get_metrics().contains("storaged_backup_keys_outdated 1"));
    let status = made.call("backup.status", Value::Null).unwrap();
    assert!(status["needed"].as_str().unwrap().contains("shredded"), "{status}");

    let scratch = made.path("scratch");
    let unpacked = unpack(&made.path("b.age"), &[identity], &scratch, &mut |_| ()).unwrap();
    assert_eq!(
        std::fs::read(scratch.join("storaged.toml")).unwrap(),
        std::fs::read(made.path("storaged.toml")).unwrap()
    );
    let root = RootKey::read(made.path("root.key").to_str().unwrap()).unwrap();
    let checked = check(&scratch.join(STATE), root, &unpacked.head, &mut |_| ()).unwrap();
    assert_eq!((checked.findings, checked.files), (Vec::new(), 1));
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn nobody_gets_a_backup_that_nobody_can_open() {
    let made = Made::new();
    let running = made.start();
    let to = File::create_new(made.path("b.age")).unwrap();
    let ask = |args: Value| {
        let refused =
            daemon::admin::call(&made.path("admin.sock"), "backup.make", args, &[to.as_fd()], |_| ());
        refused.unwrap_err().to_string()
    };
    assert!(ask(json!({ "recipients": [] })).contains("at least one"));
    let secret = Identity::generate().unwrap().to_text();
    let refused = ask(json!({ "recipients": [*secret] }));
    assert!(refused.contains("not an age recipient") && !refused.contains(secret.as_str()), "{refused}");
    assert_eq!(std::fs::metadata(made.path("b.age")).unwrap().len(), 0);
    running.end(Signal::SIGTERM, Some(0));
}
