//! Signals, as a stream of decisions. Registered before the seal.

use std::io;

use tokio::signal::unix::{Signal as Registered, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: drain and stop; the second time: now.
    Terminate,
    /// SIGHUP: reload, where the daemon can do that by itself.
    Hangup,
}

/// The signals a daemon listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: Registered,
    interrupt: Registered,
    hangup: Registered,
}

impl Signals {
    /// Registers the handlers. Must run inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Terminate,
            _ = self.hangup.recv() => Signal::Hangup,
        }
    }
}
