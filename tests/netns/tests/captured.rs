//! What whoever takes over edge can do with everything that edge has: its user, its key, its network, its confinement.
//!
//! ```text
//!  client ── web (tunnel: captured edge; wgd) ── wan ── services (storaged; wgd)
//! ```

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::culvert::{COHORT, Culvert, OTHER_COHORT, PROGRAMS, STORAGED};
use culvert_netns::host::{Host, Place};
use culvert_netns::runner::{self, Scenario, Scene};
use nix::sys::signal::Signal;
use serde_json::Value;
use store_proto::{EdgeName, Proof, RequestContext, RequestId, ServerRole, Token};

const BOUND: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("a_captured_edge_writes_not_one_byte", writes).needs(PROGRAMS),
        Scenario::new("a_captured_edge_reaches_storaged_alone", reaches).needs(PROGRAMS),
        Scenario::new("a_captured_edge_is_nobody_without_a_token_and_mints_none", is_nobody).needs(PROGRAMS),
        Scenario::new("a_captured_edge_cannot_take_back_what_is_recorded", takes_back).needs(PROGRAMS),
    ])
}

/// How an action ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Done(String),
    Refused(String),
    /// SIGSYS.
    Killed,
}

fn act(web: &Host, layers: &str, action: &[&str]) -> Result<End> {
    let words = [&[layers], action].concat();
    let ended = web.program("/run/bin/captured_edge").arguments(&words).at(Place::Tunnel).run(BOUND)?;
    if ended.status.signal() == Some(Signal::SIGSYS as i32) {
        return Ok(End::Killed);
    }
    ensure!(ended.status.success(), "{words:?}: {} {}", ended.output, ended.errors);
    Ok(match ended.output.trim_end().strip_prefix("refused: ") {
        Some(why) => End::Refused(why.to_owned()),
        None => End::Done(ended.output),
    })
}

fn writes(scene: &Scene) -> Result<()> {
    let _culvert = Culvert::start(&scene.lab)?;
    let web = &scene.lab.web;
    web.write("/srv/open", "before")?;
    for directory in ["/srv", "/tmp", "/run", "/dev/shm", "/var/tmp", "/etc/culvert"] {
        let path = format!("{directory}/taken");
        // Open to everybody, so that it is not the user's rights alone that refuse.
        web.execute(&format!("chmod 1777 {directory}"))?;
        let by_landlock = act(web, "confined", &["write_new", &path])?;
        ensure!(
            matches!(&by_landlock, End::Refused(why) if why.contains("Permission denied")),
            "{path}: {by_landlock:?}"
        );
        let by_seccomp = act(web, "sealed", &["write_new", &path])?;
        ensure!(by_seccomp == End::Killed, "{path}: {by_seccomp:?}");
        ensure!(!web.path(&path).exists(), "{path} was made");
    }
    // A file that was open before: neither of the two says anything against `write`, so the limit does.
    for layers in ["confined", "sealed"] {
        let end = act(web, layers, &["write_open", "/srv/open"])?;
        ensure!(matches!(&end, End::Refused(why) if why.contains("File too large")), "{end:?}");
        ensure!(web.read("/srv/open")? == "before", "it was written to");
    }
    Ok(())
}

fn reaches(scene: &Scene) -> Result<()> {
    let _culvert = Culvert::start(&scene.lab)?;
    let web = &scene.lab.web;
    ensure!(
        matches!(act(web, "sealed", &["connect", &STORAGED.to_string()])?, End::Done(_)),
        "storaged itself"
    );
    for to in [
        // Other ports of storaged's host, wgd beside it, and storaged's own private listeners.
        "10.100.0.11:22",
        "10.100.0.11:9588",
        "10.100.0.11:9586",
        // storaged's port, by ways that are not the tunnel; the world; edge's own host.
        "198.51.100.1:8001",
        "203.0.113.2:443",
        "192.0.2.1:8001",
        "127.0.0.1:9587",
        "127.0.0.1:8001",
        "[::1]:8001",
    ] {
        for layers in ["confined", "sealed"] {
            let end = act(web, layers, &["connect", to])?;
            ensure!(matches!(end, End::Refused(_)), "{to}, {layers}: {end:?}");
        }
    }
    for action in [["datagram", "10.100.0.11:53"], ["connect_unix", "/run/culvert/wgd.sock"]] {
        let end = act(web, "sealed", &action)?;
        ensure!(end == End::Killed, "{action:?}: {end:?}");
    }
    Ok(())
}

/// Asks storaged as edge would: with its key, in its name, from its place, with what the user showed.
fn ask(scene: &Scene, method_and_path: &str, proof: Option<Proof>, body: &str) -> Result<(u16, Value)> {
    let web = &scene.lab.web;
    let key = web.read("/etc/culvert/internal.key")?;
    let mut head = vec![format!("{method_and_path} HTTP/1.1"), format!("x-internal-key: {}", key.trim())];
    head.push("content-type: application/json".to_owned());
    head.push(format!("culvert-cohort: {COHORT}"));
    head.push("culvert-path: taken.csv".to_owned());
    if let Some(proof) = proof {
        let context = RequestContext {
            edge: EdgeName::parse("web1").context("the edge's name")?,
            role: ServerRole::Web,
            process_id: 7,
            timestamp_ms: daemon::Clock.unix_milliseconds(),
            request_id: RequestId::parse("r-1").context("a request's id")?,
            client_address: [203, 0, 113, 2].into(),
            proof,
        };
        head.push(format!("culvert-context: {}", context.encode()));
    }
    let to = STORAGED.to_string();
    let mut words = vec!["ask", &to];
    words.extend(head.iter().map(String::as_str));
    words.push(body);
    let End::Done(answer) = act(web, "sealed", &words)? else { bail!("{method_and_path} was not answered") };
    let status =
        answer.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| answer.clone())?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim()).unwrap_or_default();
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

fn token(text: &str) -> Result<Option<Proof>> {
    Ok(Some(Proof::Token(Token::parse(text).context("a token")?)))
}

/// What an edge asks for a user: a listing, permission to store, a link, a file to delete.
fn requests() -> [(String, String); 3] {
    let permission = format!("{{\"action\":\"upload\",\"cohort\":\"{COHORT}\",\"path\":\"taken.csv\"}}");
    [
        (format!("GET /internal/v1/cohorts/{COHORT}/files"), String::new()),
        ("POST /internal/v1/permissions".to_owned(), permission),
        (
            "POST /internal/v1/capabilities".to_owned(),
            "{\"file_id\":\"01938c1e6f6c7a529d0a3f6c2b1d4e5f\",\"expires_in\":3600}".to_owned(),
        ),
    ]
}

fn is_nobody(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("a.csv", 1 << 16, 1)?;
    let listing = format!("GET /internal/v1/cohorts/{COHORT}/files");
    // With a token that a user shows just now, it is that user: that is what an edge is for.
    let (status, _) = ask(scene, &listing, token(&culvert.token)?, "")?;
    ensure!(status == 200, "ada's own token: {status}");
    // Without one it is nobody, whatever it says of whom it serves.
    let stranger = format!("cvt_{}", "A".repeat(43));
    for (request, body) in requests() {
        for proof in [None, token(&stranger)?] {
            let shown = proof.is_some();
            let (status, problem) = ask(scene, &request, proof, &body)?;
            ensure!((400..404).contains(&status), "{request} (a token: {shown}): {status} {problem}");
        }
    }
    // As the user it is no more than the user.
    let other = format!("GET /internal/v1/cohorts/{OTHER_COHORT}/files");
    let (status, problem) = ask(scene, &other, token(&culvert.token)?, "")?;
    ensure!(status == 403, "{status} {problem}");
    // A token that it saw and kept is worth nothing once the user is shut out.
    culvert.command(&scene.lab.services, &["user", "disable", culvert_netns::culvert::USER])?;
    let (status, problem) = ask(scene, &listing, token(&culvert.token)?, "")?;
    ensure!(status == 401, "{status} {problem}");
    Ok(())
}

fn takes_back(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let services = &scene.lab.services;
    culvert.put_payload("a.csv", 1 << 16, 1)?;
    let checkpoint = culvert.command(services, &["--json", "ledger", "checkpoint"])?;
    let records = culvert.trail()?.len();
    let files = culvert.stored_files()?;
    // With the token of a user who is there: over the file that is stored, away with it, at the log itself.
    for request in [
        format!("DELETE /internal/v1/cohorts/{COHORT}/files/a.csv"),
        "DELETE /internal/v1/ledger/checkpoint".to_owned(),
        "PUT /internal/v1/ledger/checkpoint".to_owned(),
        "POST /internal/v1/ledger/checkpoint".to_owned(),
        "PUT /internal/v1/ledger/tile/0/0".to_owned(),
        "POST /internal/storage/upload".to_owned(),
    ] {
        let (status, problem) = ask(scene, &request, token(&culvert.token)?, "")?;
        // An upload of nothing under a new name is the one thing that a user may do here, and it is recorded.
        ensure!(
            (400..500).contains(&status) || (status == 201 && request.starts_with("POST /internal/storage")),
            "{request}: {status} {problem}"
        );
    }
    // All that was there is there, and the log goes on from what was signed before.
    let now = culvert.stored_files()?;
    ensure!(files.iter().all(|file| now.contains(file)), "{files:?} became {now:?}");
    let trail = culvert.trail()?;
    ensure!(trail.len() >= records, "{records} records became {}", trail.len());
    services.write("/srv/before.checkpoint", checkpoint_text(&checkpoint)?)?;
    culvert.command(services, &["ledger", "verify", "--against", "/srv/before.checkpoint"])?;
    Ok(())
}

/// The signed note out of `ledger checkpoint --json`.
fn checkpoint_text(json: &str) -> Result<String> {
    let value: Value = serde_json::from_str(json).context("read the checkpoint")?;
    Ok(value["checkpoint"].as_str().context("no checkpoint in it")?.to_owned())
}
