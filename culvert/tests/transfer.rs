//! `put`, `get` and `ls` against a server: what succeeds is verified, and what does not leaves nothing
//! behind and says why.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use support::{Edge, Manner, culvert, sha256, stderr, stdout};

#[test]
fn a_file_goes_up_and_comes_down_the_same() {
    let edge = Edge::start(Manner::Honest);
    let directory = tempfile::tempdir().unwrap();
    let (up, down) = (directory.path().join("up.bin"), directory.path().join("down.bin"));
    // Not a multiple of any buffer's size.
    let data: Vec<u8> = (0..=250).cycle().take(3_000_017).collect();
    fs::write(&up, &data).unwrap();

    let put = edge.culvert(&["put", up.to_str().unwrap(), "c5/in/"]);
    assert!(put.status.success(), "{}", stderr(&put));
    assert!(stdout(&put).contains(&format!("c5/in/up.bin: stored, 3000017 bytes, sha256 {}", sha256(&data))));
    assert!(stderr(&put).contains("put up.bin: 2.86 MiB in"), "a final line: {}", stderr(&put));

    let get = edge.culvert(&["get", "c5/in/up.bin", down.to_str().unwrap()]);
    assert!(get.status.success(), "{}", stderr(&get));
    assert_eq!(fs::read(&down).unwrap(), data);
    assert_eq!(names_in(directory.path()), ["down.bin", "up.bin"], "no .part is left");
}

#[test]
fn standard_input_and_output_are_files_too() {
    let edge = Edge::start(Manner::Honest);
    let mut put = culvert()
        .env("CULVERT_SERVER", format!("http://{}", edge.address))
        .args(["put", "-", "c5/x", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    put.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    let put = put.wait_with_output().unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&put.stdout).unwrap();
    assert_eq!((receipt["size"].as_u64(), receipt["created"].as_bool()), (Some(11), Some(true)));
    assert_eq!(receipt["sha256"], sha256(b"from a pipe").to_string());

    let get = edge.culvert(&["get", "c5/x", "-"]);
    assert_eq!(get.stdout, b"from a pipe");
}

#[test]
fn an_empty_file_is_a_file() {
    let edge = Edge::start(Manner::Honest);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("empty");
    fs::write(&path, b"").unwrap();
    let put = edge.culvert(&["put", path.to_str().unwrap(), "c5/empty"]);
    assert!(put.status.success(), "{}", stderr(&put));
    let get = edge.culvert(&["get", "c5/empty", directory.path().join("back").to_str().unwrap()]);
    assert!(get.status.success(), "{}", stderr(&get));
    assert_eq!(fs::read(directory.path().join("back")).unwrap(), b"");
}

#[test]
fn the_same_bytes_again_are_no_error_and_other_bytes_are() {
    let edge = Edge::start(Manner::Honest);
    edge.files().insert("a".into(), b"first".to_vec());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    fs::write(&path, "first").unwrap();
    let again = edge.culvert(&["put", path.to_str().unwrap(), "c5/a"]);
    assert!(again.status.success() && stdout(&again).contains("was stored already"), "{}", stderr(&again));
    fs::write(&path, "other").unwrap();
    let other = edge.culvert(&["put", path.to_str().unwrap(), "c5/a"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("culvert: 409 conflict: the path holds other bytes (request 0190-test)"));
}

#[test]
fn a_receipt_with_another_hash_fails_loudly() {
    let edge = Edge::start(Manner::WrongReceipt);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    fs::write(&path, "first").unwrap();
    let put = edge.culvert(&["put", path.to_str().unwrap(), "c5/a"]);
    assert_eq!(put.status.code(), Some(1));
    assert!(stderr(&put).contains("THE SERVER STORED SOMETHING ELSE"), "{}", stderr(&put));
    assert_eq!(stdout(&put), "");
}

#[test]
fn a_download_with_another_hash_leaves_no_file() {
    let edge = Edge::start(Manner::WrongBytes);
    edge.files().insert("a".into(), b"first".to_vec());
    let directory = tempfile::tempdir().unwrap();
    let get = edge.culvert(&["get", "c5/a", directory.path().join("a").to_str().unwrap()]);
    assert_eq!(get.status.code(), Some(1));
    assert!(stderr(&get).contains("WRONG CONTENT"), "{}", stderr(&get));
    assert!(names_in(directory.path()).is_empty());
}

#[test]
fn a_truncated_download_is_no_file_and_what_came_is_left_for_the_next_try() {
    let edge = Edge::start(Manner::Truncating);
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("a");
    let get = edge.culvert(&["get", "c5/a", to.to_str().unwrap(), "--retries", "0"]);
    assert_eq!(get.status.code(), Some(4), "{}", stderr(&get));
    assert!(stderr(&get).contains("broke off") && stderr(&get).contains("a.part"), "{}", stderr(&get));
    assert_eq!(names_in(directory.path()), ["a.part"]);

    // What is left is a part of another file: that is found out, and not kept.
    let edge = Edge::start(Manner::Honest);
    edge.files().insert("a".into(), b"9876543210".to_vec());
    let get = edge.culvert(&["get", "c5/a", to.to_str().unwrap()]);
    assert!(get.status.success(), "this server knows no ranges, so all of it comes again: {}", stderr(&get));
    assert_eq!(
        (fs::read(&to).unwrap(), names_in(directory.path())),
        (b"9876543210".to_vec(), vec!["a".to_owned()])
    );
}

#[test]
fn a_directory_goes_up_and_comes_down_the_same() {
    let edge = Edge::start(Manner::Honest);
    let directory = tempfile::tempdir().unwrap();
    let (up, down) = (directory.path().join("up"), directory.path().join("down"));
    fs::create_dir_all(up.join("deep/er")).unwrap();
    for number in 0..7 {
        fs::write(up.join(format!("deep/{number}")), format!("file {number}")).unwrap();
    }
    fs::write(up.join("deep/er/x"), "x").unwrap();
    let put = edge.culvert(&["put", up.to_str().unwrap(), "c5/study/", "--parallel", "3"]);
    assert!(put.status.success(), "{}", stderr(&put));
    {
        let stored = edge.files();
        assert_eq!((stored.len(), &stored["study/deep/er/x"]), (8, &b"x".to_vec()));
    }
    let get = edge.culvert(&["--json", "get", "c5/study/deep/", down.to_str().unwrap()]);
    assert!(get.status.success(), "{}", stderr(&get));
    assert_eq!(stdout(&get).lines().count(), 8);
    assert_eq!(fs::read(down.join("3")).unwrap(), b"file 3");
    assert_eq!(fs::read(down.join("er/x")).unwrap(), b"x");

    // One that is there already stops no other.
    fs::remove_file(down.join("5")).unwrap();
    let again = edge.culvert(&["get", "c5/study/deep/", down.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(3), "{}", stderr(&again));
    assert!(stderr(&again).contains("7 of 8 files failed") && down.join("5").is_file(), "{}", stderr(&again));
    let checked = edge.culvert(&["get", "c5/study/deep/", down.to_str().unwrap(), "--checksum"]);
    assert!(checked.status.success(), "{}", stderr(&checked));

    let place = edge.culvert(&["put", up.to_str().unwrap(), "c5/study"]);
    assert_eq!(place.status.code(), Some(2));
    assert!(stderr(&place).contains("needs a / at its end"), "{}", stderr(&place));
}

#[test]
fn under_tls_only_a_server_that_is_vouched_for_gets_the_token() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (edge, trusted) = Edge::start_tls(directory.path());
    let (_, another) = Edge::start_tls(elsewhere.path());
    let path = directory.path().join("a");
    fs::write(&path, "first").unwrap();
    let put = |ca: &std::path::Path| {
        let mut put = culvert();
        put.env("CULVERT_SERVER", format!("https://{}", edge.address)).env("CULVERT_CA_FILE", ca);
        put.args(["put", path.to_str().unwrap(), "c5/a"]).output().unwrap()
    };
    let refused = put(&another);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("certificate") && stderr(&refused).contains("--ca-file"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(edge.puts(), 0);
    let stored = put(&trusted);
    assert!(stored.status.success(), "{}", stderr(&stored));
    assert_eq!(edge.files()["a"], b"first");
    let nothing = put(&path);
    assert_eq!(nothing.status.code(), Some(2), "{}", stderr(&nothing));
}

#[test]
fn with_checksum_what_is_there_is_not_sent() {
    let edge = Edge::start(Manner::Honest);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    fs::write(&path, "first").unwrap();
    let put = || edge.culvert(&["--json", "put", path.to_str().unwrap(), "c5/a", "--checksum"]);
    let first: serde_json::Value = serde_json::from_slice(&put().stdout).unwrap();
    let puts = edge.puts();
    let second: serde_json::Value = serde_json::from_slice(&put().stdout).unwrap();
    assert_eq!((first["created"].as_bool(), second["created"].as_bool()), (Some(true), Some(false)));
    assert_eq!((&second["sha256"], edge.puts()), (&first["sha256"], puts));
    fs::write(&path, "other").unwrap();
    assert_eq!(put().status.code(), Some(1), "other bytes are refused as ever");
}

#[test]
fn an_existing_file_is_refused_before_a_byte_is_fetched() {
    let edge = Edge::start(Manner::Honest);
    edge.files().insert("a".into(), b"new".to_vec());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    fs::write(&path, "old").unwrap();
    let get = edge.culvert(&["get", "c5/a", path.to_str().unwrap()]);
    assert_eq!(get.status.code(), Some(3), "{}", stderr(&get));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let get = edge.culvert(&["get", "c5/a", path.to_str().unwrap(), "--force"]);
    assert!(get.status.success(), "{}", stderr(&get));
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_refused_token_and_an_unavailable_tunnel_have_their_own_ends() {
    let edge = Edge::start(Manner::Unavailable);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    fs::write(&path, vec![0; 8 << 20]).unwrap();
    let put = edge.culvert(&["put", path.to_str().unwrap(), "c5/a"]);
    assert_eq!(put.status.code(), Some(4), "{}", stderr(&put));
    let expected = "culvert: 503 tunnel-unavailable: the tunnel is down (request 0190-test); \
                    the server asks to try again in 5 s";
    assert!(stderr(&put).contains(expected), "{}", stderr(&put));

    let server = format!("http://{}", edge.address);
    let stranger = store_proto::Token::from_bytes([8; 32]);
    let ls = culvert()
        .args(["ls", "c5", "--server", &server, "--json"])
        .env("CULVERT_TOKEN", stranger.expose())
        .output();
    let ls = ls.unwrap();
    assert_eq!(ls.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_str(&stderr(&ls)).unwrap();
    assert_eq!(error["error"]["problem"]["kind"], "unauthenticated");
    assert_eq!(error["error"]["problem"]["request_id"], "0190-test");
}

#[test]
fn a_refusal_in_the_middle_of_an_upload_is_read_though_the_connection_is_reset() {
    let edge = Edge::start(Manner::FullAfterAWhile);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    fs::write(&path, vec![0; 8 << 20]).unwrap();
    let put = edge.culvert(&["put", path.to_str().unwrap(), "c5/a"]);
    assert_eq!(put.status.code(), Some(1));
    assert!(stderr(&put).contains("culvert: 507 quota: the volume is full"), "{}", stderr(&put));
}

#[test]
fn a_refused_file_is_not_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let refuse = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        // Until the end of the head.
        while !received.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            received.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").unwrap();
        let mut body = Vec::new();
        stream.read_to_end(&mut body).unwrap();
        (String::from_utf8(received).unwrap(), body.len())
    });
    let mut put =
        culvert().args(["put", "-", "c5/a", "--server", &server]).stdin(Stdio::piped()).spawn().unwrap();
    // It may be gone already, with the refusal.
    let _ = put.stdin.take().unwrap().write_all(b"not for everybody");
    assert_eq!(put.wait().unwrap().code(), Some(1));
    let (head, body_bytes) = refuse.join().unwrap();
    assert!(head.to_lowercase().contains("expect: 100-continue"), "{head}");
    assert_eq!(body_bytes, 0);
}

/// Answers one request with `head`, and holds the connection until the client leaves; the request's head.
fn answer_once(head: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            received.push(byte[0]);
        }
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        String::from_utf8(received).unwrap()
    });
    (server, answering)
}

#[test]
fn a_redirection_is_not_followed_with_the_token() {
    let thief = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    thief.set_nonblocking(true).unwrap();
    let location = format!("http://{}/v1/cohorts/c5/files", thief.local_addr().unwrap());
    let head = format!("HTTP/1.1 307 Elsewhere\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    let (server, answering) = answer_once(head.leak());
    let ls = culvert().args(["ls", "c5", "--server", &server]).output().unwrap();
    assert_eq!(ls.status.code(), Some(1), "{}", stderr(&ls));
    assert!(stderr(&ls).contains("307"), "{}", stderr(&ls));
    answering.join().unwrap();
    assert_eq!(thief.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn an_interrupted_download_is_no_file_and_what_came_is_left() {
    let (server, _answering) = answer_once(
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nrepr-digest: sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\r\n\r\n0123",
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let mut get = culvert()
        .args(["get", "c5/a", path.to_str().unwrap(), "--server", &server])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let part = directory.path().join("a.part");
    for _ in 0..1000 {
        if part.metadata().is_ok_and(|found| found.len() == 4) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let interrupt = std::process::Command::new("kill").args(["-INT", &get.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    assert_eq!(get.wait().unwrap().code(), Some(1));
    assert_eq!(names_in(directory.path()), ["a.part"]);
}

#[test]
fn a_token_that_everybody_can_read_is_warned_of_and_never_shown() {
    use std::os::unix::fs::PermissionsExt;
    let edge = Edge::start(Manner::Honest);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, support::token().expose()).unwrap();
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let ls = edge.culvert(&["ls", "c5", "--token-file", file.to_str().unwrap()]);
        assert!(ls.status.success(), "{}", stderr(&ls));
        assert_eq!(stderr(&ls).contains("chmod 600"), warned, "{mode:o}: {}", stderr(&ls));
        assert!(!stderr(&ls).contains(&support::token().expose()[4..]));
    }
}

#[test]
fn nobody_listening_is_not_the_same_as_a_refusal() {
    // Bound and never accepted from would answer; a port just given back does not.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("http://127.0.0.1:{port}");
    let ls = culvert().args(["ls", "c5", "--server", &server]).output().unwrap();
    assert_eq!(ls.status.code(), Some(4), "{}", stderr(&ls));
}

#[test]
fn a_listing_is_followed_to_its_last_page() {
    let edge = Edge::start(Manner::Honest);
    for name in ["in/1", "in/2", "in/3", "in/4", "out/5"] {
        edge.files().insert(name.into(), b"x".to_vec());
    }
    let all = edge.culvert(&["ls", "c5"]);
    assert_eq!(stdout(&all).lines().count(), 5, "{}", stderr(&all));
    let some = edge.culvert(&["ls", "c5/in/", "--json"]);
    let paths: Vec<String> = stdout(&some)
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(paths, ["in/1", "in/2", "in/3", "in/4"]);
}

#[test]
fn what_is_wrong_on_the_command_line_is_said_before_anything_is_sent() {
    for (arguments, said) in [
        (vec!["get", "c5/../x"], "`..`"),
        (vec!["get", "C5/x"], "cohort"),
        (vec!["put", "/nonexistent", "c5/x"], "/nonexistent"),
        (vec!["put", "/", "c5/x"], "directory"),
        (vec!["ls", "c5", "--server", "https://web1", "--ca-file", "/nonexistent"], "/nonexistent"),
        (vec!["ls", "c5", "--server", "ftp://web1"], "https://HOST"),
    ] {
        let output = culvert().env("CULVERT_SERVER", "http://127.0.0.1:1").args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{arguments:?}: {}", stderr(&output));
    }
    let arguments = ["ls", "c5", "--server", "http://127.0.0.1:1"];
    let output = culvert().args(arguments).env("CULVERT_TOKEN", "secret-typo").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("secret-typo"), "a token is never shown: {}", stderr(&output));
}

fn names_in(directory: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
