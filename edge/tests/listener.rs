//! Before HTTP: whose connection it is, and how many an address may have.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use common::{Fake, PUT, TestEdge, authorization, until};
use edge::metrics::Closed;

fn closed(test: &TestEdge, why: Closed) -> u64 {
    test.edge.metrics.connections_closed.with_label_values(&[why.label()]).get()
}

fn header(source: [u8; 4]) -> Vec<u8> {
    let rest = [&source[..], &[10, 0, 0, 1, 1, 2, 3, 4]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &rest].concat()
}

fn put() -> String {
    format!("{PUT}{}Content-Length: 2\r\n\r\nhi", authorization())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_balancer_says_whose_connection_it_is() {
    let fake = Fake::start().await;
    let test = TestEdge::start_with(&fake, "proxy_protocol_from = [\"127.0.0.0/8\"]\n").await;
    let mut client = test.connect().await;
    let seen = client.ask([header([192, 0, 2, 7]), put().into_bytes()].concat()).await;
    assert_eq!(seen.status, 201);
    let address = fake.state.last_context.lock().unwrap().as_ref().unwrap().client_address;
    assert_eq!(address.to_string(), "192.0.2.7");

    let mut silent = test.connect().await;
    silent.send(put()).await;
    assert!(silent.is_closed().await, "a balancer has to say it");
    until("it is counted", || closed(&test, Closed::Proxy) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_believed() {
    let fake = Fake::start().await;
    let test = TestEdge::start_with(&fake, "proxy_protocol_from = [\"192.0.2.0/24\"]\n").await;
    let mut client = test.connect().await;
    let seen = client.ask([header([192, 0, 2, 7]), put().into_bytes()].concat()).await;
    assert_eq!((seen.status, seen.kind().as_str()), (400, "bad-request"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_so_many_connections_and_the_next_is_closed() {
    let fake = Fake::start().await;
    let test = TestEdge::start(&fake, "max_connections_per_address = 2").await;
    let (mut one, mut two) = (test.connect().await, test.connect().await);
    assert_eq!((one.ask(put()).await.status, two.ask(put()).await.status), (201, 201));
    let mut three = test.connect().await;
    assert!(three.is_closed().await);
    assert_eq!(closed(&test, Closed::Address), 1);
    assert_eq!(one.ask(put()).await.status, 201, "the others go on");
    drop(two);
    until("a place is free", || test.edge.metrics.connections_active.get() == 1).await;
    assert_eq!(test.connect().await.ask(put()).await.status, 201);
}
