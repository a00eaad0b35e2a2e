//! What the commands about people ask storaged for, and what they say.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// `culvert` against a daemon that answers once with these lines; what it was asked.
fn asked(arguments: &[&str], lines: Vec<Value>) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("storaged.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        for answer in lines {
            stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
        }
        serde_json::from_str::<Value>(&line).unwrap()
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    let output = command.args(arguments).arg("--socket").arg(&socket).output().unwrap();
    (output, daemon.join().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn each_command_asks_for_its_verb() {
    let id = "0a".repeat(16);
    let table: Vec<(Vec<&str>, Value)> = vec![
        (
            vec!["user", "add", "ann", "--role", "user", "--cohort", "c5"],
            json!({"verb": "user.add", "args": {"user": "ann", "role": "user", "cohorts": ["c5"]}}),
        ),
        (vec!["user", "enable", "ann"], json!({"verb": "user.enable", "args": {"user": "ann"}})),
        (
            vec!["user", "role", "ann", "auditor"],
            json!({"verb": "user.role", "args": {"user": "ann", "role": "auditor"}}),
        ),
        (
            vec!["user", "join", "ann", "c5_users"],
            json!({"verb": "user.join", "args": {"user": "ann", "group": "c5_users"}}),
        ),
        (vec!["token", "revoke", &id], json!({"verb": "token.revoke", "args": {"token": id}})),
        (
            vec!["cohort", "add", "c5", "--quota-bytes", "9", "--scan", "required"],
            json!({"verb": "cohort.add", "args": {"cohort": "c5", "quota_bytes": 9, "scan": "required"}}),
        ),
        (
            vec!["cohort", "set", "c5", "--content", "checked", "--clear", "quota_bytes"],
            json!({"verb": "cohort.set",
                "args": {"cohort": "c5", "content": "checked", "clear": ["quota_bytes"]}}),
        ),
        (
            vec!["cohort", "grant", "c5", "ann"],
            json!({"verb": "cohort.grant", "args": {"cohort": "c5", "user": "ann"}}),
        ),
        (
            vec!["edge", "add", "web1", "--cohort", "c5"],
            json!({"verb": "edge.add", "args": {"edge": "web1", "cohorts": ["c5"]}}),
        ),
        (vec!["edge", "remove", "web1"], json!({"verb": "edge.remove", "args": {"edge": "web1"}})),
        (
            vec!["access", "set", "--mask-cohorts", "true"],
            json!({"verb": "access.set", "args": {"mask_cohorts": true}}),
        ),
        (vec!["capability", "revoke", &id], json!({"verb": "capability.revoke", "args": {"capability": id}})),
    ];
    for (arguments, expected) in table {
        let (output, request) = asked(&arguments, vec![json!({"done": {"changed": true}})]);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(request, expected, "{arguments:?}");
    }
}

#[test]
fn a_token_is_all_that_stands_on_standard_output() {
    let answer = json!({"done": {"id": "0a".repeat(16), "token": "cvt_x", "expires": null}});
    let (output, request) = asked(&["token", "issue", "ann", "--days", "2"], vec![answer]);
    assert_eq!(request["args"], json!({"user": "ann", "expires_in_s": 172_800}));
    assert_eq!(text(&output.stdout), "cvt_x\n");
}

#[test]
fn disabling_says_what_it_ended_and_the_last_admin_is_refused() {
    let ended = json!({"tokens": 2, "links": 1, "uploads": 1, "downloads": 3, "partial_uploads": 4});
    let done = json!({"done": {"changed": true, "ended": ended}});
    let (output, _) = asked(&["user", "disable", "ann"], vec![done]);
    let told = text(&output.stdout);
    for part in ["ann is shut out", "2 tokens", "1 links", "3 downloads", "4 partial_uploads"] {
        assert!(told.contains(part), "{told}");
    }
    let refusal = json!({"error": {"code": "last-admin", "message": "adm is the last admin"}});
    let (output, _) = asked(&["user", "disable", "adm"], vec![refusal]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let refusal = json!({"error": {"code": "refused", "message": "there is no user x"}});
    assert_eq!(asked(&["user", "disable", "x"], vec![refusal]).0.status.code(), Some(1));
}

#[test]
fn the_past_is_asked_for_to_the_end_of_its_day() {
    let item = json!({"user": "ann", "cohort": "c5", "role": "user", "disabled": false, "granted": true, "group": null});
    let lines = vec![json!({"item": item}), json!({"done": {"items": 1}})];
    let (output, request) = asked(&["access", "list", "--cohort", "c5", "--at", "1970-01-01"], lines.clone());
    assert_eq!(request["args"], json!({"cohort": "c5", "at_ms": 86_399_999}));
    let told = text(&output.stdout);
    assert!(told.starts_with("USER") && told.contains("ann   c5"), "{told}");
    let (output, _) = asked(&["access", "list", "--json"], lines);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), item);
}

#[test]
fn a_file_is_shared_by_a_link() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let id = "0b".repeat(16);
    let made =
        json!({"url": "/p/cvc_x", "capability_id": "0c".repeat(16), "expires": "2026-11-22T00:00:00Z"});
    let answers = [
        format!("HTTP/1.1 200 OK\r\nculvert-file-id: {id}\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"),
        format!(
            "HTTP/1.1 201 Created\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{made}",
            made.to_string().len()
        ),
    ];
    let edge = std::thread::spawn(move || {
        answers.map(|answer| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = vec![0; 4096];
            let mut length = stream.read(&mut seen).unwrap();
            // The head of a POST may come before its body.
            while seen.starts_with(b"POST") && !seen[..length].ends_with(b"}") {
                length += stream.read(&mut seen[length..]).unwrap();
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(seen[..length].to_vec()).unwrap()
        })
    });
    let output = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["share", "c5/a b.csv", "--hours", "2", "--uses", "3", "--network", "192.0.2.0/24"])
        .args(["--certificate", &"0d".repeat(32)])
        .env("CULVERT_SERVER", &server)
        .env("CULVERT_TOKEN", store_proto::Token::from_bytes([7; 32]).expose())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), format!("{server}/p/cvc_x\n"));
    let [head, post] = edge.join().unwrap();
    assert!(head.starts_with("HEAD /v1/cohorts/c5/files/a%20b.csv "), "{head}");
    assert!(post.starts_with(&format!("POST /v1/files/{id}/presign ")), "{post}");
    let body: Value = serde_json::from_str(post.split_once("\r\n\r\n").unwrap().1).unwrap();
    let bind = json!({"ip_prefix": "192.0.2.0/24", "certificate_sha256": "0d".repeat(32)});
    let expected = json!({"expires_in": 7200, "max_uses": 3, "bind": bind});
    assert_eq!(body, expected);
}
