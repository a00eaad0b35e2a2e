//! The ways to end, each clean (§1.1).

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::wait;
use nix::sys::signal::Signal;

use crate::check::{Check, Section};
use crate::daemon::{Daemon, is_free};
use crate::pair::{PORT, Pair};
use crate::stage::{INTERFACE, SOCKET, SOON, Stage};

/// The longest of several: a machine that does other things may keep one of them waiting.
const AT_ONCE: Duration = Duration::from_millis(250);
/// "Within ≈ 100 ms": the one in the middle.
const USUALLY: Duration = Duration::from_millis(100);
/// How often it is measured beside the one with a session.
const ROUNDS: usize = 8;

pub(super) const CHECKS: &[Check] = &[
    check("sigterm_ends_it_with_0", |stage| stage.start()?.ends_by(Signal::SIGTERM, SOON)),
    check("sigint_ends_it_with_0", |stage| stage.start()?.ends_by(Signal::SIGINT, SOON)),
    check("sigterm_works_with_clients_in_the_middle_of_requests", |stage| {
        let daemon = stage.start()?;
        let _idle = daemon.connect()?;
        let mut half = daemon.connect()?;
        half.send("set=1\nlisten_port=5")?;
        let mut asked = daemon.connect()?;
        asked.send("get=1\n")?;
        std::thread::sleep(Duration::from_millis(50));
        daemon.ends_by(Signal::SIGTERM, SOON)
    }),
    check("deleted_interface_ends_it_at_once_and_frees_the_port", |stage| {
        let mut pair = Pair::with_session(stage)?;
        let mut times = vec![end_of_deleted(stage, &mut pair.subject)?];
        is_free(stage.host(), PORT)?;
        ensure!(fs::symlink_metadata(stage.host().path(SOCKET)).is_err(), "{SOCKET} was left behind");
        for _ in 0..ROUNDS {
            let mut daemon = stage.start()?;
            daemon.set("listen_port=51820\n")?;
            daemon.up("10.100.0.10/24")?;
            times.push(end_of_deleted(stage, &mut daemon)?);
        }
        in_time(times)
    }),
    check("interface_deleted_while_down_ends_it_too", |stage| {
        let mut daemon = stage.start()?;
        stage.run(&["ip", "link", "del", INTERFACE])?.success()?;
        daemon.has_ended(SOON)
    }),
    check("next_daemon_starts_right_after_a_deleted_interface", |stage| {
        let daemon = stage.start()?;
        daemon.set("listen_port=51820\n")?;
        daemon.up("10.100.0.10/24")?;
        stage.run(&["ip", "link", "del", INTERFACE])?.success()?;
        std::thread::sleep(AT_ONCE);
        let next = stage.start()?;
        next.set("listen_port=51820\n")?;
        next.up("10.100.0.10/24")
    }),
    check("next_daemon_may_start_while_the_one_before_is_ending", |stage| {
        for _ in 0..5 {
            stage
                .run(&["sh", "-c", &format!("{0} {INTERFACE} && ip link del {INTERFACE}", stage.path())])?
                .success()?;
        }
        stage.run(&[stage.path(), INTERFACE])?.success()?;
        let number = crate::uapi::Uapi::connect(stage.host())?.set("listen_port=51820\n")?;
        ensure!(number == 0, "errno={number}");
        // Those before it are gone, and took nothing of the last one with them.
        std::thread::sleep(AT_ONCE);
        let processes = stage.processes()?;
        ensure!(processes.len() == 1, "{} processes", processes.len());
        crate::uapi::Uapi::connect(stage.host())?.get().map(drop)
    }),
    check("removed_socket_ends_it_with_0", |stage| {
        let mut daemon = stage.start()?;
        fs::remove_file(stage.host().path(SOCKET)).context("remove the socket")?;
        daemon.has_ended(SOON)
    }),
];

/// How long it takes from the moment that the interface is gone.
fn end_of_deleted(stage: &Stage<'_>, daemon: &mut Daemon) -> Result<Duration> {
    stage.run(&["ip", "link", "del", INTERFACE])?.success()?;
    let began = wait::now();
    let status = daemon.running.wait(SOON)?;
    let took = wait::now().duration_since(began);
    ensure!(status.code() == Some(0), "ended with {status}");
    Ok(took)
}

fn in_time(mut times: Vec<Duration>) -> Result<()> {
    times.sort_unstable();
    let told: Vec<String> = times.iter().map(|took| took.as_millis().to_string()).collect();
    let told = told.join(", ");
    let median = times[times.len() / 2];
    ensure!(median <= USUALLY, "in the middle {} ms; all, in ms: {told}", median.as_millis());
    ensure!(times.iter().all(|took| *took <= AT_ONCE), "one of them took too long; all, in ms: {told}");
    Ok(())
}

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::CommandLine, name, run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_end_is_found_out() {
        let ms = |times: &[u64]| times.iter().map(|took| Duration::from_millis(*took)).collect::<Vec<_>>();
        in_time(ms(&[3, 4, 200, 5, 101])).unwrap();
        assert!(
            in_time(ms(&[3, 101, 120, 5, 102])).unwrap_err().to_string().contains("in the middle 101 ms")
        );
        assert!(in_time(ms(&[3, 4, 5, 6, 251])).unwrap_err().to_string().contains("3, 4, 5, 6, 251"));
    }
}
