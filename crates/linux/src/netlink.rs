//! Netlink sockets that another process opened, in its own network namespace (`netlink(7)`).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

/// Takes over a netlink socket as a library's own type for one. It speaks to the namespace in which it was opened.
///
/// # Errors
/// `EINVAL` when it is something else.
pub fn adopt<Socket: FromRawFd>(descriptor: OwnedFd) -> io::Result<Socket> {
    let family = getsockname::<SockaddrStorage>(descriptor.as_raw_fd())?.family();
    if family != Some(AddressFamily::Netlink) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, which is a netlink socket as `Socket` wants one.
    Ok(unsafe { Socket::from_raw_fd(descriptor.into_raw_fd()) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use nix::sys::socket::{SockFlag, SockProtocol, SockType, socket};

    use super::*;

    #[test]
    fn a_netlink_socket_is_taken_and_another_is_not() {
        let netlink =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        adopt::<OwnedFd>(netlink.unwrap()).unwrap();
        let other = UnixDatagram::unbound().unwrap();
        assert_eq!(adopt::<OwnedFd>(other.into()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
