//! The whole path: client → edge → tunnel → storaged → disk, and back.
//!
//! Beside it, in the same rounds, what this machine allows: SHA-256 alone over the same bytes, and writing and syncing
//! the same bytes to the same disk.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_netns::culvert::{COHORT, Culvert, PROGRAMS};
use culvert_netns::lab::{self, Lab};
use culvert_netns::payload::Payload;
use culvert_netns::program::Running;
use culvert_netns::world::World;
use daemon::Clock;
use sha2::{Digest, Sha256};

use super::figures::{Figures, Row};
use super::process_time::{cpu_seconds, peak_mebibytes};

/// How much and how often to carry.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the file goes up and down
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The file's size in MiB
    #[arg(long, default_value_t = 1024)]
    mebibytes: u64,
}

const UPLOAD: Row = Row { name: "upload, MB/s", digits: 0 };
const DOWNLOAD: Row = Row { name: "download, MB/s", digits: 0 };
const HASH: Row = Row { name: "limit: SHA-256 alone, MB/s", digits: 0 };
const DISK: Row = Row { name: "limit: write and fdatasync alone, MB/s", digits: 0 };
const OURS: &str = "culvert";
const TRANSFER_BOUND: Duration = Duration::from_secs(600);

/// Per daemon: CPU up, CPU down, memory.
const DAEMONS: [(&str, [Row; 3]); 4] = [
    ("wgd@web", rows("wgd@web CPU up, s/GB", "wgd@web CPU down, s/GB", "wgd@web peak memory, MiB")),
    (
        "wgd@services",
        rows("wgd@services CPU up, s/GB", "wgd@services CPU down, s/GB", "wgd@services peak memory, MiB"),
    ),
    ("edge@web", rows("edge CPU up, s/GB", "edge CPU down, s/GB", "edge peak memory, MiB")),
    (
        "storaged@services",
        rows("storaged CPU up, s/GB", "storaged CPU down, s/GB", "storaged peak memory, MiB"),
    ),
];

const fn rows(up: &'static str, down: &'static str, memory: &'static str) -> [Row; 3] {
    [Row { name: up, digits: 2 }, Row { name: down, digits: 2 }, Row { name: memory, digits: 1 }]
}

pub(crate) fn run(options: &Options, world: &World) -> Result<()> {
    let programs = lab::programs()?;
    lab::require_programs(&programs, PROGRAMS)?;
    let lab = Lab::build(world, &programs)?;
    let culvert = Culvert::start(&lab)?;
    lab.client.write("/run/token", &culvert.token)?;
    let size = options.mebibytes << 20;
    let mut figures = Figures::default();
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        // Other bytes each round: the same ones would be recognised.
        let file = world.data().join("client").join("bench.csv");
        io_copy(&mut Payload::new(size, u64::from(round)), &file)?;
        measure(&culvert, &file, round, size, &mut figures)
            .with_context(|| format!("logs:\n{}", lab.logs()))?;
    }
    println!(
        "\n{} rounds of {} MiB; the client, both hosts and the WAN share this machine's cores\n",
        options.rounds, options.mebibytes
    );
    print!("{}", figures.table(&[OURS]));
    Ok(())
}

fn measure(culvert: &Culvert<'_>, file: &Path, round: u32, size: u64, figures: &mut Figures) -> Result<()> {
    let gigabytes = megabytes(size) / 1000.0;
    figures.add(HASH, OURS, megabytes(size) / hash_seconds(file)?);
    let remote = format!("{COHORT}/bench-{round}.csv");

    let before = cpu_of_each(culvert)?;
    let seconds = command(culvert, &["put", "/srv/bench.csv", &remote])?;
    let between = cpu_of_each(culvert)?;
    figures.add(UPLOAD, OURS, megabytes(size) / seconds);
    let seconds = command(culvert, &["get", &remote, "/srv/back.csv"])?;
    let after = cpu_of_each(culvert)?;
    figures.add(DOWNLOAD, OURS, megabytes(size) / seconds);

    for (index, daemon) in culvert.daemons().into_iter().enumerate() {
        let rows =
            DAEMONS.iter().find(|(label, _)| *label == daemon.label()).context("a daemon without rows")?.1;
        figures.add(rows[0], OURS, (between[index] - before[index]) / gigabytes);
        figures.add(rows[1], OURS, (after[index] - between[index]) / gigabytes);
        figures.add(rows[2], OURS, peak_mebibytes(&[daemon.pid()])?);
    }
    let copy = file.with_extension("limit");
    figures.add(DISK, OURS, megabytes(size) / disk_seconds(file, &copy)?);
    fs::remove_file(&copy)?;
    fs::remove_file(file.with_file_name("back.csv"))?;
    Ok(())
}

fn cpu_of_each(culvert: &Culvert<'_>) -> Result<Vec<f64>> {
    culvert.daemons().iter().map(|daemon: &&Running| cpu_seconds(&[daemon.pid()])).collect()
}

fn command(culvert: &Culvert<'_>, arguments: &[&str]) -> Result<f64> {
    let began = Clock.now();
    culvert
        .lab()
        .client
        .program("/run/bin/culvert")
        .arguments(arguments)
        .variable("CULVERT_SERVER", &format!("http://{}", culvert.public()))
        .variable("CULVERT_TOKEN_FILE", "/run/token")
        .run(TRANSFER_BOUND)?
        .success()?;
    Ok(elapsed(began))
}

fn io_copy(from: &mut impl Read, to: &Path) -> Result<()> {
    let mut out = std::io::BufWriter::with_capacity(1 << 20, File::create(to)?);
    std::io::copy(from, &mut out)?;
    out.flush()?;
    Ok(())
}

fn hash_seconds(file: &Path) -> Result<f64> {
    let began = Clock.now();
    let mut hash = Sha256::new();
    each_buffer(file, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    std::hint::black_box(hash.finalize());
    Ok(elapsed(began))
}

fn disk_seconds(file: &Path, copy: &Path) -> Result<f64> {
    let began = Clock.now();
    let mut out = File::create(copy)?;
    each_buffer(file, |bytes| Ok(out.write_all(bytes)?))?;
    out.sync_data()?;
    Ok(elapsed(began))
}

fn each_buffer(file: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        take(&buffer[..length])?;
    }
}

fn elapsed(began: Instant) -> f64 {
    began.elapsed().as_secs_f64().max(1e-9)
}

#[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
