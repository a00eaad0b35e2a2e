//! Many peers on one interface: how long they take to load, what they weigh, and what one of them notices.
//!
//! ```text
//!   services: wireguard-go, one of them ══ wan ══ wg0 (10.100.0.10) with all of them :web
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_netns::host::Host;
use culvert_netns::lab::{self, Lab, address};
use culvert_netns::program::Running;
use culvert_netns::wireguard::{self, KeyPair};
use culvert_netns::world::World;
use daemon::Clock;

use super::figures::{Figures, Row};
use super::process_time::{cpu_seconds, resident_mebibytes};

/// How many peers, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each daemon is measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Peers of the interface
    #[arg(long, default_value_t = 10_000)]
    peers: u32,
    /// Seconds in which all peers are called and none answers
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

const LOAD: Row = Row { name: "wg setconf of all peers, s", digits: 2 };
const DUMP: Row = Row { name: "wg show dump of all peers, s", digits: 2 };
const EMPTY: Row = Row { name: "resident memory before, MiB", digits: 1 };
const LOADED: Row = Row { name: "resident memory with all peers, MiB", digits: 1 };
const FIRST: Row = Row { name: "first packet through one of them, ms", digits: 1 };
const ONE: Row = Row { name: "CPU of one echo more, of 500, µs", digits: 0 };
const CALLING: Row = Row { name: "CPU while all are called and none answers, s/s", digits: 2 };
const CALLED: Row = Row { name: "resident memory then, MiB", digits: 1 };
const FIRST_THEN: Row = Row { name: "first packet through one of them then, ms", digits: 1 };

const CONTENDERS: [&str; 2] = ["wgd", "wireguard-go"];
const BOUND: Duration = Duration::from_secs(20);
const ECHOES: u32 = 500;

pub(crate) fn run(options: &Options, world: &World) -> Result<()> {
    ensure!(options.peers > 0 && options.peers <= 60_000, "between 1 and 60000 peers");
    let programs = lab::programs()?;
    lab::require_programs(&programs, &["wgd"])?;
    let lab = Lab::build(world, &programs)?;
    let keys = [KeyPair::generate(&lab.web)?, KeyPair::generate(&lab.services)?];
    let quiet = many(options.peers, &keys, "")?;
    // Nobody listens on the router.
    let calling = many(options.peers, &keys, "Endpoint = 192.0.2.2:9\nPersistentKeepalive = 25\n")?;
    lab.web.write_secret("/run/quiet.conf", quiet)?;
    lab.web.write_secret("/run/calling.conf", calling)?;
    let one = format!(
        "[Interface]\nPrivateKey = {}\n\n[Peer]\nPublicKey = {}\nAllowedIPs = {}/32\nEndpoint = {}:51820\n",
        keys[1].private,
        keys[0].public,
        address::WEB_TUNNEL,
        address::WEB_WAN
    );
    let mut figures = Figures::default();
    for round in 1..=options.rounds {
        for contender in CONTENDERS {
            println!("round {round} of {}: {contender}", options.rounds);
            measure(&lab, contender, &one, options, &mut figures)
                .with_context(|| format!("{contender}; logs:\n{}", lab.logs()))?;
        }
    }
    println!(
        "\n{} rounds, {} peers with a prefix each; all processes share this machine's cores\n",
        options.rounds, options.peers
    );
    print!("{}", figures.table(&CONTENDERS));
    Ok(())
}

fn measure(lab: &Lab, contender: &str, one: &str, options: &Options, figures: &mut Figures) -> Result<()> {
    let web = &lab.web;
    let daemon = start(web, contender)?;
    let pids = [daemon.pid()];
    figures.add(EMPTY, contender, resident_mebibytes(&pids)?);
    figures.add(LOAD, contender, seconds_of(web, &["wg", "setconf", "wg0", "/run/quiet.conf"])?);
    // The harness keeps the last lines of what a program prints, not ten thousand.
    let loaded = web.run(&["sh", "-c", "wg show wg0 peers | wc -l"])?.success()?;
    ensure!(loaded.trim() == options.peers.to_string(), "{loaded} peers were loaded");
    figures.add(DUMP, contender, seconds_of(web, &["sh", "-c", "wg show wg0 dump > /dev/null"])?);
    figures.add(LOADED, contender, resident_mebibytes(&pids)?);
    let (milliseconds, peer) = first_packet(lab, one)?;
    figures.add(FIRST, contender, milliseconds);

    let ping = ["ping", "-q", "-c", &ECHOES.to_string(), "-i", "0.002", "10.100.0.11"];
    let before = cpu_seconds(&pids)?;
    web.run(&ping)?.success()?;
    figures.add(ONE, contender, (cpu_seconds(&pids)? - before) / f64::from(ECHOES) * 1e6);
    peer.stop()?;

    web.run(&["wg", "setconf", "wg0", "/run/calling.conf"])?.success()?;
    let before = cpu_seconds(&pids)?;
    thread::sleep(Duration::from_secs(options.seconds.into()));
    let spent = cpu_seconds(&pids)? - before;
    figures.add(CALLING, contender, spent / f64::from(options.seconds));
    figures.add(CALLED, contender, resident_mebibytes(&pids)?);
    let (milliseconds, peer) = first_packet(lab, one)?;
    figures.add(FIRST_THEN, contender, milliseconds);
    peer.stop()?;
    daemon.stop()?;
    Ok(())
}

/// The contender with an empty interface that is up.
fn start(host: &Host, contender: &str) -> Result<Running> {
    let program = if contender == "wgd" { host.daemon("wgd") } else { host.program(contender) };
    let mut running = program.arguments(&["-f", "wg0"]).variable("WG_PROCESS_FOREGROUND", "1").start()?;
    running.until("answer on its socket", BOUND, || {
        host.run(&["wg", "show", "wg0", "listen-port"])?.success()
    })?;
    let inner = format!("{}/24", address::WEB_TUNNEL);
    host.run(&["ip", "address", "add", &inner, "dev", "wg0"])?.success()?;
    host.run(&["ip", "link", "set", "wg0", "mtu", "1420", "up"])?.success()?;
    Ok(running)
}

/// Starts the peer. Milliseconds from its first packet, before any handshake, to the answer.
fn first_packet(lab: &Lab, config: &str) -> Result<(f64, Running)> {
    let inner = format!("{}/24", address::SERVICES_TUNNEL);
    let peer = wireguard::start_wireguard_go(&lab.services, "wg0", &inner, config)?;
    let output = lab.services.run(&["ping", "-c", "1", "-w", "20", "10.100.0.10"])?.success()?;
    let time = output.split_once("time=").and_then(|(_, rest)| rest.split(' ').next());
    let time = time.and_then(|time| time.parse().ok());
    Ok((time.with_context(|| format!("ping printed no time: {output}"))?, peer))
}

fn seconds_of(host: &Host, command: &[&str]) -> Result<f64> {
    let began = Clock.now();
    host.run(command)?.success()?;
    Ok(began.elapsed().as_secs_f64())
}

/// An interface with `count` peers; the one on `services` is in their middle.
fn many(count: u32, keys: &[KeyPair; 2], more: &str) -> Result<String> {
    let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = 51820\n", keys[0].private);
    let mut random = File::open("/dev/urandom").context("open /dev/urandom")?;
    for index in 0..count {
        if index == count / 2 {
            let inner = address::SERVICES_TUNNEL;
            write!(text, "[Peer]\nPublicKey = {}\nAllowedIPs = {inner}/32\n", keys[1].public)?;
            continue;
        }
        text.push_str(&silent_peer(index, &mut random, more)?);
    }
    Ok(text)
}

/// Peers that nobody is, for an interface that has others.
pub(super) fn silent(count: u32) -> Result<String> {
    let mut random = File::open("/dev/urandom").context("open /dev/urandom")?;
    (0..count).map(|index| silent_peer(index, &mut random, "")).collect()
}

fn silent_peer(index: u32, random: &mut File, more: &str) -> Result<String> {
    let mut key = [0; 32];
    random.read_exact(&mut key).context("read /dev/urandom")?;
    let (high, low) = (index / 250, index % 250 + 1);
    let key = STANDARD.encode(key);
    Ok(format!("[Peer]\nPublicKey = {key}\nAllowedIPs = 10.101.{high}.{low}/32\n{more}"))
}
