//! What a check works with: two hosts on a network, and the program under test not yet started.
//!
//! ```text
//!  web: the program under test ── 192.0.2.0/24 ── wan ── 198.51.100.0/24 ── services: wireguard-go
//! ```
//!
//! Invariant: each check finds nothing of the one before it: [`Stage::reset`].

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::host::Host;
use culvert_netns::lab::Lab;
use culvert_netns::program::{Finished, Program};
use culvert_netns::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::Daemon;
use crate::subject::Subject;

/// The interface of the program under test.
pub(crate) const INTERFACE: &str = "wg0";

/// Its configuration socket, as its host sees it.
pub(crate) const SOCKET: &str = "/run/wireguard/wg0.sock";

/// Longest that anything may take that should come at once.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Names of processes that a check may have started (`/proc/<pid>/comm`, cut after 15 bytes as the kernel does).
const REFERENCE: [&str; 4] = ["wireguard-go", "wgd", "wgd-netcfg", "wgd-resolve"];

/// The two hosts and the program.
pub(crate) struct Stage<'a> {
    lab: &'a Lab,
    subject: &'a Subject,
    path: String,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(lab: &'a Lab, subject: &'a Subject, path: String) -> Stage<'a> {
        Stage { lab, subject, path }
    }

    /// Where the program under test runs.
    pub(crate) fn host(&self) -> &'a Host {
        &self.lab.web
    }

    /// Where the reference runs.
    pub(crate) fn other_host(&self) -> &'a Host {
        &self.lab.services
    }

    /// The router between them.
    pub(crate) fn router(&self) -> &'a Host {
        &self.lab.wan.host
    }

    /// Path of the program under test on its host.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The program under test without arguments (but for those of [`Subject::arguments`]) or environment.
    pub(crate) fn program(&self) -> Program<'a> {
        self.host().program(&self.path).arguments(self.subject.arguments())
    }

    /// The program in the foreground, ready: its socket answers.
    pub(crate) fn start(&self) -> Result<Daemon<'a>> {
        self.start_with(self.foreground())
    }

    /// The program with `-f wg0`, still to be started.
    pub(crate) fn foreground(&self) -> Program<'a> {
        self.program().arguments(&["-f", INTERFACE]).variable("WG_PROCESS_FOREGROUND", "1")
    }

    /// Starts it and waits until its socket answers.
    pub(crate) fn start_with(&self, program: Program<'a>) -> Result<Daemon<'a>> {
        let mut daemon = Daemon::begin(self.host(), program)?;
        daemon.until_it_answers()?;
        Ok(daemon)
    }

    /// Runs a command on the host of the program under test.
    pub(crate) fn run(&self, command: &[&str]) -> Result<Finished> {
        self.host().run(command)
    }

    /// Numbers of the running processes of the program under test.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        processes(&[&self.subject.name()])
    }

    /// Ends what a check left behind.
    pub(crate) fn reset(&self) -> Result<()> {
        let own = self.subject.name();
        let names: Vec<&str> = REFERENCE.iter().copied().chain([own.as_str()]).collect();
        for pid in processes(&names)? {
            // Inside of this world's own PID namespace. It may end by itself meanwhile.
            let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
        }
        wait::until("the last check's processes to end", SOON, || {
            ensure!(processes(&names)?.is_empty(), "some run");
            Ok(())
        })?;
        for host in [self.host(), self.other_host()] {
            let links = host.run(&["ip", "-oneline", "link", "show", "type", "tun"])?.success()?;
            for name in links.lines().filter_map(|line| line.split(": ").nth(1)) {
                // It may be gone by itself meanwhile.
                host.run(&["ip", "link", "del", name])?;
            }
            for directory in ["/run/wireguard", "/etc/wireguard", "/etc/culvert", "/run/culvert"] {
                let real = host.path(directory);
                fs::create_dir_all(&real).with_context(|| format!("create {directory}"))?;
                for entry in fs::read_dir(&real).with_context(|| format!("list {directory}"))?.flatten() {
                    fs::remove_file(entry.path())
                        .with_context(|| format!("remove {}", entry.path().display()))?;
                }
            }
        }
        Ok(())
    }
}

/// Processes of these names that still run.
fn processes(names: &[&str]) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end while it is looked at.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else {
            continue;
        };
        let gone = matches!(rest.trim_start().chars().next(), Some('Z' | 'X'));
        if !gone && names.iter().any(|wanted| name == &wanted[..wanted.len().min(15)]) {
            found.push(pid);
        }
    }
    Ok(found)
}
