//! Daemons that were built to attack their host, under the lock-down that they always have: whatever they try, on whatever
//! thread, ends them, or is refused by another layer.
//!
//! ```text
//!  client ── web (edge; wgd, wgd-netcfg) ── wan ── services (storaged; wgd, wgd-netcfg)
//! ```

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::culvert::{Culvert, EDGE_METRICS, PROGRAMS, STORAGED_METRICS};
use culvert_netns::host::{Host, Place};
use culvert_netns::lab::{self, at, probe_of_host};
use culvert_netns::program::{Program, Running};
use culvert_netns::runner::{self, Scenario, Scene};
use memchr::memmem;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What stands in a program that was built with the feature, and in no other.
const MARKER: &[u8] = b"culvert-probe-build: this program attacks its host on request";

/// Longest that an attempt may take to end its process.
const BOUND: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("no_program_can_be_told_to_attack_its_host", marker).needs(PROGRAMS),
        // They need the daemons built once more.
        Scenario::new("an_edge_that_attacks_is_gone", edge).needs(PROGRAMS).slow(),
        Scenario::new("a_storaged_that_attacks_is_gone", storaged).needs(PROGRAMS).slow(),
        Scenario::new("a_wgd_that_attacks_is_gone", wgd).needs(PROGRAMS).slow(),
    ])
}

/// How an attempt has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGSYS.
    Killed,
    /// Refused by Landlock, which sees what a system-call filter cannot: a path, a port.
    Refused,
}

/// What is tried: the name of the attempt and its target.
type Attempt = (&'static str, &'static str, End);

/// What no daemon may do at all.
const EVERYWHERE: [Attempt; 4] = [
    ("trace", "", End::Killed),
    ("packet_socket", "", End::Killed),
    ("writable_code", "", End::Killed),
    ("execute", "", End::Killed),
];

fn marker(_scene: &Scene) -> Result<()> {
    let programs = lab::programs()?;
    for name in PROGRAMS {
        ensure!(!holds_marker(&programs.join(name))?, "{name} was built with the feature `probe`");
    }
    // The release, if one was built here.
    let release = programs.parent().context("the programs lie nowhere")?.join("release");
    for name in PROGRAMS.iter().map(|name| release.join(name)).filter(|path| path.exists()) {
        ensure!(!holds_marker(&name)?, "{} was built with the feature `probe`", name.display());
    }
    // A search that finds nothing anywhere would show nothing: here it stands, for this program compares with it.
    ensure!(holds_marker(Path::new("/proc/self/exe"))?, "the search finds nothing");
    Ok(())
}

fn holds_marker(path: &Path) -> Result<bool> {
    let content = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(memmem::find(&content, MARKER).is_some())
}

/// Starts `program` anew for each attempt on each thread, and judges how it ends.
fn try_all<'a>(
    host: &'a Host,
    program: impl Fn() -> Result<Program<'a>>,
    socket: &str,
    attempts: &[Attempt],
    threads: &[&str],
) -> Result<()> {
    for name in ["wgd", "edge", "storaged"] {
        let probe = lab::probes()?.join(name);
        let hint = "`CULVERT_SLOW=1 cargo xtask netns attacks` builds the probes";
        ensure!(holds_marker(&probe).context(hint)?, "{} cannot attack: {hint}", probe.display());
    }
    let path: PathBuf = host.path(socket);
    for (name, target, end) in attempts {
        for thread in threads {
            let mut running = program()?.start()?;
            running.until("answer on its admin socket", Duration::from_secs(10), || {
                daemon::admin::call(&path, "status", json!({}), &[], |_| {}).context("ask for its status")
            })?;
            let args = json!({ "thread": thread, "target": target });
            let answer = daemon::admin::call(&path, &format!("probe.{name}"), args, &[], |_| {});
            let what = || format!("{name} on a {thread} thread of {}", running.label());
            match (end, answer) {
                (End::Killed, Ok(answer)) => bail!("{} was survived: {answer}", what()),
                (End::Killed, Err(_)) => killed(&mut running, name, thread)?,
                (End::Refused, Ok(answer)) => {
                    let survived = answer["survived"].as_str().unwrap_or_default();
                    ensure!(survived.contains("Permission denied"), "{}: {answer}", what());
                    running.kill()?;
                }
                (End::Refused, Err(error)) => bail!("{}: {error}", what()),
            }
        }
    }
    Ok(())
}

fn killed(running: &mut Running, name: &str, thread: &str) -> Result<()> {
    let status = running.wait(BOUND)?;
    ensure!(
        status.signal() == Some(Signal::SIGSYS as i32),
        "{name} on a {thread} thread ended {} with {status}",
        running.label()
    );
    Ok(())
}

/// Landlock's rules for ports are of Linux 6.7.
fn landlock_knows_ports(status: &Value) -> bool {
    status["lockdown"]["landlock_abi"].as_u64().is_some_and(|abi| abi >= 4)
}

fn edge(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    let web = &scene.lab.web;
    let status = daemon::admin::call(&web.path("/run/culvert/edge.sock"), "status", json!({}), &[], |_| {})?;
    culvert.edge.kill()?;
    let program = || {
        Ok(web
            .program(&probe_of_host("edge")?)
            .at(Place::Tunnel)
            .listener("public", at([0, 0, 0, 0], 8000))
            .listener("metrics", EDGE_METRICS))
    };
    let mut attempts = EVERYWHERE.to_vec();
    attempts.push(("write", "/tmp/taken", End::Killed));
    if landlock_knows_ports(&status) {
        attempts.push(("connect", "10.100.0.11:22", End::Refused));
    }
    // It has no blocking threads and can start none: to ask for one is its end too.
    try_all(web, program, "/run/culvert/edge.sock", &attempts, &["worker"])?;
    try_all(web, program, "/run/culvert/edge.sock", &[("trace", "", End::Killed)], &["blocking"])
}

fn storaged(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    let services = &scene.lab.services;
    culvert.storaged.kill()?;
    let program = || {
        Ok(services
            .program(&probe_of_host("storaged")?)
            .at(Place::Tunnel)
            .listener("metrics", STORAGED_METRICS))
    };
    let mut attempts = EVERYWHERE.to_vec();
    attempts.push(("connect", "10.100.0.10:22", End::Killed));
    // It opens files for its living: Landlock says which.
    attempts.push(("write", "/tmp/taken", End::Refused));
    attempts.push(("write", "/etc/culvert/storaged.toml", End::Refused));
    try_all(services, program, "/run/culvert/storaged.sock", &attempts, &["worker", "blocking"])
}

fn wgd(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    let web = &scene.lab.web;
    culvert.wgd_web.kill()?;
    let program = || {
        Ok(web.program(&probe_of_host("wgd")?).arguments(&["--foreground", "--tun-netns", "tunnel", "wg0"]))
    };
    let mut attempts = EVERYWHERE.to_vec();
    attempts.push(("write", "/tmp/taken", End::Killed));
    attempts.push(("connect", "10.100.0.11:22", End::Killed));
    try_all(web, program, "/run/culvert/wgd.sock", &attempts, &["worker"])?;
    try_all(web, program, "/run/culvert/wgd.sock", &[("trace", "", End::Killed)], &["blocking"])
}
