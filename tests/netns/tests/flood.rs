//! A flood of handshakes from one address does not hinder another's handshake and traffic.
//!
//! ```text
//!  web (wgd) ── wan (also the flooder: 198.51.100.2) ── services (wgd)
//! ```

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, FixedOutput as _, KeyInit as _, Update as _};
use blake2::{Blake2s256, Blake2sMac};
use culvert_netns::host::{Host, Place};
use culvert_netns::http::Request;
use culvert_netns::lab::{address, at};
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::tunnel::{Endpoint, Side, Tunnel};
use culvert_netns::{wait, wireguard};

/// Without a user in its configuration, wgd stays the one who starts it, and says so.
const STAYS: &[&str] = &["no user is configured", "run_as is not set"];

const METRICS: &str = "127.0.0.1:9586";

/// Twenty times what one core of wgd would answer at the price of a handshake, 0.2 ms.
const FLOOD_PER_SECOND: u32 = 5_000;
/// Sent in bursts of this many.
const FLOOD_STEP: u32 = 25;
/// It ends by itself, whatever becomes of the scenario.
const FLOOD_AT_MOST: u32 = 10 * FLOOD_PER_SECOND;

/// Who is asked for a cookie tries again after 5 s (WireGuard's paper, 6.1: Rekey-Timeout).
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(2);
const BOUND: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    runner::main(&[Scenario::new("a_flood_of_handshakes_hinders_nobody_else", flood)
        .needs(&["wgd"])
        .expecting(STAYS)])
}

fn flood(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let tunnel = Tunnel::new(lab)?;
    lab.services.write("/etc/culvert/wgd.toml", format!("metrics_listen = \"{METRICS}\"\n"))?;
    let services = tunnel.start_wgd(lab, Side::Services, Endpoint::Learned, Place::Outer)?;
    let web = tunnel.start_wgd(lab, Side::Web, Endpoint::Known, Place::Outer)?;
    ensure!(metric(&lab.services, "wgd_under_load")? == 0.0, "there is load before the flood");

    let socket = lab.wan.host.outer().within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind the flooder's socket")?;
        socket.connect(at(address::SERVICES_WAN, 51820)).context("connect it")?;
        socket.set_nonblocking(true).context("let it not wait")?;
        Ok(socket)
    })?;
    let initiation = Initiation::to(&tunnel.keys(Side::Services).public)?;
    let stop = AtomicBool::new(false);
    let flooded = thread::scope(|scope| {
        let flooder = scope.spawn(|| send_many(&socket, initiation, &stop));
        let outcome = meanwhile(&lab.web, &lab.services);
        stop.store(true, Ordering::Release);
        let flooded = flooder.join().map_err(|_| anyhow!("the flooder panicked"))?;
        outcome.and(flooded)
    })?;
    // What is admitted without a cookie: 250 before it counts as load, then 20 a second.
    ensure!(flooded.cookies > flooded.sent / 2, "{} cookies for {}", flooded.cookies, flooded.sent);
    ensure!(flooded.others == 0, "{} other answers", flooded.others);
    ensure!(metric(&lab.services, "wgd_cookie_replies_sent_total")? >= f64::from(flooded.cookies));
    wait::until("the load to be over", BOUND, || {
        ensure!(metric(&lab.services, "wgd_under_load")? == 0.0, "still under load");
        Ok(())
    })?;
    for running in [web, services] {
        ensure!(running.stop()?.success(), "wgd did not end well");
    }
    Ok(())
}

/// What the other peer does while the flood goes on.
fn meanwhile(web: &Host, services: &Host) -> Result<()> {
    wait::until("load", BOUND, || {
        ensure!(metric(services, "wgd_under_load")? == 1.0, "no load");
        Ok(())
    })?;
    wireguard::ping(web, Place::Outer, "10.100.0.11", HANDSHAKE_WITHIN).context("with a handshake")?;
    let pings = web.run(&["ping", "-q", "-c", "100", "-i", "0.02", "-W", "1", "10.100.0.11"])?.success()?;
    ensure!(pings.contains(" 0% packet loss"), "{pings}");
    ensure!(metric(services, "wgd_under_load")? == 1.0, "the flood was over too early to show anything");
    Ok(())
}

#[derive(Debug, Default)]
struct Flooded {
    sent: u32,
    cookies: u32,
    others: u32,
}

fn send_many(socket: &UdpSocket, mut initiation: Initiation, stop: &AtomicBool) -> Result<Flooded> {
    let mut flooded = Flooded::default();
    let start = wait::now();
    let mut answer = [0; 2048];
    while !stop.load(Ordering::Acquire) && flooded.sent < FLOOD_AT_MOST {
        for _ in 0..FLOOD_STEP {
            socket.send(initiation.next()).context("flood")?;
            flooded.sent += 1;
        }
        while let Ok(length) = socket.recv(&mut answer) {
            match (answer[0], length) {
                (3, 64) => flooded.cookies += 1,
                _ => flooded.others += 1,
            }
        }
        let due = start + Duration::from_secs(1) * flooded.sent / FLOOD_PER_SECOND;
        thread::sleep(due.saturating_duration_since(wait::now()));
    }
    Ok(flooded)
}

/// Initiations whose first MAC is right and whose rest is noise: anybody who knows the public key can make them.
struct Initiation {
    message: [u8; 148],
    mac1_key: [u8; 32],
    state: u64,
}

impl Initiation {
    fn to(public_key: &str) -> Result<Initiation> {
        let key = STANDARD.decode(public_key).context("the public key")?;
        let mac1_key = Blake2s256::new().chain_update(b"mac1----").chain_update(key).finalize().into();
        let mut message = [0; 148];
        message[0] = 1;
        Ok(Initiation { message, mac1_key, state: 1 })
    }

    fn next(&mut self) -> &[u8] {
        // xorshift64: noise enough for an ephemeral key that nobody has.
        for chunk in self.message[4..116].chunks_exact_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes());
        }
        let mac = Blake2sMac::<U16>::new(&self.mac1_key.into()).chain(&self.message[..116]);
        self.message[116..132].copy_from_slice(&mac.finalize_fixed());
        &self.message
    }
}

/// One figure without a peer.
fn metric(host: &Host, name: &str) -> Result<f64> {
    let to: SocketAddr = METRICS.parse().context("the metrics' address")?;
    let text = Request::new("GET", "/metrics").send(host, Place::Outer, to)?.expect(200)?.text();
    let line = text.lines().find(|line| line.split('{').next() == Some(name));
    let line = line.with_context(|| format!("no {name}"))?;
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).with_context(|| format!("read `{line}`"))
}
