//! The start in the background: ready when the parent returns (§1.1).

use anyhow::{Context as _, Result, ensure};
use culvert_netns::host::Place;
use culvert_netns::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::check::{Check, Section};
use crate::stage::{INTERFACE, SOON, Stage};
use crate::uapi::Uapi;

pub(super) const CHECKS: &[Check] = &[
    check("background_start_is_ready_when_the_parent_returns", |stage| {
        start(stage)?;
        // No waiting: each of these has to work the first time.
        let shown = stage.run(&["ip", "link", "show", "dev", INTERFACE])?.success()?;
        ensure!(shown.contains(INTERFACE), "{shown}");
        Uapi::connect(stage.host())?.get()?;
        stage.run(&["wg", "set", INTERFACE, "listen-port", "51820"])?.success()?;
        stage.run(&["ip", "link", "set", INTERFACE, "up"])?.success()?;
        Ok(())
    }),
    check("interface_can_be_moved_as_soon_as_the_parent_returns", |stage| {
        start(stage)?;
        stage.run(&["ip", "link", "set", INTERFACE, "netns", "tunnel"])?.success()?;
        stage.host().run_at(Place::Tunnel, &["ip", "link", "set", INTERFACE, "up"])?.success()?;
        let number = Uapi::connect(stage.host())?.set("listen_port=51821\n")?;
        ensure!(number == 0, "errno={number}");
        // Still alive a moment later, and its socket is in the namespace of its birth.
        let [four, six] = crate::daemon::bound(stage.host(), 51821)?;
        ensure!(four && six, "the port is not bound: IPv4 {four}, IPv6 {six}");
        ensure!(!stage.processes()?.is_empty(), "it ended");
        Ok(())
    }),
    check("background_daemon_lets_go_of_its_streams", |stage| {
        // `Program::run` reads both streams to their end: it returns only when nobody holds them any more.
        let began = wait::now();
        start(stage)?;
        ensure!(wait::now().duration_since(began) < SOON, "the caller's pipes stay open");
        Ok(())
    }),
    check("background_start_that_fails_is_not_0", |stage| {
        start(stage)?;
        let (code, said) = stage.program().arguments(&[INTERFACE]).run(SOON)?.refusal()?;
        ensure!(code != 0, "{said}");
        Ok(())
    }),
    check("background_daemon_ends_by_sigterm", |stage| {
        start(stage)?;
        let processes = stage.processes()?;
        let [daemon] = processes[..] else { anyhow::bail!("{} processes", processes.len()) };
        kill(Pid::from_raw(i32::try_from(daemon)?), Signal::SIGTERM).context("send SIGTERM")?;
        wait::until("the daemon to end", SOON, || {
            ensure!(stage.processes()?.is_empty(), "it runs");
            Ok(())
        })?;
        ensure!(!stage.run(&["ip", "link", "show", INTERFACE])?.status.success(), "the interface stays");
        Ok(())
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::CommandLine, name, run)
}

/// Starts it in the background and returns when the started process did.
fn start(stage: &Stage<'_>) -> Result<()> {
    stage.program().arguments(&[INTERFACE]).run(SOON)?.success().map(drop)
}
