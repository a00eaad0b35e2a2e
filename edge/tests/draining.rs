//! Stopping: what is under way is finished, what comes later is refused.

mod common;

use std::process::Stdio;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::program::Program;
use common::{Fake, PUT, TestEdge, authorization, until};
use tokio::io::AsyncWriteExt as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_under_way_is_finished() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut idle = edge.connect().await;
    assert_eq!(idle.ask("GET /nothing HTTP/1.1\r\nHost: e\r\n\r\n").await.status, 404);
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 10\r\n\r\nhello", authorization())).await;
    until("it is under way", || fake.state.received.load(SeqCst) == 5).await;
    edge.edge.drain.begin();
    assert!(idle.is_closed().await, "an idle connection is closed");
    until("nobody is accepted", || std::net::TcpStream::connect(edge.address).is_err()).await;
    client.send("world").await;
    let answer = client.read().await;
    assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));
    drop((client, idle));
    assert_eq!(edge.edge.drain.finished().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_tls_and_http2_is_finished_by_a_daemon_that_was_told_to_stop() {
    let fake = Fake::start().await;
    let mut program = Program::start_tls(&fake, "").await;
    let mut curl = tokio::process::Command::new("curl");
    curl.args([
        "--silent",
        "--http2",
        "--max-time",
        "20",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{http_version}",
    ]);
    curl.arg("--cacert").arg(program.file("chain.pem"));
    curl.args(["-H", authorization().trim_end(), "-T", "-"]);
    curl.arg(format!("https://{}/v1/cohorts/alpha/files/a.bin", program.public));
    curl.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut curl = curl.spawn().expect("curl is installed");
    let mut sending = curl.stdin.take().unwrap();
    sending.write_all(b"hello").await.unwrap();
    until("it is under way", || fake.state.received.load(SeqCst) == 5).await;
    program.terminate();
    until("nobody is accepted", || std::net::TcpStream::connect(program.public).is_err()).await;
    sending.write_all(b"world").await.unwrap();
    drop(sending);
    let said = curl.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "201 2");
    assert_eq!(fake.state.received.load(SeqCst), 10);
    let ended = tokio::time::timeout(Duration::from_secs(10), program.child.wait()).await.expect("in time");
    assert_eq!(ended.unwrap().code(), Some(0));
}
