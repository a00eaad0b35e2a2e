//! The traffic that is sent through a tunnel again and again: pings, iperf3, parallel streams.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::host::{Host, Place};
use crate::stream::Connection;
use crate::trio::Trio;

/// iperf3's own port.
const IPERF_PORT: u16 = 5201;

/// Bytes of one iperf3 run.
const IPERF_BYTES: u64 = 8 << 20;

/// Longest that an iperf3 may take; seconds on a busy machine.
const IPERF_BOUND: Duration = Duration::from_secs(30);

/// Bytes of each of many streams.
const STREAM_BYTES: u64 = 128 << 10;

/// An end of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its host.
    pub host: &'a Host,
    /// Its address.
    pub address: &'a str,
}

/// iperf3's two transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP, as fast as it goes.
    Udp,
}

/// Ten pings, fifty a second, none of which may be lost. Faster, ping would wait for the last answer no longer than for two
/// of the others (`__schedule_exit`, iputils), which is a thousandth of a second, and call it lost.
pub fn flood(from: &Host, address: &str) -> Result<()> {
    flood_of(from, "10", address)
}

/// As many pings as asked for.
pub fn flood_of(from: &Host, count: &str, address: &str) -> Result<()> {
    let said = from.run(&["ping", "-c", count, "-f", "-i", "0.02", "-W", "5", address])?.success()?;
    ensure!(said.contains(" 0% packet loss"), "{} lost pings to {address}:\n{said}", from.name());
    Ok(())
}

/// iperf3 from one end to the other, without copies at the sender.
pub fn iperf(from: End<'_>, to: End<'_>, transport: Transport) -> Result<()> {
    let mut server = to.host.program("iperf3").arguments(&["-s", "-1", "-B", to.address]).start()?;
    server.until("listen", IPERF_BOUND, || {
        let listening = to.host.execute(&format!("ss -tlnH sport = :{IPERF_PORT}"))?;
        ensure!(!listening.is_empty(), "not yet");
        Ok(())
    })?;
    let bytes = IPERF_BYTES.to_string();
    let mut arguments = vec!["-Z", "-J", "-n", &bytes, "-B", from.address, "-c", to.address];
    if transport == Transport::Udp {
        arguments.extend(["-u", "-b", "0"]);
    }
    let finished = from.host.program("iperf3").arguments(&arguments).run(IPERF_BOUND)?;
    let report = finished.success().with_context(|| format!("iperf3 to {}", to.address))?;
    let report: Value = serde_json::from_str(&report).context("read iperf3's report")?;
    let received =
        report["end"]["sum_received"]["bytes"].as_u64().context("iperf3 does not say what came")?;
    match transport {
        // It stops counting when the sender has handed over its last byte, not when that came.
        Transport::Tcp => ensure!(received >= IPERF_BYTES / 2, "TCP brought {received} bytes"),
        // Nothing holds the sender back, so losses are its own doing.
        Transport::Udp => ensure!(received > 0, "UDP brought nothing"),
    }
    let status = server.wait(IPERF_BOUND)?;
    ensure!(status.success(), "the iperf3 server ended with {status}");
    Ok(())
}

/// Streams side by side, each with bytes of its own that are compared.
pub fn parallel_streams(from: &Host, to: End<'_>, count: usize) -> Result<()> {
    let address: IpAddr = to.address.parse().context("an address")?;
    thread::scope(|scope| {
        let streams: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| Connection::open(from, to.host, Place::Outer, address)?.carry(STREAM_BYTES))
            })
            .collect();
        for (index, stream) in streams.into_iter().enumerate() {
            let outcome = stream.join().map_err(|_| anyhow!("a stream panicked"))?;
            outcome.with_context(|| format!("stream {index} of {count}"))?;
        }
        Ok(())
    })
}

/// Everything above between both sides: pings both ways, TCP and UDP of both families, 4, 5 and 50 streams.
pub fn everything(trio: &Trio) -> Result<()> {
    let (left, right) = (&trio.left, &trio.right);
    flood(&right.host, left.inner.v4)?;
    flood(&left.host, right.inner.v4)?;
    flood(&right.host, left.inner.v6)?;
    flood(&left.host, right.inner.v6)?;
    iperf(left.v4(), right.v4(), Transport::Tcp)?;
    iperf(right.v6(), left.v6(), Transport::Tcp)?;
    iperf(right.v4(), left.v4(), Transport::Udp)?;
    iperf(left.v6(), right.v6(), Transport::Udp)?;
    for count in [4, 5, 50] {
        parallel_streams(&left.host, right.v4(), count)?;
    }
    Ok(())
}
