//! What the lock-down costs: the whole path with the daemons' seccomp filters and Landlock, and the same programs without.
//!
//! Both ways load one small library ahead of libc ([`SOURCE`]), which answers the request for a filter and for Landlock's
//! restriction with success while a file on the host says so, and makes it otherwise. The daemons are started anew for
//! each measurement, and take turns in who goes first.
//!
//! Invariant: a measurement counts only when each daemon's threads were seen with the filter, or without it, as they should.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_netns::culvert::{COHORT, Culvert, PROGRAMS, Setup, restart_wgd, start_edge, start_storaged};
use culvert_netns::lab::{self, Lab};
use culvert_netns::payload::Payload;
use culvert_netns::process_status::ProcessStatus;
use culvert_netns::program::Running;
use culvert_netns::world::World;
use nix::sys::signal::Signal;

use super::figures::{Figures, Row};
use super::process_time::cpu_seconds;
use crate::{packages, steps};

/// How much and how often to carry.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each way is measured, in turn
    #[arg(long, default_value_t = 11)]
    rounds: u32,
    /// The large file's size in MiB
    #[arg(long, default_value_t = 256)]
    mebibytes: u32,
    /// Small files of 64 KiB, eight at a time
    #[arg(long, default_value_t = 500)]
    files: u32,
}

/// What is put ahead of libc.
const SOURCE: &str = include_str!("lockdown/unsealed.c");
/// Its name among the tools.
pub(crate) const LIBRARY: &str = "unsealed.so";
/// While this stands on a host, the library keeps the layers off.
const SWITCH: &str = "/run/unsealed";

const SEALED: &str = "locked down";
const OPEN: &str = "without";

const BOUND: Duration = Duration::from_secs(600);
const STOP: Duration = Duration::from_secs(20);
const SMALL_BYTES: u64 = 64 << 10;

const PUT: Row = Row { name: "one large file, put, CPU s/GB of all daemons", digits: 3 };
const GET: Row = Row { name: "one large file, get, CPU s/GB of all daemons", digits: 3 };
const SMALL: Row = Row { name: "64 KiB puts, 8 at a time, CPU ms each of all daemons", digits: 3 };
const OF_EACH: [[Row; 3]; 4] = [
    rows("  wgd on web, put, s/GB", "  wgd on web, get, s/GB", "  wgd on web, a small put, ms"),
    rows(
        "  wgd on services, put, s/GB",
        "  wgd on services, get, s/GB",
        "  wgd on services, a small put, ms",
    ),
    rows("  edge, put, s/GB", "  edge, get, s/GB", "  edge, a small put, ms"),
    rows("  storaged, put, s/GB", "  storaged, get, s/GB", "  storaged, a small put, ms"),
];

const fn rows(put: &'static str, get: &'static str, small: &'static str) -> [Row; 3] {
    [Row { name: put, digits: 3 }, Row { name: get, digits: 3 }, Row { name: small, digits: 3 }]
}

/// Builds the library.
pub(crate) fn provide() -> Result<()> {
    let tools = packages::tools_directory();
    fs::create_dir_all(&tools).with_context(|| format!("create {}", tools.display()))?;
    let source = tools.join("unsealed.c");
    fs::write(&source, SOURCE).with_context(|| format!("write {}", source.display()))?;
    let mut command = Command::new("cc");
    command.args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(tools.join(LIBRARY)).arg(&source);
    ensure!(steps::run(&mut command)?, "the library that keeps the lock-down off does not build");
    Ok(())
}

pub(crate) fn run(options: &Options, world: &World) -> Result<()> {
    let programs = lab::programs()?;
    lab::require_programs(&programs, PROGRAMS)?;
    let lab = Lab::build(world, &programs)?;
    let edge_lines = "limits.rate_per_second = 0\n".to_owned();
    let mut culvert = Culvert::start_with(&lab, &Setup { edge_lines, ..Setup::default() })?;
    let disk = world.data().join("client");
    let mut figures = Figures::default();
    for round in 0..options.rounds {
        let ways = if round % 2 == 0 { [SEALED, OPEN] } else { [OPEN, SEALED] };
        for way in ways {
            println!("round {} of {}: {way}", round + 1, options.rounds);
            start_anew(&lab, &mut culvert, way == SEALED)?;
            let seed = u64::from(round) * 4 + u64::from(way == SEALED) * 2;
            for (name, bytes, seed) in
                [("large", u64::from(options.mebibytes) << 20, seed), ("small", SMALL_BYTES, seed + 1)]
            {
                let path = disk.join(name);
                let mut out =
                    fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
                std::io::copy(&mut Payload::new(bytes, seed), &mut out)?;
            }
            let tag = format!("{round}-{}", u8::from(way == SEALED));
            measure(&culvert, options, way, &tag, &mut figures)
                .with_context(|| format!("{way}; logs:\n{}", lab.logs()))?;
        }
    }
    println!(
        "\n{} rounds; a file of {} MiB, {} of 64 KiB; CPU time as the kernel counts it for each daemon, all threads\n",
        options.rounds, options.mebibytes, options.files
    );
    print!("{}", figures.table(&[SEALED, OPEN]));
    println!("\n(where the spreads overlap, no difference is told)");
    Ok(())
}

/// All daemons from their start, with the layers or without.
fn start_anew(lab: &Lab, culvert: &mut Culvert<'_>, sealed: bool) -> Result<()> {
    for running in [&mut culvert.edge, &mut culvert.storaged, &mut culvert.wgd_web, &mut culvert.wgd_services]
    {
        running.signal(Signal::SIGTERM)?;
        running.wait(STOP)?;
    }
    for host in [&lab.web, &lab.services] {
        host.execute(&if sealed { format!("rm -f {SWITCH}") } else { format!("touch {SWITCH}") })?;
    }
    culvert.wgd_services = restart_wgd(&lab.services)?;
    culvert.wgd_web = restart_wgd(&lab.web)?;
    culvert.storaged = start_storaged(lab)?;
    culvert.edge = start_edge(lab)?;
    culvert.wait_until_ready(STOP)?;
    let filtered = if sealed { 2 } else { 0 };
    for daemon in culvert.daemons() {
        let mode = ProcessStatus::read(daemon.pid())?.seccomp;
        ensure!(mode == filtered, "process {} is in seccomp mode {mode}, not {filtered}", daemon.pid());
    }
    Ok(())
}

fn measure(
    culvert: &Culvert<'_>,
    options: &Options,
    way: &str,
    tag: &str,
    figures: &mut Figures,
) -> Result<()> {
    let url = format!("http://{}/v1/cohorts/{COHORT}/files", culvert.public());
    let gigabytes = f64::from(options.mebibytes) * 1.048_576 / 1000.0;
    let large = format!("{url}/large-{tag}.csv");
    let small: String = (0..options.files)
        .map(|number| {
            let url = format!("{url}/small-{tag}-{number}.csv");
            format!("upload-file = \"/srv/small\"\nurl = \"{url}\"\noutput = \"/dev/null\"\n")
        })
        .collect();
    culvert.lab().client.write("/run/small", small)?;
    let work: [(&[&str], Row, usize, f64); 3] = [
        (&["-T", "/srv/large", "-o", "/dev/null", &large], PUT, 0, gigabytes),
        (&["-o", "/dev/null", &large], GET, 1, gigabytes),
        (&["-Z", "--parallel-max", "8", "-K", "/run/small"], SMALL, 2, f64::from(options.files) / 1000.0),
    ];
    for (arguments, row, index, unit) in work {
        let before = cpu(culvert.daemons())?;
        curl(culvert, arguments)?;
        let after = cpu(culvert.daemons())?;
        figures.add(row, way, (after.iter().sum::<f64>() - before.iter().sum::<f64>()) / unit);
        for (of, rows) in OF_EACH.iter().enumerate() {
            figures.add(rows[index], way, (after[of] - before[of]) / unit);
        }
    }
    Ok(())
}

fn cpu(daemons: [&Running; 4]) -> Result<[f64; 4]> {
    let mut all = [0.0; 4];
    for (seconds, daemon) in all.iter_mut().zip(daemons) {
        *seconds = cpu_seconds(&[daemon.pid()])?;
    }
    Ok(all)
}

fn curl(culvert: &Culvert<'_>, arguments: &[&str]) -> Result<()> {
    let said = culvert
        .lab()
        .client
        .program("curl")
        .arguments(&["--no-progress-meter", "--http1.1", "-H", "Expect:", "-w", "%{http_code}\n"])
        .arguments(&["-H", &format!("Authorization: Bearer {}", culvert.token)])
        .arguments(arguments)
        .run(BOUND)?
        .success()?;
    let bad = said.lines().find(|line| !line.starts_with('2'));
    ensure!(bad.is_none() && !said.is_empty(), "an answer was {bad:?}");
    Ok(())
}
