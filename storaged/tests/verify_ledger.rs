//! The walk over the whole log, asked of a running daemon under its seal.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/made.rs"]
mod made;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use made::{Made, http_get};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use storaged::ledger::tables::BY_FILE;
use storaged::ledger::verify::Claim;

#[test]
fn a_running_daemon_walks_over_its_log_while_uploads_go_on() {
    let made = Made::new();
    let running = made.start();
    made.upload(b"x");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                made.upload(b"y");
            }
        });
        for _ in 0..3 {
            let (items, summary) = verify(&made, &[]);
            assert_eq!(summary["findings"], 0, "{items:?}");
            assert!(items.iter().all(|item| item["checked"].is_u64()), "{items:?}");
            assert!(summary["records"].as_u64().unwrap() > 4, "{summary}");
        }
        done.store(true, Ordering::Relaxed);
    });
    let metrics = http_get(made.metrics, "/metrics");
    assert!(metrics.contains("\nstoraged_ledger_verify_success 1\n"), "{metrics}");
    assert!(!metrics.contains("\nstoraged_ledger_verify_timestamp_seconds 0\n"), "{metrics}");

    // What was kept of the log is part of its past, before and after.
    let checkpoint = made.call("ledger.checkpoint", Value::Null).unwrap();
    let kept = Claim::parse("kept".into(), checkpoint["checkpoint"].as_str().unwrap().as_bytes()).unwrap();
    made.upload(b"z");
    assert_eq!(verify(&made, std::slice::from_ref(&kept)).1["findings"], 0);
    let too_many = json!({"against": vec![&kept; 65]});
    assert!(made.call("ledger.verify", too_many).unwrap_err().to_string().contains("at most 64"));
    running.end(Signal::SIGTERM, Some(0));

    // What the start does not look at, somebody takes away: found, counted, and the daemon goes on.
    let opened = storaged::ledger::open(&made.path("state/ledger.redb")).unwrap();
    let transaction = opened.database.begin_write().unwrap();
    transaction.open_table(BY_FILE).unwrap().pop_first().unwrap();
    transaction.commit().unwrap();
    drop(opened);
    let running = made.start();
    let (items, summary) = verify(&made, &[]);
    assert_eq!(summary["findings"], 1);
    let found: Vec<_> = items.iter().filter(|item| item["finding"].is_string()).collect();
    assert_eq!(found[0]["finding"], "index", "{}", found[0]);
    assert!(found[0]["record"].is_u64() && found[0]["file_id"].is_string(), "{}", found[0]);
    assert!(http_get(made.metrics, "/metrics").contains("\nstoraged_ledger_verify_success 0\n"));
    assert!(made.upload(b"x").starts_with("HTTP/1.1 2"));
    let records = made.items("audit.trail");
    let ended = records.iter().rfind(|record| record["action"] == "admin.ledger_verify").unwrap();
    assert_eq!(ended["ending"], "failed");
    assert!(ended["detail"].as_str().unwrap().ends_with("1 findings"), "{ended}");
    running.end(Signal::SIGTERM, Some(0));
}

fn verify(made: &Made, against: &[Claim]) -> (Vec<Value>, Value) {
    let mut items = Vec::new();
    let args = json!({"against": against});
    let summary =
        daemon::admin::call(&made.path("admin.sock"), "ledger.verify", args, &[], |item| items.push(item));
    (items, summary.unwrap())
}
