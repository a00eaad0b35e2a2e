//! wgd between two hosts: what stock tools see and do, and what survives its restarts and re-keys.
//!
//! ```text
//!  web ─────────────── wan: capture ─────────────── services
//!   wgd: UDP 51820                                   wgd: UDP 51820
//!   ┌ namespace tunnel ┐                             ┌ namespace tunnel ┐
//!   │ wg0 10.100.0.10  │                             │ wg0 10.100.0.11  │
//! ```

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{self, WGD_USER};
use culvert_netns::host::{Host, Place};
use culvert_netns::payload::MARKER;
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::stream::Connection;
use culvert_netns::tunnel::{self, Endpoint, INTERFACE, MTU, Side, Tunnel};
use culvert_netns::wireguard::{self, ShownPeer};
use culvert_netns::{wait, wireguard::ping};

const BOUND: Duration = Duration::from_secs(15);
const BYTES: u64 = 4 << 20;

/// That the interface was set down is seen (limits.rs of wgd: asked for four times a second).
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// After this a session is replaced (WireGuard's paper, 6.1: Rekey-After-Time).
const REKEY_AFTER: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("the_socket_is_outside_and_the_interface_inside", inside_and_outside).needs(&["wgd"]),
        Scenario::new("wg_show_prints_peers_handshakes_and_transfer", shown).needs(&["wgd", "culvert"]),
        Scenario::new("stock_wg_commands_drive_wgd", driven).needs(&["wgd"]),
        Scenario::new("a_new_handshake_keeps_the_connection", new_handshake)
            .needs(&["wgd"])
            .on_both_devices(),
        Scenario::new("a_connection_survives_a_killed_wgd", killed).needs(&["wgd"]).on_both_devices(),
        Scenario::new("a_connection_survives_a_silent_cut", cut).needs(&["wgd"]).on_both_devices(),
        Scenario::new("an_interface_that_is_set_down_is_silent", set_down)
            .needs(&["wgd", "culvert"])
            .on_both_devices(),
        Scenario::new("a_tunnel_rekeys_by_itself_after_two_minutes", rekeyed)
            .needs(&["wgd"])
            .on_both_devices()
            .slow(),
    ])
}

/// Both wgds with their interfaces in the tunnels' namespaces; only web knows where its peer is.
fn start(scene: &Scene) -> Result<(Tunnel, Running, Running)> {
    start_with(scene, "")
}

/// The same, with these lines in their `wgd.toml`.
fn start_with(scene: &Scene, lines: &str) -> Result<(Tunnel, Running, Running)> {
    let tunnel = Tunnel::new(&scene.lab)?;
    let mut text = lines.to_owned();
    if culvert::has_many_users()? {
        text.push_str(&format!("run_as = \"{WGD_USER}:{WGD_USER}\"\n"));
    }
    if !text.is_empty() {
        for host in [&scene.lab.web, &scene.lab.services] {
            host.write("/etc/culvert/wgd.toml", &text)?;
        }
    }
    let services = tunnel.start_wgd(&scene.lab, Side::Services, Endpoint::Learned, Place::Tunnel)?;
    let web = tunnel.start_wgd(&scene.lab, Side::Web, Endpoint::Known, Place::Tunnel)?;
    ping(&scene.lab.web, Place::Tunnel, "10.100.0.11", BOUND)?;
    Ok((tunnel, web, services))
}

fn connect(scene: &Scene) -> Result<Connection> {
    Connection::open(&scene.lab.web, &scene.lab.services, Place::Tunnel, Side::Services.inner().into())
}

fn only_peer(host: &Host) -> Result<ShownPeer> {
    let shown = wireguard::show(host, INTERFACE)?;
    let [peer] = &shown[..] else { anyhow::bail!("{} peers on {}", shown.len(), host.name()) };
    Ok(peer.clone())
}

fn inside_and_outside(scene: &Scene) -> Result<()> {
    let capture = scene.lab.wan.capture(MARKER.as_bytes())?;
    let (_tunnel, web, services) = start(scene)?;
    for side in [Side::Web, Side::Services] {
        let host = side.host(&scene.lab);
        let inside = host.run_at(Place::Tunnel, &["ip", "-oneline", "link"])?.success()?;
        ensure!(inside.lines().count() == 2 && inside.contains(&format!("{INTERFACE}: ")), "{inside}");
        ensure!(inside.contains(&format!("mtu {MTU}")), "{inside}");
        let outside = host.run(&["ip", "-oneline", "link"])?.success()?;
        ensure!(!outside.contains(INTERFACE), "{outside}");
        let sockets = host.run_at(Place::Tunnel, &["ss", "--udp", "--all", "--no-header"])?.success()?;
        ensure!(sockets.is_empty(), "a UDP socket in the tunnel's namespace: {sockets}");
        let sockets = host.run(&["ss", "--udp", "--all", "--numeric", "--no-header"])?.success()?;
        ensure!(sockets.contains(":51820"), "{sockets}");
    }
    connect(scene)?.carry(BYTES)?;
    for running in [web, services] {
        let label = running.label().to_owned();
        let status = running.stop()?;
        ensure!(status.success(), "{label} ended with {status}");
    }
    // It made the interface, so it takes it away again.
    let inside = scene.lab.web.run_at(Place::Tunnel, &["ip", "-oneline", "link"])?.success()?;
    ensure!(inside.lines().count() == 1, "{inside}");
    ensure!(!scene.lab.web.path("/run/wireguard/wg0.sock").exists(), "its socket is still there");
    capture.finish()?.only_wireguard()
}

/// `ip link set wg0 down` ends what is said, not only what is heard; `up` brings it back without anybody's help.
fn set_down(scene: &Scene) -> Result<()> {
    let (tunnel, _web, _services) = start_with(scene, "admin_socket = \"/run/culvert/wgd.sock\"\n")?;
    let (web, services) = (&scene.lab.web, &scene.lab.services);
    for side in [Side::Web, Side::Services] {
        let peer = &tunnel.keys(side.other()).public;
        side.host(&scene.lab)
            .run(&["wg", "set", INTERFACE, "peer", peer, "persistent-keepalive", "1"])?
            .success()?;
    }
    let set = |state| web.run_at(Place::Tunnel, &["ip", "link", "set", INTERFACE, state])?.success();
    set("down")?;
    thread::sleep(SEEN_WITHIN);
    let before = (only_peer(web)?.sent, only_peer(services)?);
    // Longer than the retry of a handshake, and many keepalives.
    thread::sleep(Duration::from_secs(7));
    let after = (only_peer(web)?.sent, only_peer(services)?);
    ensure!(before.0 == after.0, "{} bytes were sent, then {}", before.0, after.0);
    ensure!(before.1.received == after.1.received, "services heard something");
    ensure!(before.1.sent < after.1.sent, "services did not even try");
    let status = web.run(&["/run/bin/culvert", "tunnel", "status"])?;
    ensure!(status.output.contains("the interface is down"), "{}", status.output);
    set("up")?;
    // A handshake takes one retry of 5 s at most.
    ping(services, Place::Tunnel, "10.100.0.10", BOUND)
}

fn shown(scene: &Scene) -> Result<()> {
    let (tunnel, _web, _services) = start(scene)?;
    connect(scene)?.carry(BYTES)?;
    let web = &scene.lab.web;
    let text = web.run(&["wg", "show", INTERFACE])?.success()?;
    for part in [
        "interface: wg0",
        &format!("public key: {}", tunnel.keys(Side::Web).public),
        "listening port: 51820",
        &format!("peer: {}", tunnel.keys(Side::Services).public),
        "preshared key: (hidden)",
        "endpoint: 198.51.100.1:51820",
        "allowed ips: 10.100.0.11/32",
        "latest handshake: ",
        "transfer: ",
    ] {
        ensure!(text.contains(part), "`wg show` lacks `{part}`:\n{text}");
    }
    ensure!(web.run(&["wg", "show", "interfaces"])?.success()?.trim() == INTERFACE);
    ensure!(only_peer(web)?.sent > BYTES && only_peer(&scene.lab.services)?.received > BYTES);
    let status = web.run(&["/run/bin/culvert", "tunnel", "status"])?.success()?;
    ensure!(status.contains("198.51.100.1:51820"), "{status}");
    Ok(())
}

fn driven(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (tunnel, _web, _services) = start(scene)?;
    let (web, peer) = (&lab.web, tunnel.keys(Side::Services).public.clone());
    let wg = |arguments: &[&str]| web.run(&[&["wg"], arguments].concat())?.success();

    wg(&[
        "set",
        INTERFACE,
        "peer",
        &peer,
        "persistent-keepalive",
        "17",
        "allowed-ips",
        "10.100.0.11/32,10.9.0.0/16",
    ])?;
    let seen = only_peer(web)?;
    ensure!(seen.keepalive == Some(17) && seen.allowed_ips.len() == 2, "{seen:?}");

    // A second peer comes and goes.
    let other = wireguard::KeyPair::generate(web)?;
    wg(&["set", INTERFACE, "peer", &other.public, "allowed-ips", "10.9.0.0/16"])?;
    let shown = wireguard::show(web, INTERFACE)?;
    ensure!(shown.len() == 2, "{shown:?}");
    // An address belongs to one peer: it moved.
    ensure!(
        shown.iter().any(|p| p.public_key == other.public && p.allowed_ips == ["10.9.0.0/16"]),
        "{shown:?}"
    );
    ensure!(shown.iter().any(|p| p.public_key == peer && p.allowed_ips == ["10.100.0.11/32"]), "{shown:?}");
    wg(&["set", INTERFACE, "peer", &other.public, "remove"])?;
    ensure!(only_peer(web)?.public_key == peer);

    // syncconf with the same peer changes what differs and keeps the session.
    let before = only_peer(web)?;
    let config = tunnel.plain_config(Side::Web, Endpoint::Known) + "PersistentKeepalive = off\n";
    web.write_secret("/run/sync.conf", config)?;
    wg(&["syncconf", INTERFACE, "/run/sync.conf"])?;
    let after = only_peer(web)?;
    ensure!(after.keepalive.is_none() && after.latest_handshake == before.latest_handshake, "{after:?}");
    connect(scene)?.echo()?;

    // setconf begins anew: transfer counts from nothing, and the tunnel comes up again.
    wg(&["setconf", INTERFACE, "/run/sync.conf"])?;
    ping(web, Place::Tunnel, "10.100.0.11", BOUND)?;
    let again = only_peer(web)?;
    ensure!(again.sent < before.sent, "{again:?} after {before:?}");

    // Another port, for which wgd-netcfg makes the socket.
    wg(&["set", INTERFACE, "listen-port", "51821"])?;
    ensure!(wg(&["show", INTERFACE, "listen-port"])?.trim() == "51821");
    ping(web, Place::Tunnel, "10.100.0.11", BOUND)?;
    let moved = only_peer(&lab.services)?;
    ensure!(moved.endpoint.as_deref() == Some("192.0.2.1:51821"), "services did not follow: {moved:?}");
    Ok(())
}

fn new_handshake(scene: &Scene) -> Result<()> {
    let (tunnel, _web, _services) = start(scene)?;
    let mut connection = connect(scene)?;
    connection.carry(BYTES)?;
    let web = &scene.lab.web;
    let first = only_peer(web)?.latest_handshake;
    // Handshakes are shown in whole seconds, and their timestamps must grow.
    thread::sleep(Duration::from_millis(1_100));
    web.write_secret("/run/anew.conf", tunnel.plain_config(Side::Web, Endpoint::Known))?;
    web.run(&["wg", "setconf", INTERFACE, "/run/anew.conf"])?.success()?;
    connection.carry(BYTES).context("over the new session")?;
    ensure!(only_peer(web)?.latest_handshake > first, "there was no new handshake");

    // A new preshared key on both sides, between two of its bytes.
    let key = wireguard::generate_preshared_key(web)?;
    for side in [Side::Web, Side::Services] {
        let host = side.host(&scene.lab);
        host.write_secret("/run/psk", &key)?;
        let peer = tunnel.keys(side.other()).public.clone();
        host.run(&["wg", "set", INTERFACE, "peer", &peer, "preshared-key", "/run/psk"])?.success()?;
    }
    connection.carry(BYTES).context("after the new preshared key")
}

fn killed(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    // As the unit files have it: the interface outlives its daemon.
    for side in [Side::Web, Side::Services] {
        let host = side.host(lab);
        let inside = |command: &[&str]| host.run_at(Place::Tunnel, command)?.success();
        inside(&["ip", "tuntap", "add", INTERFACE, "mode", "tun"])?;
        inside(&["ip", "address", "add", &format!("{}/24", side.inner()), "dev", INTERFACE])?;
        inside(&["ip", "link", "set", INTERFACE, "mtu", &MTU.to_string(), "up"])?;
    }
    let (_tunnel, mut web, _services) = start(scene)?;
    let mut connection = connect(scene)?;
    connection.carry(BYTES)?;
    let index = interface_index(&lab.web)?;

    web.kill()?;
    let mut web = tunnel::start_wgd(&lab.web, Place::Tunnel, &[]).context("start wgd after it was killed")?;
    connection.carry(BYTES).context("over the restarted wgd")?;
    ensure!(interface_index(&lab.web)? == index, "the interface was made again");

    web.kill()?;
    let web = tunnel::start_wgd(&lab.web, Place::Tunnel, &[])?;
    connection.echo()?;
    web.stop()?;
    ensure!(interface_index(&lab.web)? == index, "a stop took the interface away");
    Ok(())
}

fn interface_index(host: &Host) -> Result<String> {
    let link =
        host.run_at(Place::Tunnel, &["ip", "-oneline", "link", "show", "dev", INTERFACE])?.success()?;
    Ok(link.split(':').next().unwrap_or_default().to_owned())
}

fn cut(scene: &Scene) -> Result<()> {
    let (_tunnel, _web, _services) = start(scene)?;
    let mut connection = connect(scene)?;
    connection.carry(BYTES)?;
    scene.lab.wan.cut()?;
    let (code, _) = scene
        .lab
        .web
        .run_at(Place::Tunnel, &["ping", "-c", "2", "-i", "0.2", "-W", "1", "10.100.0.11"])?
        .refusal()?;
    ensure!(code == 1);
    scene.lab.wan.restore()?;
    connection.carry(BYTES).context("after the line was back")
}

fn rekeyed(scene: &Scene) -> Result<()> {
    let capture = scene.lab.wan.capture(MARKER.as_bytes())?;
    let (_tunnel, _web, _services) = start(scene)?;
    let mut connection = connect(scene)?;
    let first = only_peer(&scene.lab.web)?.latest_handshake;
    wait::until("a second handshake", REKEY_AFTER + Duration::from_secs(30), || {
        connection.echo()?;
        thread::sleep(Duration::from_millis(200));
        let now = only_peer(&scene.lab.web)?.latest_handshake;
        ensure!(now >= first + REKEY_AFTER.as_secs(), "the handshake is {} s after the first", now - first);
        Ok(())
    })?;
    connection.carry(BYTES)?;
    let verdict = capture.finish()?;
    ensure!(verdict.messages[0] >= 2, "{verdict}");
    verdict.only_wireguard()
}
