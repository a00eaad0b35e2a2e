//! The real program under its real lock-down: it serves, reloads, reports, stays small, and stops.
//! Also how it ends when it cannot start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod common;

use std::fs::File;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::program::{Program, command, write};
use common::{Client, Fake, GET, KEY, PUT, authorization, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_gibibyte_passes_in_both_directions_and_memory_stays_flat() {
    const SIZE: u64 = 512 << 20;
    let fake = Fake::start().await;
    fake.state.file_size.store(SIZE, SeqCst);
    let program = Program::start(&fake).await;
    let before = program.status_field("status", "VmHWM:").parse::<u64>().unwrap();
    let mut client = program.connect().await;
    let started = clock();
    client.send(format!("{PUT}{}Content-Length: {SIZE}\r\n\r\n", authorization())).await;
    let block = vec![7; 1 << 18];
    for _ in 0..SIZE >> 18 {
        client.send(&block).await;
    }
    assert_eq!(client.read().await.status, 201);
    let up = rate(SIZE, started);
    assert_eq!(fake.state.received.load(SeqCst), SIZE);

    let started = clock();
    client.send(format!("{GET}{}\r\n", authorization())).await;
    let mut left = SIZE;
    let mut scrap = vec![0; 1 << 18];
    while left > 0 {
        left = left.saturating_sub(client.stream.read(&mut scrap).await.unwrap() as u64);
    }
    let down = rate(SIZE, started);
    let peak = program.status_field("status", "VmHWM:").parse::<u64>().unwrap();
    eprintln!("up {up} MB/s, down {down} MB/s, peak {peak} KiB (started with {before} KiB)");
    assert!(peak < 48 << 10, "peak of {peak} KiB");
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_thread_is_locked_down_and_says_so() {
    let fake = Fake::start().await;
    let program = Program::start(&fake).await;
    let threads: Vec<_> = std::fs::read_dir(program.proc("task")).unwrap().collect();
    assert!(threads.len() >= 3);
    for thread in threads {
        let file = format!("task/{}/status", thread.unwrap().file_name().display());
        assert_eq!(program.status_field(&file, "Seccomp:"), "2");
        assert_eq!(program.status_field(&file, "NoNewPrivs:"), "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(program.status_field(&file, set), "0000000000000000", "{set}");
        }
    }
    let limits = std::fs::read_to_string(program.proc("limits")).unwrap();
    let file_size = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
    assert_eq!(file_size.split_whitespace().nth(3), Some("0"), "{file_size}");
    let metrics = program.scrape("/metrics").await;
    for line in [
        "edge_lockdown{layer=\"seccomp\"} 1",
        "edge_lockdown{layer=\"no_file_writes\"} 1",
        "edge_upstream_up{upstream=\"services\"} 1",
        "edge_buffered_bytes 0",
        "edge_local_payload_bytes 0",
        "process_resident_memory_bytes ",
        "edge_build_info{",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_all_or_nothing() {
    let fake = Fake::start().await;
    let program = Program::start(&fake).await;
    assert_eq!(program.reload().await.unwrap(), json!("taken"));
    let good = std::fs::read_to_string(program.file("edge.toml")).unwrap();

    write(&program.file("edge.toml"), &format!("{good}[limits]\nmax_body_bytes = 10\n"));
    program.reload().await.unwrap();
    let mut client = program.connect().await;
    let refused = client.ask(format!("{PUT}{}Content-Length: 11\r\n\r\n", authorization())).await;
    assert_eq!(refused.status, 413);

    write(&program.file("edge.toml"), &format!("{good}[limits]\nmax_bdy_bytes = 10\n"));
    let error = program.reload().await.unwrap_err();
    assert!(error.contains("edge.toml:") && error.contains("max_bdy_bytes"), "{error}");
    write(&program.file("edge.toml"), &good.replace("web1", "web2"));
    let error = program.reload().await.unwrap_err();
    assert!(error.contains("only a restart can change name"), "{error}");
    write(&program.file("edge.toml"), &good);
    write(&program.file("key"), "short");
    let error = program.reload().await.unwrap_err();
    assert!(error.contains("shorter than 16"), "{error}");

    let metrics = program.scrape("/metrics").await;
    assert!(metrics.contains("edge_config_last_reload_successful 0"));
    let mut client = program.connect().await;
    let still = client.ask(format!("{PUT}{}Content-Length: 11\r\n\r\n", authorization())).await;
    assert_eq!(still.status, 413, "the last good configuration stays");

    let socket = program.file("edge.sock");
    let status = tokio::task::spawn_blocking(move || {
        daemon::admin::call(&socket, "status", json!({}), &[], |_| {}).unwrap()
    });
    let status = status.await.unwrap();
    assert_eq!(
        (&status["circuit"], &status["lockdown"]["layers"]["seccomp"]),
        (&json!("closed"), &json!("on"))
    );
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_do_not_reach_a_forbidden_call() {
    let fake = Fake::start().await;
    fake.state.file_size.store(300_000, SeqCst);
    let program = Program::start(&fake).await;
    let public = program.public;
    let clients = (0..64).map(|number| {
        tokio::spawn(async move {
            for _ in 0..10 {
                let mut client = Client { stream: TcpStream::connect(public).await.unwrap() };
                client.send(format!("{PUT}{}Content-Length: 100000\r\n\r\n", authorization())).await;
                client.send(vec![1; 50_000]).await;
                if number % 8 == 0 {
                    continue; // goes away in the middle
                }
                client.send(vec![1; 50_000]).await;
                assert_eq!(client.read().await.status, 201);
                assert_eq!(client.ask(format!("{GET}{}\r\n", authorization())).await.body.len(), 300_000);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert!(program.scrape("/readyz").await.starts_with("HTTP/1.1 200"));
    let peak = program.status_field("status", "VmHWM:").parse::<u64>().unwrap();
    eprintln!("peak {peak} KiB with 64 clients");
    assert!(peak < 48 << 10, "peak of {peak} KiB");
    assert_eq!(program.stop().await, 0);
}

/// Each of them has sent more than edge's buffer for one, and waits. What they cost is heap and stacks: the code of a program
/// that was built for tests is several times as large as that of one that is shipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_open_uploads_cost_80_kib_each_at_most() {
    const UPLOADS: u64 = 1000;
    const HALF: usize = 72 << 10;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        most > 2 * UPLOADS + 100,
        "{most} descriptors are too few for both ends of {UPLOADS} connections"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let fake = Fake::start().await;
    let lines = "limits.rate_per_second = 0\nlimits.max_requests = 1024\nlimits.max_connections = 2048\n\
                 limits.max_connections_per_address = 2048\n";
    let program = Program::start_configured(&fake, lines).await;
    let mut clients = Vec::new();
    for _ in 0..UPLOADS {
        let mut client = program.connect().await;
        client.send(format!("{PUT}{}Content-Length: {}\r\n\r\n", authorization(), 2 * HALF)).await;
        client.send(vec![1; HALF]).await;
        clients.push(client);
    }
    until("all halves are there", || fake.state.received.load(SeqCst) == UPLOADS * HALF as u64).await;
    let open = program.status_field("status", "RssAnon:").parse::<u64>().unwrap();
    for client in &mut clients {
        client.send(vec![1; HALF]).await;
    }
    for client in &mut clients {
        assert_eq!(client.read().await.status, 201);
    }
    let after = program.status_field("status", "RssAnon:").parse::<u64>().unwrap();
    let with_code = program.status_field("status", "VmHWM:").parse::<u64>().unwrap();
    eprintln!("{UPLOADS} open uploads: {open} KiB, then {after} KiB; with its code {with_code} KiB at most");
    assert!(open.max(after) < 80 * UPLOADS, "{open} KiB, then {after} KiB");
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_handed_in_goes_before_the_configured_address() {
    let fake = Fake::start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let program = Program::start_as(&fake, Some(listener)).await;
    let mut client = Client { stream: TcpStream::connect(address).await.unwrap() };
    assert_eq!(client.ask(format!("{PUT}{}Content-Length: 2\r\n\r\nhi", authorization())).await.status, 201);
    assert!(TcpStream::connect(program.public).await.is_err());
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_wgd_is_followed_by_a_look_at_storaged() {
    let fake = Fake::start().await;
    let program = Program::start(&fake).await;
    let event = tunnel_events::Event {
        what: tunnel_events::What::Handshake,
        interface: "wg0".into(),
        peer: "svc1".into(),
        public_key: "k=".into(),
        at_unix_ms: 0,
    };
    let datagram = tunnel_events::Message::Event(event).encode();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let before = fake.state.health.load(SeqCst);
    let started = clock();
    for looks in 1..=5 {
        socket.send_to(b"junk", program.file("edge.events")).unwrap();
        socket.send_to(&datagram, program.file("edge.events")).unwrap();
        common::until("it looks", || fake.state.health.load(SeqCst) >= before + looks).await;
    }
    // On its own it would have looked once a second.
    assert!(clock().saturating_duration_since(started) < Duration::from_millis(4_500));
    assert_eq!(program.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_an_upload_and_a_second_one_does_not() {
    let fake = Fake::start().await;
    for patient in [true, false] {
        let mut program = Program::start(&fake).await;
        fake.state.received.store(0, SeqCst);
        let mut client = program.connect().await;
        client.send(format!("{PUT}{}Content-Length: 10\r\n\r\nhello", authorization())).await;
        common::until("it is under way", || fake.state.received.load(SeqCst) == 5).await;
        program.terminate();
        common::until("nobody is accepted", || std::net::TcpStream::connect(program.public).is_err()).await;
        assert!(program.scrape("/readyz").await.starts_with("HTTP/1.1 503"));
        if patient {
            client.send("world").await;
            assert_eq!(client.read().await.status, 201);
            drop(client);
        } else {
            program.terminate();
        }
        let status =
            tokio::time::timeout(Duration::from_secs(10), program.child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_named_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = folder.path().join("edge.toml");
    let key = folder.path().join("key");
    write(&key, KEY);
    let good =
        common::config_text("127.0.0.1:1".parse().unwrap(), "").replace("unused", &key.display().to_string());
    let cases = [
        (
            good.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string()),
            71,
            "another process has this port",
        ),
        (good.replace("plain_http = true", ""), 78, "tls_certificate_file: is missing"),
        (good.replace("listen =", "listn ="), 78, "unknown field `listn`"),
        (good.replace(&key.display().to_string(), "/nonexistent/key"), 78, "secret file /nonexistent/key"),
    ];
    for (text, code, message) in cases {
        write(&config, &text);
        let output = command(&config).output().await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(message), "{message} in {stderr}");
    }
    write(&config, &good);
    let into_a_file =
        command(&config).stderr(File::create(folder.path().join("log")).unwrap()).status().await.unwrap();
    assert_eq!(into_a_file.code(), Some(71));
    let said = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(said.contains("stderr is a regular file"), "{said}");
    let checked = command(&config).arg("--check-config").output().await.unwrap();
    assert_eq!(checked.status.code(), Some(0));
    let usage = command(&config).arg("--nonsense").output().await.unwrap();
    assert_eq!(usage.status.code(), Some(64));
}

fn clock() -> Instant {
    daemon::Clock.now()
}

fn rate(bytes: u64, started: Instant) -> u128 {
    u128::from(bytes) / 1000 / clock().saturating_duration_since(started).as_millis().max(1)
}
