//! `wgd-resolve`: a third process that looks up host names and can do nothing else.
//!
//! Invariant: the C library's resolver parses datagrams from the network, so it runs without a capability, holds
//! one socket pair and nothing else, and gets only names that stand in the configuration (netcfg keeps the list).
//! It sees no key: it is forked before anybody has read one.
use crate::registered::register;
use crate::{limits, sandbox};
use linux::background::Silence;
use linux::{Helper, Privileged, User, fork_helper};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Who it becomes when no user is configured: the overflow user, who owns nothing.
const NOBODY: User = User { uid: 65_534, gid: 65_534 };
const MESSAGE_BYTES: usize = 16 * 1024;

#[derive(Serialize, Deserialize)]
struct Question {
    id: u64,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct Found {
    id: u64,
    addresses: Vec<IpAddr>,
}

/// Netcfg's end.
pub(super) struct Resolver {
    socket: AsyncFd<UnixDatagram>,
    next: u64,
}

/// Forks the process. It looks nothing up before it is sealed.
pub(super) fn start(
    privileged: Privileged,
    user: Option<User>,
    to_background: bool,
) -> io::Result<(Privileged, Helper)> {
    fork_helper(privileged, "wgd-resolve", &[], move |privileged, socket| {
        let Ok(silence) = to_background.then(Silence::prepare).transpose() else { return daemon::exit::OS };
        let confinement = sandbox::resolver_confinement(user.unwrap_or(NOBODY));
        let sealed = privileged
            .confine(&confinement)
            .map_err(|error| error.to_string())
            .and_then(|confined| confined.seal(sandbox::RESOLVER).map_err(|error| error.to_string()));
        if let Err(error) = sealed {
            tracing::error!(%error, "confine the resolver");
            return daemon::exit::OS;
        }
        if silence.is_some_and(|silence| silence.apply().is_err()) {
            return daemon::exit::OS;
        }
        serve(socket)
    })
}

fn serve(socket: OwnedFd) -> u8 {
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        let received = linux::descriptors::receive_with_descriptors(socket.as_fd(), &mut buffer);
        let length = match received {
            Ok((0, _)) | Err(_) => return 0,
            Ok((length, _)) => length,
        };
        let Ok(question) = serde_json::from_slice::<Question>(&buffer[..length]) else { return 0 };
        let found = Found { id: question.id, addresses: look_up_here(&question.name) };
        let Ok(bytes) = serde_json::to_vec(&found) else { return 0 };
        if linux::descriptors::send_with_descriptors(socket.as_fd(), &bytes, &[]).is_err() {
            return 0;
        }
    }
}

fn look_up_here(name: &str) -> Vec<IpAddr> {
    (name, 0)
        .to_socket_addrs()
        .map(|found| found.map(|address| address.ip()).take(64).collect())
        .unwrap_or_default()
}

impl Resolver {
    /// Takes over the helper's socket; runs inside of a tokio runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: register(socket, Interest::READABLE | Interest::WRITABLE)?, next: 0 })
    }

    /// Looks a name up; no addresses when it is unknown.
    pub(super) async fn look_up(&mut self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.next += 1;
        let question = Question { id: self.next, name: name.to_owned() };
        let bytes = serde_json::to_vec(&question)?;
        let wait = tokio::time::timeout(limits::RESOLVE_TIME, async {
            self.socket.async_io(Interest::WRITABLE, |socket| socket.send(&bytes)).await?;
            loop {
                let mut buffer = vec![0; MESSAGE_BYTES];
                let receive = |socket: &UnixDatagram| socket.recv(&mut buffer);
                let length = self.socket.async_io(Interest::READABLE, receive).await?;
                if length == 0 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                let found: Found = serde_json::from_slice(&buffer[..length])?;
                // An answer that came too late for its own question.
                if found.id == self.next {
                    return Ok(found.addresses);
                }
            }
        });
        wait.await.unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)))
    }
}
