//! Stopping: what is under way is finished, what comes later is refused.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::{Fake, PUT, TestEdge, authorization, until};

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
