//! Unix sockets that keep messages apart (`SOCK_SEQPACKET`, `unix(7)`), for two processes of which neither started the
//! other.
//!
//! **Invariant:** what is given back is connected, blocks, and is closed at the next `execve`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Connects to whoever listens at `path`.
///
/// # Errors
/// What the kernel says: `ENOENT` and `ECONNREFUSED` when nobody listens, `EACCES` when this user may not.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let ours = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&ours), &UnixAddr::new(path)?)?;
    Ok(ours)
}

/// Waits for the first who comes, and listens no more.
///
/// # Errors
/// When `listener` is no Unix socket that listens.
pub fn accept_one(listener: OwnedFd) -> io::Result<OwnedFd> {
    // Of its calls none asks for the kind of socket.
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(false)?;
    let (stream, _) = listener.accept()?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;
    use crate::descriptors::{receive_with_descriptors, send_with_descriptors};

    #[test]
    fn two_messages_arrive_as_two_and_a_third_party_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("door");
        assert_eq!(connect_to(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let door = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&door), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&door, Backlog::new(1).unwrap()).unwrap();
        let client = connect_to(&path).unwrap();
        let served = accept_one(door).unwrap();
        send_with_descriptors(served.as_fd(), b"one", &[]).unwrap();
        send_with_descriptors(served.as_fd(), b"two", &[]).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive_with_descriptors(client.as_fd(), &mut buffer).unwrap().0, 3);
        assert_eq!(receive_with_descriptors(client.as_fd(), &mut buffer).unwrap().0, 3);
        assert_eq!(connect_to(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
