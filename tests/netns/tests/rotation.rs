//! Keys are replaced while numbered datagrams flow, and daemons are killed in the middle of it.
//!
//! ```text
//!  web ─────────────── wan ─────────────── services
//!   wgd, culvert key rotate                 wgd
//!   ┌ namespace tunnel ┐                    ┌ namespace tunnel ┐
//!   │ wg0 10.100.0.10  │ ── numbers, UDP ─▶ │ wg0 10.100.0.11  │
//! ```

use std::net::UdpSocket;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use culvert_netns::culvert::{self, WGD_USER};
use culvert_netns::host::{Host, Place};
use culvert_netns::numbered::{self, Account, Ends, Watched};
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::tunnel::{self, Endpoint, INTERFACE, Side, Tunnel};
use culvert_netns::wait;
use culvert_netns::wireguard::{self, ping};

const BOUND: Duration = Duration::from_secs(15);
/// A killed daemon's peer notices after 15 s at the latest (WireGuard's paper, 6.5), and may then first try keys that
/// the other no longer has.
const BACK_WITHIN: Duration = Duration::from_secs(40);
const PORT: u16 = 4_000;
const CULVERT: &str = "/run/bin/culvert";

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("rotations_lose_and_double_no_datagram", quick)
            .needs(&["wgd", "culvert"])
            .on_both_devices(),
        Scenario::new("a_kill_in_the_middle_of_a_rotation_is_survived", killed).needs(&["wgd", "culvert"]),
        Scenario::new("kills_of_both_in_the_middle_of_a_rotation_are_survived", both_killed)
            .needs(&["wgd", "culvert"]),
        Scenario::new("a_compromised_key_is_replaced_under_traffic", compromised).needs(&["wgd", "culvert"]),
        Scenario::new("a_rotation_with_another_wireguard_says_what_is_left_to_do", degraded)
            .needs(&["wgd", "culvert"]),
        Scenario::new("twenty_rotations_at_20000_packets_a_second_lose_nothing", slow)
            .needs(&["wgd", "culvert"])
            .on_both_devices()
            .slow(),
    ])
}

fn configure(host: &Host) -> Result<()> {
    let mut text = "admin_socket = \"/run/culvert/wgd.sock\"\n".to_owned();
    if culvert::has_many_users()? {
        text.push_str(&format!("run_as = \"{WGD_USER}:{WGD_USER}\"\n"));
    }
    host.write("/etc/culvert/wgd.toml", text)
}

fn start(scene: &Scene) -> Result<(Running, Running)> {
    let lab = &scene.lab;
    let tunnel = Tunnel::new(lab)?;
    for side in [Side::Web, Side::Services] {
        configure(side.host(lab))?;
    }
    let services = tunnel.start_wgd(lab, Side::Services, Endpoint::Known, Place::Tunnel)?;
    let web = tunnel.start_wgd(lab, Side::Web, Endpoint::Known, Place::Tunnel)?;
    for host in [&lab.web, &lab.services] {
        // A busy machine may keep wgd waiting for longer than the usual 500 packets last.
        host.run_at(Place::Tunnel, &["ip", "link", "set", INTERFACE, "txqueuelen", "20000"])?.success()?;
    }
    ping(&lab.web, Place::Tunnel, "10.100.0.11", BOUND)?;
    Ok((web, services))
}

fn rotate(host: &Host, kind: &str) -> Result<String> {
    host.run(&[CULVERT, "key", "rotate", kind])?.success()
}

/// Runs `work` under numbered traffic from web to services, for at least `time`.
fn account(
    scene: &Scene,
    per_second: u32,
    time: Duration,
    work: impl FnOnce() -> Result<()>,
) -> Result<Account> {
    let lab = &scene.lab;
    let bind = |host: &Host, side: Side| {
        host.network(Place::Tunnel).within(|| Ok(UdpSocket::bind((side.inner(), PORT))?))
    };
    let ends = Ends { from: bind(&lab.web, Side::Web)?, to: bind(&lab.services, Side::Services)? };
    ends.from.connect((Side::Services.inner(), PORT))?;
    // The usual 208 KiB last 50 ms, and a busy machine may keep the receiver waiting for longer.
    nix::sys::socket::setsockopt(&ends.to, nix::sys::socket::sockopt::RcvBufForce, &(64 << 20))?;
    let at = |host, place| Watched { host, place };
    let way = [
        at(&lab.web, Place::Tunnel),
        at(&lab.web, Place::Outer),
        at(&lab.wan.host, Place::Outer),
        at(&lab.services, Place::Outer),
        at(&lab.services, Place::Tunnel),
    ];
    numbered::under_traffic(&ends, at(&lab.services, Place::Tunnel), &way, per_second, time, work)
}

/// The same; all of it must arrive, once.
fn under_traffic(
    scene: &Scene,
    per_second: u32,
    time: Duration,
    work: impl FnOnce() -> Result<()>,
) -> Result<u32> {
    let account = account(scene, per_second, time, work)?;
    account.expect_all_once()?;
    Ok(account.sent)
}

/// Rotates `rounds` times each key, every third time from the other side.
fn rotations(
    scene: &Scene,
    web: &Running,
    services: &Running,
    rounds: usize,
    per_second: u32,
    time: Duration,
) -> Result<()> {
    let lab = &scene.lab;
    let told =
        |daemon: &Running| daemon.log().lines().iter().filter(|line| line.contains("key changed")).count();
    let before = (told(web), told(services));
    let sent = under_traffic(scene, per_second, time, || {
        for round in 0..rounds {
            let host = if round % 3 == 2 { &lab.services } else { &lab.web };
            for kind in ["--psk", "--static"] {
                let verdict = rotate(host, kind).with_context(|| format!("round {round}: {kind}"))?;
                ensure!(verdict.contains("rotated") && verdict.contains("on disk"), "{verdict}");
                thread::sleep(time / u32::try_from(4 * rounds)?);
            }
        }
        Ok(())
    })?;
    ensure!(u64::from(sent) > u64::from(per_second) * time.as_secs() / 2, "only {sent} were sent");
    for (daemon, before) in [(web, before.0), (services, before.1)] {
        let now = told(daemon) - before;
        ensure!(now == 2 * rounds, "{} told of {now} changed keys", daemon.label());
    }
    agreed(scene)
}

/// Both files fit each other.
fn agreed(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let own = |host: &Host| {
        host.run(&["sh", "-c", "sed -n 's/^PrivateKey *= *//p' /etc/wireguard/wg0.conf | wg pubkey"])
    };
    let value = |host: &Host, name: &str| -> Result<String> {
        let text = host.read("/etc/wireguard/wg0.conf")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
        Ok(line.with_context(|| format!("{name} is missing in\n{text}"))?.trim().to_owned())
    };
    for side in [Side::Web, Side::Services] {
        let (host, other) = (side.host(lab), side.other().host(lab));
        ensure!(
            own(host)?.success()?.trim() == value(other, "PublicKey")?,
            "{} is not known by its key",
            host.name()
        );
    }
    ensure!(value(&lab.web, "PresharedKey")? == value(&lab.services, "PresharedKey")?, "two pre-shared keys");
    Ok(())
}

fn quick(scene: &Scene) -> Result<()> {
    let (web, services) = start(scene)?;
    rotations(scene, &web, &services, 3, 5_000, Duration::from_secs(12))
}

fn slow(scene: &Scene) -> Result<()> {
    let (web, services) = start(scene)?;
    rotations(scene, &web, &services, 10, 20_000, Duration::from_secs(60))
}

fn killed(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (mut web, mut services) = start(scene)?;
    for (round, (side, kind)) in [
        (Side::Web, "--static"),
        (Side::Services, "--static"),
        (Side::Web, "--psk"),
        (Side::Services, "--psk"),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{kind}, {} killed", side.host(lab).name());
        thread::scope(|scope| -> Result<()> {
            // Its daemon may die, so how it ends says nothing.
            let rotation = scope.spawn(|| lab.web.run(&[CULVERT, "--quiet", "key", "rotate", kind]));
            thread::sleep(Duration::from_millis(15 + 20 * u64::try_from(round % 2)?));
            let daemon = match side {
                Side::Web => &mut web,
                Side::Services => &mut services,
            };
            daemon.kill()?;
            *daemon = tunnel::start_wgd(side.host(lab), Place::Tunnel, &[])?;
            ping(&lab.web, Place::Tunnel, "10.100.0.11", BACK_WITHIN).with_context(|| what.clone())?;
            ping(&lab.services, Place::Tunnel, "10.100.0.10", BACK_WITHIN).with_context(|| what.clone())?;
            rotation.join().map_err(|_| anyhow!("the command panicked"))??;
            Ok(())
        })?;
        wait::until("both files to fit each other", BACK_WITHIN, || agreed(scene))
            .with_context(|| what.clone())?;
        ping(&lab.web, Place::Tunnel, "10.100.0.11", BACK_WITHIN).with_context(|| what)?;
    }
    // And nothing is left that would stand in the way of the next.
    wait::until("another rotation", BACK_WITHIN, || rotate(&lab.web, "--static").map(drop))?;
    agreed(scene)
}

fn both_killed(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let (mut web, mut services) = start(scene)?;
    // A rotation takes some 40 ms here, most of it for four syncs of a disk.
    for (round, wait) in [0, 4, 8, 12, 16, 24, 32, 48].into_iter().enumerate() {
        for kind in ["--static", "--psk"] {
            let what = format!("{kind}, both killed after {wait} ms");
            thread::scope(|scope| -> Result<()> {
                let rotation = scope.spawn(|| lab.web.run(&[CULVERT, "--quiet", "key", "rotate", kind]));
                thread::sleep(Duration::from_millis(15 + wait));
                if round % 2 == 0 {
                    web.kill()?;
                    services.kill()?;
                } else {
                    services.kill()?;
                    web.kill()?;
                }
                rotation.join().map_err(|_| anyhow!("the command panicked"))??;
                Ok(())
            })?;
            services = tunnel::start_wgd(&lab.services, Place::Tunnel, &[])?;
            web = tunnel::start_wgd(&lab.web, Place::Tunnel, &[])?;
            ping(&lab.web, Place::Tunnel, "10.100.0.11", BOUND).with_context(|| what.clone())?;
            wait::until("both files to fit each other", BOUND, || agreed(scene))
                .with_context(|| what.clone())?;
            ping(&lab.services, Place::Tunnel, "10.100.0.10", BOUND).with_context(|| what)?;
        }
    }
    wait::until("another rotation", BOUND, || rotate(&lab.web, "--static").map(drop))?;
    agreed(scene)
}

/// There is no overlap, so what is under way is lost; but nothing comes twice, the stream goes on within moments, and
/// the old key is kept out on both sides, after a restart as well.
fn compromised(scene: &Scene) -> Result<()> {
    const PER_SECOND: u32 = 2_000;
    let lab = &scene.lab;
    let (mut web, services) = start(scene)?;
    let old = lab.web.run(&["wg", "show", INTERFACE, "public-key"])?.success()?.trim().to_owned();
    let account = account(scene, PER_SECOND, Duration::from_secs(6), || {
        for kind in ["--psk", "--static"] {
            let verdict = lab.web.run(&[CULVERT, "key", "rotate", kind, "--compromised"])?.success()?;
            ensure!(verdict.contains("rotated"), "{verdict}");
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    })?;
    ensure!(account.doubled() == 0, "{} came twice", account.doubled());
    ensure!(account.dropped_by_the_receiver == 0, "the receiver did not keep up: {account:?}");
    // Two replacements, each a round trip and a few syncs of a disk; 128 wait for the handshake.
    ensure!(account.lost() < u64::from(PER_SECOND), "of {} {} were lost", account.sent, account.lost());
    let last = account.seen.len();
    ensure!(last == usize::try_from(account.sent)?, "the stream ended at {last} of {}", account.sent);
    let tail = account.seen.iter().rev().take(2_000).filter(|times| **times == 1).count();
    ensure!(tail == 2_000, "of the last 2,000 only {tail} came");
    agreed(scene)?;

    for host in [&lab.web, &lab.services] {
        let text = host.read("/etc/wireguard/wg0.conf")?;
        ensure!(text.contains(&format!("# denied_key = {old}")), "{} does not deny the old key", host.name());
    }
    web.kill()?;
    let _web = tunnel::start_wgd(&lab.web, Place::Tunnel, &[])?;
    let has = |host: &Host| -> Result<bool> {
        host.run(&["wg", "set", INTERFACE, "peer", &old, "allowed-ips", "10.100.0.77/32"])?.success()?;
        Ok(wireguard::show(host, INTERFACE)?.iter().any(|peer| peer.public_key == old))
    };
    ensure!(!has(&lab.web)? && !has(&lab.services)?, "the old key was let in again");
    // What the file denies at a reload, goes.
    let current = lab.web.run(&["wg", "show", INTERFACE, "public-key"])?.success()?.trim().to_owned();
    let text = lab.services.read("/etc/wireguard/wg0.conf")?;
    lab.services.write_secret("/etc/wireguard/wg0.conf", format!("{text}# denied_key = {current}\n"))?;
    services.signal(nix::sys::signal::Signal::SIGHUP)?;
    wait::until("the peer to go", BOUND, || {
        let peers = wireguard::show(&lab.services, INTERFACE)?;
        ensure!(peers.is_empty(), "{peers:?}");
        Ok(())
    })
}

fn degraded(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let tunnel = Tunnel::new(lab)?;
    configure(&lab.web)?;
    let _services = tunnel.start_wireguard_go(lab, Side::Services, Endpoint::Learned)?;
    let _web = tunnel.start_wgd(lab, Side::Web, Endpoint::Known, Place::Outer)?;
    ping(&lab.web, Place::Outer, "10.100.0.11", BOUND)?;

    let (_, told) = lab.web.run(&[CULVERT, "key", "rotate", "--psk"])?.refusal()?;
    ensure!(!told.is_empty(), "nothing was said");
    ping(&lab.web, Place::Outer, "10.100.0.11", BOUND).context("after a rotation that changed nothing")?;

    let answer =
        lab.web.run(&["sh", "-c", &format!("{CULVERT} --json key rotate --static || true")])?.success()?;
    let verdict = answer.lines().last().context("no verdict")?;
    ensure!(verdict.contains("\"degraded\"") && verdict.contains("no wgd"), "{answer}");
    // The old key serves on, and the new one takes over when the other side has it.
    ping(&lab.web, Place::Outer, "10.100.0.11", BOUND).context("under the old key")?;
    let new = lab.web.run(&["wg", "show", INTERFACE, "public-key"])?.success()?.trim().to_owned();
    ensure!(new != tunnel.keys(Side::Web).public, "the key is the old one");
    let old = &tunnel.keys(Side::Web).public;
    lab.services.write_secret("/run/psk", tunnel.preshared_key())?;
    lab.services.run(&["wg", "set", INTERFACE, "peer", old, "remove"])?.success()?;
    let endpoint = format!("{}:51820", Side::Web.outer());
    lab.services
        .run(&[
            "wg",
            "set",
            INTERFACE,
            "peer",
            &new,
            "preshared-key",
            "/run/psk",
            "allowed-ips",
            "10.100.0.10/32",
            "endpoint",
            &endpoint,
        ])?
        .success()?;
    ping(&lab.services, Place::Outer, "10.100.0.10", BACK_WITHIN).context("under the new key")?;
    ping(&lab.web, Place::Outer, "10.100.0.11", BACK_WITHIN)?;
    let shown = wireguard::show(&lab.services, INTERFACE)?;
    ensure!(shown.len() == 1 && shown[0].latest_handshake > 0, "{shown:?}");
    Ok(())
}
