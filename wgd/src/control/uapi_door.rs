//! Where the configuration protocol comes in: a listener of our own or of somebody else's, or one connection.
//!
//! Invariant: a listener that was handed in belongs to whoever made it; its file is watched (its end is the
//! tunnel's end, as everywhere) but never removed here.
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The configuration socket.
#[derive(Debug)]
pub enum UapiDoor {
    /// Accepts connections.
    Listener {
        /// Where they come in.
        listener: UnixListener,
        /// Its file, if it has one. A socket that got its name by a rename does not know it.
        path: Option<PathBuf>,
    },
    /// Is one: what boringtun calls `--uapi-fd`.
    Connection(UnixStream),
}

impl UapiDoor {
    /// Takes over a descriptor, and looks which of the two it is.
    ///
    /// # Errors
    /// When it is no Unix socket.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let family = getsockname::<SockaddrStorage>(descriptor.as_raw_fd())?.family();
        if family != Some(AddressFamily::Unix) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a Unix socket"));
        }
        if getsockopt(&descriptor, AcceptConn)? {
            let listener = UnixListener::from(descriptor);
            listener.set_nonblocking(true)?;
            let path = listener.local_addr()?.as_pathname().map(PathBuf::from);
            return Ok(Self::Listener { listener, path: path.filter(|path| path.is_absolute()) });
        }
        let stream = UnixStream::from(descriptor);
        stream.peer_addr()?;
        stream.set_nonblocking(true)?;
        Ok(Self::Connection(stream))
    }

    /// The listener's file, if it has one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Listener { path, .. } => path.as_deref(),
            Self::Connection(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_itself_whether_it_listens() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("wg0.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        let door = UapiDoor::from_descriptor(listener.into()).expect("listener");
        assert!(matches!(&door, UapiDoor::Listener { .. }));
        assert_eq!(door.path(), Some(path.as_path()));
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let door = UapiDoor::from_descriptor(ours.into()).expect("stream");
        assert!(matches!(&door, UapiDoor::Connection(_)) && door.path().is_none());
    }

    #[test]
    fn what_is_no_unix_socket_is_refused() {
        let file = tempfile::tempfile().expect("file");
        assert!(UapiDoor::from_descriptor(file.into()).is_err());
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        assert!(UapiDoor::from_descriptor(udp.into()).is_err());
    }
}
