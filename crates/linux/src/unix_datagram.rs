//! Unix datagram sockets with the sender's credentials (`SO_PASSCRED`, `unix(7)`).
//!
//! Bound before the seal; afterwards only sent to and received from. Nobody connects, so either end may
//! restart and the other needs to do nothing.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::sys::socket::sockopt::{self, PassCred};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockType, SockaddrLike, UnixAddr, UnixCredentials, getsockname,
    getsockopt, recvmsg, setsockopt,
};

use crate::User;
use crate::unix_path::bind_at;

/// `sizeof(sa_family_t)`: an address that is no longer has no name (unix(7)).
const FAMILY_BYTES: libc::socklen_t = 2;

/// A datagram socket bound to a path.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: UnixDatagram,
}

/// One datagram's origin and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Bytes written into the buffer.
    pub length: usize,
    /// The path the sender is bound to, if it is bound.
    pub from: Option<PathBuf>,
    /// Who sent it, by the kernel's word.
    pub credentials: Credentials,
}

/// A process's ids, as the kernel attached them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl DatagramSocket {
    /// Binds to `path` with `mode`, owned by `owner` if given. A socket file that a dead process left is
    /// replaced; a live one, or anything that is no socket, is not touched.
    pub fn bind(path: &Path, mode: u32, owner: Option<User>) -> io::Result<Self> {
        let socket = UnixDatagram::from(bind_at(path, SockType::Datagram, mode, owner)?);
        setsockopt(&socket, PassCred, &true)?;
        Ok(Self { socket })
    }

    /// Takes a bound Unix datagram socket that somebody else made.
    pub(crate) fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
        if getsockopt(&descriptor, sockopt::SockType)? != SockType::Datagram {
            return Err(wrong());
        }
        let name = getsockname::<UnixAddr>(descriptor.as_raw_fd()).map_err(|_| wrong())?;
        if name.path().is_none() {
            return Err(wrong());
        }
        let socket = UnixDatagram::from(descriptor);
        socket.set_nonblocking(true)?;
        setsockopt(&socket, PassCred, &true)?;
        Ok(Self { socket })
    }

    /// Receives one datagram; `WouldBlock` when there is none. One without credentials is an error.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        // An unbound sender has an address of no bytes at all, which nix's `path` would panic on.
        let named = message.address.as_ref().filter(|address| address.len() > FAMILY_BYTES);
        let from = named.and_then(UnixAddr::path).map(Path::to_path_buf);
        let credentials = message.cmsgs()?.find_map(|part| {
            if let ControlMessageOwned::ScmCredentials(ids) = part {
                return Some(Credentials { pid: ids.pid(), uid: ids.uid(), gid: ids.gid() });
            }
            None
        });
        let credentials = credentials
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a datagram without credentials"))?;
        Ok(Received { length: message.bytes, from, credentials })
    }

    /// Sends one datagram to the socket bound at `to`. Never blocks.
    pub fn send_to(&self, bytes: &[u8], to: &Path) -> io::Result<()> {
        self.socket.send_to(bytes, to).map(|_| ())
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for DatagramSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_names_its_sender() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let first = DatagramSocket::bind(&a, 0o600, None).unwrap();
        let second = DatagramSocket::bind(&b, 0o600, None).unwrap();
        first.send_to(b"hello", &b).unwrap();
        let mut buffer = [0; 16];
        let received = second.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..received.length], b"hello");
        assert_eq!(received.from.as_deref(), Some(a.as_path()));
        assert_eq!(received.credentials.uid, User::current().uid);
        assert_eq!(second.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_socket_that_was_handed_in_is_taken_if_it_is_of_this_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let bound = UnixDatagram::bind(&path).unwrap();
        let taken = DatagramSocket::from_descriptor(bound.into()).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"hello", &path).unwrap();
        assert_eq!(taken.receive(&mut [0; 16]).unwrap().credentials.uid, User::current().uid);
        assert!(DatagramSocket::from_descriptor(UnixDatagram::unbound().unwrap().into()).is_err());
        let stream = std::os::unix::net::UnixListener::bind(folder.path().join("t")).unwrap();
        assert!(DatagramSocket::from_descriptor(stream.into()).is_err());
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(DatagramSocket::from_descriptor(udp.into()).is_err());
    }

    #[test]
    fn an_unbound_sender_has_no_name_but_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = DatagramSocket::bind(&path, 0o600, None).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"hello", &path).unwrap();
        let received = socket.receive(&mut [0; 16]).unwrap();
        assert_eq!((received.from, received.credentials.uid), (None, User::current().uid));
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = DatagramSocket::bind(&path, 0o600, None).unwrap();
        assert_eq!(DatagramSocket::bind(&path, 0o600, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        DatagramSocket::bind(&path, 0o600, None).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"mine").unwrap();
        assert!(DatagramSocket::bind(&path, 0o600, None).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
