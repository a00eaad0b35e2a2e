//! `cargo xtask demo`: the whole path on a real file, and the evidence.
//!
//! ```text
//!  client ═ TLS 1.3 ═ web: edge, wgd ══ wan: a capture looks on ══ services: wgd, storaged
//! ```
//!
//! Invariant: each ✓ in the last table is a comparison that could have failed, made on the running daemons by
//! somebody else: the client, the kernel's `/proc`, the capture, stock `wg`.

mod evidence;
mod lockdown;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_netns::culvert::{
    CLIENT_CA, COHORT, Culvert, EDGE_METRICS, PROGRAMS, STORAGED_METRICS, Setup, WGD_METRICS,
    make_certificate, tls_lines,
};
use culvert_netns::host::Host;
use culvert_netns::http::{Response, read_response};
use culvert_netns::lab::{self, Lab};
use culvert_netns::payload::{MARKER, Payload};
use culvert_netns::wait;
use culvert_netns::world::{self, World};
use daemon::Clock;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{packages, steps};
use evidence::Evidence;

/// Whole transfers of large files take this long at most.
const TRANSFER_BOUND: Duration = Duration::from_secs(600);
/// A tunnel that went silent is noticed within this.
const NOTICE_BOUND: Duration = Duration::from_secs(3);
/// The least that each daemon's memory must stay under.
const MEMORY_BOUND_MEBIBYTES: u64 = 64;
/// The size of the generated file.
const GENERATED_BYTES: u64 = 1 << 30;
/// Under this name the file goes to the store.
const REMOTE: &str = "demo/visits.csv";

/// What the demo may be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The file to carry; without one, a CSV of 1 GiB is generated
    file: Option<PathBuf>,
    /// Leave the lab up afterwards, and say how to enter it
    #[arg(long)]
    keep: bool,
}

/// Outside: builds, and goes into a world.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut arguments = vec![OsString::from("demo")];
    if let Some(file) = &options.file {
        let path = fs::canonicalize(file).with_context(|| format!("find {}", file.display()))?;
        ensure!(path.is_file(), "{} is not a file", path.display());
        arguments.push(path.into_os_string());
    }
    if options.keep {
        arguments.push("--keep".into());
    }
    steps::require_room()?;
    let path = packages::provide()?;
    let mut build = steps::cargo();
    build.args(["build", "--release"]);
    for program in PROGRAMS {
        build.args(["--package", program]);
    }
    // Programs from elsewhere, as the benchmarks take them.
    let given = std::env::var_os("CULVERT_BIN_DIR");
    if given.is_none() {
        ensure!(steps::run(&mut build)?, "the programs do not build");
    }
    let programs = given.unwrap_or_else(|| steps::root().join("target/release").into_os_string());
    world::run_inside_with(&arguments, &[("PATH", path), ("CULVERT_BIN_DIR", programs)])
}

/// Inside the world.
pub(crate) fn run_inside(options: &Options, world: &World) -> Result<()> {
    let began = Clock.now();
    let programs = lab::programs()?;
    lab::require_programs(&programs, PROGRAMS)?;
    let lab = Lab::build(world, &programs)?;
    let mut evidence = Evidence::default();
    let told = tell(options, &lab, world, &mut evidence)
        .and_then(|culvert| lab.fail_on_unexpected_lines(EXPECTED_LINES).map(|()| culvert));
    let culvert = match told {
        Ok(culvert) => culvert,
        Err(error) => {
            eprintln!("{}", lab.logs());
            return Err(error);
        }
    };
    println!("\n## Evidence\n\n{}", evidence.table());
    println!("{:.0} s in all, without the build.", began.elapsed().as_secs_f64());
    if options.keep {
        keep(&lab)?;
    }
    drop(culvert);
    let failed = evidence.failed();
    ensure!(failed == 0, "{failed} of the checks failed");
    Ok(())
}

/// What the daemons say at WARN in this play: the tunnel is cut on purpose, and the vault is not built yet.
const EXPECTED_LINES: &[&str] = &["no sign of life from storaged"];

fn tell<'a>(options: &Options, lab: &'a Lab, world: &World, evidence: &mut Evidence) -> Result<Culvert<'a>> {
    let file = provide_file(options, world)?;
    let capture = lab.wan.capture(MARKER.as_bytes())?;
    let started = Clock.now();
    make_certificate(lab)?;
    let culvert = Culvert::start_with(lab, &Setup { edge_tls: Some(tls_lines()), ..Setup::default() })?;
    topology(&culvert, started.elapsed());
    lockdown::show(&culvert, evidence)?;
    carry(&culvert, &file, evidence)?;
    println!("\n## `wg show`, on both hosts\n");
    for host in [&lab.web, &lab.services] {
        println!("[{}]\n{}", host.name(), host.run(&["wg", "show"])?.success()?);
    }
    let verdict = capture.finish()?;
    println!("## What the line between the hosts saw\n\n{verdict}");
    let only = verdict.only_wireguard();
    evidence.add(
        "the WAN carried only WireGuard, no plaintext marker",
        only.is_ok(),
        match &only {
            Ok(()) => format!("{} messages, none missed", verdict.message_count()),
            Err(error) => format!("{error:#}"),
        },
    );
    memory(&culvert, evidence)?;
    nothing_on_web(lab, evidence)?;
    audit_trail(&culvert, evidence)?;
    metrics(&culvert, evidence)?;
    cut(&culvert, evidence)?;
    Ok(culvert)
}

/// The file to carry, where the client's host sees it, with its size and SHA-256.
struct Cargo {
    size: u64,
    sha256: String,
}

/// Puts the file into the client's `/srv`.
fn provide_file(options: &Options, world: &World) -> Result<Cargo> {
    // `/srv` of a host is its directory on the disk.
    let place = world.data().join("client").join("visits.csv");
    match &options.file {
        Some(path) => {
            println!("Carrying {}.", path.display());
            if fs::hard_link(path, &place).is_err() {
                fs::copy(path, &place).with_context(|| format!("copy {}", path.display()))?;
            }
        }
        None => {
            println!("Generating a CSV of 1 GiB, with a marker in each line.");
            let mut out = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(&place)?);
            std::io::copy(&mut Payload::new(GENERATED_BYTES, 1), &mut out)?;
            std::io::Write::flush(&mut out)?;
        }
    }
    let size = fs::metadata(&place)?.len();
    Ok(Cargo { size, sha256: sha256_of(&place)? })
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = std::io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..length]);
    }
}

fn topology(culvert: &Culvert<'_>, took: Duration) {
    println!(
        "
## The lab, up in {:.1} s

 client ──203.0.113.0/24── web ──192.0.2.0/24── wan ──198.51.100.0/24── services
                            │                                            │
              edge, inside  └ tunnel 10.100.0.10 ══════ 10.100.0.11 ┘  storaged, inside
",
        took.as_secs_f64()
    );
    for daemon in culvert.daemons() {
        println!("  {:<18} process {}", daemon.label(), daemon.pid());
    }
}

/// Up and down again with the `culvert` command, as a user would.
fn carry(culvert: &Culvert<'_>, cargo: &Cargo, evidence: &mut Evidence) -> Result<()> {
    let client = &culvert.lab().client;
    client.write("/run/token", &culvert.token)?;
    let remote = format!("{COHORT}/{REMOTE}");
    println!("\n## culvert put visits.csv {remote}\n");
    let (receipt, up) = timed_command(culvert, client, &["--json", "put", "/srv/visits.csv", &remote])?;
    let receipt: Value = serde_json::from_str(&receipt).context("read the receipt")?;
    println!("{receipt:#}");
    evidence.add(
        "the receipt names the file's SHA-256 and size",
        receipt["sha256"] == cargo.sha256.as_str() && receipt["size"] == cargo.size,
        rate(cargo.size, up),
    );
    println!("\n## culvert get {remote} back.csv\n");
    let (said, down) = timed_command(culvert, client, &["get", &remote, "/srv/back.csv"])?;
    println!("{}", said.trim_end());
    let came = sha256_of(&client.path("/srv/back.csv"))?;
    evidence.add("what came back has the same SHA-256", came == cargo.sha256, rate(cargo.size, down));
    println!("  sent     {}\n  received {came}", cargo.sha256);
    let asked = ask(culvert, "HEAD", REMOTE)?;
    evidence.add(
        "curl speaks TLS 1.3 with the certificate that was made for this",
        asked.status == 200,
        format!("{} to HEAD", asked.status),
    );
    Ok(())
}

/// Asks for a file of the cohort as anybody's tool does.
fn ask(culvert: &Culvert<'_>, method: &str, path: &str) -> Result<Response> {
    let url = format!("https://{}/v1/cohorts/{COHORT}/files/{path}", culvert.public());
    let token = format!("Authorization: Bearer {}", culvert.token);
    let head_only = method == "HEAD";
    let how = if head_only { "-I" } else { "-i" };
    let arguments =
        ["--no-progress-meter", "--http1.1", "--tlsv1.3", "--cacert", CLIENT_CA, "-H", &token, how, &url];
    let said = culvert.lab().client.program("curl").arguments(&arguments).run(TRANSFER_BOUND)?.success()?;
    read_response(&mut said.as_bytes(), head_only)
}

fn rate(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let megabytes = bytes as f64 / 1e6;
    format!("{megabytes:.0} MB in {seconds:.1} s, {:.0} MB/s", megabytes / seconds)
}

fn timed_command(culvert: &Culvert<'_>, host: &Host, arguments: &[&str]) -> Result<(String, Duration)> {
    let began = Clock.now();
    let output = host
        .program("/run/bin/culvert")
        .arguments(arguments)
        .variable("CULVERT_SERVER", &format!("https://{}", culvert.public()))
        .variable("CULVERT_CA_FILE", CLIENT_CA)
        .variable("CULVERT_TOKEN_FILE", "/run/token")
        .run(TRANSFER_BOUND)?
        .success()?;
    Ok((output, began.elapsed()))
}

fn memory(culvert: &Culvert<'_>, evidence: &mut Evidence) -> Result<()> {
    println!("\n## Peak memory, from /proc\n");
    for daemon in culvert.daemons() {
        let peak = daemon.threads()?.iter().map(|thread| thread.peak_resident_kib).max().unwrap_or(u64::MAX);
        let mebibytes = peak / 1024;
        println!("  {:<18} {mebibytes} MiB", daemon.label());
        evidence.add(
            &format!("{} stayed below {MEMORY_BOUND_MEBIBYTES} MiB", daemon.label()),
            mebibytes < MEMORY_BOUND_MEBIBYTES,
            format!("{mebibytes} MiB at most"),
        );
    }
    Ok(())
}

fn nothing_on_web(lab: &Lab, evidence: &mut Evidence) -> Result<()> {
    let found = lab.web.files_with(MARKER.as_bytes())?;
    let looked = lab.web.writable_files()?.len();
    let figure = if found.is_empty() {
        format!("{looked} files in writable places searched")
    } else {
        format!("{found:?}")
    };
    evidence.add("no byte of the file lies on web", found.is_empty(), figure);
    Ok(())
}

fn audit_trail(culvert: &Culvert<'_>, evidence: &mut Evidence) -> Result<()> {
    println!("\n## culvert audit trail --cohort {COHORT}, on services\n");
    println!(
        "{}",
        culvert.command(&culvert.lab().services, &["audit", "trail", "--cohort", COHORT])?.trim_end()
    );
    let trail = culvert.trail()?;
    let count = |action: &str| trail.iter().filter(|record| record["action"] == action).count();
    let (up, created, down) =
        (count("file_uploaded_via_stream"), count("nas_raw_created"), count("file_downloaded_via_stream"));
    evidence.add(
        "upload and download are recorded, before and after",
        up == 2 && created == 1 && down == 2,
        format!("{} records in all", trail.len()),
    );
    Ok(())
}

fn metrics(culvert: &Culvert<'_>, evidence: &mut Evidence) -> Result<()> {
    println!("\n## A metric of each daemon\n");
    let lab = culvert.lab();
    let asked = [
        (&lab.web, WGD_METRICS, "wireguard_sent_bytes_total"),
        (&lab.web, EDGE_METRICS, "edge_http_request_body_bytes_total"),
        (&lab.services, STORAGED_METRICS, "storaged_stored_bytes"),
    ];
    for (host, listener, name) in asked {
        let text = culvert.status(host, listener, "/metrics")?.expect(200)?.text();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or("");
        println!("  {line}");
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
        evidence.add(&format!("{name} counts"), value > 0.0, format!("{value:.0}"));
    }
    Ok(())
}

/// The line goes silent: packets vanish, links stay up.
fn cut(culvert: &Culvert<'_>, evidence: &mut Evidence) -> Result<()> {
    println!("\n## The line is cut: packets vanish, the links stay up\n");
    let lab = culvert.lab();
    lab.wan.cut()?;
    let began = Clock.now();
    let refused = wait::until("edge to answer 503", Duration::from_secs(10), || {
        ask(culvert, "GET", REMOTE_PROBE)?.expect(503)
    })?;
    let noticed = began.elapsed();
    println!("  503 after {:.1} s: {}", noticed.as_secs_f64(), refused.text());
    let later = refused.header("Retry-After").unwrap_or("").to_owned();
    evidence.add(
        "cut line: 503 with Retry-After within 3 s",
        noticed <= NOTICE_BOUND && !later.is_empty(),
        format!("{:.1} s, Retry-After: {later}", noticed.as_secs_f64()),
    );
    lab.wan.restore()?;
    let began = Clock.now();
    let back = wait::until("edge to serve again", Duration::from_secs(30), || {
        std::thread::sleep(LOOK_AGAIN);
        ask(culvert, "HEAD", REMOTE)?.expect(200)
    });
    evidence.add("line restored: service again by itself", back.is_ok(), seconds_since(began));
    Ok(())
}

/// Between two questions whether the service is back.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A name that does not exist: asking for it moves no file.
const REMOTE_PROBE: &str = "demo/no-such-file";

fn seconds_since(began: Instant) -> String {
    format!("{:.1} s", began.elapsed().as_secs_f64())
}

/// Stays until the person ends it.
fn keep(lab: &Lab) -> Result<()> {
    println!("\nThe lab stays up until Ctrl-C. Enter a host from another terminal, as root:\n");
    for host in lab.hosts() {
        println!("  {:<9} {}", host.name(), lab.how_to_enter(host));
    }
    println!("\nand inside `ip netns exec tunnel bash` for the tunnel's namespace of web and services.");
    loop {
        std::thread::park();
    }
}
