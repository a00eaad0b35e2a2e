//! What has to be opened inside the interface's namespace, opened by a process that was started there (`--serve inside`)
//! and handed to `wgd-netcfg`, so that none of them needs the right to enter a namespace.
//!
//! Invariant: it reads nothing from whoever connects. It sends three descriptors, once, and ends.
use crate::config::Config;
use crate::control::LinkMonitor;
use anyhow::Context as _;
use daemon::{exit, fail};
use linux::descriptors::{receive_with_descriptors, send_with_descriptors};
use linux::tun::Tun;
use linux::{Privileged, seqpacket};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What was opened there.
pub(super) struct Inside {
    /// The device, attached, and netlink that hears of links: both for wgd.
    pub(super) device: [OwnedFd; 2],
    /// Netlink for requests. The kernel wants `CAP_NET_ADMIN` of whoever opened it and of whoever uses it.
    pub(super) netlink: OwnedFd,
}

/// Waits for the first who connects, opens them, and hands them over.
///
/// # Errors
/// Naming what could not be opened.
pub fn hand_out(privileged: &Privileged, listener: OwnedFd, config: &Config) -> anyhow::Result<()> {
    // First of all, or a failure would be tried again and again for the same connection.
    let peer = seqpacket::accept_one(listener).context("the handed-in listener")?;
    let tun = Tun::create(privileged, &config.interface, config.device);
    let tun = tun.map_err(|error| fail(exit::OS, error))?;
    let link = LinkMonitor::socket().context("open netlink")?;
    let netlink = Socket::new(NETLINK_ROUTE).context("open netlink")?;
    send_with_descriptors(peer.as_fd(), b"inside", &[tun.as_fd(), link.as_fd(), netlink.as_fd()])?;
    Ok(())
}

/// Connects to it and takes what it hands over.
pub(super) fn fetch(path: &Path) -> io::Result<Inside> {
    let socket = seqpacket::connect_to(path)?;
    let (_, opened) = receive_with_descriptors(socket.as_fd(), &mut [0; 16])?;
    match <[OwnedFd; 3]>::try_from(opened) {
        Ok([tun, link, netlink]) => Ok(Inside { device: [tun, link], netlink }),
        Err(other) => Err(io::Error::other(format!("three descriptors were expected, {} came", other.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux::unix_listener::bind_unix_listener;
    use std::fs::File;

    #[test]
    fn what_comes_is_all_of_it_or_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("inside");
        assert_eq!(fetch(&path).err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
        // A listener of another kind is nobody's.
        let _other = bind_unix_listener(&path, 0o600, None).expect("listener");
        assert!(fetch(&path).is_err());
    }

    #[test]
    fn two_descriptors_are_not_three() {
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
        use std::os::fd::AsRawFd as _;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("inside");
        let door =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
        bind(door.as_raw_fd(), &UnixAddr::new(&path).expect("path")).expect("bound");
        listen(&door, Backlog::new(1).expect("backlog")).expect("listens");
        let serve = std::thread::spawn(move || {
            let peer = seqpacket::accept_one(door).expect("peer");
            let file = File::open("/dev/null").expect("file");
            send_with_descriptors(peer.as_fd(), b"inside", &[file.as_fd(), file.as_fd()]).expect("sent");
        });
        let error = fetch(&path).err().expect("an error").to_string();
        serve.join().expect("served");
        assert!(error.contains("2 came"), "{error}");
    }
}
