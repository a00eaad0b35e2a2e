//! A directory seen through a file system whose server can be stopped: a network volume that does not answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{lab, wait};

/// `bindfs`, serving one directory at another; it ends when dropped.
#[derive(Debug)]
pub struct Mirrored {
    server: Child,
    at: PathBuf,
}

impl Mirrored {
    /// Shows `of` at `at`; both are made.
    pub fn mount(of: &Path, at: &Path) -> Result<Mirrored> {
        for directory in [of, at] {
            fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        let unpacked = lab::tools()?.join("bindfs");
        let program = unpacked.join("usr/bin/bindfs");
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", unpacked.join("lib/x86_64-linux-gnu"));
        command.arg("-f").arg(of).arg(at).stdin(Stdio::null());
        let started = command.spawn();
        let server = started
            .with_context(|| format!("start {}: `cargo xtask test slow` unpacks it", program.display()))?;
        let mirrored = Mirrored { server, at: at.to_owned() };
        wait::until_true("bindfs to serve", Duration::from_secs(10), || is_mounted(at))?;
        Ok(mirrored)
    }

    /// From now on nothing on it is answered.
    pub fn hang(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// It answers again, what waited first.
    pub fn wake(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.server.id())?);
        kill(pid, signal).context("signal bindfs")
    }
}

impl Drop for Mirrored {
    fn drop(&mut self) {
        // Its end ends every wait for it.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// Whether a file system is mounted at a directory.
pub fn is_mounted(at: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|target| Path::new(target) == at)
}
