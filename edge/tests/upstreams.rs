//! Several storageds behind one edge: a cohort has one of them, an id the one that made it, and one that is away takes
//! what it has with it and nothing else.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::{Fake, Seen, TestEdge, authorization, until};

async fn two() -> (Fake, Fake, TestEdge) {
    let (north, south) = (Fake::start().await, Fake::start().await);
    for (fake, id) in [(&north, 0x11), (&south, 0x22)] {
        fake.state.store.store(id, SeqCst);
        fake.state.file_size.store(1000, SeqCst);
    }
    let edge = TestEdge::before(&[("north", north.address, &["alpha"]), ("south", south.address, &["beta"])]);
    until("both circuits close", || edge.edge.upstreams.iter().all(|upstream| upstream.is_up())).await;
    (north, south, edge)
}

async fn ask(edge: &TestEdge, line: &str) -> Seen {
    edge.connect().await.ask(format!("{line} HTTP/1.1\r\nHost: e\r\n{}\r\n", authorization())).await
}

/// How many questions each has been asked since the last time.
fn asked(fakes: [&Fake; 2]) -> [u64; 2] {
    fakes.map(|fake| fake.state.permissions.swap(0, SeqCst))
}

fn id(first: &str) -> String {
    format!("{first}{}", "5c".repeat(12))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cohort_and_an_id_have_one_store_and_no_other_is_asked() {
    let (north, south, edge) = two().await;
    let both = [&north, &south];
    for (line, expected) in [
        ("GET /v1/cohorts/alpha/files/a.bin".to_owned(), [1, 0]),
        ("GET /v1/cohorts/beta/files/a.bin".to_owned(), [0, 1]),
        // Nobody's: the first one says that it does not exist, or that it does.
        ("GET /v1/cohorts/gamma/files/a.bin".to_owned(), [1, 0]),
        (format!("GET /v1/files/{}", id("11111111")), [1, 0]),
        (format!("GET /v1/files/{}", id("22222222")), [0, 1]),
        // From before stores said in their ids who they are.
        (format!("GET /v1/files/{}", id("abababab")), [1, 0]),
    ] {
        assert_eq!(ask(&edge, &line).await.status, 200, "{line}");
        assert_eq!(asked(both), expected, "{line}");
    }
    let presign = |id: &str| {
        let body = r#"{"expires_in": 60}"#;
        let head = format!("POST /v1/files/{id}/presign HTTP/1.1\r\nHost: e\r\n{}", authorization());
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let made = edge.connect().await.ask(presign(&id("22222222"))).await;
    assert_eq!(made.status, 201);
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let (before, there) = (north.state.last_context.lock().unwrap().take(), &south.state.last_context);
    assert!(before.is_some() && there.lock().unwrap().take().is_some());
    let url = made["url"].as_str().unwrap();
    let opened = edge.connect().await.ask(format!("GET {url} HTTP/1.1\r\nHost: e\r\n\r\n")).await;
    assert_eq!(opened.status, 200, "a link leads to whoever made it");
    assert!(there.lock().unwrap().is_some() && north.state.last_context.lock().unwrap().is_none());
    assert_eq!(ask(&edge, "OPTIONS /v1/uploads").await.status, 204);
    let policy: serde_json::Value = serde_json::from_slice(&ask(&edge, "GET /v1/policy").await.body).unwrap();
    assert_eq!(
        policy,
        serde_json::json!({"user": "ada", "cohorts": [{"cohort": "of-17"}, {"cohort": "of-34"}]})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_away_takes_its_own_cohorts_with_it_and_nothing_else() {
    let (north, south, edge) = two().await;
    let mut slow = edge.connect().await;
    let head = "PUT /v1/cohorts/alpha/files/slow.bin HTTP/1.1\r\nHost: e\r\n";
    slow.send(format!("{head}{}Content-Length: 10\r\n\r\nhello", authorization())).await;
    until("a part is there", || north.state.received.load(SeqCst) == 5).await;
    south.freeze(true);
    let upstream = |name: &str| std::sync::Arc::clone(edge.edge.upstreams.named(name).unwrap());
    until("its circuit opens", || !upstream("south").is_up()).await;
    for line in ["GET /v1/cohorts/beta/files/a.bin".to_owned(), format!("GET /v1/files/{}", id("22222222"))] {
        let answer = ask(&edge, &line).await;
        assert_eq!((answer.status, answer.kind().as_str()), (503, "tunnel-unavailable"), "{line}");
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(ask(&edge, "GET /v1/cohorts/alpha/files/a.bin").await.status, 200);
    slow.send("world").await;
    assert_eq!(slow.read().await.status, 201, "an upload to the other one goes on");
    assert!(edge.edge.upstreams.any_up(), "edge is ready as long as it can serve somebody");
    let policy: serde_json::Value = serde_json::from_slice(&ask(&edge, "GET /v1/policy").await.body).unwrap();
    assert_eq!(policy["incomplete"], true, "{policy}");
    let up = |name: &str| edge.edge.metrics.upstream_up.with_label_values(&[name]).get();
    assert_eq!((up("north"), up("south")), (1, 0));
    south.freeze(false);
    until("its circuit closes", || upstream("south").is_up()).await;
    assert_eq!(ask(&edge, "GET /v1/cohorts/beta/files/a.bin").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_says_it_is_the_wrong_one_is_believed_and_no_other_is_asked() {
    let (north, south, edge) = two().await;
    south.state.wrong.store(true, SeqCst);
    let put = "PUT /v1/cohorts/beta/files/a.bin HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\n";
    let put = format!("{put}Expect: 100-continue\r\n{}\r\n", authorization());
    for request in [put, format!("GET /v1/cohorts/beta/files HTTP/1.1\r\nHost: e\r\n{}\r\n", authorization())]
    {
        let answer = edge.connect().await.ask(&request).await;
        assert_eq!((answer.status, answer.kind().as_str()), (421, "wrong-store"), "{request}");
        // edge had said whom it means.
        let headers = south.state.last_headers.lock().unwrap().clone();
        assert_eq!(headers.get("culvert-store").map(String::as_str), Some("22222222"));
    }
    assert!(north.state.last_context.lock().unwrap().is_none(), "another store was asked");
    assert_eq!(asked([&north, &south]), [0, 0]);
    assert_eq!(ask(&edge, "GET /v1/cohorts/alpha/files/a.bin").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_may_be_that_of_a_store_which_never_answered_yet() {
    let north = Fake::start().await;
    north.state.store.store(0x11, SeqCst);
    north.state.file_size.store(1000, SeqCst);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let edge = TestEdge::before(&[("north", north.address, &["alpha"]), ("south", nobody, &["beta"])]);
    until("one circuit closes", || edge.edge.upstreams.any_up()).await;
    assert_eq!(ask(&edge, &format!("GET /v1/files/{}", id("11111111"))).await.status, 200);
    let answer = ask(&edge, &format!("GET /v1/files/{}", id("abababab"))).await;
    assert_eq!((answer.status, answer.kind().as_str()), (503, "tunnel-unavailable"));
}
