//! What an operator sees of a tunnel: the table, round trips, loss, and events as they happen.
//!
//! ```text
//!  web ───────────── wan: cut, or a datagram in ten dropped ───────────── services
//!   wg0 10.100.0.10 ── wgd: UDP 51820                 wgd: UDP 51820 ── wg0 10.100.0.11
//!   culvert tunnel status ── /run/culvert/wgd.sock
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::host::{Host, Place};
use culvert_netns::http::Request;
use culvert_netns::lab::Lab;
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::tunnel::{Endpoint, INTERFACE, Side, Tunnel};
use culvert_netns::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

const PROGRAMS: &[&str] = &["wgd", "culvert"];
/// These wgds stay who they are, and say so.
const EXPECTED: &[&str] = &["no user is configured"];
const BOUND: Duration = Duration::from_secs(20);
/// A peer is down after 180 s of silence (WireGuard's paper, 6.1: Reject-After-Time).
const DOWN_WITHIN: Duration = Duration::from_secs(200);
/// Of the first packet after the line is back.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// Between namespaces of one machine; a busy one may take its time.
const ROUND_TRIP_AT_MOST_MS: f64 = 500.0;

fn main() -> ExitCode {
    let scenario =
        |name, run: fn(&Scene) -> Result<()>| Scenario::new(name, run).needs(PROGRAMS).expecting(EXPECTED);
    runner::main(&[
        scenario("the_status_shows_health_and_addresses", shown),
        scenario("what_comes_in_one_piece_is_shown_and_outlives_a_new_port", one_piece).on_both_devices(),
        scenario("round_trips_are_measured_in_the_tunnel", probed),
        scenario("what_the_line_swallows_is_shown_as_loss", lossy),
        scenario("events_are_followed_as_they_happen", followed),
        scenario("a_cut_line_is_seen_going_down_and_coming_back", cut).slow(),
    ])
}

/// Both ends with an admin socket, `lines` in web's `wgd.toml`, and one packet each way behind them.
fn start(lab: &Lab, lines: &str) -> Result<(Tunnel, Running, Running)> {
    let tunnel = Tunnel::new(lab)?;
    for (side, more) in [(Side::Web, lines), (Side::Services, "")] {
        let text = format!(
            "profile = \"lab\"\nadmin_socket = \"/run/culvert/wgd.sock\"\nmetrics_listen = \"127.0.0.1:9586\"\n{more}"
        );
        side.host(lab).write("/etc/culvert/wgd.toml", text)?;
    }
    let services = tunnel.start_wgd(lab, Side::Services, Endpoint::Learned, Place::Outer)?;
    let web = tunnel.start_wgd(lab, Side::Web, Endpoint::Known, Place::Outer)?;
    Ok((tunnel, web, services))
}

fn ping(lab: &Lab) -> Result<()> {
    lab.web.run(&["ping", "-c", "1", "-W", "5", "10.100.0.11"])?.success().map(drop)
}

fn culvert(host: &Host, arguments: &[&str]) -> Result<String> {
    host.program("/run/bin/culvert").arguments(arguments).run(BOUND)?.success()
}

/// `culvert tunnel status --json`, and the one peer in it.
fn status(host: &Host, more: &[&str]) -> Result<(Value, Value)> {
    let said = culvert(host, &[&["tunnel", "status", "--json"], more].concat())?;
    let device: Value = serde_json::from_str(&said).with_context(|| format!("read {said}"))?;
    let peer = device["peers"][0].clone();
    ensure!(peer.is_object(), "no peer in {said}");
    Ok((device, peer))
}

/// With a plain device nothing does, on either side of the daemon; with offloads everything does.
fn one_piece(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (_tunnel, _web, _services) = start(lab, "")?;
    for port in ["51820", "51999"] {
        lab.web.run(&["wg", "set", "wg0", "listen-port", port])?.success()?;
        let device = status(&lab.web, &[])?.0["device"].clone();
        let wanted = match device["kind"].as_str() {
            Some("offload") => true,
            Some("plain") => false,
            _ => bail!("no kind of device: {device}"),
        };
        for part in ["tcp", "udp_send", "udp_receive"] {
            ensure!(device[part] == wanted, "{part} at port {port}: {device}");
        }
        ping(lab)?;
    }
    Ok(())
}

fn shown(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (tunnel, _web, _services) = start(lab, "")?;
    let before = culvert(&lab.services, &["tunnel", "status"])?;
    ensure!(before.contains("0 of 1 peers up") && before.contains("NEVER UP"), "{before}");
    ensure!(before.contains("has not been heard yet"), "{before}");
    ping(lab)?;
    let text = culvert(&lab.web, &["tunnel", "status"])?;
    let key = &tunnel.keys(Side::Services).public;
    let endpoint = format!("{}:51820", Side::Services.outer());
    for told in [
        "wg0: its peer is up",
        "port 51820",
        "mtu ",
        "netcfg yes",
        "PEER",
        "HANDSHAKE",
        "LOSS",
        "PSK",
        Side::Web.other().peer_name(),
        key.as_str(),
        endpoint.as_str(),
        "10.100.0.11/32",
    ] {
        ensure!(text.contains(told), "no {told} in\n{text}");
    }
    ensure!(!text.contains(tunnel.preshared_key()), "a secret is shown");
    ensure!(text.lines().all(|line| line.chars().count() <= 100), "wider than 100 columns:\n{text}");
    // Without wgd's own socket the configuration protocol tells what it knows.
    let alone = culvert(&lab.web, &["tunnel", "status", "--wgd-socket", "/nonexistent"])?;
    ensure!(
        alone.contains(key.as_str()) && alone.contains("its peer is up") && !alone.contains("netcfg"),
        "{alone}"
    );
    for _ in 0..3 {
        let asked = wait::now();
        culvert(&lab.web, &["tunnel", "check"])?;
        let took = wait::now().duration_since(asked);
        ensure!(took < Duration::from_secs(3), "a check took {} ms", took.as_millis());
    }
    Ok(())
}

fn probed(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (_tunnel, _web, _services) = start(lab, "probe_interval_seconds = 1\n")?;
    ping(lab)?;
    wait::until("a round trip by probe", BOUND, || {
        let (_, peer) = status(&lab.web, &[])?;
        ensure!(peer["rtt_from"] == "probe", "{peer}");
        Ok(())
    })?;
    // Services never asks by itself, and began no handshake: it knows nothing until it is told to ask.
    let (_, peer) = status(&lab.services, &[])?;
    ensure!(peer["rtt_ms"].is_null(), "{peer}");
    for host in [&lab.web, &lab.services] {
        let asked = wait::now();
        let (_, peer) = status(host, &["--probe"])?;
        let took = wait::now().duration_since(asked);
        let round_trip = peer["rtt_ms"].as_f64().with_context(|| format!("no round trip in {peer}"))?;
        ensure!(peer["probe"] == "answered" && peer["rtt_from"] == "probe", "{peer}");
        ensure!(round_trip > 0.0 && round_trip < ROUND_TRIP_AT_MOST_MS, "{round_trip} ms");
        ensure!(took < Duration::from_secs(4), "it took {} ms", took.as_millis());
    }
    let metrics = metrics(&lab.web)?;
    let value = |name: &str| -> Result<f64> {
        let line =
            metrics.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
        line.rsplit(' ').next().unwrap_or_default().parse().with_context(|| line.to_owned())
    };
    let round_trip = value("wgd_peer_rtt_seconds{")?;
    ensure!(round_trip > 0.0 && round_trip * 1_000.0 < ROUND_TRIP_AT_MOST_MS, "{round_trip} s");
    ensure!(value("wgd_peer_handshake_duration_seconds_count{")? >= 1.0, "{metrics}");
    ensure!(value("wgd_private_key_created_timestamp_seconds{")? > 1_700_000_000.0, "{metrics}");
    ensure!(metrics.contains("wgd_queue_length{interface=\"wg0\",queue=\"handshake\"} 0"), "{metrics}");

    // A peer that is cut off does not answer, and that is said within a second.
    scene.lab.wan.cut()?;
    let asked = wait::now();
    let text = culvert(&lab.services, &["tunnel", "status", "--probe"])?;
    let took = wait::now().duration_since(asked);
    ensure!(text.contains("no answer"), "{text}");
    ensure!(took < Duration::from_secs(4), "it took {} ms", took.as_millis());
    Ok(())
}

fn metrics(host: &Host) -> Result<String> {
    let listener = std::net::SocketAddr::from(([127, 0, 0, 1], 9586));
    Ok(Request::new("GET", "/metrics").send(host, Place::Outer, listener)?.expect(200)?.text())
}

fn lossy(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (_tunnel, _web, _services) = start(lab, "")?;
    ping(lab)?;
    let flood = || lab.web.run(&["ping", "-q", "-f", "-c", "2000", "-W", "1", "10.100.0.11"]);
    flood()?.success()?;
    let (_, peer) = status(&lab.web, &[])?;
    ensure!(peer["loss_ratio"].as_f64().is_some_and(|loss| loss < 0.005), "without loss: {peer}");

    // One datagram in ten of those to web.
    let wan = &lab.wan.host;
    wan.execute("nft add table ip filter")?;
    wan.execute("nft add chain ip filter forward { type filter hook forward priority 0 ; }")?;
    let web = Side::Web.outer();
    wan.execute(&format!(
        "nft add rule ip filter forward ip daddr {web} udp dport 51820 numgen random mod 10 < 1 drop"
    ))?;
    // As many replies come as are not lost; ping says so by its exit code, or does not.
    for _ in 0..4 {
        flood()?;
    }
    let (_, peer) = status(&lab.web, &[])?;
    let loss = peer["loss_ratio"].as_f64().with_context(|| format!("no loss in {peer}"))?;
    ensure!((0.05..0.15).contains(&loss), "one in ten is lost, and {loss} is shown: {peer}");
    let (_, peer) = status(&lab.services, &[])?;
    ensure!(peer["loss_ratio"].as_f64().is_some_and(|loss| loss < 0.005), "the other way nothing is: {peer}");
    let text = culvert(&lab.web, &["tunnel", "status"])?;
    ensure!(text.contains('%'), "{text}");
    Ok(())
}

/// Reads along until all of `parts` are in one line.
fn tells(follower: &mut Running, parts: &[&str], bound: Duration) -> Result<()> {
    let output = follower.output().clone();
    follower.until(&format!("tell {parts:?}"), bound, || {
        let lines = output.lines();
        let found = lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        ensure!(found, "so far:\n{}", lines.join("\n"));
        Ok(())
    })
}

fn follow(host: &Host, more: &[&str]) -> Result<Running> {
    let arguments = [&["tunnel", "status", "--follow"], more].concat();
    let mut follower = host.program("/run/bin/culvert").arguments(&arguments).start()?;
    if more.is_empty() {
        let log = follower.log().clone();
        follower.until("be heard", BOUND, || {
            ensure!(log.contains("from now on"), "not yet");
            Ok(())
        })?;
    }
    Ok(follower)
}

fn followed(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (tunnel, _web, _services) = start(lab, "")?;
    let mut people = follow(&lab.web, &[])?;
    let mut program = follow(&lab.web, &["--json", INTERFACE])?;
    ping(lab)?;
    let name = Side::Web.other().peer_name();
    tells(&mut people, &[INTERFACE, name, "is up"], BOUND)?;
    tells(&mut people, &[name, "handshake, begun here, took"], BOUND)?;
    let key = &tunnel.keys(Side::Services).public;
    lab.web.run(&["wg", "set", INTERFACE, "peer", key, "preshared-key", "/dev/null"])?.success()?;
    tells(&mut people, &[name, "pre-shared key changed"], BOUND)?;
    lab.web.run(&["wg", "set", INTERFACE, "peer", key, "remove"])?.success()?;
    tells(&mut people, &[name, "is DOWN"], BOUND)?;
    tells(&mut program, &["\"what\":\"down\"", &format!("\"public_key\":\"{key}\"")], BOUND)?;
    for line in program.output().lines() {
        serde_json::from_str::<Value>(&line).with_context(|| format!("read {line}"))?;
    }
    people.signal(Signal::SIGINT)?;
    people.wait(BOUND).map(drop)
}

fn cut(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (_tunnel, _web, _services) = start(lab, "probe_interval_seconds = 10\n")?;
    let mut follower = follow(&lab.web, &[])?;
    ping(lab)?;
    let name = Side::Web.other().peer_name();
    tells(&mut follower, &[name, "is up"], BOUND)?;
    lab.wan.cut()?;
    tells(&mut follower, &[name, "is DOWN"], DOWN_WITHIN)?;
    wait::until("the table to say so", Duration::from_secs(3), || {
        let text = culvert(&lab.web, &["tunnel", "status"])?;
        ensure!(text.contains("0 of 1 peers up") && text.contains("DOWN"), "{text}");
        Ok(())
    })?;
    // The configuration protocol tells whole seconds, so the check may be one behind.
    wait::until("the check to fail", Duration::from_secs(3), || {
        let (code, said) = lab.web.run(&["/run/bin/culvert", "tunnel", "check"])?.refusal()?;
        ensure!(code == 1, "{code}: {said}");
        Ok(())
    })?;
    let told = follower.output().lines().len();
    lab.wan.restore()?;
    let output = follower.output().clone();
    follower.until("tell that it is up again", BACK_WITHIN, || {
        // Somebody wants to speak, as somebody always does.
        lab.web.run(&["ping", "-c", "1", "-W", "1", "10.100.0.11"])?;
        let lines = output.lines();
        ensure!(lines.iter().skip(told).any(|line| line.contains("is up")), "{}", lines.join("\n"));
        Ok(())
    })?;
    culvert(&lab.web, &["tunnel", "check"]).map(drop)
}
