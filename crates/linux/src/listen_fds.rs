//! Listeners handed in by a service manager (`sd_listen_fds(3)`), taken by name.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt};

use crate::Privileged;
use crate::unix_datagram::DatagramSocket;

/// `SD_LISTEN_FDS_START`: the first descriptor of the protocol.
const FIRST: i32 = 3;
/// More than any unit of ours hands in.
const MOST: i32 = 16;

/// The listeners that were handed in and not yet taken.
#[derive(Debug, Default)]
pub struct ListenFds {
    by_name: HashMap<String, OwnedFd>,
}

/// What is wrong with the handed-in listeners.
#[derive(Debug, thiserror::Error)]
pub enum ListenFdsError {
    /// `LISTEN_FDS` is no number, or absurd.
    #[error("LISTEN_FDS={0:?} is not a number of listeners")]
    Count(String),
    /// `LISTEN_FDNAMES` and `LISTEN_FDS` differ.
    #[error("LISTEN_FDNAMES names {names} listeners, LISTEN_FDS says {count}")]
    Names {
        /// How many names there are.
        names: usize,
        /// How many descriptors there are.
        count: usize,
    },
    /// Two listeners have one name.
    #[error("two handed-in listeners have the name {0:?}")]
    Twice(String),
    /// A descriptor is not open.
    #[error("handed-in listener {0:?}: {1}")]
    Descriptor(String, std::io::Error),
    /// It is no listener of the kind that the name stands for.
    #[error("handed-in listener {0:?} is not a bound {1} socket that listens")]
    Kind(String, &'static str),
}

impl ListenFds {
    /// Takes over what `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` describe; empty if they mean another
    /// process. Call it once, before anything else opens a descriptor in this range.
    pub fn take(privileged: &Privileged) -> Result<Self, ListenFdsError> {
        let pid = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse::<u32>().ok());
        let Ok(count) = std::env::var("LISTEN_FDS") else { return Ok(Self::default()) };
        if pid != Some(std::process::id()) {
            return Ok(Self::default());
        }
        let count: i32 = match count.parse() {
            Ok(number) if (0..=MOST).contains(&number) => number,
            _ => return Err(ListenFdsError::Count(count)),
        };
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = if names.is_empty() { Vec::new() } else { names.split(':').collect() };
        let expected = usize::try_from(count).unwrap_or(0);
        if names.len() != expected {
            return Err(ListenFdsError::Names { names: names.len(), count: expected });
        }
        let mut by_name = HashMap::new();
        for (raw, name) in (FIRST..).zip(names) {
            let descriptor = crate::inherited::take(privileged, raw)
                .map_err(|error| ListenFdsError::Descriptor(name.to_owned(), error))?;
            if by_name.insert(name.to_owned(), descriptor).is_some() {
                return Err(ListenFdsError::Twice(name.to_owned()));
            }
        }
        Ok(Self { by_name })
    }

    /// Whether a listener of this name was handed in and not yet taken.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether descriptor `number` is one of those not yet taken.
    pub fn holds(&self, number: std::os::fd::RawFd) -> bool {
        self.by_name.values().any(|descriptor| descriptor.as_raw_fd() == number)
    }

    /// The Unix socket called `name`, if one was handed in, whatever it does.
    pub fn descriptor(&mut self, name: &str) -> Option<OwnedFd> {
        self.by_name.remove(name)
    }

    /// The TCP listener called `name`, if one was handed in. It does not block.
    pub fn tcp(&mut self, name: &str) -> Result<Option<TcpListener>, ListenFdsError> {
        let Some(descriptor) = self.by_name.remove(name) else { return Ok(None) };
        let wrong = || ListenFdsError::Kind(name.to_owned(), "TCP");
        if !matches!(family(&descriptor), Some(AddressFamily::Inet | AddressFamily::Inet6))
            || !getsockopt(&descriptor, AcceptConn).unwrap_or(false)
        {
            return Err(wrong());
        }
        let listener = TcpListener::from(descriptor);
        listener.set_nonblocking(true).map_err(|_| wrong())?;
        Ok(Some(listener))
    }

    /// The Unix stream listener called `name`, if one was handed in. It does not block.
    pub fn unix(&mut self, name: &str) -> Result<Option<UnixListener>, ListenFdsError> {
        let Some(descriptor) = self.by_name.remove(name) else { return Ok(None) };
        let wrong = || ListenFdsError::Kind(name.to_owned(), "Unix stream");
        if family(&descriptor) != Some(AddressFamily::Unix)
            || !getsockopt(&descriptor, AcceptConn).unwrap_or(false)
        {
            return Err(wrong());
        }
        let listener = UnixListener::from(descriptor);
        listener.set_nonblocking(true).map_err(|_| wrong())?;
        Ok(Some(listener))
    }

    /// The bound Unix datagram socket called `name`, if one was handed in. It does not block.
    pub fn datagrams(&mut self, name: &str) -> Result<Option<DatagramSocket>, ListenFdsError> {
        let Some(descriptor) = self.by_name.remove(name) else { return Ok(None) };
        let taken = DatagramSocket::from_descriptor(descriptor);
        taken.map(Some).map_err(|_| ListenFdsError::Kind(name.to_owned(), "Unix datagram"))
    }

    /// Names that nobody took: a unit file that hands in what the daemon does not know.
    pub fn left_over(&self) -> Vec<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }
}

fn family(descriptor: &OwnedFd) -> Option<AddressFamily> {
    getsockname::<SockaddrStorage>(descriptor.as_raw_fd()).ok()?.family()
}
