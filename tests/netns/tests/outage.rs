//! The path between the hosts is gone for long, and nobody speaks. When it comes back, so does the tunnel, within ten
//! seconds: by itself where one side is to be kept alive, else of the first packet.
//!
//! ```text
//!  web ─────────────── wan: cut ─────────────── services
//!   wg0 10.100.0.10 ── wgd: UDP 51820      wgd: UDP 51820 ── wg0 10.100.0.11    PersistentKeepalive = 25 at web
//!   wg1 10.100.1.10 ── wgd: UDP 51821      wgd: UDP 51821 ── wg1 10.100.1.11    none
//! ```

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use culvert_netns::host::{Host, Place};
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::tunnel::{self, Endpoint, INTERFACE, Side, Tunnel};
use culvert_netns::wait;
use culvert_netns::wireguard::{self, ping};

/// These wgds stay who they are, and say so.
const EXPECTED: &[&str] = &["no user is configured"];
const SILENT: &str = "wg1";
const BOUND: Duration = Duration::from_secs(15);
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// Handshakes are given up after 90 s (WireGuard's paper, 6.1); data that nobody answers begins one after 15 s.
const PAST_GIVING_UP: Duration = Duration::from_secs(112);

fn main() -> ExitCode {
    let scenario =
        |name, run: fn(&Scene) -> Result<()>| Scenario::new(name, run).needs(&["wgd"]).expecting(EXPECTED);
    runner::main(&[
        scenario("a_path_that_was_given_up_is_found_within_ten_seconds", given_up).slow(),
        scenario("ten_silent_minutes_are_over_within_ten_seconds", ten_minutes).slow(),
    ])
}

struct Tunnels {
    web: Running,
    _rest: [Running; 3],
}

fn start(scene: &Scene) -> Result<Tunnels> {
    let lab = &scene.lab;
    let kept_alive = Tunnel::new(lab)?;
    let services = kept_alive.start_wgd(lab, Side::Services, Endpoint::Learned, Place::Outer)?;
    let text = kept_alive.quick_config(Side::Web, Endpoint::Known) + "PersistentKeepalive = 25\n";
    lab.web.write_secret(&format!("/etc/wireguard/{INTERFACE}.conf"), text)?;
    let web = tunnel::start_wgd(&lab.web, Place::Outer, &[])?;

    let silent = Tunnel::new(lab)?;
    let start = |side: Side| {
        let host = side.host(lab);
        let text = silent.quick_config(side, Endpoint::Known);
        let text = text.replace("10.100.0.", "10.100.1.").replace("51820", "51821");
        host.write_secret(&format!("/etc/wireguard/{SILENT}.conf"), text)?;
        host.daemon("wgd").arguments(&["--foreground", "--log-level", "info", SILENT]).start()
    };
    let silent = [start(Side::Services)?, start(Side::Web)?];
    ping(&lab.web, Place::Outer, "10.100.0.11", BOUND)?;
    wait::until("the second tunnel", BOUND, || {
        for side in [Side::Web, Side::Services] {
            let shown =
                side.host(lab).run(&["ip", "-oneline", "address", "show", "dev", SILENT])?.success()?;
            ensure!(shown.contains("10.100.1."), "no address yet: {shown}");
        }
        Ok(())
    })?;
    ping(&lab.web, Place::Outer, "10.100.1.11", BOUND)?;
    let [one, other] = silent;
    Ok(Tunnels { web, _rest: [services, one, other] })
}

/// Waits for the end of the outage, not longer.
fn sleep_until(end: Instant) {
    thread::sleep(end.saturating_duration_since(wait::now()));
}

fn given_up(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let mut tunnels = start(scene)?;
    lab.wan.cut()?;
    // Anew without a session, so that it tries from now on; and a packet into the void, so that the other does.
    tunnels.web.kill()?;
    let _web = tunnel::start_wgd(&lab.web, Place::Outer, &[])?;
    lab.web.run(&["ping", "-c", "1", "-W", "1", "10.100.1.11"])?.refusal()?;
    sleep_until(wait::now() + PAST_GIVING_UP);
    ensure!(handshake(&lab.web, INTERFACE)? == 0, "the line is not cut");
    restored(scene)
}

fn ten_minutes(scene: &Scene) -> Result<()> {
    let _tunnels = start(scene)?;
    scene.lab.wan.cut()?;
    sleep_until(wait::now() + Duration::from_secs(600));
    restored(scene)
}

fn restored(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let before = handshake(&lab.services, INTERFACE)?;
    lab.wan.restore()?;
    wait::until("a handshake by itself", BACK_WITHIN, || {
        let last = handshake(&lab.services, INTERFACE)?;
        ensure!(last > before, "the last was at {last}");
        Ok(())
    })?;
    one_packet(&lab.services, "10.100.0.10")?;
    one_packet(&lab.web, "10.100.0.11")?;
    // Here nobody has spoken so far, and services has not heard that web gave up.
    one_packet(&lab.services, "10.100.1.10").context("the first packet")?;
    one_packet(&lab.web, "10.100.1.11")
}

/// One single packet, whose answer comes in time.
fn one_packet(from: &Host, to: &str) -> Result<()> {
    let asked = wait::now();
    let within = BACK_WITHIN.as_secs().to_string();
    from.run(&["ping", "-c", "1", "-W", &within, to])?.success()?;
    ensure!(asked.elapsed() <= BACK_WITHIN, "it took {} ms", asked.elapsed().as_millis());
    Ok(())
}

/// Seconds since the epoch of the only peer's last handshake.
fn handshake(host: &Host, interface: &str) -> Result<u64> {
    let shown = wireguard::show(host, interface)?;
    Ok(shown.first().context("no peer")?.latest_handshake)
}
