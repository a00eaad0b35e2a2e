//! Links: made with a token, opened by whoever holds one, ended by their maker.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::{Fake, TestEdge, authorization, byte_at};
use store_proto::Proof;

const ID: &str = "01010101010101010101010101010101";

fn presign(body: &str) -> String {
    let length = body.len();
    let line = format!("POST /v1/files/{ID}/presign HTTP/1.1");
    format!("{line}\r\nHost: e\r\n{}Content-Length: {length}\r\n\r\n{body}", authorization())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_made_opened_without_a_token_and_ended() {
    let fake = Fake::start().await;
    fake.state.file_size.store(100_000, SeqCst);
    let edge = TestEdge::start(&fake, "").await;
    let mut client = edge.connect().await;
    let made = client.ask(presign(r#"{"expires_in": 60, "bind": {"ip_prefix": "127.0.0.0/8"}}"#)).await;
    assert_eq!(made.status, 201);
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let url = made["url"].as_str().unwrap();
    assert!(url.starts_with("/p/cvc_"), "{made}");

    let opened = client.ask(format!("GET {url} HTTP/1.1\r\nHost: e\r\n\r\n")).await;
    assert_eq!((opened.status, opened.body.len()), (200, 100_000));
    assert_eq!(opened.header("content-disposition"), Some("attachment"), "no name is told");
    assert_eq!(opened.header("cache-control"), Some("no-store"));
    assert!(matches!(fake.state.last_context.lock().unwrap().as_ref().unwrap().proof, Proof::Capability(_)));
    let part = client.ask(format!("GET {url} HTTP/1.1\r\nHost: e\r\nRange: bytes=10-19\r\n\r\n")).await;
    assert_eq!((part.status, part.body.len(), part.body[0]), (206, 10, byte_at(10)));

    let path = format!("/v1/presign/{}", made["capability_id"].as_str().unwrap());
    let ended = client.ask(format!("DELETE {path} HTTP/1.1\r\nHost: e\r\n{}\r\n", authorization())).await;
    assert_eq!(ended.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_link_and_no_request_for_one_is_refused() {
    let fake = Fake::start().await;
    let edge = TestEdge::start(&fake, "").await;
    for body in [
        "",
        "{}",
        r#"{"expires_in": 0}"#,
        r#"{"expires_in": 604801}"#,
        r#"{"expires_in": 60, "method": "PUT"}"#,
        r#"{"expires_in": 60, "file_id": "02020202020202020202020202020202"}"#,
        r#"{"expires_in": 60, "user": "admin"}"#,
    ] {
        let refused = edge.connect().await.ask(presign(body)).await;
        assert_eq!((refused.status, refused.kind().as_str()), (400, "bad-request"), "{body}");
    }
    let long = edge.connect().await.ask(presign(&" ".repeat(5000))).await;
    assert_eq!((long.status, long.kind().as_str()), (413, "too-large"));
    let forged = store_proto::CapabilitySigner::from_seed(&[5; 32]).sign(store_proto::CapabilityClaims {
        id: store_proto::FileId::from_bytes([2; 16]),
        method: store_proto::CapabilityMethod::Get,
        file_id: store_proto::FileId::from_bytes([1; 16]),
        expires_s: u64::MAX,
        range: None,
        network: None,
        certificate: None,
    });
    let mut client = edge.connect().await;
    let refused = client.ask(format!("GET /p/{} HTTP/1.1\r\nHost: e\r\n\r\n", forged.expose())).await;
    assert_eq!((refused.status, refused.kind().as_str()), (401, "unauthenticated"));
}
