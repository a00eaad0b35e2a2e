//! What a client says breaks no line of the log, in neither format and at no level, and at the usual level stands in none.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::program::Program;
use common::{Client, Fake, authorization, until};
use tokio::io::AsyncReadExt as _;

/// What it wrote, to its last line.
async fn stop(program: Program) -> String {
    let log = std::sync::Arc::clone(&program.log);
    assert_eq!(program.stop().await, 0);
    until("its last line is there", || log.lock().unwrap().contains("drained")).await;
    let log = log.lock().unwrap();
    log.clone()
}

/// Found again wherever it turns up.
const MARK: &str = "zq7mark";

/// What would end a line, colour a terminal, close a JSON string, or be read back by something that formats.
const TRICKS: [&str; 8] = [
    "%0d%0a2026-11-22T00:00:00Z ERROR zq7mark forged",
    "%1b%5b31mzq7mark%1b%5b0m",
    "%22%2c%22level%22%3a%22ERROR%22%2c%22message%22%3a%22zq7mark",
    "%e2%80%aezq7mark",
    "%c2%85zq7mark%e2%80%a8zq7mark",
    "%00zq7mark",
    "$%7bjndi%3aldap%3a%2f%2fzq7mark%7d",
    "%7b%7d%25s%25n zq7mark",
];

fn requests() -> Vec<Vec<u8>> {
    let ours = authorization();
    let mut all: Vec<String> = Vec::new();
    for trick in TRICKS {
        let trick = trick.replace(' ', "%20");
        for line in [
            format!("GET /v1/cohorts/alpha/files/{trick}"),
            format!("GET /v1/cohorts/{trick}/files/a.bin"),
            format!("GET /v1/cohorts/alpha/files?cursor={trick}"),
            format!("GET /p/{trick}"),
            format!("DELETE /v1/files/{trick}"),
            format!("PUT /v1/cohorts/alpha/files/{trick}"),
        ] {
            all.push(format!("{line} HTTP/1.1\r\nHost: e\r\n{ours}Content-Length: 0\r\n\r\n"));
        }
        let name = STANDARD.encode(percent(&trick));
        let tus = "POST /v1/cohorts/alpha/uploads HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 1\r\n";
        all.push(format!("{tus}Host: e\r\n{ours}Upload-Metadata: path {name}\r\nContent-Length: 0\r\n\r\n"));
    }
    let raw = ["\u{1b}[31mzq7mark", "\",\"level\":\"ERROR\",\"x\":\"zq7mark", "\t\tzq7mark", "\u{85}zq7mark"];
    for trick in raw {
        for line in [
            format!("Authorization: Bearer {trick}"),
            format!("Authorization: {trick} x"),
            format!("Host: {trick}"),
            format!("Idempotency-Key: {trick}{}", "x".repeat(200)),
            format!("Culvert-File-Type: {trick}"),
            format!("Culvert-Reason: {trick}"),
            format!("Repr-Digest: {trick}"),
            format!("Range: {trick}"),
            format!("Upload-Metadata: {trick}"),
            format!("Origin: {trick}"),
            format!("Content-Disposition: attachment; filename=\"{trick}\""),
            format!("X-Request-Id: {trick}"),
            format!("User-Agent: {trick}"),
        ] {
            let host = if line.starts_with("Host") { "" } else { "Host: e\r\n" };
            let rest = if line.starts_with("Authorization") { "" } else { &ours };
            all.push(format!("PUT /v1/cohorts/alpha/files/a.bin HTTP/1.1\r\n{host}{rest}{line}\r\nContent-Length: 0\r\n\r\n"));
        }
        all.push(format!("{trick} / HTTP/1.1\r\nHost: e\r\n\r\n"));
        all.push(format!("GET {trick} HTTP/1.1\r\nHost: e\r\n\r\n"));
        all.push(format!("GET / {trick}\r\nHost: e\r\n\r\n"));
        all.push(format!("{trick}\r\n\r\n"));
    }
    all.into_iter().map(String::into_bytes).collect()
}

fn percent(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

async fn provoke(program: &Program) {
    for request in requests() {
        let mut client = Client { stream: tokio::net::TcpStream::connect(program.public).await.unwrap() };
        client.send(request).await;
        // Answered or closed: what it says is another test's.
        let mut some = [0; 512];
        let read = client.stream.read(&mut some);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), read).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_name_header_or_token_breaks_a_line() {
    for format in ["json", "text"] {
        let fake = Fake::start().await;
        let program = Program::start_logging(&fake, &["--log-level", "trace", "--log-format", format]).await;
        provoke(&program).await;
        let log = stop(program).await;
        assert!(log.lines().count() > requests().len(), "too little was logged to say anything:\n{log}");
        for line in log.lines() {
            assert!(!line.contains(|c: char| c.is_control()), "{format}: {line:?}");
            match format {
                "json" => {
                    let parsed: serde_json::Value = serde_json::from_str(line).expect(line);
                    let forged = parsed["message"].as_str().is_some_and(|text| text.starts_with(MARK));
                    assert!(parsed["level"].is_string() && !forged, "{line}");
                }
                _ => assert!(
                    line.starts_with("20") && line.contains('Z'),
                    "a line that is none of ours: {line:?}"
                ),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_client_says_stands_in_the_usual_log() {
    let fake = Fake::start().await;
    let program = Program::start_logging(&fake, &[]).await;
    provoke(&program).await;
    let metrics = program.scrape("/metrics").await;
    let (log, token) = (stop(program).await, common::token().expose().to_owned());
    for said in [MARK, "a.bin", "alpha", &token] {
        assert!(!log.contains(said), "{said}:\n{log}");
        assert!(!metrics.contains(said), "{said} is a metric's");
    }
    let after = log.split_once("storaged answers").expect("it said so").1;
    assert!(after.lines().count() <= requests().len() + 10, "more than a line for each request:\n{after}");
    assert!(
        !after.contains("\"WARN\"") && !after.contains("\"ERROR\""),
        "a stranger raises an alarm:\n{after}"
    );
}
