//! The tunnel's instrument: two daemons of one kind, one after the other kind, on the same two hosts.
//!
//! ```text
//!   web: iperf3 client, ping ── wg0 (10.100.0.10) ══ wan ══ wg0 (10.100.0.11) ── services: iperf3 server
//! ```
//!
//! Everything shares the machine's cores, so CPU time per byte *is* throughput; both are shown.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_netns::host::{Host, Place};
use culvert_netns::lab::{self, Lab, address};
use culvert_netns::program::Running;
use culvert_netns::wireguard::{self, KeyPair};
use culvert_netns::world::World;
use serde_json::Value;

use super::figures::{Figures, Row, quantile};
use super::process_time::{cpu_seconds, peak_mebibytes};

/// How long and how often to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each daemon is measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each transfer
    #[arg(long, default_value_t = 5)]
    seconds: u32,
}

const ONE_STREAM: Row = Row { name: "TCP, 1 stream, Gbit/s", digits: 2 };
const FOUR_STREAMS: Row = Row { name: "TCP, 4 streams, Gbit/s", digits: 2 };
const CPU: Row = Row { name: "CPU of both daemons, 1 stream, s/GB", digits: 2 };
const SMALL: Row = Row { name: "64-byte UDP under 1 % loss, kpackets/s", digits: 0 };
const IDLE: [Row; 2] =
    [Row { name: "ping idle p50, ms", digits: 2 }, Row { name: "ping idle p99, ms", digits: 2 }];
const LOADED: [Row; 2] =
    [Row { name: "ping loaded p50, ms", digits: 2 }, Row { name: "ping loaded p99, ms", digits: 2 }];
const MEMORY: Row = Row { name: "peak memory of both daemons, MiB", digits: 1 };

/// Rates that are tried for small packets, in thousands a second.
const LADDER: [u32; 9] = [10, 20, 30, 45, 60, 80, 100, 130, 160];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    Wgd,
    WireguardGo,
}

impl Contender {
    const ALL: [Self; 2] = [Self::Wgd, Self::WireguardGo];

    fn name(self) -> &'static str {
        match self {
            Self::Wgd => "wgd",
            Self::WireguardGo => "wireguard-go",
        }
    }

    fn start(self, host: &Host, address: &str, config: &str) -> Result<Running> {
        match self {
            Self::WireguardGo => wireguard::start_wireguard_go(host, "wg0", address, config),
            Self::Wgd => {
                let with_address =
                    config.replacen("[Interface]\n", &format!("[Interface]\nAddress = {address}\n"), 1);
                host.write("/etc/wireguard/wg0.conf", with_address)?;
                let mut running = host.daemon("wgd").arguments(&["-f", "wg0"]).start()?;
                running.until("answer on its socket", Duration::from_secs(10), || {
                    host.run(&["wg", "show", "wg0", "listen-port"])?.success()
                })?;
                Ok(running)
            }
        }
    }
}

pub(crate) fn run(options: &Options, world: &World) -> Result<()> {
    let programs = lab::programs()?;
    lab::require_programs(&programs, &["wgd"])?;
    let lab = Lab::build(world, &programs)?;
    let keys = [KeyPair::generate(&lab.web)?, KeyPair::generate(&lab.services)?];
    let preshared = wireguard::generate_preshared_key(&lab.web)?;
    let mut figures = Figures::default();
    for round in 1..=options.rounds {
        for contender in Contender::ALL {
            println!("round {round} of {}: {}", options.rounds, contender.name());
            let config = |own: &KeyPair, peer: &KeyPair, peer_inside, peer_outside| {
                format!(
                    "[Interface]\nPrivateKey = {}\nListenPort = 51820\n\n[Peer]\nPublicKey = {}\nPresharedKey = {preshared}\n\
                     AllowedIPs = {peer_inside}/32\nEndpoint = {peer_outside}:51820\n",
                    own.private, peer.public
                )
            };
            let web = config(&keys[0], &keys[1], address::SERVICES_TUNNEL, address::SERVICES_WAN);
            let services = config(&keys[1], &keys[0], address::WEB_TUNNEL, address::WEB_WAN);
            let daemons = [
                contender.start(&lab.web, "10.100.0.10/24", &web)?,
                contender.start(&lab.services, "10.100.0.11/24", &services)?,
            ];
            measure(&lab, contender, &daemons, options, &mut figures)
                .with_context(|| format!("{}; logs:\n{}", contender.name(), lab.logs()))?;
            for daemon in daemons {
                daemon.stop()?;
            }
        }
    }
    println!(
        "\n{} rounds of {} s each; all processes share this machine's cores\n",
        options.rounds, options.seconds
    );
    print!("{}", figures.table(&[Contender::Wgd.name(), Contender::WireguardGo.name()]));
    Ok(())
}

fn measure(
    lab: &Lab,
    contender: Contender,
    daemons: &[Running; 2],
    options: &Options,
    figures: &mut Figures,
) -> Result<()> {
    let name = contender.name();
    let pids = daemons.each_ref().map(Running::pid);
    wireguard::ping(&lab.web, Place::Outer, "10.100.0.11", Duration::from_secs(10))?;
    let _server = lab.services.program("iperf3").arguments(&["-s", "-B", "10.100.0.11"]).start()?;
    thread::sleep(Duration::from_millis(300));

    let before = cpu_seconds(&pids)?;
    let transfer = iperf3(lab, options.seconds, &["-P", "1"])?;
    let spent = cpu_seconds(&pids)? - before;
    let gigabytes = number(&transfer, "/end/sum_received/bytes")? / 1e9;
    figures.add(ONE_STREAM, name, number(&transfer, "/end/sum_received/bits_per_second")? / 1e9);
    figures.add(CPU, name, spent / gigabytes);

    let transfer = iperf3(lab, options.seconds, &["-P", "4"])?;
    figures.add(FOUR_STREAMS, name, number(&transfer, "/end/sum_received/bits_per_second")? / 1e9);

    figures.add(SMALL, name, small_packets(lab)?);
    for (row, value) in IDLE.iter().zip(ping_times(lab, options.seconds)?) {
        figures.add(*row, name, value);
    }
    let loaded = thread::scope(|scope| {
        let load = scope.spawn(|| iperf3(lab, options.seconds + 2, &["-P", "1"]));
        thread::sleep(Duration::from_secs(1));
        let times = ping_times(lab, options.seconds);
        let load = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        load.and(times)
    })?;
    for (row, value) in LOADED.iter().zip(loaded) {
        figures.add(*row, name, value);
    }
    figures.add(MEMORY, name, peak_mebibytes(&pids)?);
    Ok(())
}

/// One transfer from web to services, as iperf3 reports it.
fn iperf3(lab: &Lab, seconds: u32, more: &[&str]) -> Result<Value> {
    let time = seconds.to_string();
    let arguments = [&["iperf3", "-J", "-c", "10.100.0.11", "-t", &time], more].concat();
    let output = lab.web.run(&arguments)?.success()?;
    serde_json::from_str(&output).context("iperf3's report")
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    report
        .pointer(pointer)
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3's report has no {pointer}"))
}

/// Climbs the ladder until more than 1 % is lost; the highest rate that arrived, in thousands a second.
fn small_packets(lab: &Lab) -> Result<f64> {
    let mut best = 0.0;
    for thousands in LADDER {
        let rate = (u64::from(thousands) * 1000 * 64 * 8).to_string();
        let report = iperf3(lab, 2, &["-u", "-l", "64", "-b", &rate])?;
        let sent = number(&report, "/end/sum/packets")?;
        let lost = number(&report, "/end/sum/lost_packets")?;
        let seconds = number(&report, "/end/sum/seconds")?;
        ensure!(seconds > 0.0, "iperf3 measured no time");
        if sent == 0.0 || lost / sent > 0.01 {
            break;
        }
        let arrived = (sent - lost) / seconds / 1000.0;
        if arrived <= best * 1.02 {
            break; // the sender itself cannot go faster
        }
        best = arrived;
    }
    Ok(best)
}

/// The median and the 99th percentile of the round-trip times, in milliseconds.
fn ping_times(lab: &Lab, seconds: u32) -> Result<[f64; 2]> {
    let count = (seconds * 50).to_string();
    let output = lab.web.run(&["ping", "-i", "0.02", "-c", &count, "10.100.0.11"])?.success()?;
    let mut times: Vec<f64> = output
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share| quantile(&times, share).context("ping printed no times");
    Ok([at(0.5)?, at(0.99)?])
}
