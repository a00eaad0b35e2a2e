//! What goes to which peer, and what the system's own routing does to it: prefixes and keys that change, NAT, marks,
//! sockets bound to the interface, tunnels that lead into themselves, and a default route through the tunnel.
//!
//! ```text
//!  with a router                                      with loopback
//!  left                  middle                right            left      middle     right
//!  wg0 ─ wgd: vethc ─── vethrc vethrs ─── veths :wgd ─ wg0      wg0 ─ wgd ─ lo ─ wgd ─ wg0
//!  192.168.1.100    192.168.1.1 10.0.0.1    10.0.0.100
//!                         SNAT ─────▶
//! ```

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::host::Host;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::traffic::flood_of;
use culvert_netns::trio::{self, Trio, Tunnels, cable, no_answer, ping, ping_with};
use culvert_netns::wait;
use culvert_netns::wireguard::KeyPair;

/// wgd stays the user who starts it, as other implementations do, and says so.
const STOCK: &[&str] = &["no user is configured"];

const BOUND: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let scenario = |name, run: fn(&Scene) -> Result<()>| {
        Scenario::new(name, run).needs(&["wgd"]).expecting(STOCK).on_both_devices()
    };
    runner::main(&[
        scenario("a_packet_from_an_allowed_prefix_is_accepted", accepted),
        scenario("a_more_specific_peer_takes_the_addresses_away", taken_away),
        scenario("the_endpoint_follows_a_packet_whose_inner_source_is_refused", endpoint_follows),
        scenario("a_new_private_key_handshakes_at_once", new_private_key),
        scenario("a_peer_that_is_replaced_is_reached_at_once", replaced_peer),
        scenario("keepalives_hold_a_nat_entry_open", kept_open),
        scenario("a_peer_behind_nat_is_seen_at_the_router", behind_nat),
        scenario("a_socket_bound_to_the_interface_gets_its_answer", bound_socket),
        scenario("a_packet_whose_mark_changes_is_rerouted", marked),
        scenario("a_marked_packet_of_a_bound_socket_is_rerouted", bound_and_marked),
        scenario("an_onion_route_that_loops_hurts_nobody", onion),
        scenario("a_default_route_by_mark_does_not_swallow_the_tunnel", default_route),
    ])
}

fn over_loopback(scene: &Scene) -> Result<(Trio, Tunnels)> {
    let trio = Trio::build(&scene.lab)?;
    let tunnels = trio.tunnel_over_loopback()?;
    Ok((trio, tunnels))
}

/// A UDP socket inside the tunnel.
fn udp(host: &Host, address: &str, port: u16) -> Result<UdpSocket> {
    host.outer().within(|| {
        let socket = UdpSocket::bind((address, port)).with_context(|| format!("bind {address}:{port}"))?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).context("bound reads")?;
        Ok(socket)
    })
}

/// Sends a datagram from right to left.
fn say(trio: &Trio, to: &UdpSocket, text: &str) -> Result<()> {
    let from = udp(&trio.right.host, trio.right.inner.v4, 0)?;
    from.send_to(text.as_bytes(), to.local_addr().context("read the own address")?).context("send")?;
    Ok(())
}

fn hear(socket: &UdpSocket) -> Result<String> {
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).context("receive")?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn accepted(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = over_loopback(scene)?;
    trio.left.set(&format!("peer {} allowed-ips 192.168.241.0/24", trio.right.keys.public))?;
    let ear = udp(&trio.left.host, trio.left.inner.v4, 1111)?;
    say(&trio, &ear, "X")?;
    ensure!(hear(&ear)? == "X");
    Ok(())
}

/// Gives the right side's address to another peer, and gives back that peer's key.
fn take_away(trio: &Trio) -> Result<String> {
    trio.left.set(&format!("peer {} allowed-ips 192.168.241.0/24", trio.right.keys.public))?;
    ping(&trio.left.host, trio.right.inner.v4)?;
    let other = KeyPair::generate(&trio.left.host)?.public;
    trio.left.set(&format!("peer {other} allowed-ips {}/32", trio.right.inner.v4))?;
    Ok(other)
}

fn taken_away(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = over_loopback(scene)?;
    let other = take_away(&trio)?;
    let ear = udp(&trio.left.host, trio.left.inner.v4, 1111)?;
    let received = || -> Result<u64> { received_from_right(&trio) };
    let before = received()?;
    say(&trio, &ear, "X")?;
    wait::until("the refused packet", BOUND, || {
        ensure!(received()? > before, "nothing came");
        Ok(())
    })?;
    // What comes later is heard first, so the refused packet was not only slow.
    trio.left.set(&format!("peer {other} remove"))?;
    say(&trio, &ear, "Y")?;
    ensure!(hear(&ear)? == "Y", "a packet came from an address that another peer has");
    Ok(())
}

fn received_from_right(trio: &Trio) -> Result<u64> {
    let shown = culvert_netns::wireguard::show(&trio.left.host, trio::INTERFACE)?;
    let right = shown.iter().find(|peer| peer.public_key == trio.right.keys.public);
    Ok(right.context("the right side is no peer")?.received)
}

fn endpoint_follows(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = over_loopback(scene)?;
    let other = take_away(&trio)?;
    let before = received_from_right(&trio)?;
    trio.right.set("listen-port 9997")?;
    let ear = udp(&trio.left.host, trio.left.inner.v4, 1111)?;
    say(&trio, &ear, "X")?;
    wait::until("the refused packet", BOUND, || {
        ensure!(received_from_right(&trio)? > before, "nothing came");
        Ok(())
    })?;
    trio.left.set(&format!("peer {other} remove"))?;
    trio.left.sees(&trio.right.keys, "127.0.0.1:9997")
}

fn new_private_key(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = over_loopback(scene)?;
    ping(&trio.left.host, trio.right.inner.v4)?;
    change_key(&trio)?;
    ping(&trio.left.host, trio.right.inner.v4)
}

/// The left side takes another private key, and after that the right side is told.
fn change_key(trio: &Trio) -> Result<KeyPair> {
    let new = KeyPair::generate(&trio.left.host)?;
    let key = trio.left.file("new-key", &new.private)?;
    trio.left.set(&format!("private-key {key}"))?;
    let psk = trio.right.file("psk", trio.preshared_key())?;
    trio.right.set(&format!(
        "peer {} preshared-key {psk} allowed-ips {}/32 peer {} remove",
        new.public, trio.left.inner.v4, trio.left.keys.public
    ))?;
    Ok(new)
}

fn replaced_peer(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = over_loopback(scene)?;
    ping(&trio.left.host, trio.right.inner.v4)?;
    let new = change_key(&trio)?;
    ping(&trio.left.host, trio.right.inner.v4)?;
    let shown = trio.right.only_peer()?;
    ensure!(shown.public_key == new.public && shown.latest_handshake > 0, "{shown:?}");
    // And back to the first, which has to begin anew.
    let key = trio.left.file("key", &trio.left.keys.private)?;
    let psk = trio.right.file("psk", trio.preshared_key())?;
    trio.right.set(&format!(
        "peer {} remove peer {} preshared-key {psk} allowed-ips {}/32",
        new.public, trio.left.keys.public, trio.left.inner.v4
    ))?;
    trio.left.set(&format!("private-key {key}"))?;
    ping(&trio.left.host, trio.right.inner.v4)
}

/// Both wgds in their own networks, with a router between them that hides the left one.
fn behind_router(scene: &Scene) -> Result<(Trio, Tunnels)> {
    let trio = Trio::build(&scene.lab)?;
    let tunnels = trio.tunnels()?;
    let (left, middle, right) = (&trio.left.host, &trio.middle, &trio.right.host);
    cable((left, "vethc"), (middle, "vethrc"))?;
    cable((middle, "vethrs"), (right, "veths"))?;
    for (host, address, interface) in [
        (left, "192.168.1.100/24", "vethc"),
        (middle, "192.168.1.1/24", "vethrc"),
        (middle, "10.0.0.1/24", "vethrs"),
        (right, "10.0.0.100/24", "veths"),
    ] {
        host.execute(&format!("ip address add {address} dev {interface}"))?;
    }
    left.execute("ip route add default via 192.168.1.1")?;
    middle.sysctl("ipv4/ip_forward", "1")?;
    middle.execute("nft add table ip nat")?;
    middle.execute("nft add chain ip nat out { type nat hook postrouting priority 100 ; }")?;
    middle
        .execute("nft add rule ip nat out ip saddr 192.168.1.0/24 ip daddr 10.0.0.0/24 snat to 10.0.0.1")?;
    // An entry that is not used for so long is forgotten.
    for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        middle.sysctl(&format!("netfilter/{name}"), "2")?;
    }
    trio.left
        .set(&format!("peer {} endpoint 10.0.0.100:2 persistent-keepalive 1", trio.right.keys.public))?;
    ping(left, trio.right.inner.v4)?;
    ping(right, trio.left.inner.v4)?;
    Ok((trio, tunnels))
}

fn kept_open(scene: &Scene) -> Result<()> {
    /// A keepalive as `wg` counts it.
    const KEEPALIVE: u64 = 32;
    let (trio, _tunnels) = behind_router(scene)?;
    let before = trio.right.only_peer()?.received;
    wait::until("keepalives for longer than the router remembers", BOUND, || {
        let came = trio.right.only_peer()?.received - before;
        ensure!(came >= 4 * KEEPALIVE, "{came} bytes");
        Ok(())
    })?;
    ping(&trio.right.host, trio.left.inner.v4)
}

fn behind_nat(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = behind_router(scene)?;
    trio.right.sees(&trio.left.keys, "10.0.0.1:1")
}

fn bound_socket(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = behind_router(scene)?;
    ping_with(&trio.left.host, &["-I", trio::INTERFACE], trio.right.inner.v4)
}

/// From now on every packet that leaves the left side gets a mark, and is routed once more because of it.
fn mark_everything(trio: &Trio) -> Result<()> {
    let left = &trio.left.host;
    left.execute("nft add table ip mangle")?;
    left.execute("nft add chain ip mangle out { type route hook output priority -150 ; }")?;
    left.execute("nft add rule ip mangle out meta mark set 1").map(drop)
}

fn marked(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = behind_router(scene)?;
    mark_everything(&trio)?;
    ping(&trio.left.host, trio.right.inner.v4)
}

fn bound_and_marked(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = behind_router(scene)?;
    mark_everything(&trio)?;
    ping_with(&trio.left.host, &["-I", trio::INTERFACE], trio.right.inner.v4)
}

/// The left side reaches a third peer through the tunnel to the second, by one and the same interface. Then it is told
/// that the third is behind itself.
fn onion(scene: &Scene) -> Result<()> {
    let (trio, mut tunnels) = behind_router(scene)?;
    let (left, right) = (&trio.left, &trio.right);
    let third = KeyPair::generate(&right.host)?;
    left.set(&format!("peer {} allowed-ips 192.168.242.2/32 endpoint 192.168.241.2:5", third.public))?;
    left.host.execute("ip address add 192.168.242.1/24 dev wg0")?;
    let mut inner = right.start("wg1")?;
    let key = right.file("third-key", &third.private)?;
    right.set_on(
        "wg1",
        &format!("private-key {key} listen-port 5 peer {} allowed-ips 192.168.242.1/32", left.keys.public),
    )?;
    right.host.execute("ip address add 192.168.242.2/24 dev wg1")?;
    right.host.execute("ip link set wg1 up")?;
    ping(&left.host, "192.168.242.2")?;
    right.host.execute("ip link delete wg1")?;
    inner.wait(BOUND)?;

    left.set(&format!("peer {} endpoint 192.168.242.2:5", third.public))?;
    no_answer(&left.host, "192.168.242.2")?;
    tunnels.still_run()?;
    ping(&left.host, right.inner.v4).context("while the third peer loops")?;
    left.set(&format!("peer {} remove", third.public))?;
    ping(&left.host, right.inner.v4)
}

/// As wg-quick routes everything into a tunnel: by a table that packets with the tunnel's own mark do not see.
fn default_route(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = behind_router(scene)?;
    let (left, right) = (&trio.left.host, &trio.right.host);
    left.execute("ip -6 address add fc00::9/96 dev vethc")?;
    left.execute("ip -6 route add default via fc00::1")?;
    right.execute("ip -4 address add 192.168.99.7/32 dev wg0")?;
    trio::give_address(right, "wg0", "abab::1111/128")?;
    trio.left
        .set(&format!("fwmark 51820 peer {} allowed-ips 192.168.99.7,abab::1111", trio.right.keys.public))?;
    for family in ["-4", "-6"] {
        left.execute(&format!("ip {family} route add default dev wg0 table 51820"))?;
        left.execute(&format!("ip {family} rule add not fwmark 51820 table 51820"))?;
        left.execute(&format!("ip {family} rule add table main suppress_prefixlength 0"))?;
    }
    left.sysctl("ipv4/conf/vethc/rp_filter", "0")?;
    for address in ["192.168.99.7", "abab::1111"] {
        flood_of(left, "100", address)?;
    }
    let routed = left.execute("ip route get 10.0.0.100 mark 51820")?;
    if !routed.contains("dev vethc") {
        bail!("the tunnel's own packets go elsewhere: {routed}");
    }
    Ok(())
}
