//! `sd_notify(3)`: telling the service manager how we are. The socket is connected before the seal.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use linux::Privileged;
use nix::time::{ClockId, clock_gettime};

/// The connected notify socket; does nothing where no manager listens.
#[derive(Debug)]
pub struct Notify {
    socket: Option<UnixDatagram>,
}

impl Notify {
    /// Connects to `NOTIFY_SOCKET`, if there is one.
    pub fn from_environment(_privileged: &Privileged) -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self { socket: None }) };
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(socket) })
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={text}"));
    }

    /// The daemon is going down.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A reload has begun; [`Notify::ready`] ends it.
    pub fn reloading(&self) {
        let micros = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(0, |now| now.tv_sec().saturating_mul(1_000_000).saturating_add(now.tv_nsec() / 1000));
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The data loop is alive.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, text: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(text.as_bytes())
        {
            tracing::debug!(%error, "notify the service manager");
        }
    }
}
