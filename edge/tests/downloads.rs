//! Downloads: whole, in part, conditional; and reset rather than cut short in silence.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::{Fake, GET, TestEdge, authorization, byte_at, until};
use tokio::io::AsyncReadExt;

const SIZE: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_arrives_whole_and_described() {
    let fake = Fake::start().await;
    fake.state.file_size.store(SIZE, SeqCst);
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    for _ in 0..3 {
        let answer = client.ask(format!("{GET}{}\r\n", authorization())).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body.len() as u64, SIZE);
        assert!(answer.body.iter().zip(0..).all(|(byte, at)| *byte == byte_at(at)));
        assert_eq!(answer.header("content-disposition"), Some("attachment; filename*=utf-8''a%2ebin"));
        assert!(answer.header("repr-digest").is_some() && answer.header("etag").is_some());
    }
    let head = client.ask(format!("{}{}\r\n", GET.replace("GET", "HEAD"), authorization()));
    let seen = tokio::time::timeout(std::time::Duration::from_millis(500), head).await;
    assert!(seen.is_err(), "HEAD announces a length and sends no body");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_one_stretch_of_the_file() {
    let fake = Fake::start().await;
    fake.state.file_size.store(SIZE, SeqCst);
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let answer = client.ask(format!("{GET}{}Range: bytes=1000-1999\r\n\r\n", authorization())).await;
    assert_eq!(answer.status, 206);
    assert_eq!(answer.header("content-range"), Some("bytes 1000-1999/1000000"));
    assert!(
        answer.body.len() == 1000 && answer.body.iter().zip(1000..).all(|(byte, at)| *byte == byte_at(at))
    );
    let outside = client.ask(format!("{GET}{}Range: bytes=1000000-\r\n\r\n", authorization())).await;
    assert_eq!((outside.status, outside.header("content-range")), (416, Some("bytes */1000000")));
    let etag = answer.header("etag").unwrap();
    let same = client.ask(format!("{GET}{}If-None-Match: {etag}\r\n\r\n", authorization())).await;
    assert_eq!(same.status, 304);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_and_a_listing_come_from_storaged() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let missing = client.ask(format!("{GET}{}\r\n", authorization())).await;
    assert_eq!((missing.status, missing.kind().as_str()), (404, "unknown-file"));
    let list = client
        .ask(format!("GET /v1/cohorts/alpha/files?limit=5 HTTP/1.1\r\nHost: e\r\n{}\r\n", authorization()));
    let list = list.await;
    assert_eq!((list.status, list.header("content-type")), (200, Some("application/json")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_is_reset_when_storaged_goes_silent() {
    let fake = Fake::start().await;
    fake.state.file_size.store(1 << 32, SeqCst);
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    client.send(format!("{GET}{}\r\n", authorization())).await;
    let mut scrap = vec![0; 100_000];
    client.stream.read_exact(&mut scrap).await.unwrap();
    fake.die();
    let mut total = 0;
    while let Ok(read @ 1..) = client.stream.read(&mut scrap).await {
        total += read as u64;
    }
    assert!(total < 1 << 32);
    until("nothing is kept", || edge.edge.metrics.buffered_bytes.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_given_up() {
    let fake = Fake::start().await;
    fake.state.file_size.store(1 << 32, SeqCst);
    let edge = TestEdge::start(&fake, "idle_timeout = \"300ms\"").await;
    let mut client = edge.connect().await;
    client.send(format!("{GET}{}\r\n", authorization())).await;
    until("it streams", || edge.edge.metrics.response_body_bytes.get() > 0).await;
    until("the place is free", || edge.edge.metrics.connections_active.get() == 0).await;
}
