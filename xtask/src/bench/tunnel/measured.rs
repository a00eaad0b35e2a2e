//! What is measured of two daemons that have a tunnel.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_netns::lab::Lab;
use culvert_netns::program::Running;
use serde_json::Value;

use super::Options;
use crate::bench::figures::{Figures, Row, quantile};
use crate::bench::process_time::{cpu_seconds, machine_seconds, peak_mebibytes, resident_mebibytes};

const ONE_STREAM: Row = Row { name: "TCP, 1 stream, Gbit/s", digits: 2 };
const ONE_BACK: Row = Row { name: "TCP, 1 stream back, Gbit/s", digits: 2 };
const FOUR_STREAMS: Row = Row { name: "TCP, 4 streams, Gbit/s", digits: 2 };
const BOTH_WAYS: Row = Row { name: "TCP, both ways at once, Gbit/s in sum", digits: 2 };
const CPU: Row = Row { name: "CPU of both daemons, 1 stream, s/GB", digits: 2 };
const MACHINE: Row = Row { name: "CPU of the whole machine, 1 stream, s/GB", digits: 2 };
const CALLS: Row = Row { name: "system calls of the sending daemon, per MB", digits: 1 };
const SMALL: Row = Row { name: "64-byte UDP under 1 % loss, kpackets/s", digits: 0 };
const LARGE: Row = Row { name: "1200-byte UDP under 1 % loss, kpackets/s", digits: 0 };
const IDLE: [Row; 2] =
    [Row { name: "ping idle p50, ms", digits: 2 }, Row { name: "ping idle p99, ms", digits: 2 }];
const LOADED: [Row; 2] =
    [Row { name: "ping loaded p50, ms", digits: 2 }, Row { name: "ping loaded p99, ms", digits: 2 }];
const MEMORY: Row = Row { name: "memory of both daemons after load, MiB", digits: 1 };
const PEAK: Row = Row { name: "peak memory of both daemons, MiB", digits: 1 };

/// Rates that are tried for datagrams, in thousands a second.
const LADDER: [u32; 16] = [10, 20, 30, 45, 60, 80, 100, 115, 130, 145, 160, 180, 200, 220, 250, 300];

/// The receive buffer of the program that counts them, in bytes, where the system allows as much: what is lost is to be the
/// tunnel's, not a program's that has room for 270 datagrams.
const COUNTER_BUFFER: u64 = 4 << 20;

/// Seconds under strace, which slows everything; only the number of calls is of interest.
const TRACED_SECONDS: u32 = 2;

pub(super) fn measure(
    lab: &Lab,
    name: &str,
    daemons: &[Running; 2],
    options: &Options,
    figures: &mut Figures,
) -> Result<()> {
    let pids = daemons.each_ref().map(Running::pid);
    let _server = lab.services.program("iperf3").arguments(&["-s", "-B", "10.100.0.11"]).start()?;
    thread::sleep(Duration::from_millis(300));

    let before = (cpu_seconds(&pids)?, machine_seconds()?);
    let transfer = iperf3(lab, options.seconds, &["-P", "1"])?;
    let (spent, machine) = (cpu_seconds(&pids)? - before.0, machine_seconds()? - before.1);
    let gigabytes = number(&transfer, "/end/sum_received/bytes")? / 1e9;
    figures.add(ONE_STREAM, name, rate(&transfer, "/end/sum_received")?);
    figures.add(CPU, name, spent / gigabytes);
    figures.add(MACHINE, name, machine / gigabytes);
    if !options.brief {
        let back = iperf3(lab, options.seconds, &["-P", "1", "-R"])?;
        figures.add(ONE_BACK, name, rate(&back, "/end/sum_received")?);
        let four = iperf3(lab, options.seconds, &["-P", "4"])?;
        figures.add(FOUR_STREAMS, name, rate(&four, "/end/sum_received")?);
        let both = iperf3(lab, options.seconds, &["--bidir"])?;
        let sum = rate(&both, "/end/sum_received")? + rate(&both, "/end/sum_received_bidir_reverse")?;
        figures.add(BOTH_WAYS, name, sum);
        figures.add(SMALL, name, datagrams(lab, 64)?);
        figures.add(LARGE, name, datagrams(lab, 1_200)?);
        figures.add(CALLS, name, calls_per_megabyte(lab, daemons[0].pid())?);
    }
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
    figures.add(MEMORY, name, resident_mebibytes(&pids)?);
    figures.add(PEAK, name, peak_mebibytes(&pids)?);
    Ok(())
}

/// One transfer from web to services, as iperf3 reports it.
fn iperf3(lab: &Lab, seconds: u32, more: &[&str]) -> Result<Value> {
    let time = seconds.to_string();
    let arguments = [&["iperf3", "-J", "-c", "10.100.0.11", "-t", &time], more].concat();
    let output = lab.web.run(&arguments)?.success()?;
    serde_json::from_str(&output).context("iperf3's report")
}

/// Gbit/s.
fn rate(report: &Value, sum: &str) -> Result<f64> {
    Ok(number(report, &format!("{sum}/bits_per_second"))? / 1e9)
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    report
        .pointer(pointer)
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3's report has no {pointer}"))
}

/// Climbs the ladder until more than 1 % is lost; the highest rate that arrived, in thousands a second.
fn datagrams(lab: &Lab, bytes: u32) -> Result<f64> {
    let length = bytes.to_string();
    let allowed = std::fs::read_to_string("/proc/sys/net/core/rmem_max").context("rmem_max")?;
    let buffer = allowed.trim().parse().map_or(COUNTER_BUFFER, |most| COUNTER_BUFFER.min(most)).to_string();
    let mut best = 0.0;
    for thousands in LADDER {
        let rate = (u64::from(thousands) * 1000 * u64::from(bytes) * 8).to_string();
        let report = iperf3(lab, 2, &["-u", "-l", &length, "-b", &rate, "-w", &buffer])?;
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

/// strace counts the calls of a daemon while a stream runs.
fn calls_per_megabyte(lab: &Lab, pid: u32) -> Result<f64> {
    let (time, pid) = ((TRACED_SECONDS + 1).to_string(), pid.to_string());
    let strace = ["timeout", "-s", "INT", &time, "strace", "-c", "-f", "-p", &pid, "-o", "/tmp/calls"];
    let report = thread::scope(|scope| {
        let load = scope.spawn(|| {
            thread::sleep(Duration::from_millis(500));
            iperf3(lab, TRACED_SECONDS, &["-P", "1"])
        });
        // It ends by the signal, which is no success.
        let traced = lab.web.run(&strace);
        let load = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        traced.and(load)
    })?;
    let table = lab.web.execute("cat /tmp/calls")?;
    let total = table.lines().find(|line| line.trim_end().ends_with(" total"));
    let calls = total.and_then(|line| line.split_whitespace().nth(3)).context("strace's total")?;
    let calls: f64 = calls.parse().with_context(|| format!("strace's total: {calls:?}"))?;
    Ok(calls / (number(&report, "/end/sum_sent/bytes")? / 1e6))
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
