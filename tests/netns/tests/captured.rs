//! What web keeps of a body under load, and what whoever takes over edge can do with everything that edge has: its user,
//! its key, its network, its confinement.
//!
//! ```text
//!  client ── web (tunnel: captured edge; wgd) ── wan ── services (storaged; wgd)
//! ```

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::culvert::{COHORT, Culvert, EDGE_METRICS, OTHER_COHORT, PROGRAMS, STORAGED, Setup};
use culvert_netns::host::{Host, Place};
use culvert_netns::payload::{MARKER, Payload};
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wait;
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
        Scenario::new("bodies_under_load_are_nowhere_on_web", under_load).needs(PROGRAMS),
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
            certificate: None,
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

/// Uploads that stand half-way, each with the marker in every line, …
const HALVES: u64 = 8;
/// (which storaged waits for longer than all of this takes)
const SILENCE: Duration = Duration::from_secs(120);
const HALF_BYTES: u64 = 1 << 20;
/// … and clients that upload one file after the other meanwhile.
const BUSY: u64 = 4;
const BUSY_FILES: u64 = 8;

fn under_load(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let culvert = Culvert::start_with(lab, &Setup { body_idle: Some(SILENCE), ..Setup::default() })?;
    let traced = Traced::attach(&culvert)?;
    let begin = |seed: u64| -> Result<_> {
        let length = (2 * HALF_BYTES).to_string();
        let request = culvert.request("PUT", &format!("half-{seed}.csv")).header("Content-Length", &length);
        let mut exchange = request.begin(&lab.client, Place::Outer, culvert.public())?;
        let mut whole = Payload::new(2 * HALF_BYTES, seed);
        exchange.send_from(&mut std::io::Read::take(&mut whole, HALF_BYTES))?;
        Ok((exchange, whole))
    };
    let halves = (1..=HALVES).map(begin).collect::<Result<Vec<_>>>()?;
    wait::until("the halves to have passed", BOUND, || {
        let told = culvert.status(&lab.web, EDGE_METRICS, "/metrics")?.expect(200)?.text();
        let passed = told.lines().find_map(|line| line.strip_prefix("edge_http_request_body_bytes_total "));
        let passed: f64 = passed.context("no such metric")?.parse()?;
        ensure!(passed >= 8_388_608.0, "{passed} bytes");
        Ok(())
    })?;
    std::thread::scope(|scope| -> Result<()> {
        let busy = |client: u64| {
            let culvert = &culvert;
            move || -> Result<()> {
                for file in 0..BUSY_FILES {
                    culvert.put_payload(
                        &format!("busy-{client}-{file}.csv"),
                        HALF_BYTES,
                        100 * client + file,
                    )?;
                }
                Ok(())
            }
        };
        let busy: Vec<_> = (1..=BUSY).map(|client| scope.spawn(busy(client))).collect();
        nowhere_on_web(&culvert)?;
        for client in busy {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })?;
    nowhere_on_web(&culvert)?;
    for (mut exchange, mut rest) in halves {
        exchange.send_from(&mut rest)?;
        exchange.response()?.expect(201)?;
    }
    nowhere_on_web(&culvert)?;
    traced.wrote_to_no_file()
}

/// Files, descriptors, swap, logs.
fn nowhere_on_web(culvert: &Culvert<'_>) -> Result<()> {
    let left = culvert.lab().web.files_with(MARKER.as_bytes())?;
    ensure!(left.is_empty(), "bytes of a body lie on web: {left:?}");
    for daemon in [&culvert.edge, &culvert.wgd_web] {
        let (label, pid) = (daemon.label(), daemon.pid());
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let swap = status.lines().find_map(|line| line.strip_prefix("VmSwap:")).context("no VmSwap")?;
        ensure!(swap.trim() == "0 kB", "{label} has {swap} in swap");
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            // Connections come and go meanwhile.
            let Ok(open) = std::fs::read_link(entry?.path()) else { continue };
            let open = open.to_string_lossy().into_owned();
            let is_kernels =
                ["socket:", "pipe:", "anon_inode:", "net:", "/dev/net/tun", "/dev/null", "/proc/"];
            ensure!(
                is_kernels.iter().any(|kind| open.starts_with(kind)) || label.starts_with("wgd"),
                "{label}: {open}"
            );
        }
        let log = daemon.log().lines().join("\n");
        ensure!(!log.contains(MARKER), "{label} has logged a line of a body");
    }
    Ok(())
}

/// strace on every thread of edge: which calls that could write go where.
struct Traced<'a> {
    culvert: &'a Culvert<'a>,
    tracer: Running,
}

/// Calls that bring bytes into a descriptor, or make, change or name a file.
const WRITING: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,sendfile,splice,tee,vmsplice,\
    copy_file_range,open,openat,openat2,creat,truncate,ftruncate,fallocate,mknod,mknodat,link,linkat,rename,renameat,\
    renameat2,mkdir,mkdirat,symlink,symlinkat,memfd_create,io_uring_setup,name_to_handle_at,open_by_handle_at";
/// The record, on the client's disk: it must not be what is found on web.
const RECORD: &str = "/srv/edge.strace";

impl<'a> Traced<'a> {
    fn attach(culvert: &'a Culvert<'a>) -> Result<Traced<'a>> {
        let pid = culvert.edge.pid().to_string();
        let arguments =
            ["-f", "-yy", "-s", "0", "-e", "signal=none", "-e", WRITING, "-o", RECORD, "-p", &pid];
        let mut tracer = culvert.lab().client.program("strace").arguments(&arguments).start()?;
        let threads = culvert.edge.threads()?.len();
        tracer.until("attach to each thread", BOUND, || {
            let traced = std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten().filter(|thread| {
                let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
                status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
            });
            ensure!(traced.count() >= threads, "some threads are not traced");
            Ok(())
        })?;
        Ok(Traced { culvert, tracer })
    }

    fn wrote_to_no_file(mut self) -> Result<()> {
        self.tracer.signal(Signal::SIGINT)?;
        // It ends by the signal that it was told to end with.
        self.tracer.wait(BOUND)?;
        let record = std::fs::read_to_string(self.culvert.lab().client.path(RECORD))?;
        let mut into_connections = 0;
        for line in record.lines() {
            let call = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
            if call.starts_with("+++") || call.starts_with("---") || call.starts_with("<... ") {
                continue;
            }
            let (name, rest) = call.split_once('(').with_context(|| format!("read `{line}`"))?;
            match name {
                "write" | "writev" | "sendto" | "sendmsg" | "sendmmsg" => {
                    let into = rest.split_once('<').map_or("", |(_, into)| into);
                    let kernels = ["TCP:", "TCPv6:", "UNIX", "pipe:", "anon_inode:", "socket:", "UDP:"];
                    ensure!(kernels.iter().any(|kind| into.starts_with(kind)), "edge wrote into {line}");
                    into_connections += u64::from(into.starts_with("TCP"));
                }
                _ => bail!("edge made a call that could write: {line}"),
            }
        }
        // A record of nothing would show nothing: the bodies alone are hundreds of frames.
        ensure!(into_connections > 200, "{into_connections} writes into connections were seen");
        Ok(())
    }
}
