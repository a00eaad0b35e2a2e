//! What an operator's commands say about daemons: the audit trail, reload, the tunnel; and completions.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "operator/agent.rs"]
mod agent;
#[path = "../../crates/identity/testing/authority.rs"]
mod authority;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use serde_json::{Value, json};

#[test]
fn the_trail_is_asked_for_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("storaged.sock");
    let record = json!({
        "index": 4, "time_ms": 1_700_000_000_000_i64, "action": "access.denied", "ending": "denied",
        "cohort": "c5", "origin": {"user": "ann"},
    });
    let server = admin(&socket, vec![json!({ "item": record }), json!({ "done": {} })]);
    let socket = socket.to_str().unwrap();
    let arguments = ["audit", "trail", "--cohort", "c5", "--days", "7", "--socket", socket];
    let output = culvert(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.contains("2023-11-14T22:13:20Z") && shown.contains("access.denied"), "{shown}");
    let (request, _) = server.join().unwrap();
    assert_eq!(request, json!({"verb": "audit.trail", "args": {"cohort": "c5", "days": 7}}));
}

#[test]
fn what_is_overdue_is_a_finding() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("storaged.sock");
    let item = json!({
        "id": 7, "kind": "unfinished_object", "expected_cleanup_by": "2026-01-01T00:00:00.000Z",
        "overdue": true, "cleanup_attempted_count": 3, "last_error": "it is still there",
        "file_id": "00112233445566778899aabbccddeeff", "cleaned_up": false,
    });
    let server = admin(&socket, vec![json!({ "item": item }), json!({ "done": {"cleanups": 1} })]);
    let output = culvert(&["cleanup", "list", "--overdue", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("OVERDUE it is still there"), "{}", text(&output.stdout));
    assert_eq!(server.join().unwrap().0, json!({"verb": "cleanup.list", "args": {"overdue": true}}));
}

#[test]
fn integrity_has_three_outcomes_and_an_end_for_each() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("storaged.sock");
    let item = |is_valid: Value, error: &str| {
        json!({ "item": {
            "file_id": "00112233445566778899aabbccddeeff", "cohort": "c5", "is_valid": is_valid,
            "hash": "00", "error": error,
        }})
    };
    let done = |wrong: u64, unknown: u64| json!({ "done": {"files": 3, "valid": 3 - wrong - unknown, "not_valid": wrong, "cannot_tell": unknown, "scrub": []} });
    let missing = item(json!(false), "File does not exist");
    let away = item(Value::Null, "its volume cannot be used");
    for (answers, code, shown) in [
        (vec![json!({"item": {"checked": 3, "files": 3}}), done(0, 0)], 0, "3 valid, 0 not valid"),
        (
            vec![missing.clone(), done(1, 0)],
            1,
            "NOT VALID    00112233445566778899aabbccddeeff  c5            File does not exist",
        ),
        (vec![away.clone(), done(0, 1)], 4, "cannot tell"),
        (vec![missing, away, done(1, 1)], 1, "1 could not be looked at"),
        (
            vec![json!({"error": {"code": "busy", "message": "the objects are being looked at already"}})],
            4,
            "",
        ),
    ] {
        let server = admin(&socket, answers);
        let socket_path = socket.to_str().unwrap();
        let output =
            culvert(&["verify-phi-integrity", "--check-hashes", "--cohort", "c5", "--socket", socket_path]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(shown), "{shown} is not in {}", text(&output.stdout));
        let (request, _) = server.join().unwrap();
        assert_eq!(request["verb"], "integrity.verify");
        assert_eq!(request["args"], json!({"check_hashes": true, "cohort": "c5", "file": null}));
        std::fs::remove_file(&socket).unwrap();
    }
}

#[test]
fn an_emergency_cleanup_needs_both_flags() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("storaged.sock");
    for flags in [&["--force"][..], &["--confirm"], &[]] {
        let server = admin(&socket, vec![json!({ "done": {"cleanups": 0} })]);
        let mut arguments = vec!["cleanup", "emergency", "--socket", socket.to_str().unwrap()];
        arguments.extend(flags);
        let output = culvert(&arguments);
        assert_eq!(output.status.code(), Some(3), "{flags:?}: {}", text(&output.stderr));
        assert_eq!(server.join().unwrap().0["args"], json!({"confirm": false}));
        std::fs::remove_file(&socket).unwrap();
    }
    let server = admin(&socket, vec![json!({ "done": {"gone": 2, "still_there": 0} })]);
    let both = ["emergency-cleanup", "--force", "--confirm", "--socket", socket.to_str().unwrap()];
    let output = culvert(&both);
    assert!(output.status.success() && text(&output.stdout).contains("2 are gone"));
    assert_eq!(server.join().unwrap().0["args"], json!({"confirm": true}));
}

#[test]
fn a_report_is_written_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, out) = (directory.path().join("storaged.sock"), directory.path().join("q1.html"));
    let pieces = vec![
        json!({ "item": {"text": "<p>"} }),
        json!({ "item": {"text": "</p>"} }),
        json!({ "done": {"records": 3} }),
    ];
    let server = admin(&socket, pieces);
    let (at, file) = (socket.to_str().unwrap(), out.to_str().unwrap());
    let arguments = [
        "report",
        "audit",
        "--cohort",
        "c5",
        "--from",
        "2026-01-01",
        "--to",
        "2026-01-31",
        "--format",
        "html",
        "--out",
        file,
        "--socket",
        at,
    ];
    let output = culvert(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "<p></p>");
    let asked = server.join().unwrap().0["args"].clone();
    assert_eq!(asked["to_ms"].as_u64().unwrap() - asked["from_ms"].as_u64().unwrap(), 31 * 86_400_000);
    assert_eq!(culvert(&arguments).status.code(), Some(3), "the file exists");
    std::fs::remove_file(&out).unwrap();
    std::fs::remove_file(&socket).unwrap();
    let broken = json!({"error": {"code": "ledger-unavailable", "message": "no"}});
    let _server = admin(&socket, vec![json!({ "item": {"text": "<p>"} }), broken]);
    assert_eq!(culvert(&arguments).status.code(), Some(1));
    assert!(!out.exists());
}

#[test]
fn what_edge_holds_of_the_log_is_shown_and_a_fault_is_a_finding() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("edge.sock");
    let path = socket.to_str().unwrap();
    let note = "culvert/ab\n7\nAAAA\nepoch 0\n\n\u{2014} culvert/ab AAAA\n";
    let mut shown =
        json!({"checkpoint": note, "log_key": "culvert/ab+00+AA", "fault": null, "uploads": "taken"});
    let server = admin(&socket, vec![json!({ "done": shown })]);
    let output = culvert(&["checkpoint", "show", "--socket", path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("epoch 0") && text(&output.stdout).contains("uploads  taken"));
    assert_eq!(server.join().unwrap().0, json!({"verb": "checkpoint.show", "args": {"upstream": null}}));

    std::fs::remove_file(&socket).unwrap();
    shown["fault"] = "records are gone".into();
    let server = admin(&socket, vec![json!({ "done": shown })]);
    let output = culvert(&["checkpoint", "show", "--socket", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("records are gone"));
    server.join().unwrap();

    std::fs::remove_file(&socket).unwrap();
    let done = json!({"epoch": 1, "records": 9, "records_before": 20});
    let server = admin(&socket, vec![json!({ "done": done })]);
    let arguments = ["checkpoint", "accept", "--epoch", "1", "--upstream", "west", "--socket", path];
    let output = culvert(&arguments);
    assert!(text(&output.stdout).contains("accepted epoch 1 of 9 records, in the place of 20"));
    let asked = json!({"verb": "checkpoint.accept", "args": {"epoch": 1, "upstream": "west"}});
    assert_eq!(server.join().unwrap().0, asked);
}

#[test]
fn a_reload_hands_over_the_configuration_and_its_keys_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("key"), "the key").unwrap();
    let config = format!("internal_api_key_file = {:?}\n", path("key"));
    std::fs::write(path("edge.toml"), &config).unwrap();
    let server = admin(&path("edge.sock"), vec![json!({ "done": "3 settings changed" })]);
    let (socket, file) = (path("edge.sock"), path("edge.toml"));
    let arguments =
        ["reload", "edge", "--socket", socket.to_str().unwrap(), "--config", file.to_str().unwrap()];
    let output = culvert(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (request, contents) = server.join().unwrap();
    assert_eq!(request["verb"], "reload");
    assert_eq!(request["args"]["files"][1]["key"], "internal_api_key_file");
    assert_eq!(contents, [config, "the key".to_owned()]);
}

#[test]
fn a_refused_reload_is_told_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("wgd.sock");
    let refusal = json!({"error": {"code": "invalid", "message": "wg0.conf:3: MTU: not a number"}});
    let server = admin(&socket, vec![refusal]);
    let output = culvert(&["reload", "wgd", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("wg0.conf:3: MTU: not a number"));
    server.join().unwrap();
}

#[test]
fn a_daemon_that_is_away_cannot_tell() {
    let output = culvert(&["audit", "trail", "--socket", "/nonexistent/storaged.sock"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("/nonexistent/storaged.sock"));
}

#[test]
fn the_tunnel_is_shown_and_judged() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("wg0.sock")).unwrap();
    // One peer that never shook hands.
    let answer =
        format!("listen_port=51820\npublic_key={}\nlast_handshake_time_sec=0\nerrno=0\n\n", "01".repeat(32));
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 7];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"get=1\n\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let sockets = ["--socket-dir", directory.path().to_str().unwrap(), "--wgd-socket", "/nonexistent"];
    let status = culvert(&[&["tunnel", "status"], &sockets[..]].concat());
    assert!(status.status.success(), "{}", text(&status.stderr));
    assert!(text(&status.stdout).contains("never"), "{}", text(&status.stdout));
    let check = culvert(&[&["tunnel", "check", "wg0"], &sockets[..]].concat());
    assert_eq!(check.status.code(), Some(1));
    assert!(text(&check.stdout).contains("DOWN"));
    server.join().unwrap();
    drop(directory);
    let gone = culvert(&["tunnel", "check", "wg0", "--socket-dir", "/nonexistent"]);
    assert_eq!(gone.status.code(), Some(1), "no daemon: the tunnel is down");
}

#[test]
fn events_are_shown_line_by_line_until_wgd_ends() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("wgd.sock");
    let event = json!({
        "what": "roamed", "interface": "wg0", "peer": "web1\u{1b}[2J", "public_key": "K=", "at_unix_ms": 1_000,
        "from": "192.0.2.1:1", "to": "192.0.2.2:2",
    });
    let other =
        json!({"what": "up", "interface": "wg7", "peer": "x", "public_key": "K=", "at_unix_ms": 2_000});
    for json in [false, true] {
        let answers = [&json!(null), &event, &json!(null), &other].map(|item| json!({ "item": item }));
        let server = admin(&socket, answers.to_vec());
        let more: &[&str] = if json { &["--json"] } else { &[] };
        let socket_text = socket.to_str().unwrap();
        let arguments = ["tunnel", "status", "wg0", "--follow", "--wgd-socket", socket_text];
        let output = culvert(&[&arguments[..], more].concat());
        assert_eq!(output.status.code(), Some(4), "wgd ended: {}", text(&output.stderr));
        let shown = text(&output.stdout);
        if json {
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), event);
        } else {
            let end = "  wg0  web1\u{fffd}[2J roamed from 192.0.2.1:1 to 192.0.2.2:2\n";
            assert!(shown.ends_with(end) && shown.lines().count() == 1, "{shown}");
        }
        assert_eq!(server.join().unwrap().0["verb"], "events");
        std::fs::remove_file(&socket).unwrap();
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = culvert(&["completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("tunnel"), "{shell}");
    }
}

fn culvert(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Answers one admin request; returns it, and what the descriptors that came with it hold.
fn admin(socket: &Path, answers: Vec<Value>) -> JoinHandle<(Value, Vec<String>)> {
    use std::os::fd::AsFd;
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 4096];
        let (length, descriptors) =
            linux::descriptors::receive_with_descriptors(stream.as_fd(), &mut buffer).unwrap();
        let mut line = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if !line.ends_with('\n') {
            BufReader::new(&stream).read_line(&mut line).unwrap();
        }
        for answer in answers {
            stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
        }
        let contents = descriptors.into_iter().map(|descriptor| {
            let mut text = String::new();
            File::from(descriptor).read_to_string(&mut text).unwrap();
            text
        });
        (serde_json::from_str(&line).unwrap(), contents.collect())
    })
}
