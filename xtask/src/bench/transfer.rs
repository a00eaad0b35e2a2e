//! The whole path, client → edge → tunnel → storaged → disk and back, beside what one could build from known parts: nginx as
//! a proxy, Debian's wireguard-go, nginx as a WebDAV store, which hashes, seals, syncs and records nothing.
//!
//! ```text
//!   client: curl ── web: edge ═ wgd ══ wan ══ wgd ═ services: storaged
//!                ── web: nginx ═ wireguard-go ══ wan ══ wireguard-go ═ services: nginx
//! ```
//!
//! Both stand on the same two hosts at the same time and take turns. In the same rounds, what this machine allows: SHA-256
//! alone over the same bytes, and writing and syncing the same bytes to the same disk. At last both proxies alone, before a
//! store that keeps nothing.

mod alone;
mod goals;
mod limits;
mod loads;
mod ways;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use culvert_netns::culvert::{PROGRAMS, make_certificate};
use culvert_netns::lab::{self, Lab};
use culvert_netns::payload::Payload;
use culvert_netns::world::World;

use super::figures::Figures;
use super::store::nginx;

/// How much and how often to carry.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each way is measured, in turn, without TLS
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The same with TLS
    #[arg(long, default_value_t = 1)]
    tls_rounds: u32,
    /// The large file's size in MiB
    #[arg(long, default_value_t = 1024)]
    mebibytes: u64,
    /// Small files of 64 KiB, eight at a time
    #[arg(long, default_value_t = 1000)]
    files: u32,
    /// Clients that upload 20 KB/s each, beside eight fast ones
    #[arg(long, default_value_t = 200)]
    slow_clients: u32,
    /// Uploads that stand half-way at once while memory is looked at, without TLS
    #[arg(long, default_value_t = 1000)]
    open_uploads: u32,
    /// What the clients speak to edge and to nginx: plain HTTP, TLS 1.3, or one after the other
    #[arg(long, value_enum, default_value_t = Clients::Both, overrides_with = "clients")]
    clients: Clients,
    /// culvert alone
    #[arg(long)]
    alone: bool,
}

/// What clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Clients {
    /// HTTP without TLS
    Plain,
    /// TLS 1.3
    Tls,
    /// Both, each in a world of its own
    Both,
}

impl Options {
    /// What the worlds are told after the arguments, one world after the other.
    pub(crate) fn worlds(&self) -> Vec<[&'static str; 2]> {
        let plain = (self.rounds > 0 && self.clients != Clients::Tls).then_some(["--clients", "plain"]);
        let tls = (self.tls_rounds > 0 && self.clients != Clients::Plain).then_some(["--clients", "tls"]);
        plain.into_iter().chain(tls).collect()
    }

    fn is_tls(&self) -> bool {
        self.clients == Clients::Tls
    }

    fn rounds(&self) -> u32 {
        if self.is_tls() { self.tls_rounds } else { self.rounds }
    }
}

const OURS: &str = "culvert";
const KNOWN: &str = "nginx and wireguard-go";

/// Fetches the programs that it is compared with.
pub(crate) fn provide() -> Result<()> {
    nginx::provide()
}

pub(crate) fn run(options: &Options, world: &World) -> Result<()> {
    let programs = lab::programs()?;
    lab::require_programs(&programs, PROGRAMS)?;
    let lab = Lab::build(world, &programs)?;
    if options.is_tls() {
        make_certificate(&lab)?;
    }
    let mut culvert = ways::culvert(&lab, options)?;
    let known = if options.alone { None } else { Some(ways::known(&lab, options.is_tls())?) };
    let mut ours = culvert.way(options.is_tls())?;
    let mut figures = Figures::default();
    let disk = world.data().join("client");
    write_payload(&disk.join("small"), loads::SMALL_BYTES, 1)?;
    write_payload(&disk.join("slow"), loads::SLOW_BYTES, 2)?;
    for round in 1..=options.rounds() {
        // Other bytes each round: the same ones would be recognised.
        let large = disk.join("large");
        write_payload(&large, options.mebibytes << 20, u64::from(round) + 2)?;
        limits::measure(&large, OURS, &mut figures)?;
        for way in [Some(&mut ours), known.as_ref().map(|known| known.way()).transpose()?.as_mut()] {
            let Some(way) = way else { continue };
            println!("round {round} of {}: {}", options.rounds(), way.name);
            loads::measure(&lab, way, options, round, &mut figures)
                .with_context(|| format!("{}; logs:\n{}", way.name, lab.logs()))?;
        }
    }
    alone::measure(&lab, &mut culvert, known.as_ref(), options, &mut figures)
        .with_context(|| format!("the proxies alone; logs:\n{}", lab.logs()))?;
    println!(
        "\n{} rounds {}; a file of {} MiB, {} of 64 KiB; the clients, both hosts and the WAN share this machine's cores\n",
        options.rounds(),
        if options.is_tls() { "with TLS" } else { "without TLS" },
        options.mebibytes,
        options.files
    );
    let names = if options.alone { &[OURS][..] } else { &[OURS, KNOWN] };
    print!("{}", figures.table(names));
    if known.is_some() {
        println!();
        goals::GOALS.iter().for_each(|goal| println!("{}", goal.told(&figures)));
    }
    Ok(())
}

fn write_payload(to: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut out = std::io::BufWriter::with_capacity(1 << 20, File::create(to)?);
    std::io::copy(&mut Payload::new(bytes, seed).by_ref(), &mut out)?;
    out.flush()?;
    Ok(())
}
