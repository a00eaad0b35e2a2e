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
