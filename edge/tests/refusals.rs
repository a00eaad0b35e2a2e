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
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        "Host: another\r\nContent-Length: 5\r\n\r\nhello",
        "Content-Length: 5\r\n folded: yes\r\n\r\nhello",
        "Content-Length : 5\r\n\r\nhello",
    ] {
        let mut client = edge.connect().await;
        let answer = client.ask(format!("{PUT}{auth}{framing}")).await;
        assert_eq!(answer.status, 400, "{framing:?}: {}", answer.head);
    }
    assert_eq!(fake.state.completed.load(SeqCst), 0);
}

/// RFC 9112 §6.3: the chunks decide, and the connection ends with the answer, so that nobody takes what follows
/// for another request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_framings_the_chunks_count_and_nothing_follows() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let auth = authorization();
    let chunks = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    ] {
        fake.state.received.store(0, SeqCst);
        let mut client = edge.connect().await;
        client.send(format!("{PUT}{auth}{framing}{chunks}{GET}{auth}\r\n")).await;
        let answer = client.read().await;
        assert_eq!(answer.status, 201, "{framing:?}");
        assert_eq!(fake.state.received.load(SeqCst), 11, "{framing:?}");
        assert!(client.try_read().await.is_err(), "the second request was answered: {framing:?}");
        let told = fake.state.last_headers.lock().unwrap();
        assert_eq!(told.get("content-length"), None, "{framing:?}: what the client says is not passed on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_host_is_refused() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let line = "GET /v1/cohorts/alpha/files/a.bin HTTP/1.1\r\n";
    let answer = client.ask(format!("{line}{}\r\n", authorization())).await;
    assert_eq!((answer.status, answer.kind().as_str()), (400, "bad-request"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_of_itself_is_not_believed() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let claims = "Request-Id: mine\r\nX-Request-Id: mine\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n\
                  X-Internal-Key: guessed\r\nX-API-Key: guessed\r\nCulvert-Context: e30\r\nCulvert-Path: ../x\r\n\
                  Culvert-Cohort: beta\r\nConnection: keep-alive, Culvert-Path\r\nTE: trailers\r\nUpgrade: h2c\r\n\
                  Trailer: Culvert-Path\r\nCookie: a=b\r\n";
    let body = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nCulvert-Path: ../x\r\n\r\n";
    let answer = client.ask(format!("{PUT}{}{claims}{body}", authorization())).await;
    assert_eq!(answer.status, 201);
    assert_ne!(answer.header("request-id"), Some("mine"));
    let context = fake.state.last_context.lock().unwrap().clone().unwrap();
    assert_eq!(context.client_address.to_string(), "127.0.0.1");
    let told = fake.state.last_headers.lock().unwrap().clone();
    assert_eq!((told["culvert-path"].as_str(), told["culvert-cohort"].as_str()), ("a.bin", "alpha"));
    let mut names: Vec<&str> = told.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-type",
            "culvert-cohort",
            "culvert-context",
            "culvert-path",
            "culvert-store",
            "host",
            "transfer-encoding",
            "x-internal-key"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_api_is_answered_whatever_the_form_of_the_target() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let auth = authorization();
    for (line, status) in [
        ("CONNECT 10.100.0.11:8001 HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 404),
        ("GET /metrics HTTP/1.1", 404),
        ("TRACE /v1/cohorts/alpha/files/a.bin HTTP/1.1", 405),
        ("GET http://10.100.0.11:8001/internal/storage/health HTTP/1.1", 404),
        ("GET http://elsewhere/v1/cohorts/alpha/files/a.bin HTTP/1.1", 404),
    ] {
        let mut client = edge.connect().await;
        let answer = client.ask(format!("{line}\r\nHost: edge\r\n{auth}\r\n")).await;
        assert_eq!(answer.status, status, "{line}");
    }
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
