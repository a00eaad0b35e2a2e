//! HTTP/2: what honest clients get, and how little a dishonest one can do with frames.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::Ordering::SeqCst;

use common::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame,
    head,
};
use common::{Fake, TestEdge, token, until};
use edge::metrics::Closed;
use tempfile::TempDir;
use tokio::process::Command;

const FILE: &str = "/v1/cohorts/alpha/files/a.bin";

const PROTOCOLS: [&str; 2] = ["--http2", "--http1.1"];

/// curl, that sends without asking first.
fn curl(test: &TestEdge, folder: &TempDir, protocol: &str, path: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "30", protocol, "--header", "Expect:", "--cacert"]);
    curl.arg(folder.path().join("chain.pem")).arg("--header");
    curl.arg(format!("Authorization: Bearer {}", token().expose()));
    curl.args(["--write-out", "\n%{http_code}"]).arg(format!("https://{}{path}", test.address));
    curl.stdout(Stdio::piped()).stderr(Stdio::piped());
    curl
}

fn put(test: &TestEdge, folder: &TempDir, body: &Path, protocol: &str) -> Command {
    let mut curl = curl(test, folder, protocol, FILE);
    curl.arg("-T").arg(body);
    curl
}

/// It is a problem with its status, and curl takes it for a whole answer.
fn assert_told(told: &Output, expected: &str, protocol: &str) {
    let said = String::from_utf8_lossy(&told.stdout);
    let (status, kind) = expected.split_once(' ').unwrap();
    assert!(
        told.status.success()
            && said.ends_with(status)
            && said.contains(&format!("urn:culvert:problem:{kind}")),
        "{protocol}: {}, {said:?}, {}",
        told.status,
        String::from_utf8_lossy(&told.stderr)
    );
}

async fn edge(fake: &Fake, limits: &str) -> (TestEdge, TempDir) {
    TestEdge::start_tls(fake, limits).await
}

fn closed(test: &TestEdge, why: Closed) -> u64 {
    test.edge.metrics.connections_closed.with_label_values(&[why.label()]).get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_of_many_connections_are_all_answered() {
    let fake = Fake::start().await;
    fake.state.file_size.store(100_000, SeqCst);
    let (test, _folder) = edge(&fake, "").await;
    let output = Command::new("h2load")
        .args(["-n", "600", "-c", "4", "-m", "20", "-T", "20"])
        .arg("--header")
        .arg(format!("authorization: Bearer {}", token().expose()))
        .arg(format!("https://{}{FILE}", test.address))
        .output()
        .await
        .expect("h2load (package nghttp2-client) is installed");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("600 succeeded, 0 failed, 0 errored"), "{said}");
    assert!(said.contains("status codes: 600 2xx"), "{said}");
    assert_eq!(closed(&test, Closed::Flood), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_still_sending_reads_the_refusal() {
    let fake = Fake::start().await;
    let (test, folder) = edge(&fake, "max_body_bytes = 1000").await;
    let body = folder.path().join("body");
    std::fs::write(&body, vec![1; 8_000_000]).unwrap();
    for protocol in PROTOCOLS {
        let told = put(&test, &folder, &body, protocol).output().await.unwrap();
        assert_told(&told, "413 too-large", protocol);
    }
    assert_eq!(fake.state.received.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_mid_upload_reads_why_it_ends() {
    let until_its_store = |protocol, ends: fn(&Fake)| async move {
        let fake = Fake::start().await;
        fake.state.freezes_after.store(100_000, SeqCst);
        let (test, folder) = edge(&fake, "").await;
        let body = folder.path().join("body");
        std::fs::write(&body, vec![1; 8_000_000]).unwrap();
        let sending = put(&test, &folder, &body, protocol).spawn().unwrap();
        until("a part is there", || fake.state.frozen.load(SeqCst)).await;
        ends(&fake);
        let told = sending.wait_with_output().await.unwrap();
        assert_told(&told, "503 tunnel-unavailable", protocol);
    };
    let [newer, older] = PROTOCOLS;
    tokio::join!(
        until_its_store(newer, |_| {}),
        until_its_store(older, |_| {}),
        until_its_store(newer, Fake::die),
        until_its_store(older, Fake::die),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_mid_upload_reads_that_there_is_no_room() {
    let fake = Fake::start().await;
    fake.state.full_after.store(1_000_000, SeqCst);
    let (test, folder) = edge(&fake, "").await;
    let body = folder.path().join("body");
    std::fs::write(&body, vec![1; 8_000_000]).unwrap();
    for protocol in PROTOCOLS {
        let told = put(&test, &folder, &body, protocol).output().await.unwrap();
        assert_told(&told, "507 quota", protocol);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_what_came_before_reads_its_receipt() {
    let fake = Fake::start().await;
    fake.state.before.store(true, SeqCst);
    fake.state.before_size.store(8_000_000, SeqCst);
    let (test, folder) = edge(&fake, "").await;
    let body = folder.path().join("body");
    std::fs::write(&body, vec![1; 8_000_000]).unwrap();
    for protocol in PROTOCOLS {
        let mut form = curl(&test, &folder, protocol, "/v1/cohorts/alpha/files");
        form.arg("-F").arg(format!("file=@{};filename=a.bin", body.display()));
        for mut sending in [put(&test, &folder, &body, protocol), form] {
            let told = sending.args(["--header", "Idempotency-Key: k"]).output().await.unwrap();
            let said = String::from_utf8_lossy(&told.stdout);
            let error = String::from_utf8_lossy(&told.stderr);
            assert!(told.status.success() && said.ends_with("\n201"), "{protocol}: {said:?} {error}");
            assert!(said.contains("\"size\":8000000"), "{protocol}: {said:?}");
        }
    }
    assert_eq!(fake.state.received.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_empty_frames_end_the_connection() {
    let fake = Fake::start().await;
    let (test, folder) = edge(&fake, "").await;
    let floods = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 10])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 3, 9])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
    ];
    for (at, (name, flood)) in (1..).zip(floods) {
        let mut client = Frames::connect(test.address, folder.path(), &[]).await;
        assert!(client.ends_before(&flood, 5_000).await, "{name}");
        until("it is counted", || closed(&test, Closed::Flood) == at).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let fake = Fake::start().await;
    let (test, folder) = edge(&fake, "").await;
    let mut client = Frames::connect(test.address, folder.path(), &[]).await;
    let head = head("GET", FILE);
    let mut ended = false;
    for number in 0..5_000 {
        let stream = number * 2 + 1;
        let begun = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
        let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        if client.ends_before(&[begun, reset].concat(), 1).await {
            ended = true;
            break;
        }
    }
    assert!(ended);
    let asked = fake.state.permissions.load(SeqCst);
    assert!(asked < 300, "storaged was asked {asked} times");
    until("nothing is left of it", || test.edge.metrics.connections_active.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_an_end_is_not_collected() {
    let fake = Fake::start().await;
    let (test, folder) = edge(&fake, "").await;
    let mut client = Frames::connect(test.address, folder.path(), &[]).await;
    client.send(&frame(HEADERS, 0, 1, &head("GET", FILE))).await.unwrap();
    // A field whose value goes on and on.
    let part = frame(CONTINUATION, 0, 1, &[&[0, 1, b'x', 126][..], &[b'v'; 126]].concat().repeat(100));
    assert!(client.ends_before(&part, 1_000).await);
    until("nothing is left of it", || test.edge.metrics.connections_active.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_of_its_answer_loses_the_stream_alone() {
    let fake = Fake::start().await;
    fake.state.file_size.store(50_000_000, SeqCst);
    let (test, folder) = edge(&fake, "idle_timeout = \"1s\"").await;
    // SETTINGS_INITIAL_WINDOW_SIZE of 1,000 bytes, and no update ever.
    let mut client = Frames::connect(test.address, folder.path(), &[0, 4, 0, 0, 3, 232]).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", FILE))).await.unwrap();
    let reset = client.next_of(RST_STREAM).await.expect("the stream ends, the connection lives");
    assert_eq!(reset.stream, 1);
    until("its place is free", || {
        test.edge.metrics.requests_in_flight.with_label_values(&["download"]).get() == 0
    })
    .await;
    client.send(&frame(PING, 0, 0, &[1; 8])).await.unwrap();
    assert_eq!(client.next_of(PING).await.expect("it lives").payload, [1; 8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_nothing_to_do_is_told_to_go() {
    let fake = Fake::start().await;
    let (test, folder) = edge(&fake, "header_timeout = \"500ms\"").await;
    let mut client = Frames::connect(test.address, folder.path(), &[]).await;
    assert!(client.next_of(GOAWAY).await.is_some());
    assert!(client.next_of(DATA).await.is_none(), "and the connection ends");
    until("nothing is left of it", || test.edge.metrics.connections_active.get() == 0).await;
}
