//! Refusals: read by the client even while it is sending, and the same document for hyper's own.

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::{Fake, GET, PUT, TestEdge, authorization, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_client_that_keeps_sending_reads_the_problem() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    for _ in 0..10 {
        let mut client = edge.connect().await;
        client.send(format!("{PUT}Content-Length: 100000000\r\n\r\n")).await;
        client.send(vec![0; 200_000]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = client.read().await;
        assert_eq!((answer.status, answer.kind().as_str()), (401, "unauthenticated"));
    }
    assert_eq!(fake.state.permissions.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lingering_ends_after_its_bytes_or_its_time() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut silent = edge.connect().await;
    assert_eq!(silent.ask(format!("{PUT}Content-Length: 100000000\r\n\r\n")).await.status, 401);
    assert!(edge.edge.metrics.connections_active.get() > 0);
    until("the silent one is closed", || edge.edge.metrics.connections_active.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_head_is_refused_with_a_problem() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let answer = client.ask(format!("{GET}X-Long: {}\r\n\r\n", "x".repeat(40_000))).await;
    assert_eq!((answer.status, answer.kind().as_str()), (431, "headers-too-large"));
    let mut client = edge.connect().await;
    let many = "X-Many: x\r\n".repeat(200);
    assert_eq!(client.ask(format!("{GET}{many}\r\n")).await.kind(), "headers-too-large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_http_is_refused_with_a_problem() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    for junk in [
        "\x16\x03\x01\x02\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nA B: c\r\n\r\n",
    ] {
        let mut client = edge.connect().await;
        let answer = client.ask(junk).await;
        assert_eq!((answer.status, answer.kind().as_str()), (400, "bad-request"), "{junk:?}");
        assert!(client.is_closed().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_head_is_given_up() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "header_timeout = \"300ms\"").await;
    let mut client = edge.connect().await;
    client.send("GET / HTT").await;
    assert!(client.is_closed().await);
    let mut silent = edge.connect().await;
    assert!(silent.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smuggling_attempts_do_not_pass() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let auth = authorization();
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: 5, 5\r\n\r\nhello",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut client = edge.connect().await;
        let answer = client.ask(format!("{PUT}{auth}{framing}")).await;
        assert_eq!(answer.status, 400, "{framing:?}: {}", answer.head);
    }
    assert_eq!(fake.state.completed.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_places_are_refused() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "max_requests = 1").await;
    let mut first = edge.connect().await;
    first.send(format!("{PUT}{}Content-Length: 10\r\n\r\nhello", authorization())).await;
    until("the first is under way", || fake.state.received.load(SeqCst) == 5).await;
    let mut second = edge.connect().await;
    let answer = second.ask(format!("{GET}{}\r\n", authorization())).await;
    assert_eq!((answer.status, answer.kind().as_str()), (503, "overloaded"));
    assert!(answer.header("retry-after").is_some());
    first.send("world").await;
    assert_eq!(first.read().await.status, 201);
    assert_eq!(second.ask(format!("{GET}{}\r\n", authorization())).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_with_dots_is_refused_by_rule_and_not_repeated() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let line = "PUT /v1/cohorts/alpha/files/secret-name/../x HTTP/1.1\r\nHost: e\r\n";
    let answer = client.ask(format!("{line}{}Content-Length: 0\r\n\r\n", authorization())).await;
    assert_eq!((answer.status, answer.kind().as_str()), (400, "invalid-path"));
    let body = String::from_utf8(answer.body).unwrap();
    assert!(body.contains("`..`") && !body.contains("secret-name"), "{body}");
}
