//! Lock-outs and rates as a client meets them: a problem with `Retry-After`, and storaged is not asked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::{Fake, GET, PUT, TestEdge, authorization, until};
use edge::gate::By;
use store_proto::{LockoutReason, Token};

fn with_token(number: u8) -> String {
    format!("{GET}Authorization: Bearer {}\r\n\r\n", Token::from_bytes([100 + number; 32]).expose())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_attempts_lock_the_address_out_until_the_cool_off_is_over() {
    let fake = Fake::start().await;
    fake.state.file_size.store(10, SeqCst);
    let test = TestEdge::start(&fake, "auth_failure_limit = 3\nauth_cooloff = \"4s\"").await;
    let mut client = test.connect().await;
    for number in 0..3 {
        assert_eq!(client.ask(with_token(number)).await.status, 401);
    }
    *fake.state.last_context.lock().unwrap() = None;
    for number in 3..6 {
        let locked = client.ask(with_token(number)).await;
        assert_eq!((locked.status, locked.kind().as_str()), (429, "locked-out"));
        let wait: u64 = locked.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=4).contains(&wait), "{wait}");
    }
    let good = format!("{GET}{}\r\n", authorization());
    assert_eq!(client.ask(&good).await.status, 429, "whatever is shown, from a new connection too");
    assert_eq!(test.connect().await.ask(&good).await.status, 429);
    assert!(fake.state.last_context.lock().unwrap().is_none(), "storaged is not asked");
    let lockouts = |by: By| test.edge.metrics.lockouts.with_label_values(&[by.label()]).get();
    assert_eq!((lockouts(By::Address), lockouts(By::Principal)), (1, 0));
    tokio::time::sleep(Duration::from_millis(4_100)).await;
    assert_eq!(client.ask(&good).await.status, 200);
    // Now it is known here, and a neighbour's guesses do not shut it out.
    for number in 0..3 {
        assert_eq!(client.ask(with_token(number)).await.status, 401);
    }
    assert_eq!(client.ask(with_token(9)).await.status, 429);
    assert_eq!(client.ask(&good).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_rate_are_refused() {
    let fake = Fake::start().await;
    fake.state.file_size.store(10, SeqCst);
    let test = TestEdge::start(&fake, "rate_per_second = 2\nrate_burst = 5").await;
    let mut client = test.connect().await;
    let good = format!("{GET}{}\r\n", authorization());
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let seen = client.ask(&good).await;
        if seen.status == 429 {
            assert_eq!(seen.kind(), "rate-limited");
            assert_eq!(seen.header("retry-after"), Some("1"));
        }
        statuses.push(seen.status);
    }
    assert!(statuses.starts_with(&[200; 5]) && statuses.contains(&429), "{statuses:?}");
    until("storaged knows", || !fake.state.lockouts.lock().unwrap().is_empty()).await;
    let told = fake.state.lockouts.lock().unwrap().clone();
    assert!(
        told.len() == 1 && told[0].reason == LockoutReason::Rate && told[0].principal.is_some(),
        "{told:?}"
    );
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(client.ask(&good).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_out_is_told_to_storaged_and_outlives_a_restart() {
    let fake = Fake::start().await;
    fake.state.file_size.store(10, SeqCst);
    let limits = "auth_failure_limit = 3\nauth_cooloff = \"1m\"";
    let test = TestEdge::start(&fake, limits).await;
    let mut client = test.connect().await;
    for _ in 0..3 {
        client.ask(with_token(1)).await; // the same each time: token and address
    }
    until("storaged knows", || fake.state.lockouts.lock().unwrap().len() == 2).await;
    let told = fake.state.lockouts.lock().unwrap().clone();
    let principals = told.iter().filter(|lockout| lockout.principal.is_some()).count();
    assert_eq!(principals, 1, "{told:?}");
    drop((client, test));

    let again = TestEdge::start(&fake, limits).await;
    until("they hold again", || again.edge.gate.locked_out(daemon::Clock.now()) == 2).await;
    let good = format!("{GET}{}\r\n", authorization());
    assert_eq!(again.connect().await.ask(&good).await.kind(), "locked-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_bytes_that_edge_holds_in_all_nothing_new_begins_and_what_runs_goes_on() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut slow = edge.connect().await;
    slow.send(format!("{PUT}{}Content-Length: 10\r\n\r\nhello", authorization())).await;
    until("it is under way", || fake.state.received.load(SeqCst) == 5).await;
    // As if so many others held all that there is.
    edge.edge.metrics.buffered_bytes.add(edge::limits::BUFFERED_BYTES);
    let refused =
        edge.connect().await.ask(format!("{PUT}{}Content-Length: 5\r\n\r\n", authorization())).await;
    assert_eq!((refused.status, refused.kind().as_str()), (503, "overloaded"));
    assert!(refused.header("retry-after").is_some());
    slow.send("world").await;
    assert_eq!(slow.read().await.status, 201);
    edge.edge.metrics.buffered_bytes.sub(edge::limits::BUFFERED_BYTES);
    let taken =
        edge.connect().await.ask(format!("{PUT}{}Content-Length: 5\r\n\r\nhello", authorization())).await;
    assert_eq!(taken.status, 201);
    until("nothing is held any more", || edge.edge.metrics.buffered_bytes.get() == 0).await;
}
