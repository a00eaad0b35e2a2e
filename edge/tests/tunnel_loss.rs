//! Tunnel or storaged away: 503 at once, within 3 s of a silent cut, and back when it is back.

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::{Fake, GET, PUT, TestEdge, authorization, until};

const EXPECT: &str = "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_storaged_the_body_is_not_read() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let edge = TestEdge::start_without_waiting(nobody, "");
    let mut client = edge.connect().await;
    let answer = client.ask(format!("{PUT}{}{EXPECT}", authorization())).await;
    assert_eq!((answer.status, answer.kind().as_str()), (503, "tunnel-unavailable"));
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_cut_in_mid_upload_is_answered_within_three_seconds() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 200000\r\n\r\n", authorization())).await;
    client.send(vec![1; 1000]).await;
    until("a part is there", || fake.state.received.load(SeqCst) == 1000).await;
    fake.freeze(true);
    // Three seconds, and what a busy machine adds; all other patience is longer than both.
    let answer =
        tokio::time::timeout(Duration::from_secs(6), client.read()).await.expect("an answer in time");
    assert_eq!((answer.status, answer.kind().as_str()), (503, "tunnel-unavailable"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("connection"), Some("close"));
    let at_once = tokio::time::timeout(Duration::from_secs(2), async {
        edge.connect().await.ask(format!("{GET}{}\r\n", authorization())).await
    });
    assert_eq!(at_once.await.expect("at once").status, 503);
    until("nothing is kept", || edge.edge.metrics.buffered_bytes.get() == 0).await;
    fake.freeze(false);
    until("the circuit closes", || edge.edge.upstreams.any_up()).await;
    assert_eq!(edge.connect().await.ask(format!("{GET}{}\r\n", authorization())).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storaged_that_dies_ends_the_upload_at_once() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 200000\r\n\r\n", authorization())).await;
    client.send(vec![1; 1000]).await;
    until("a part is there", || fake.state.received.load(SeqCst) == 1000).await;
    fake.die();
    let answer = tokio::time::timeout(Duration::from_secs(2), client.read()).await.expect("at once");
    assert_eq!((answer.status, answer.kind().as_str()), (503, "tunnel-unavailable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_brought_once_whatever_becomes_of_it() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    fake.state.breaks_after_body.store(true, SeqCst);
    let put = format!("{PUT}{}Content-Length: 5\r\n\r\nhello", authorization());
    let answer = edge.connect().await.ask(&put).await;
    assert_eq!((answer.status, answer.kind().as_str()), (503, "tunnel-unavailable"));
    // Whether it was stored is not known here; the client finds out by the same request again.
    assert_eq!((fake.state.completed.load(SeqCst), fake.state.received.load(SeqCst)), (1, 5));
    fake.state.breaks_after_body.store(false, SeqCst);
    until("the circuit is closed", || edge.edge.upstreams.any_up()).await;
    assert_eq!(edge.connect().await.ask(&put).await.status, 201);
    assert_eq!(fake.state.completed.load(SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_storaged_is_used_again() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    assert_eq!(client.ask(format!("{GET}{}\r\n", authorization())).await.status, 404);
    fake.die();
    until("its connections are gone", || {
        std::net::TcpStream::connect_timeout(&fake.address, Duration::from_millis(100)).is_err()
    })
    .await;
    let again = Fake::start_at(&fake.address.to_string()).await;
    until("it is asked", || again.state.health.load(SeqCst) > 0).await;
    assert_eq!(client.ask(format!("{GET}{}\r\n", authorization())).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_quiet_upload_does_not_open_the_circuit() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 10\r\n\r\nhello", authorization())).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(edge.edge.upstreams.any_up());
    client.send("world").await;
    assert_eq!(client.read().await.status, 201);
}
