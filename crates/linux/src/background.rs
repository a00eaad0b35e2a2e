//! Going to the background: fork, and let the parent wait until the child is fully ready.
//!
//! Invariant: the parent exits with 0 only after the child said that it serves; until then the child's messages
//! still reach the terminal.
use crate::Privileged;
use crate::privilege::assert_single_thread;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The caller's process: exit with this code.
    Parent(u8),
    /// The daemon.
    Child(Privileged, Background),
}

/// The daemon's end: what is left to do when it is ready.
#[derive(Debug)]
pub struct Background {
    ready: PipeWriter,
    silence: Option<Silence>,
}

/// `/dev/null`, opened while files can be opened.
#[derive(Debug)]
pub struct Silence(File);

impl Silence {
    /// Opens it.
    ///
    /// # Errors
    /// When there is no `/dev/null`.
    pub fn prepare() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/null").map(Self)
    }

    /// Points the three standard streams there (`dup2`, which is allowed to a sealed daemon).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn apply(self) -> io::Result<()> {
        dup2_stdin(&self.0)?;
        dup2_stdout(&self.0)?;
        Ok(dup2_stderr(&self.0)?)
    }
}

/// Forks. The child leads a session of its own in `/`; `keep_streams` leaves it its standard streams for good.
///
/// # Errors
/// When the process cannot be forked.
pub fn go_to_background(privileged: Privileged, keep_streams: bool) -> io::Result<Side> {
    assert_single_thread().map_err(io::Error::other)?;
    let silence = if keep_streams { None } else { Some(Silence::prepare()?) };
    let (reader, writer) = io::pipe()?;
    // SAFETY: there is one thread, so the child inherits no lock that a thread missing in it would have to
    // release.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(writer);
            Ok(Side::Parent(wait(reader, child)))
        }
        ForkResult::Child => {
            drop(reader);
            setsid()?;
            std::env::set_current_dir("/")?;
            Ok(Side::Child(privileged, Background { ready: writer, silence }))
        }
    }
}

impl Background {
    /// Lets the waiting parent go.
    ///
    /// # Errors
    /// When the parent is gone already.
    pub fn ready(mut self) -> io::Result<()> {
        if let Some(silence) = self.silence.take() {
            silence.apply()?;
        }
        self.ready.write_all(b"r")
    }
}

fn wait(mut reader: PipeReader, child: Pid) -> u8 {
    let mut byte = [0; 1];
    if matches!(reader.read(&mut byte), Ok(1)) {
        return 0;
    }
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => u8::try_from(code).unwrap_or(1),
        _ => 71, // EX_OSERR, sysexits.h
    }
}
