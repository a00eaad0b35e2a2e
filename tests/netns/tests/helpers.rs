//! What wgd's helpers have in hand, read from `/proc` by root: the one that parses name servers' answers has no key
//! in its memory and no descriptor of wgd's; killed, the other is missed and the tunnel stays.
//!
//! ```text
//!  client ── web (edge; wgd, wgd-netcfg, wgd-resolve) ── wan ── services (storaged; wgd, …)
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{Culvert, PROGRAMS, WGD_METRICS};
use culvert_netns::host::Place;
use culvert_netns::http::Request;
use culvert_netns::memory::memory_holds;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wireguard::secrets;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long wgd may take to notice.
const NOTICED: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("the_resolver_holds_no_key_and_one_socket", resolver).needs(PROGRAMS),
        Scenario::new("a_killed_netcfg_is_missed_and_the_tunnel_stays", killed_netcfg)
            .needs(PROGRAMS)
            .expecting(&["wgd-netcfg has ended"]),
    ])
}

fn resolver(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let conf = scene.lab.web.read("/etc/wireguard/wg0.conf")?;
    let keys = secrets(&conf)?;
    ensure!(keys.len() >= 4, "a private and a pre-shared key, each in two forms");
    let netcfg = child(culvert.wgd_web.pid(), "wgd-netcfg")?;
    let resolver = child(netcfg, "wgd-resolve")?;
    for key in &keys {
        ensure!(!memory_holds(resolver, key)?, "wgd-resolve has a key in its memory");
    }
    let sockets = descriptors(resolver)?.into_iter().filter(|target| target.starts_with("socket:"));
    ensure!(sockets.count() == 1, "{:?}", descriptors(resolver)?);
    Ok(())
}

fn killed_netcfg(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    let netcfg = child(culvert.wgd_web.pid(), "wgd-netcfg")?;
    kill(Pid::from_raw(i32::try_from(netcfg)?), Signal::SIGKILL)?;
    let web = &scene.lab.web;
    culvert.wgd_web.until("say that netcfg is gone", NOTICED, || {
        let metrics = Request::new("GET", "/metrics").send(web, Place::Outer, WGD_METRICS)?;
        let text = metrics.expect(200)?.text();
        ensure!(text.contains("\nwgd_netcfg_up 0\n"), "wgd_netcfg_up is not 0");
        Ok(())
    })?;
    let refused = web.run(&["wg", "set", "wg0", "listen-port", "51999"])?;
    ensure!(refused.refusal()?.1.contains("Input/output error"));
    culvert.put_payload("after.csv", 1 << 20, 1)?;
    Ok(())
}

fn child(parent: u32, name: &str) -> Result<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    for pid in listed.split_whitespace() {
        if std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == name {
            return Ok(pid.parse()?);
        }
    }
    anyhow::bail!("{parent} has no child {name}")
}

fn descriptors(pid: u32) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).context("list descriptors")? {
        if let Ok(target) = std::fs::read_link(entry?.path()) {
            targets.push(target.to_string_lossy().into_owned());
        }
    }
    Ok(targets)
}
