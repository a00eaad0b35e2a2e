//! wgd answers an initiator that shares no code with any WireGuard program: Noise by the Python library
//! `noiseprotocol`, the rest written from the paper (`scripts/noise_initiator.py`).
//!
//! ```text
//!  web (the script: one UDP socket, no interface) ── wan: capture ── services (wgd)
//!  inner 10.100.0.10                                                 wg0 10.100.0.11
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_netns::host::Place;
use culvert_netns::lab::{tool_of_host, tools};
use culvert_netns::payload::MARKER;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::tunnel::{Endpoint, INTERFACE, Side, Tunnel};
use culvert_netns::wireguard;

/// Without a configuration of its own, wgd stays the user who starts it, as other implementations do, and says so.
const STOCK: &[&str] = &["no user is configured"];

const SCRIPT: &str = include_str!("../scripts/noise_initiator.py");
const BOUND: Duration = Duration::from_secs(60);

/// Each trial with what must come of it.
const TRIALS: &[(&str, &str)] = &[
    ("handshake", "answered"),
    ("replay", "silence"),
    ("old", "silence"),
    ("mac1", "silence"),
    ("stranger", "silence"),
    // A response comes, for the initiation does not hold the pre-shared key. It does not open.
    ("psk", "refused InvalidTag"),
    // None of that has harmed the peer.
    ("handshake", "answered"),
];

fn main() -> ExitCode {
    runner::main(&[Scenario::new("wgd_answers_an_independent_initiator_and_nobody_else", trials)
        .needs(&["wgd"])
        .expecting(STOCK)
        .on_both_devices()
        .slow()])
}

fn trials(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let tunnel = Tunnel::new(lab)?;
    let capture = lab.wan.capture(MARKER.as_bytes())?;
    let wgd = tunnel.start_wgd(lab, Side::Services, Endpoint::Learned, Place::Outer)?;

    lab.web.write("/run/initiator.py", SCRIPT)?;
    let python = tool_of_host(&tools()?.join("noise/bin/python"))?;
    let (own, peer) = (tunnel.keys(Side::Web), tunnel.keys(Side::Services));
    let [outer, own_inner, inner] = [Side::Services.outer(), Side::Web.inner(), Side::Services.inner()];
    let names: Vec<&str> = TRIALS.iter().map(|(name, _)| *name).collect();
    let output = lab
        .web
        .program(&python)
        // Its library lies where nothing can be written.
        .arguments(&["-B", "/run/initiator.py", &outer.to_string(), "51820", &own.private, &peer.public])
        .arguments(&[tunnel.preshared_key(), &own_inner.to_string(), &inner.to_string()])
        .arguments(&names)
        .run(BOUND)?
        .success()?;
    let expected: Vec<String> = TRIALS.iter().map(|(name, result)| format!("{name} {result}")).collect();
    ensure!(
        output.lines().eq(expected.iter()),
        "the initiator says:\n{output}\nand not:\n{}",
        expected.join("\n")
    );

    let shown = wireguard::show(&lab.services, INTERFACE)?;
    ensure!(shown.len() == 1 && shown[0].latest_handshake > 0, "{shown:?}");
    ensure!(wgd.stop()?.success(), "wgd did not end well");
    capture.finish()?.only_wireguard()
}
