//! The store's log: edge follows it while it grows, and takes no upload while it shows another history.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::log::FakeLog;
use common::{Fake, PUT, TestEdge, authorization, until};
use edge::config::{Config, Environment};

#[test]
fn the_floor_is_a_checkpoint_of_the_configured_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("floor");
    let (log, services) = (FakeLog::of(0..20), "127.0.0.1:1".parse().unwrap());
    let acquire = |key: &str, floor: &str| {
        std::fs::write(&path, floor).unwrap();
        let lines = format!("{key}checkpoint_floor_file = {path:?}\n{}", common::config_text(services, ""));
        let config = Config::parse("edge.toml", &lines, &Environment::default());
        let config = config.map_err(|error| error.to_string())?;
        assert!(config.to_string().contains("checkpoint_floor_file = "), "it is printed");
        let witnesses = edge::acquire::witnesses(&config).map_err(|error| format!("{error:#}"));
        witnesses.map(|mut all| all.remove(0))
    };
    let key = format!("log_key = \"{}\"\n", log.key());
    let witness = acquire(&key, &log.checkpoint()).unwrap();
    assert_eq!(witness.standing().seen.unwrap().unverified().size, 20);
    for (key, floor, expected) in [
        ("", log.checkpoint(), "needs log_key"),
        ("log_key = \"x\"\n", log.checkpoint(), "log_key: a log key must be NAME+KEYID+BASE64"),
        (&key, FakeLog { seed: 8, ..FakeLog::of(0..20) }.checkpoint(), "is not signed by"),
        (&key, "nonsense".to_owned(), "checkpoint_floor_file = "),
    ] {
        let error = acquire(key, &floor).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

fn seen(edge: &TestEdge) -> Option<u64> {
    edge.witness().standing().seen.map(|seen| seen.unverified().size)
}

fn show(fake: &Fake, log: FakeLog) {
    *fake.state.log.lock().unwrap() = Some(log);
}

async fn put(edge: &TestEdge) -> common::Seen {
    let mut client = edge.connect().await;
    client.ask(format!("{PUT}{}Content-Length: 5\r\n\r\nhello", authorization())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_refused_while_the_log_has_lost_records() {
    let fake = Fake::start().await;
    show(&fake, FakeLog::of(0..20));
    let edge = TestEdge::start(&fake, "").await;
    until("the first checkpoint is adopted", || seen(&edge) == Some(20)).await;
    assert_eq!(put(&edge).await.status, 201);
    show(&fake, FakeLog::of(0..33));
    until("the log is followed", || seen(&edge) == Some(33)).await;

    show(&fake, FakeLog::of(0..32));
    until("the rollback is seen", || edge.witness().refuses()).await;
    let refused = put(&edge).await;
    assert_eq!(refused.status, 503);
    assert!(String::from_utf8_lossy(&refused.body).contains("ledger-unavailable"), "{}", refused.head);
    assert_eq!(seen(&edge), Some(33), "the highest stays");
    let metrics = &edge.edge.metrics;
    until("it is counted", || metrics.log_faults.with_label_values(&["rollback"]).get() > 0).await;
    let of = |all: &prometheus::IntGaugeVec| all.with_label_values(&["services"]).get();
    assert_eq!((of(&metrics.log_refused), of(&metrics.log_records)), (1, 33));
    assert_eq!(fake.state.completed.load(std::sync::atomic::Ordering::SeqCst), 1, "no byte was sent on");

    show(&fake, FakeLog::of(0..34));
    until("the first history is back", || !edge.witness().refuses()).await;
    assert_eq!(put(&edge).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_refused_while_the_log_is_forked() {
    let fake = Fake::start().await;
    show(&fake, FakeLog::of(0..20));
    let edge = TestEdge::start(&fake, "").await;
    until("the first checkpoint is adopted", || seen(&edge) == Some(20)).await;
    show(&fake, FakeLog::of((0..19).chain(100..140)));
    until("the fork is seen", || edge.witness().refuses()).await;
    assert_eq!(put(&edge).await.status, 503);
    until("it is counted", || edge.edge.metrics.log_faults.with_label_values(&["fork"]).get() > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_waits_for_the_operator() {
    let fake = Fake::start().await;
    show(&fake, FakeLog::of(0..20));
    let edge = TestEdge::start(&fake, "").await;
    until("the first checkpoint is adopted", || seen(&edge) == Some(20)).await;
    show(&fake, FakeLog { epoch: 1, ..FakeLog::of((0..9).chain(100..104)) });
    until("the new epoch is seen", || edge.witness().refuses()).await;
    assert_eq!(put(&edge).await.status, 503);
    // The look that is under way may clear what is offered for a moment.
    let mut accepted = false;
    until("it is accepted", || {
        accepted = accepted || edge.witness().accept(1).is_ok();
        accepted
    })
    .await;
    until("uploads are taken", || !edge.witness().refuses()).await;
    assert_eq!(put(&edge).await.status, 201);
    assert_eq!(seen(&edge), Some(13));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_configured_key_no_upload_is_taken_before_its_checkpoint() {
    let fake = Fake::start().await;
    let key = FakeLog::of(0..1).key();
    let edge = TestEdge::start_with(&fake, &format!("log_key = \"{key}\"\n")).await;
    assert_eq!(put(&edge).await.status, 503, "nothing was seen yet");
    show(&fake, FakeLog { seed: 8, ..FakeLog::of(0..5) });
    let faults = &edge.edge.metrics.log_faults;
    until("another key is refused", || faults.with_label_values(&["signature"]).get() > 0).await;
    assert_eq!(put(&edge).await.status, 503);
    show(&fake, FakeLog::of(0..5));
    until("the right key is taken", || !edge.witness().refuses()).await;
    assert_eq!(put(&edge).await.status, 201);
}
