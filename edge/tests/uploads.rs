//! Uploads: bytes pass as they come, storaged decides before they do, and every way of ending early
//! ends both sides.

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::{Fake, PUT, TestEdge, authorization, until};
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storaged_sees_bytes_while_the_client_still_sends() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 200000\r\n\r\n", authorization())).await;
    client.send(vec![1; 100_000]).await;
    until("half of the body is there", || fake.state.received.load(SeqCst) == 100_000).await;
    assert_eq!(fake.state.completed.load(SeqCst), 0);
    client.send(vec![1; 100_000]).await;
    let answer = client.read().await;
    assert_eq!(answer.status, 201);
    let receipt: store_proto::UploadReceipt = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(receipt.size, 200_000);
    assert_eq!(answer.header("etag"), Some(receipt.etag.as_str()));
    until("all frames are released", || edge.edge.metrics.buffered_bytes.get() == 0).await;
    let context = fake.state.last_context.lock().unwrap().clone().unwrap();
    assert_eq!(context.request_id.as_str(), answer.header("request-id").unwrap());
    assert_eq!(context.edge.as_str(), "web1");
    assert_eq!(context.client_address.to_string(), "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_came_before_is_answered_without_its_body() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let key = "Idempotency-Key: \"k\"\r\nCulvert-Attribute: site=x\r\nCulvert-Attribute: arm=b\r\n";
    let head = format!("{PUT}{}{key}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", authorization());
    let mut client = edge.connect().await;
    assert_eq!(client.ask(&head).await.status, 100);
    assert_eq!(client.ask("hello").await.status, 201);
    let told = |name: &str| fake.state.last_headers.lock().unwrap().get(name).cloned();
    assert_eq!(told("idempotency-key").as_deref(), Some("\"k\""));
    assert_eq!(told("culvert-attribute").as_deref(), Some("arm=b,site=x"));
    // storaged knows it now: nothing of the body is asked for.
    fake.state.before.store(true, SeqCst);
    let answer = edge.connect().await.ask(&head).await;
    assert_eq!((answer.status, answer.header("location")), (201, Some("/v1/cohorts/alpha/files/a.bin")));
    let receipt: store_proto::UploadReceipt = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((receipt.size, answer.header("etag")), (5, Some(receipt.etag.as_str())));
    assert_eq!(fake.state.received.load(SeqCst), 5);
    assert_eq!(answer.header("connection"), Some("close"), "what a client sends all the same is no request");
    // One that does not wait to be asked is heard to the end, and goes on afterwards.
    let unasked = head.replace("Expect: 100-continue\r\n", "");
    let mut client = edge.connect().await;
    for _ in 0..2 {
        let answer = client.ask(format!("{unasked}hello")).await;
        assert_eq!((answer.status, answer.header("connection")), (201, None));
    }
    // What is longer than it was then is not: the answer ends the connection.
    let longer = unasked.replace("Content-Length: 5", "Content-Length: 6");
    let answer = edge.connect().await.ask(format!("{longer}hello!")).await;
    assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));
    assert_eq!(fake.state.received.load(SeqCst), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_tells_its_sender_what_was_said_of_it() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let metadata = "filename YS5jc3Y=,is_confidential";
    let upload_id = store_proto::FileId::from_bytes([3; 16]);
    *fake.state.resumable.lock().unwrap() = Some(store_proto::UploadState {
        upload_id,
        offset: 3,
        length: Some(5),
        expires_at: "2026-11-23T00:00:00Z".into(),
        complete: false,
        metadata: Some(metadata.into()),
        receipt: None,
    });
    let tus = format!("Host: e\r\nTus-Resumable: 1.0.0\r\n{}", authorization());
    let mut client = edge.connect().await;
    let told = client.ask(format!("HEAD /v1/uploads/{upload_id} HTTP/1.1\r\n{tus}\r\n")).await;
    // What is read here is in lower case.
    let expected = metadata.to_ascii_lowercase();
    assert_eq!((told.status, told.header("upload-metadata")), (204, Some(expected.as_str())));
    // A beginning that came before: its bytes are not put behind those that are there.
    let head = "Upload-Length: 5\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: 3";
    let head = format!("Upload-Metadata: {metadata}\r\nIdempotency-Key: k\r\n{head}");
    let begun =
        client.ask(format!("POST /v1/cohorts/alpha/uploads HTTP/1.1\r\n{tus}{head}\r\n\r\nabc")).await;
    assert_eq!((begun.status, begun.header("upload-offset")), (201, Some("3")));
    assert_eq!(fake.state.received.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_bodies_and_keep_alive_work() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    for _ in 0..3 {
        let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(client.ask(format!("{PUT}{}{chunked}", authorization())).await.status, 201);
        let empty = client.ask(format!("{PUT}{}Content-Length: 0\r\n\r\n", authorization())).await;
        assert_eq!(empty.status, 201);
    }
    assert_eq!(fake.state.received.load(SeqCst), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_body_is_asked_for_only_after_permission() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let expect = "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let go_on = client.ask(format!("{PUT}{}{expect}", authorization())).await;
    assert_eq!(go_on.status, 100);
    assert_eq!(fake.state.permissions.load(SeqCst), 1);
    assert_eq!(client.ask("hello").await.status, 201);

    let mut client = edge.connect().await;
    let wrong = store_proto::Token::from_bytes([9; 32]);
    let refused = client.ask(format!("{PUT}Authorization: Bearer {}\r\n{expect}", wrong.expose())).await;
    assert_eq!((refused.status, refused.kind().as_str()), (401, "unauthenticated"));
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_aborts_storaged() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 200000\r\n\r\n", authorization())).await;
    client.send(vec![1; 1000]).await;
    until("a part is there", || fake.state.received.load(SeqCst) == 1000).await;
    drop(client);
    until("storaged sees the end", || fake.state.aborted.load(SeqCst) == 1).await;
    assert_eq!(fake.state.completed.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_shorter_than_announced_is_told_so() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 200000\r\n\r\nonly this", authorization())).await;
    client.stream.shutdown().await.unwrap();
    let answer = client.read().await;
    assert_eq!((answer.status, answer.kind().as_str()), (400, "incomplete-body"));
    until("storaged sees the end", || fake.state.aborted.load(SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_beyond_the_announced_length_are_no_part_of_the_file() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let answer = client.ask(format!("{PUT}{}Content-Length: 5\r\n\r\nhello and more", authorization())).await;
    assert_eq!(answer.status, 201);
    until("five bytes", || fake.state.received.load(SeqCst) == 5).await;
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_longer_than_allowed_is_stopped() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "max_body_bytes = 1000").await;
    let mut client = edge.connect().await;
    let announced = client.ask(format!("{PUT}{}Content-Length: 1001\r\n\r\n", authorization())).await;
    assert_eq!((announced.status, announced.kind().as_str()), (413, "too-large"));
    assert_eq!(fake.state.permissions.load(SeqCst), 0);

    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Transfer-Encoding: chunked\r\n\r\n", authorization())).await;
    client.send([b"3e8\r\n".as_slice(), &[0; 1000], b"\r\n"].concat()).await;
    until("all that is allowed is there", || fake.state.received.load(SeqCst) == 1000).await;
    let answer = client.ask("1\r\nx\r\n").await;
    assert_eq!((answer.status, answer.kind().as_str()), (413, "too-large"));
    until("storaged sees the end", || fake.state.aborted.load(SeqCst) == 1).await;
    assert_eq!(fake.state.completed.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_pauses_is_given_up() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "idle_timeout = \"300ms\"").await;
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 10\r\n\r\nhello", authorization())).await;
    let answer = client.read().await;
    assert_eq!((answer.status, answer.kind().as_str()), (408, "body-timeout"));
    until("storaged sees the end", || fake.state.aborted.load(SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_is_given_up() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "idle_timeout = \"1s\"").await;
    let client = edge.connect().await;
    let (mut read, mut write) = client.stream.into_split();
    let head = format!("{PUT}{}Content-Length: 1000\r\n\r\n", authorization());
    let sending = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = vec![0; 12];
    let reading = tokio::io::AsyncReadExt::read_exact(&mut read, &mut answer);
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    until("storaged sees the end", || fake.state.aborted.load(SeqCst) == 1).await;
    sending.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_slowly_and_steadily_is_taken() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "idle_timeout = \"3s\"").await;
    let mut client = edge.connect().await;
    client.send(format!("{PUT}{}Content-Length: 6000\r\n\r\n", authorization())).await;
    // Longer than that in all, and no pause as long.
    for _ in 0..10 {
        client.send([0; 600]).await;
        tokio::time::sleep(Duration::from_millis(350)).await;
    }
    assert_eq!(client.read().await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_bodys_end_reaches_a_client_that_keeps_sending() {
    let fake = Fake::start().await;
    fake.state.full_after.store(100_000, SeqCst);
    let edge = TestEdge::start(&fake, "").await;
    let client = edge.connect().await;
    let (read, mut write) = client.stream.into_split();
    let head = format!("{PUT}{}Content-Length: 100000000\r\n\r\n", authorization());
    let sending = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        while write.write_all(&[1; 8192]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut text = Vec::new();
    let mut read = read;
    // A reset may end the reading, but only after the answer.
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut text).await;
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("HTTP/1.1 507") && text.contains("urn:culvert:problem:quota"), "{text}");
    assert!(text.to_lowercase().contains("connection: close"));
    sending.await.unwrap();
}
