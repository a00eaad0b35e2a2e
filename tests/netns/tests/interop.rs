//! wgd and other programs (Debian's wireguard-go, Mullvad's gotatun) understand each other, whoever begins.
//!
//! ```text
//!  web (wgd or another) ── wan: capture ── services (another or wgd)
//!  wg0 10.100.0.10                         wg0 10.100.0.11
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_netns::host::Place;
use culvert_netns::payload::MARKER;
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::stream::Connection;
use culvert_netns::tunnel::{Endpoint, INTERFACE, Side, Tunnel};
use culvert_netns::wireguard;

/// Without a configuration of its own, wgd stays the user who starts it, as other implementations do, and says so.
const STOCK: &[&str] = &["no user is configured"];

const PING_BOUND: Duration = Duration::from_secs(10);
const TCP_BYTES: u64 = 8 << 20;

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("wireguard_go_talks_to_itself", |scene| {
            talk(scene, [Implementation::WireguardGo, Implementation::WireguardGo])
        }),
        Scenario::new("wgd_begins_with_wireguard_go", |scene| {
            talk(scene, [Implementation::Wgd, Implementation::WireguardGo])
        })
        .needs(&["wgd"])
        .expecting(STOCK)
        .on_both_devices(),
        Scenario::new("wireguard_go_begins_with_wgd", |scene| {
            talk(scene, [Implementation::WireguardGo, Implementation::Wgd])
        })
        .needs(&["wgd"])
        .expecting(STOCK)
        .on_both_devices(),
        Scenario::new("wgd_talks_to_itself", |scene| talk(scene, [Implementation::Wgd, Implementation::Wgd]))
            .needs(&["wgd"])
            .expecting(STOCK),
        Scenario::new("wgd_begins_with_gotatun", |scene| {
            talk(scene, [Implementation::Wgd, Implementation::Gotatun])
        })
        .needs(&["wgd"])
        .expecting(STOCK)
        .on_both_devices()
        .slow(),
        Scenario::new("gotatun_begins_with_wgd", |scene| {
            talk(scene, [Implementation::Gotatun, Implementation::Wgd])
        })
        .needs(&["wgd"])
        .expecting(STOCK)
        .on_both_devices()
        .slow(),
    ])
}

#[derive(Clone, Copy)]
enum Implementation {
    Wgd,
    WireguardGo,
    Gotatun,
}

/// Only `web` knows where its peer is, so `web` begins.
fn talk(scene: &Scene, [web, services]: [Implementation; 2]) -> Result<()> {
    let lab = &scene.lab;
    let tunnel = Tunnel::new(lab)?;
    let capture = lab.wan.capture(MARKER.as_bytes())?;
    let start = |side, implementation, endpoint| -> Result<Running> {
        match implementation {
            Implementation::Wgd => tunnel.start_wgd(lab, side, endpoint, Place::Outer),
            Implementation::WireguardGo => tunnel.start_wireguard_go(lab, side, endpoint),
            Implementation::Gotatun => tunnel.start_gotatun(lab, side, endpoint),
        }
    };
    let far = start(Side::Services, services, Endpoint::Learned)?;
    let near = start(Side::Web, web, Endpoint::Known)?;

    wireguard::ping(&lab.web, Place::Outer, "10.100.0.11", PING_BOUND)?;
    Connection::open(&lab.web, &lab.services, Place::Outer, Side::Services.inner().into())?
        .carry(TCP_BYTES)?;
    Connection::open(&lab.services, &lab.web, Place::Outer, Side::Web.inner().into())?.carry(TCP_BYTES)?;

    for side in [Side::Web, Side::Services] {
        let shown = wireguard::show(side.host(lab), INTERFACE)?;
        let [peer] = &shown[..] else { anyhow::bail!("{} peers", shown.len()) };
        ensure!(peer.public_key == tunnel.keys(side.other()).public, "{peer:?}");
        ensure!(peer.endpoint == Some(format!("{}:51820", side.other().outer())), "{peer:?}");
        ensure!(peer.has_preshared_key && peer.latest_handshake > 0, "{peer:?}");
        ensure!(peer.received > TCP_BYTES && peer.sent > TCP_BYTES, "{peer:?}");
    }
    for running in [near, far] {
        let label = running.label().to_owned();
        let status = running.stop()?;
        ensure!(status.success() || label.starts_with("wireguard-go"), "{label} ended with {status}");
    }
    capture.finish()?.only_wireguard()
}
