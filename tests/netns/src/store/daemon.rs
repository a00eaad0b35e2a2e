//! A storaged process.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Store;
use crate::log::Log;
use crate::wait;

/// A start opens the ledger, and may have to look through all of it.
const START_BOUND: Duration = Duration::from_secs(120);
/// storaged's own bound for a drain, and some.
const STOP_BOUND: Duration = Duration::from_secs(60);

/// A storaged that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Log,
    reader: Option<std::thread::JoinHandle<()>>,
    ended: bool,
}

impl Daemon {
    pub(super) fn launch(mut command: Command) -> Result<Daemon> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let log = Log::default();
        let reader = child.stderr.take().map(|pipe| log.follow(pipe));
        Ok(Daemon { child, log, reader, ended: false })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        self.log.lines().join("\n")
    }

    pub(super) fn until_healthy(&mut self, store: &Store) -> Result<()> {
        let began = wait::now();
        while !store.is_healthy() {
            if let Some(status) = self.child.try_wait().context("look after storaged")? {
                self.join();
                bail!("storaged ended with {status}:\n{}", self.log());
            }
            ensure!(
                wait::now().duration_since(began) < START_BOUND,
                "storaged is not healthy after {} s:\n{}",
                START_BOUND.as_secs(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<String> {
        self.child.kill().context("kill storaged")?;
        let status = self.wait(STOP_BOUND)?;
        ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "it ended by itself: {status}\n{}",
            self.log()
        );
        Ok(self.log())
    }

    /// Asks it to end; gives what it wrote. Fails unless it ends well.
    pub fn stop(mut self) -> Result<String> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM).context("end storaged")?;
        let status = self.wait(STOP_BOUND)?;
        ensure!(status.success(), "storaged ended with {status}:\n{}", self.log());
        Ok(self.log())
    }

    /// Waits for its end.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let began = wait::now();
        loop {
            if let Some(status) = self.child.try_wait().context("wait for storaged")? {
                self.join();
                return Ok(status);
            }
            ensure!(wait::now().duration_since(began) < bound, "storaged does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn join(&mut self) {
        self.ended = true;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
