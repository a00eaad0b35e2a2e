//! What clients do: one large file up and down, many small ones, and eight fast clients among many slow ones. All of them
//! are curl.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_netns::lab::Lab;
use culvert_netns::program::Program;
use culvert_netns::wait;
use daemon::Clock;

use super::Options;
use super::limits::{elapsed, megabytes};
use super::ways::Way;
use crate::bench::figures::{Figures, Row, quantile};
use crate::bench::process_time::{cpu_seconds, peak_mebibytes};

pub(super) const SMALL_BYTES: u64 = 64 << 10;
/// At [`SLOW_RATE`] it takes as long as the fast clients are measured.
pub(super) const SLOW_BYTES: u64 = 200_000;
const SLOW_RATE: &str = "20k";
const FAST_CLIENTS: &str = "8";
const BOUND: Duration = Duration::from_secs(600);

pub(super) const PUT: Row = row("one large file, put, MB/s", 0);
pub(super) const GET: Row = row("one large file, get, MB/s", 0);
pub(super) const SMALL: Row = row("64 KiB puts, 8 at a time, files/s", 0);
pub(super) const SMALL_P99: Row = row("64 KiB puts, 8 at a time, 99 % within, ms", 1);
pub(super) const MIXED: Row = row("the same among slow clients, files/s", 0);
pub(super) const MIXED_P99: Row = row("the same among slow clients, 99 % within, ms", 1);

/// Of each part: CPU up, CPU down, memory.
const OF_PARTS: [[Row; 3]; 4] = [
    [
        row("  CPU of the tunnel on web, put, s/GB", 2),
        row("  CPU of the tunnel on web, get, s/GB", 2),
        row("  peak memory of the tunnel on web, MiB", 1),
    ],
    [
        row("  CPU of the tunnel on services, put, s/GB", 2),
        row("  CPU of the tunnel on services, get, s/GB", 2),
        row("  peak memory of the tunnel on services, MiB", 1),
    ],
    [
        row("  CPU of the proxy, put, s/GB", 2),
        row("  CPU of the proxy, get, s/GB", 2),
        row("  peak memory of the proxy, MiB", 1),
    ],
    [
        row("  CPU of the store, put, s/GB", 2),
        row("  CPU of the store, get, s/GB", 2),
        row("  peak memory of the store, MiB", 1),
    ],
];

const fn row(name: &'static str, digits: usize) -> Row {
    Row { name, digits }
}

pub(super) fn measure(
    lab: &Lab,
    way: &Way,
    options: &Options,
    round: u32,
    figures: &mut Figures,
) -> Result<()> {
    let gigabytes = megabytes(options.mebibytes << 20) / 1000.0;
    let url = format!("{}/large-{round}.csv", way.url);
    let before = cpu(way)?;
    let seconds = transfer(lab, way, &["-T", "/srv/large", "-o", "/dev/null", &url])?;
    let between = cpu(way)?;
    figures.add(PUT, way.name, gigabytes * 1000.0 / seconds);
    let seconds = transfer(lab, way, &["-o", "/dev/null", &url])?;
    let after = cpu(way)?;
    figures.add(GET, way.name, gigabytes * 1000.0 / seconds);

    let (rate, slowest) = small(lab, way, options.files, &format!("s{round}"))?;
    figures.add(SMALL, way.name, rate);
    figures.add(SMALL_P99, way.name, slowest);

    let slow = puts(way, options.slow_clients, "/srv/slow", &format!("w{round}"))?;
    lab.client.write("/run/slow", slow)?;
    let limits = ["--parallel-max", &options.slow_clients.to_string(), "--limit-rate", SLOW_RATE];
    let mut others = curl(lab, way)
        .arguments(&limits)
        .arguments(&["-Z", "--parallel-immediate", "-K", "/run/slow"])
        .start()?;
    std::thread::sleep(Duration::from_secs(2));
    let (rate, slowest) = small(lab, way, options.files, &format!("m{round}"))?;
    others.still_runs().context("the slow clients were done before the fast ones")?;
    figures.add(MIXED, way.name, rate);
    figures.add(MIXED_P99, way.name, slowest);
    ensure!(others.wait(BOUND)?.success(), "slow clients: {:?}", others.log().lines());
    // What it said is read by a thread of its own.
    let said = wait::until("the slow clients' answers", BOUND, || {
        let lines = others.output().lines();
        ensure!(lines.len() == usize::try_from(options.slow_clients)?, "{} answers", lines.len());
        Ok(lines)
    })?;
    refused(&said)?;

    for (index, rows) in OF_PARTS.iter().enumerate() {
        figures.add(rows[0], way.name, (between[index] - before[index]) / gigabytes);
        figures.add(rows[1], way.name, (after[index] - between[index]) / gigabytes);
        figures.add(rows[2], way.name, peak_mebibytes(&way.processes[index])?);
    }
    Ok(())
}

fn cpu(way: &Way) -> Result<Vec<f64>> {
    way.processes.iter().map(|pids| cpu_seconds(pids)).collect()
}

fn curl<'a>(lab: &'a Lab, way: &Way) -> Program<'a> {
    let program = lab.client.program("curl").arguments(&[
        "--no-progress-meter",
        "--http1.1",
        "--cacert",
        "/run/ca.pem",
    ]);
    // What it would send by itself waits for an answer that nginx gives at once and a store after it has looked.
    let program = program.arguments(&["-H", "Expect:", "-w", "%{http_code} %{time_total}\n"]);
    way.headers.iter().fold(program, |program, header| program.arguments(&["-H", header]))
}

/// Seconds of one transfer.
pub(super) fn transfer(lab: &Lab, way: &Way, arguments: &[&str]) -> Result<f64> {
    let began: Instant = Clock.now();
    let said = curl(lab, way).arguments(arguments).run(BOUND)?.success()?;
    let seconds = elapsed(began);
    refused(&said.lines().map(str::to_owned).collect::<Vec<_>>())?;
    Ok(seconds)
}

/// Files a second, and the milliseconds that 99 of 100 took at most.
pub(super) fn small(lab: &Lab, way: &Way, files: u32, prefix: &str) -> Result<(f64, f64)> {
    lab.client.write("/run/small", puts(way, files, "/srv/small", prefix)?)?;
    let began = Clock.now();
    let program = curl(lab, way).arguments(&["-Z", "--parallel-max", FAST_CLIENTS, "-K", "/run/small"]);
    let said = program.run(BOUND)?.success()?;
    let seconds = elapsed(began);
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    refused(&lines)?;
    let mut times: Vec<f64> = lines
        .iter()
        .filter_map(|line| line.split_once(' ')?.1.parse::<f64>().ok())
        .map(|seconds| seconds * 1000.0)
        .collect();
    ensure!(times.len() == usize::try_from(files)?, "{} answers for {files} files", times.len());
    times.sort_by(f64::total_cmp);
    Ok((f64::from(files) / seconds, quantile(&times, 0.99).context("no times")?))
}

/// Many puts, as a configuration of curl.
fn puts(way: &Way, number: u32, file: &str, prefix: &str) -> Result<String> {
    let mut text = String::new();
    for index in 0..number {
        writeln!(
            text,
            "upload-file = \"{file}\"\nurl = \"{}/{prefix}-{index}.csv\"\noutput = \"/dev/null\"",
            way.url
        )?;
    }
    Ok(text)
}

/// Fails unless every answer was a good one.
fn refused(lines: &[String]) -> Result<()> {
    let bad = lines.iter().find(|line| !line.starts_with('2'));
    ensure!(bad.is_none() && !lines.is_empty(), "an answer was {bad:?} (of {})", lines.len());
    Ok(())
}
