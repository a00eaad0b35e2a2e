//! Programs that run on a host: started, watched, ended.
//!
//! A helper (role `enter`) goes into the host's namespaces, binds the listeners that a service manager would hand in,
//! and becomes the program by `exec`. So nothing is done between `fork` and `exec`, and no unsafe code is needed.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::enter::{Entry, ListenAt, Listener};
use crate::host::{Host, Place};
use crate::log::Log;
use crate::process_status::ProcessStatus;
use crate::reexec::{self, HELPER_FAILED, Role};
use crate::wait;

/// How long a program may take to end after SIGTERM before it is killed.
const STOP_BOUND: Duration = Duration::from_secs(10);

/// A program about to start.
#[derive(Debug)]
#[must_use = "a program that is not started does nothing"]
pub struct Program<'a> {
    host: &'a Host,
    label: String,
    entry: Entry,
    environment: Vec<(OsString, OsString)>,
    judged: bool,
}

impl<'a> Program<'a> {
    pub(crate) fn new(host: &'a Host, name: &str) -> Program<'a> {
        let label = name.rsplit('/').next().unwrap_or(name).to_owned();
        let entry = Entry {
            holder: host.pid(),
            network_of: None,
            in_tunnel: false,
            listeners: Vec::new(),
            command: vec![name.to_owned()],
        };
        Program { host, label, entry, environment: Vec::new(), judged: false }
    }

    pub(crate) fn judged(mut self) -> Self {
        self.judged = true;
        self
    }

    /// Its arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.entry.command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// A variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Where it runs; its listeners are made in the host's own network all the same.
    pub fn at(mut self, place: Place) -> Self {
        self.entry.in_tunnel = place == Place::Tunnel;
        self
    }

    /// It sees its host's files and `other`'s outer network.
    pub fn in_network_of(mut self, other: &Host) -> Self {
        self.entry.network_of = Some(other.pid());
        self
    }

    /// A TCP listener of the host's own network, handed in by this name.
    pub fn listener(mut self, name: &str, address: SocketAddr) -> Self {
        self.entry.listeners.push(Listener { name: name.to_owned(), at: ListenAt::Tcp(address) });
        self
    }

    /// A Unix stream listener, handed in by this name.
    pub fn unix_listener(mut self, name: &str, path: &str) -> Self {
        self.entry.listeners.push(Listener { name: name.to_owned(), at: ListenAt::Unix(path.into()) });
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Running> {
        let entry = serde_json::to_string(&self.entry).context("describe the program")?;
        let mut command = reexec::command(Role::Enter)?;
        command.arg(entry).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(self.environment);
        let mut child = command.spawn().with_context(|| format!("start {}", self.label))?;
        let (output, log) = (Log::default(), Log::default());
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| output.follow(pipe)));
        readers.extend(child.stderr.take().map(|pipe| log.follow(pipe)));
        let label = format!("{}@{}", self.label, self.host.name());
        self.host.remember(Started { label: label.clone(), log: log.clone(), judged: self.judged });
        Ok(Running { label, child, output, log, readers, status: None })
    }

    /// Runs it to its end, at most for `bound`.
    pub fn run(self, bound: Duration) -> Result<Finished> {
        let mut running = self.start()?;
        let status = running.wait(bound)?;
        running.join_readers();
        Ok(Finished {
            label: running.label.clone(),
            status,
            output: running.output.lines().join("\n"),
            errors: running.log.lines().join("\n"),
        })
    }
}

/// A program that was started, kept for the end of the scenario.
#[derive(Clone, Debug)]
pub struct Started {
    /// `program@host`.
    pub label: String,
    /// What it wrote to its standard error.
    pub log: Log,
    /// Whether its warnings count.
    pub judged: bool,
}

/// A program that ran to its end.
#[derive(Debug)]
pub struct Finished {
    /// `program@host`.
    pub label: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl Finished {
    /// Its standard output if it ended well.
    pub fn success(self) -> Result<String> {
        ensure!(
            self.status.success(),
            "{} ended with {}: {}\n{}",
            self.label,
            describe(self.status),
            self.errors,
            self.output
        );
        Ok(self.output)
    }

    /// Its exit code and standard error, for programs that shall fail.
    pub fn refusal(self) -> Result<(i32, String)> {
        match self.status.code() {
            Some(0) => {
                bail!("{} ended well and should not have:\n{}\n{}", self.label, self.output, self.errors)
            }
            Some(code) => Ok((code, self.errors)),
            None => bail!("{} was ended by a signal ({})", self.label, describe(self.status)),
        }
    }
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    label: String,
    child: Child,
    output: Log,
    log: Log,
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Running {
    /// `program@host`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its number inside the world.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard error.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its standard output.
    pub fn output(&self) -> &Log {
        &self.output
    }

    /// What the kernel says of each of its threads.
    pub fn threads(&self) -> Result<Vec<ProcessStatus>> {
        ProcessStatus::of_threads(self.pid())
    }

    /// Fails with its last words if it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("look after {}", self.label))? {
            self.status = Some(status);
            self.join_readers();
            bail!(
                "{} ended with {}{}:\n{}",
                self.label,
                describe(status),
                self.which_system_call(status),
                self.log.lines().join("\n")
            );
        }
        Ok(())
    }

    /// Looks until `ready` gives a value, and gives up at once when the program ends.
    pub fn until<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut ready: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut ended = None;
        let outcome = wait::until(&format!("{} to {what}", self.label), bound, || match self.still_runs() {
            Ok(()) => ready().map(Some),
            Err(error) => {
                ended = Some(error);
                Ok(None)
            }
        })?;
        match (outcome, ended) {
            (Some(value), _) => Ok(value),
            (None, Some(error)) => Err(error),
            (None, None) => bail!("{} ended", self.label),
        }
    }

    /// Waits for its end; kills it after `bound` and says so.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let start = wait::now();
        loop {
            if let Some(status) = self.child.try_wait().with_context(|| format!("wait for {}", self.label))? {
                self.status = Some(status);
                return Ok(status);
            }
            if wait::now().duration_since(start) > bound {
                self.kill()?;
                bail!(
                    "{} did not end within {:.0} s:\n{}\n{}",
                    self.label,
                    bound.as_secs_f64(),
                    self.output.lines().join("\n"),
                    self.log.lines().join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a process number")?);
        kill(pid, signal).with_context(|| format!("send {signal} to {}", self.label))
    }

    /// Asks it to end, and gives its exit status.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(STOP_BOUND)
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.label))?;
        self.status = Some(self.child.wait().with_context(|| format!("reap {}", self.label))?);
        Ok(())
    }

    /// Its children's names and numbers: the helper processes of a daemon.
    pub fn children(&self) -> Result<Vec<(u32, String)>> {
        let listed = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid()))
            .with_context(|| format!("list the children of {}", self.label))?;
        let mut children = Vec::new();
        for pid in listed.split_whitespace() {
            let pid: u32 = pid.parse().context("a process number")?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).context("read a child's name")?;
            children.push((pid, name.trim_end().to_owned()));
        }
        Ok(children)
    }

    /// The kernel's newest word on a filter that killed a program of this name, if it can be read here.
    fn which_system_call(&self, status: ExitStatus) -> String {
        if status.signal() != Some(Signal::SIGSYS as i32) {
            return String::new();
        }
        let name = self.label.split('@').next().unwrap_or_default();
        let wanted = format!("comm=\"{name}");
        let hit = |record: &String| record.contains("type=1326") && record.contains(&wanted);
        kernel_log().into_iter().rfind(hit).map_or_else(String::new, |record| {
            // Before the semicolon: level, sequence number, time.
            format!(" ({})", record.split_once(';').map_or(record.as_str(), |(_, text)| text).trim())
        })
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The kernel's messages; none where they are closed to us.
fn kernel_log() -> Vec<String> {
    let opened = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg");
    let Ok(mut log) = opened else { return Vec::new() };
    let mut records = Vec::new();
    let mut buffer = vec![0; 8192];
    // Each read gives one record, and an error when there is none left.
    while let Ok(length) = log.read(&mut buffer) {
        records.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    records
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(HELPER_FAILED) => {
            format!("code {code} (the harness's own helper?)")
        }
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(Signal::SIGSYS) => "SIGSYS: its system-call filter killed it".to_owned(),
            Ok(signal) => signal.to_string(),
            Err(_) => format!("signal {signal}"),
        },
        (None, None) => "no status".to_owned(),
    }
}
