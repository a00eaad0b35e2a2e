//! The program under test, running.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::host::Host;
use culvert_netns::program::{Program, Running};
use culvert_netns::wait;
use nix::sys::signal::Signal;

use crate::answer::Answer;
use crate::stage::{INTERFACE, SOCKET};
use crate::uapi::Uapi;

/// Longest that a program may take to start.
const START_BOUND: Duration = Duration::from_secs(10);

/// A running program and its host. Dropping it kills it.
pub(crate) struct Daemon<'a> {
    host: &'a Host,
    /// The process.
    pub(crate) running: Running,
}

impl<'a> Daemon<'a> {
    /// Starts it and does not wait.
    pub(crate) fn begin(host: &'a Host, program: Program<'a>) -> Result<Daemon<'a>> {
        Ok(Daemon { host, running: program.start()? })
    }

    /// Waits until a `get` is answered.
    pub(crate) fn until_it_answers(&mut self) -> Result<()> {
        let host = self.host;
        self.running.until("answer on its socket", START_BOUND, || Uapi::connect(host)?.get().map(drop))
    }

    /// A new connection to its configuration socket.
    pub(crate) fn connect(&self) -> Result<Uapi> {
        Uapi::connect(self.host)
    }

    /// A `get` on a connection of its own.
    pub(crate) fn get(&self) -> Result<Answer> {
        self.connect()?.get()
    }

    /// A `set` on a connection of its own that has to succeed.
    pub(crate) fn set(&self, body: &str) -> Result<()> {
        let number = self.set_for_errno(body)?;
        ensure!(number == 0, "errno={number} for:\n{}", shortened(body));
        Ok(())
    }

    /// A `set` on a connection of its own, and the number it is answered with.
    pub(crate) fn set_for_errno(&self, body: &str) -> Result<i32> {
        self.connect()?.set(body)
    }

    /// A `set` that has to be refused with `expected`.
    pub(crate) fn refuses(&self, body: &str, expected: i32) -> Result<()> {
        let number = self.set_for_errno(body)?;
        ensure!(number == expected, "errno={number}, not {expected}, for:\n{}", shortened(body));
        Ok(())
    }

    /// Raises its interface, with an address inside the tunnel.
    pub(crate) fn up(&self, address: &str) -> Result<()> {
        self.host.run(&["ip", "address", "add", address, "dev", INTERFACE])?.success()?;
        self.host.run(&["ip", "link", "set", INTERFACE, "mtu", "1420", "up"])?.success()?;
        Ok(())
    }

    /// Asks it to end by `signal`; it has to exit with 0, and its socket and interface have to be gone.
    pub(crate) fn ends_by(mut self, signal: Signal, bound: Duration) -> Result<()> {
        self.running.signal(signal)?;
        self.has_ended(bound)
    }

    /// Waits for its end, which has to be a good and a clean one.
    pub(crate) fn has_ended(&mut self, bound: Duration) -> Result<()> {
        let status = self.running.wait(bound)?;
        ensure!(status.code() == Some(0), "ended with {status}");
        let socket = self.host.path(SOCKET);
        ensure!(fs::symlink_metadata(&socket).is_err(), "{SOCKET} was left behind");
        let link = self.host.run(&["ip", "link", "show", "dev", INTERFACE])?;
        ensure!(!link.status.success(), "{INTERFACE} was left behind: {}", link.output);
        Ok(())
    }

    /// Everything it has said so far, on both streams.
    pub(crate) fn said(&self) -> Vec<String> {
        let mut lines = self.running.log().lines();
        lines.extend(self.running.output().lines());
        lines
    }

    /// The port it says it listens on.
    pub(crate) fn port(&self) -> Result<u16> {
        let answer = self.get()?;
        answer.device("listen_port").context("no listen_port")?.parse().context("read listen_port")
    }
}

/// Which families have a UDP socket on `port`, by the kernel's tables: IPv4, IPv6.
pub(crate) fn bound(host: &Host, port: u16) -> Result<[bool; 2]> {
    let looked_for = format!(":{port:04X} ");
    let table = |name: &str| -> Result<bool> {
        let text = host.run(&["cat", name])?.success()?;
        // "sl local_address rem_address …": only the local address is followed by the remote one.
        Ok(text.lines().skip(1).any(|line| {
            line.split_whitespace().nth(1).is_some_and(|local| format!("{local} ").ends_with(&looked_for))
        }))
    };
    Ok([table("/proc/net/udp")?, table("/proc/net/udp6")?])
}

/// Fails unless `port` can be bound now.
pub(crate) fn is_free(host: &Host, port: u16) -> Result<()> {
    host.outer().within(|| UdpSocket::bind(("0.0.0.0", port)).map(drop).context("the port is still taken"))
}

/// Waits until `condition` holds for what `get` shows.
pub(crate) fn until_shown(
    daemon: &Daemon<'_>,
    what: &str,
    condition: impl Fn(&Answer) -> bool,
) -> Result<()> {
    wait::until(what, crate::stage::SOON, || {
        ensure!(condition(&daemon.get()?), "not yet");
        Ok(())
    })
}

fn shortened(body: &str) -> String {
    body.chars().take(400).collect()
}
