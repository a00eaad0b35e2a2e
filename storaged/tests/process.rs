//! The real program: refuses bad configurations, serves under its lock-down (read from
//! `/proc`), answers operators, ends in order, and tidies after `kill -9`.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[path = "support/made.rs"]
mod made;
mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};

use made::{Made, Running, SERVICE_USER, http_get, read_answer, wait};
use nix::sys::signal::{Signal, kill};

#[test]
fn a_served_file_and_a_lockdown_that_proc_confirms() {
    let made = Made::new();
    let running = made.start();
    let pid = running.child.id();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(':').unwrap().1.split_whitespace().next().unwrap().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2");
        assert_eq!(field("Uid"), SERVICE_USER.uid.to_string());
    }
    let answer = made.upload(b"some bytes");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let metrics = http_get(made.metrics, "/metrics");
    for line in [
        "storaged_operations_total{action=\"file_uploaded_via_stream\",result=\"succeeded\"} 1",
        "storaged_lockdown{layer=\"seccomp\"} 1",
        "storaged_received_bytes_total 10",
        "storaged_objects 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    for secret in ["\"ada\"", "\"c1\"", "192.0.2.9", "10.100", "web1"] {
        assert!(!metrics.contains(secret), "{secret} is in the metrics");
    }
    assert!(http_get(made.metrics, "/readyz").contains("ready"));
    let log = running.end(Signal::SIGTERM, Some(0));
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn after_kill_9_the_next_start_tidies_and_serves() {
    let made = Made::new();
    let running = made.start();
    assert!(made.upload(b"kept").starts_with("HTTP/1.1 201"));
    let mut half = made.send_head("half", 3_000_000);
    half.write_all(&vec![7; 1_000_000]).unwrap();
    wait("a temporary file", || std::fs::read_dir(made.path("volume/tmp")).unwrap().count() == 1);
    running.end(Signal::SIGKILL, None);
    let running = made.start();
    assert_eq!(std::fs::read_dir(made.path("volume/tmp")).unwrap().count(), 0);
    assert!(made.upload(b"kept").starts_with("HTTP/1.1 200"), "what was acknowledged is there");
    let log = running.end(Signal::SIGTERM, Some(0));
    assert!(log.contains("a dead process had left open"), "{log}");
}

#[test]
fn after_a_kill_the_last_groups_are_done_again_and_no_start_reads_the_whole_ledger() {
    let made = Made::new();
    let told = |signal, code| {
        let running = made.start();
        assert!(made.upload(b"kept").starts_with("HTTP/1.1 20"));
        running.end(signal, code)
    };
    told(Signal::SIGKILL, None);
    let log = told(Signal::SIGTERM, Some(0));
    assert!(log.contains("did again") && !log.contains("is repaired"), "{log}");
    let log = told(Signal::SIGTERM, Some(0));
    for line in ["did again", "is repaired", "at the end"] {
        assert!(!log.contains(line), "{log}");
    }
}

#[test]
fn a_drain_lets_a_running_upload_end() {
    let made = Made::new();
    let running = made.start();
    let mut stream = made.send_head("slow", 600_000);
    stream.write_all(&[7; 300_000]).unwrap();
    wait("a temporary file", || std::fs::read_dir(made.path("volume/tmp")).unwrap().count() == 1);
    kill(running.pid(), Signal::SIGTERM).unwrap();
    wait("new connections are refused or unanswered", || !made.is_healthy());
    stream.write_all(&[7; 300_000]).unwrap();
    let answer = read_answer(stream);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    running.wait(Some(0));
}

#[test]
fn the_directory_of_the_sockets_is_made_after_a_boot() {
    let made = Made::new();
    let text = std::fs::read_to_string(made.path("storaged.toml")).unwrap();
    let text = text.replace("/admin.sock\"", "/run/culvert/admin.sock\"");
    std::fs::write(made.path("storaged.toml"), text).unwrap();
    let running = made.start();
    assert!(made.path("run/culvert/admin.sock").exists());
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn a_listener_that_is_handed_in_is_used_if_it_is_the_configured_one() {
    let made = Made::new();
    let (configured, other) = (
        std::net::TcpListener::bind(made.address).unwrap(),
        std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let hand_in = |listener: std::net::TcpListener| {
        let script =
            "LISTEN_FDS=1 LISTEN_FDNAMES=internal LISTEN_PID=$$ exec \"$0\" --config \"$1\" 3<&0 </dev/null";
        Command::new("sh")
            .args([
                "-c",
                script,
                env!("CARGO_BIN_EXE_storaged"),
                made.path("storaged.toml").to_str().unwrap(),
            ])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let refused = hand_in(other).wait_with_output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78), "{told}");
    assert!(told.contains("`internal`") && told.contains(&made.address.to_string()), "{told}");

    let running = Running::of(hand_in(configured));
    wait("storaged is healthy", || made.is_healthy());
    assert!(made.upload(b"x").starts_with("HTTP/1.1 201"));
    running.end(Signal::SIGTERM, Some(0));
}

#[test]
fn bad_configurations_are_refused_by_key_value_and_exit_code() {
    let made = Made::new();
    let text = std::fs::read_to_string(made.path("storaged.toml")).unwrap();
    let services = text.replace("role = \"testing\"", "role = \"services\"");
    let address = format!("\"{}\"", made.address);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let table: Vec<(String, Vec<String>)> = vec![
        (text.replace("role = \"testing\"\n", ""), vec!["role".into(), "no default".into()]),
        (text.replace("\"testing\"", "\"web\""), vec!["role".into(), "edge".into()]),
        (format!("colour = 1\n{text}"), vec!["colour".into(), "bad.toml:1:1".into()]),
        (services.clone(), vec!["bind_address".into(), made.address.to_string(), "loopback".into()]),
        (services.replace(&address, "\"0.0.0.0:8001\""), vec!["0.0.0.0:8001".into()]),
        (
            services.replace(&address, "\"192.0.2.1:8001\""),
            vec!["192.0.2.1:8001".into(), "10.100.0.0/24".into()],
        ),
        (services.replace(&address, "\"10.100.0.250:8001\""), vec!["10.100.0.250:8001".into(), "wg0".into()]),
        (text.replace(&address, &format!("\"{}\"", taken.local_addr().unwrap())), vec!["in use".into()]),
        (
            text.replace(&made.metrics.to_string(), &taken.local_addr().unwrap().to_string()),
            vec!["metrics_listen".into(), "in use".into()],
        ),
        (
            text.replace("/admin.sock\"", "/storaged.toml/x.sock\""),
            vec!["admin_socket".into(), "storaged.toml/x.sock".into()],
        ),
        (
            text.replace("internal.key", "missing.key"),
            vec!["internal_api_key_file".into(), "missing.key".into()],
        ),
        (format!("{text}\n[[cohort]]\nname = \"c9\"\n"), vec!["culvert cohort add".into()]),
        (text.replace("volume\"", "state\""), vec!["volume `main`".into(), ".culvert-volume".into()]),
    ];
    for (text, expected) in table {
        let file = made.path("bad.toml");
        std::fs::write(&file, &text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_storaged"))
            .args(["--config", file.to_str().unwrap(), "--log-level", "error"])
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        // What a later start may find better is not the configuration's fault.
        let code = match expected[0].as_str() {
            "10.100.0.250:8001" => 75,
            "in use" | "metrics_listen" | "admin_socket" => 71,
            _ => 78,
        };
        assert_eq!(output.status.code(), Some(code), "{expected:?}: {told}");
        for part in expected {
            assert!(told.contains(&part), "{part:?} is not in {told:?}");
        }
    }
}

#[test]
fn the_configuration_can_be_checked_and_printed_without_secrets() {
    let made = Made::new();
    let run = |flag| {
        let output = Command::new(env!("CARGO_BIN_EXE_storaged"))
            .args(["--config", made.path("storaged.toml").to_str().unwrap(), flag])
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("--check-config").contains("ok"));
    let printed = run("--print-config");
    assert!(printed.contains("role = \"testing\"") && !printed.contains("ada"));
    assert!(printed.contains("admin_users = []") && printed.contains("auditor_users = []"), "{printed}");
    let key = std::fs::read_to_string(made.path("internal.key")).unwrap();
    assert!(!printed.contains(key.trim()));
}

#[test]
fn an_internal_key_that_everybody_can_read_is_refused() {
    let made = Made::new();
    let key = made.path("internal.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_storaged"))
        .args(["--config", made.path("storaged.toml").to_str().unwrap(), "--check-config"])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("internal.key") && told.contains("644"), "{told}");
}
