//! The tunnel's instrument: two daemons of one kind, one after the other kind, on the same two hosts.
//!
//! ```text
//!   web: iperf3 client, ping ── wg0 (10.100.0.10) ══ wan ══ wg0 (10.100.0.11) ── services: iperf3 server
//! ```
//!
//! Everything shares the machine's cores, so CPU time per byte *is* throughput; both are shown.

mod instructions;
mod measured;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_netns::host::{Host, Place};
use culvert_netns::lab::{self, Lab, address};
use culvert_netns::program::Running;
use culvert_netns::wireguard::{self, KeyPair};
use culvert_netns::world::World;

use super::figures::Figures;
use crate::steps;

/// How long and how often to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each daemon is measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each transfer
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Another daemon that `wg` can configure, started as `PROGRAM -f wg0`; may be given several times. Options of the
    /// program follow it after spaces
    #[arg(long, value_name = "NAME=PROGRAM", value_parser = against)]
    against: Vec<(String, String)>,
    /// wgd without offloads as well
    #[arg(long)]
    plain: bool,
    /// Switches segmentation off on the line between both hosts (ethtool -K … tx-udp-segmentation off)
    #[arg(long)]
    no_line_segmentation: bool,
    /// TCP in one direction, CPU time and latency only
    #[arg(long)]
    brief: bool,
    /// wgd with so many configured peers at both ends as well; may be given several times
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=60_000))]
    peers: Vec<u32>,
    /// Counts the instructions of a packet among 1, 100 and 10,000 peers (valgrind; takes a minute)
    #[arg(long)]
    instructions: bool,
}

impl Options {
    /// Programs that only some figures need.
    pub(crate) fn provide(&self) -> Result<()> {
        if self.instructions { instructions::provide() } else { Ok(()) }
    }
}

fn against(text: &str) -> Result<(String, String), String> {
    let (name, program) = text.split_once('=').ok_or("NAME=PROGRAM, such as gotatun=/usr/bin/gotatun")?;
    Ok((name.to_owned(), program.to_owned()))
}

/// A kind of daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contender {
    name: String,
    program: Program,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    Wgd { plain: bool, peers: u32 },
    Other(Vec<String>),
}

impl Contender {
    fn all(options: &Options) -> Vec<Contender> {
        let wgd = |name: &str, plain, peers| Contender {
            name: name.to_owned(),
            program: Program::Wgd { plain, peers },
        };
        let other = |name: &str, words: &str| Contender {
            name: name.to_owned(),
            program: Program::Other(words.split_whitespace().map(str::to_owned).collect()),
        };
        let mut all = vec![wgd("wgd", false, 1)];
        if options.plain {
            all.push(wgd("wgd plain", true, 1));
        }
        all.extend(options.peers.iter().map(|peers| wgd(&format!("wgd, {peers} peers"), false, *peers)));
        all.push(other("wireguard-go", "wireguard-go"));
        all.extend(options.against.iter().map(|(name, words)| other(name, words)));
        all
    }

    fn start(&self, host: &Host, address: &str, config: &str) -> Result<Running> {
        match &self.program {
            Program::Other(words) => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                wireguard::start_other(&words, host, "wg0", address, config)
            }
            Program::Wgd { plain, peers } => {
                // The address brings the one route that is needed.
                let first = format!("[Interface]\nAddress = {address}\nTable = off\n");
                let mut text = config.replacen("[Interface]\n", &first, 1);
                text.push_str(&super::peers::silent(peers - 1)?);
                host.write_secret("/etc/wireguard/wg0.conf", text)?;
                let device = if *plain { "plain" } else { "auto" };
                let mut running = host.daemon("wgd").arguments(&["-f", "--device", device, "wg0"]).start()?;
                running.until("answer on its socket", Duration::from_secs(10), || {
                    host.run(&["wg", "show", "wg0", "listen-port"])?.success()
                })?;
                Ok(running)
            }
        }
    }
}

/// Prints what the steps of a packet cost by themselves, as the program `steps` says it.
pub(crate) fn steps_alone() -> Result<()> {
    let mut program = std::process::Command::new(steps::root().join("target/release/examples/steps"));
    let output = program.output().context("run steps")?;
    ensure!(output.status.success(), "steps: {}", String::from_utf8_lossy(&output.stderr));
    println!("\nnanoseconds a packet, one core, the quickest of many rounds\n");
    for line in String::from_utf8(output.stdout).context("steps")?.lines() {
        let (step, nanoseconds) = line.split_once('\t').context("a line of steps")?;
        println!("{step:<48}{nanoseconds:>7}");
    }
    Ok(())
}

pub(crate) fn run(options: &Options, world: &World) -> Result<()> {
    let programs = lab::programs()?;
    lab::require_programs(&programs, &["wgd"])?;
    let lab = Lab::build(world, &programs)?;
    if options.no_line_segmentation {
        for host in [&lab.web, &lab.services] {
            let links = host.execute("ip -oneline link show type veth")?;
            for link in links.lines().filter_map(|line| line.split([':', '@']).nth(1)) {
                host.execute(&format!("ethtool -K {} tx-udp-segmentation off", link.trim()))?;
            }
        }
    }
    let keys = [KeyPair::generate(&lab.web)?, KeyPair::generate(&lab.services)?];
    let preshared = wireguard::generate_preshared_key(&lab.web)?;
    let contenders = Contender::all(options);
    let mut figures = Figures::default();
    for round in 1..=options.rounds {
        for contender in &contenders {
            println!("round {round} of {}: {}", options.rounds, contender.name);
            let config = |own: &KeyPair, peer: &KeyPair, peer_inside, peer_outside| {
                let mut text = String::new();
                let _ = writeln!(text, "[Interface]\nPrivateKey = {}\nListenPort = 51820\n", own.private);
                let _ = writeln!(text, "[Peer]\nPublicKey = {}\nPresharedKey = {preshared}", peer.public);
                let _ = writeln!(text, "AllowedIPs = {peer_inside}/32\nEndpoint = {peer_outside}:51820");
                text
            };
            let web = config(&keys[0], &keys[1], address::SERVICES_TUNNEL, address::SERVICES_WAN);
            let services = config(&keys[1], &keys[0], address::WEB_TUNNEL, address::WEB_WAN);
            let daemons = [
                contender.start(&lab.web, "10.100.0.10/24", &web)?,
                contender.start(&lab.services, "10.100.0.11/24", &services)?,
            ];
            wireguard::ping(&lab.web, Place::Outer, "10.100.0.11", Duration::from_secs(10))?;
            measured::measure(&lab, &contender.name, &daemons, options, &mut figures)
                .with_context(|| format!("{}; logs:\n{}", contender.name, lab.logs()))?;
            for daemon in daemons {
                daemon.stop()?;
            }
        }
    }
    println!(
        "\n{} rounds of {} s each; all processes share this machine's cores\n",
        options.rounds, options.seconds
    );
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name.as_str()).collect();
    print!("{}", figures.table(&names));
    steps_alone()?;
    if options.instructions { instructions::count() } else { Ok(()) }
}
