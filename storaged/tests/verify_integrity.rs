//! The objects of a running daemon, looked at when an operator asks, under its seal.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/made.rs"]
mod made;
mod support;

use made::{Made, http_get, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn an_operator_is_told_which_file_is_not_what_was_stored() {
    let made = Made::new();
    let running = made.start();
    assert!(made.upload(b"content").starts_with("HTTP/1.1 201"));
    let (items, summary) = verify(&made, json!({"check_hashes": true}));
    assert_eq!(
        (&summary["files"], &summary["valid"], &summary["not_valid"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(items, [json!({"checked": 1, "files": 1})]);
    // The scrub has begun by itself, and is at its end.
    let scrub = &summary["scrub"][0];
    assert_eq!((&scrub["volume"], &scrub["findings"]), (&json!("main"), &json!(0)), "{scrub}");
    wait("the scrub tells how far it is", || {
        made.get_metrics().contains("storaged_scrub_progress_ratio{volume=\"main\"} 1\n")
    });

    let shards = std::fs::read_dir(made.path("volume/objects")).unwrap();
    let mut objects = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    let object = objects.next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&object).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&object, &bytes).unwrap();
    assert_eq!(verify(&made, Value::Null).1["not_valid"], 0, "its length is what it was");
    let (items, summary) = verify(&made, json!({"check_hashes": true, "cohort": "c1"}));
    assert_eq!(summary["not_valid"], 1);
    let expected = (&json!(false), &json!("Hash mismatch - file corrupted"), &json!("c1"));
    assert_eq!((&items[0]["is_valid"], &items[0]["error"], &items[0]["cohort"]), expected);
    // What is known stays known to whoever only looks whether it is there.
    assert_eq!(verify(&made, Value::Null).1["not_valid"], 1);
    std::fs::remove_file(&object).unwrap();
    let file = items[0]["file_id"].clone();
    let (items, _) = verify(&made, json!({ "file": file }));
    assert_eq!((&items[0]["file_id"], &items[0]["error"]), (&file, &json!("File does not exist")));
    let metrics = http_get(made.metrics, "/metrics");
    for line in [
        "storaged_integrity_failures_total{kind=\"hash_mismatch\"} 1\n",
        "storaged_integrity_failures_total{kind=\"missing\"} 1\n",
        "storaged_integrity_checks_total{result=\"cannot_tell\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    made.call("integrity.verify", json!({"cohort": "nobodys"})).unwrap_err();
    made.call("integrity.verify", json!({"file": "ab".repeat(16)})).unwrap_err();
    running.end(Signal::SIGTERM, Some(0));
}

fn verify(made: &Made, args: Value) -> (Vec<Value>, Value) {
    let mut items = Vec::new();
    let summary =
        daemon::admin::call(&made.path("admin.sock"), "integrity.verify", args, &[], |item| items.push(item));
    (items, summary.unwrap())
}
