//! System calls of a running storaged that fail, as a disk would make them: by `strace`, which tells the kernel's caller
//! an error and leaves the call out.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Daemon;
use crate::wait;

/// Which calls fail, and how.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The system call.
    pub call: &'static str,
    /// The name of the error.
    pub error: &'static str,
    /// Each thread's n-th such call.
    pub nth: u32,
    /// And all that follow it.
    pub lasting: bool,
    /// On this file alone.
    pub file: Option<PathBuf>,
}

impl Fault {
    fn arguments(&self, log: &Path) -> Vec<String> {
        let more = if self.lasting { "+" } else { "" };
        // Another call takes its place, one that storaged's filter allows: strace's own choice, the number -1, is none
        // that any filter allows, and it is asked after the tracer.
        let inject =
            format!("inject={}:error={}:syscall=geteuid:when={}{more}", self.call, self.error, self.nth);
        let trace = format!("trace={}", self.call);
        let log = log.display().to_string();
        let mut arguments: Vec<String> =
            ["-f", "-o", &log, "-e", &trace, "-e", &inject].map(str::to_owned).into();
        if let Some(file) = &self.file {
            arguments.extend(["-P".to_owned(), file.display().to_string()]);
        }
        arguments
    }

    /// The words before a program that is to start under this fault; `strace` itself stands beside it.
    pub fn words(&self, log: &Path) -> Vec<String> {
        let mut words = vec!["strace".to_owned(), "-D".to_owned()];
        words.extend(self.arguments(log));
        words
    }

    /// Makes the calls of a running daemon fail from now on, until [`Faulty::lift`].
    pub fn strike(&self, daemon: &Daemon, log: &Path) -> Result<Faulty> {
        let mut command = Command::new("strace");
        command.args(self.arguments(log)).args(["-p", &daemon.pid().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut tracer = command.spawn().context("start strace")?;
        let mut said = String::new();
        let mut lines = BufReader::new(tracer.stderr.take().context("strace has no error output")?);
        while !said.contains(" attached") {
            let length = lines.read_line(&mut said).context("read what strace says")?;
            ensure!(length > 0, "strace ended: {said}");
        }
        // It may say more; nobody shall wait for a reader.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Faulty { tracer, log: log.to_owned() })
    }
}

/// Calls that fail now.
#[derive(Debug)]
pub struct Faulty {
    tracer: Child,
    log: PathBuf,
}

impl Faulty {
    /// From now on calls succeed again. How many failed.
    pub fn lift(mut self) -> Result<usize> {
        let pid = Pid::from_raw(i32::try_from(self.tracer.id())?);
        kill(pid, Signal::SIGINT).context("end strace")?;
        self.tracer.wait().context("wait for strace")?;
        injected(&self.log)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if !matches!(self.tracer.try_wait(), Ok(Some(_))) {
            // It lets go of what it traces.
            let _ = kill(Pid::from_raw(self.tracer.id().cast_signed()), Signal::SIGINT);
            let _ = self.tracer.wait();
        }
    }
}

/// How many calls failed, by what `strace` wrote.
pub fn injected(log: &Path) -> Result<usize> {
    // It writes to its end a moment after what it traced.
    let text = wait::until("strace's notes", Duration::from_secs(5), || {
        fs::read_to_string(log).context("read strace's notes")
    })?;
    Ok(text.lines().filter(|line| line.contains("(INJECTED)")).count())
}
