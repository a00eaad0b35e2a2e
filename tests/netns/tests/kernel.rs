//! wgd and the kernel's own WireGuard understand each other, whoever begins, and go on doing so while keys and
//! addresses change.
//!
//! ```text
//!  web (wgd) ── wan: capture ── services ── guest0 ══ eth0: guest with Debian's kernel
//!  wg0 10.100.0.10                198.18.0.1   198.18.0.2   wg0 10.100.0.11
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::host::{Host, Place};
use culvert_netns::kernel_vm::KernelVm;
use culvert_netns::lab::address;
use culvert_netns::payload::{MARKER, Payload};
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::tunnel::{INTERFACE, start_wgd};
use culvert_netns::wait;
use culvert_netns::wireguard::{self, KeyPair, ShownPeer};

/// Without a configuration of its own, wgd stays the user who starts it, as other implementations do, and says so.
const STOCK: &[&str] = &["no user is configured"];

const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const MOVED_GUEST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);

const BOUND: Duration = Duration::from_secs(15);
const TCP_BYTES: u64 = 4 << 20;
const PORT: u16 = 51820;
const MOVED_PORT: u16 = 51821;

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("wgd_begins_with_the_kernel", |scene| talk(scene, Begins::Wgd))
            .needs(&["wgd"])
            .expecting(STOCK)
            .on_both_devices()
            .slow(),
        Scenario::new("the_kernel_begins_with_wgd", |scene| talk(scene, Begins::Kernel))
            .needs(&["wgd"])
            .expecting(STOCK)
            .on_both_devices()
            .slow(),
    ])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    Wgd,
    Kernel,
}

/// Both ends of the tunnel.
struct Ends<'a> {
    web: &'a Host,
    guest: KernelVm,
}

impl Ends<'_> {
    fn peer_of_wgd(&self) -> Result<ShownPeer> {
        only(wireguard::show(self.web, INTERFACE)?)
    }

    fn peer_of_kernel(&mut self) -> Result<ShownPeer> {
        only(self.guest.show(INTERFACE)?)
    }

    fn ping_from(&mut self, begins: Begins) -> Result<()> {
        match begins {
            Begins::Wgd => wireguard::ping(self.web, Place::Outer, "10.100.0.11", BOUND),
            // busybox's ping counts what it sends.
            Begins::Kernel => self.guest.run("ping -c 1 -W 15 10.100.0.10").map(drop),
        }
    }
}

fn only(peers: Vec<ShownPeer>) -> Result<ShownPeer> {
    let [peer] = &peers[..] else { anyhow::bail!("{} peers", peers.len()) };
    Ok(peer.clone())
}

fn talk(scene: &Scene, begins: Begins) -> Result<()> {
    let lab = &scene.lab;
    lab.services.sysctl("ipv4/ip_forward", "1")?;
    lab.web.route([198, 18, 0, 0], 24, [192, 0, 2, 2])?;
    lab.wan.host.route([198, 18, 0, 0], 24, [198, 51, 100, 1])?;
    let mut guest = KernelVm::boot(&lab.services, NEAR, GUEST)?;
    let capture = lab.wan.capture(MARKER.as_bytes())?;

    let web = &lab.web;
    let (ours, theirs) = (KeyPair::generate(web)?, KeyPair::generate(web)?);
    let preshared = wireguard::generate_preshared_key(web)?;
    let config = |own: &KeyPair, peer: &KeyPair, more: &str, allowed: &str, endpoint: Option<Ipv4Addr>| {
        let endpoint = endpoint.map(|ip| format!("Endpoint = {ip}:{PORT}\n")).unwrap_or_default();
        format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n{more}\n[Peer]\nPublicKey = {}\n\
             PresharedKey = {preshared}\nAllowedIPs = {allowed}/32\n{endpoint}",
            own.private, peer.public
        )
    };
    let known = (begins == Begins::Wgd).then_some(GUEST);
    let more = "Address = 10.100.0.10/24\nMTU = 1420\n";
    web.write_secret("/etc/wireguard/wg0.conf", config(&ours, &theirs, more, "10.100.0.11", known))?;
    let known = (begins == Begins::Kernel).then_some(address::WEB_WAN);
    for line in config(&theirs, &ours, "", "10.100.0.10", known).lines() {
        guest.run(&format!("umask 077; echo '{line}' >> /run/wg0.conf"))?;
    }
    guest.run("ip link add wg0 type wireguard")?;
    guest.run("wg setconf wg0 /run/wg0.conf")?;
    guest.run("ip address add 10.100.0.11/24 dev wg0; ip link set wg0 mtu 1420 up")?;
    let wgd = start_wgd(web, Place::Outer, &[])?;
    let mut ends = Ends { web, guest };

    ends.ping_from(begins)?;
    both_know_each_other(&mut ends, &ours, &theirs, GUEST)?;
    to_guest(&mut ends)?;
    from_guest(&mut ends)?;
    counters_agree(&mut ends)?;
    new_keys(&mut ends, &ours, &theirs, begins).context("after new keys")?;
    both_move(&mut ends).context("roaming")?;
    keepalives(&mut ends).context("keepalives")?;

    ensure!(wgd.stop()?.success(), "wgd did not end well");
    capture.finish()?.only_wireguard()
}

fn both_know_each_other(
    ends: &mut Ends<'_>,
    ours: &KeyPair,
    theirs: &KeyPair,
    guest: Ipv4Addr,
) -> Result<()> {
    let seen = ends.peer_of_wgd()?;
    ensure!(seen.public_key == theirs.public && seen.has_preshared_key, "{seen:?}");
    ensure!(seen.endpoint == Some(format!("{guest}:{PORT}")) && seen.latest_handshake > 0, "{seen:?}");
    let seen = ends.peer_of_kernel()?;
    ensure!(seen.public_key == ours.public && seen.has_preshared_key, "{seen:?}");
    let web = Some(format!("{}:{PORT}", address::WEB_WAN));
    ensure!(seen.endpoint == web && seen.latest_handshake > 0, "{seen:?}");
    Ok(())
}

/// A TCP connection to the guest; it tells the hash of what came.
fn to_guest(ends: &mut Ends<'_>) -> Result<()> {
    ends.guest.run("(nc -l -p 5001 | sha256sum > /run/sum; touch /run/done) &")?;
    let to = SocketAddr::new([10, 100, 0, 11].into(), 5001);
    let mut stream = wait::until("the guest to listen", BOUND, || ends.web.connect(Place::Outer, to))?;
    let mut payload = Payload::new(TCP_BYTES, 1);
    let expected = payload.sha256();
    std::io::copy(&mut payload, &mut stream).context("send")?;
    stream.flush()?;
    drop(stream);
    wait::until("the guest to have all", BOUND, || ends.guest.run("cat /run/done"))?;
    let sum = ends.guest.run("cat /run/sum; rm /run/done")?;
    ensure!(sum.starts_with(&expected), "other bytes arrived: {sum}");
    Ok(())
}

/// A TCP connection from the guest, which sends what it has just made.
fn from_guest(ends: &mut Ends<'_>) -> Result<()> {
    let listener = ends.web.outer().within(|| {
        TcpListener::bind(SocketAddr::new(IpAddr::from([10, 100, 0, 10]), 5002)).context("listen")
    })?;
    ends.guest
        .run(&format!("dd if=/dev/urandom of=/run/file bs=1024 count={} 2>/dev/null", TCP_BYTES >> 10))?;
    ends.guest.run("nc 10.100.0.10 5002 < /run/file &")?;
    let (mut stream, _) = listener.accept().context("accept")?;
    stream.set_read_timeout(Some(BOUND))?;
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while (bytes.len() as u64) < TCP_BYTES {
        let length = stream.read(&mut buffer).context("receive from the guest")?;
        ensure!(length > 0, "the guest ended after {} bytes", bytes.len());
        bytes.extend_from_slice(&buffer[..length]);
    }
    let sum = ends.guest.run("sha256sum /run/file")?;
    let ours = culvert_netns::payload::sha256(&bytes);
    ensure!(sum.starts_with(&ours), "other bytes arrived: {ours}, not {sum}");
    Ok(())
}

/// Both count bytes on the wire, so what one sent the other received. Nothing was lost here.
fn counters_agree(ends: &mut Ends<'_>) -> Result<()> {
    wait::until("equal counters", BOUND, || {
        let (wgd, kernel) = (ends.peer_of_wgd()?, ends.peer_of_kernel()?);
        let pairs = [wgd.sent, kernel.received, kernel.sent, wgd.received];
        ensure!(wgd.sent == kernel.received && kernel.sent == wgd.received, "{pairs:?}");
        ensure!(wgd.sent > TCP_BYTES && wgd.received > TCP_BYTES, "{pairs:?}");
        Ok(())
    })
}

/// A new static key of the guest and a new preshared key: a handshake anew, by whoever began before.
fn new_keys(ends: &mut Ends<'_>, ours: &KeyPair, theirs: &KeyPair, begins: Begins) -> Result<()> {
    let web = ends.web;
    let before = ends.peer_of_wgd()?.latest_handshake;
    // Handshakes are shown in whole seconds, and wgd forgets the counters of a peer that goes.
    thread::sleep(Duration::from_millis(1_100));
    let preshared = wireguard::generate_preshared_key(web)?;
    web.write_secret("/run/psk", &preshared)?;
    ends.guest.write_secret("/run/psk", &preshared)?;
    ends.guest.run(&format!("wg set wg0 peer {} preshared-key /run/psk", ours.public))?;
    let wg = |arguments: &[&str]| web.run(&[&["wg", "set", INTERFACE], arguments].concat())?.success();
    wg(&["peer", &theirs.public, "preshared-key", "/run/psk"])?;

    // Our own key, for the side that begins needs no word about it beforehand.
    let new = KeyPair::generate(web)?;
    match begins {
        Begins::Kernel => {
            wg(&["peer", &new.public, "preshared-key", "/run/psk", "allowed-ips", "10.100.0.11/32"])?;
            wg(&["peer", &theirs.public, "remove"])?;
            ends.guest.write_secret("/run/key", &new.private)?;
            ends.guest.run("wg set wg0 private-key /run/key")?;
        }
        Begins::Wgd => {
            web.write_secret("/run/key", &new.private)?;
            ends.guest.run(&format!(
                "wg set wg0 peer {} preshared-key /run/psk allowed-ips 10.100.0.10/32",
                new.public
            ))?;
            ends.guest.run(&format!("wg set wg0 peer {} remove", ours.public))?;
            wg(&["private-key", "/run/key"])?;
        }
    }
    ends.ping_from(begins)?;
    let after = ends.peer_of_wgd()?.latest_handshake;
    ensure!(after > before, "there was no new handshake: {before}, then {after}");
    let seen = match begins {
        Begins::Kernel => ends.peer_of_wgd()?,
        Begins::Wgd => ends.peer_of_kernel()?,
    };
    ensure!(seen.public_key == new.public && seen.has_preshared_key, "{seen:?}");
    to_guest(ends)?;
    from_guest(ends)
}

fn both_move(ends: &mut Ends<'_>) -> Result<()> {
    // The other order would take the new address away with the old one, as a secondary of it.
    ends.guest.run(&format!("ip address delete {GUEST}/24 dev eth0"))?;
    ends.guest.run(&format!("ip address add {MOVED_GUEST}/24 dev eth0"))?;
    ends.guest.run(&format!("ip route replace default via {NEAR}"))?;
    ends.ping_from(Begins::Kernel).context("from the guest's new address")?;
    let seen = ends.peer_of_wgd()?;
    ensure!(seen.endpoint == Some(format!("{MOVED_GUEST}:{PORT}")), "wgd did not follow: {seen:?}");
    ends.ping_from(Begins::Wgd).context("to the guest's new address")?;

    let port = MOVED_PORT.to_string();
    ends.web.run(&["wg", "set", INTERFACE, "listen-port", &port])?.success()?;
    ends.ping_from(Begins::Wgd).context("from wgd's new port")?;
    let seen = ends.peer_of_kernel()?;
    let moved = Some(format!("{}:{MOVED_PORT}", address::WEB_WAN));
    ensure!(seen.endpoint == moved, "the kernel did not follow: {seen:?}");
    ends.web.run(&["wg", "set", INTERFACE, "listen-port", &PORT.to_string()])?.success()?;
    ends.ping_from(Begins::Wgd)
}

/// Each side's keepalives arrive at the other, and nothing else moves.
fn keepalives(ends: &mut Ends<'_>) -> Result<()> {
    const KEEPALIVE_BYTES: u64 = 32;
    let ours = ends.peer_of_kernel()?.public_key;
    let theirs = ends.peer_of_wgd()?.public_key;

    ends.guest.run(&format!("wg set wg0 peer {ours} persistent-keepalive 1"))?;
    let before = ends.peer_of_wgd()?.received;
    wait::until("the kernel's keepalives", BOUND, || {
        let now = ends.peer_of_wgd()?.received;
        ensure!(
            now >= before + 3 * KEEPALIVE_BYTES && (now - before) % KEEPALIVE_BYTES == 0,
            "{before}, {now}"
        );
        Ok(())
    })?;
    ends.guest.run(&format!("wg set wg0 peer {ours} persistent-keepalive off"))?;

    let set = |interval: &str| -> Result<String> {
        ends.web.run(&["wg", "set", INTERFACE, "peer", &theirs, "persistent-keepalive", interval])?.success()
    };
    set("1")?;
    let guest = &mut ends.guest;
    let mut received = || only(guest.show(INTERFACE)?).map(|peer| peer.received);
    let before = received()?;
    wait::until("wgd's keepalives", BOUND, || {
        let now = received()?;
        ensure!(
            now >= before + 3 * KEEPALIVE_BYTES && (now - before) % KEEPALIVE_BYTES == 0,
            "{before}, {now}"
        );
        Ok(())
    })?;
    set("off").map(drop)
}
