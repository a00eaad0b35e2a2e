//! The inner side: packets from and to the TUN device, one a system call.
//!
//! Invariant: connections that are forwarded through the tunnel fit into it: the segment size that their first
//! packets announce is lowered on the way, in both directions. Connections of this host know the MTU themselves.
use linux::tun::Tun;
use packet::IpHeader;
use packet::mss::Clamp;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// The interface is gone (EBADFD, drivers/net/tun.c).
#[derive(Debug)]
pub(super) struct Gone;

/// The device and what is counted about it.
pub(super) struct TunSide {
    tun: Tun,
    mtu: u16,
    write_errors: u64,
    /// Of the interface, as far as they are known.
    own_addresses: Vec<IpAddr>,
}

impl TunSide {
    pub(super) fn new(tun: Tun, mtu: u16) -> Self {
        Self { tun, mtu, write_errors: 0, own_addresses: Vec::new() }
    }

    /// Reads one packet; `None` when none waits.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Gone> {
        match self.tun.receive(buffer) {
            Ok(0) => Ok(None),
            Ok(length) => Ok(Some(length)),
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Err(Gone),
            Err(error) => {
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    tracing::debug!(%error, "read from the tun");
                }
                Ok(None)
            }
        }
    }

    /// Lowers the segment size that a forwarded packet announces to what fits.
    pub(super) fn fit_outgoing(&self, packet: &mut [u8]) {
        if let Some(clamp) = Clamp::wanted(packet, self.mtu)
            && IpHeader::parse(packet).is_ok_and(|header| !self.own_addresses.contains(&header.source))
        {
            clamp.apply(packet);
        }
    }

    /// The same on the way in, where the packet must not be changed in its place. A first packet is rare enough to
    /// be copied.
    fn fit_incoming(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let clamp = Clamp::wanted(packet, self.mtu)?;
        let header = IpHeader::parse(packet).ok()?;
        if self.own_addresses.contains(&header.destination) {
            return None;
        }
        let mut fitting = packet.to_vec();
        clamp.apply(&mut fitting);
        Some(fitting)
    }

    pub(super) fn set_own_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.own_addresses = addresses;
    }

    /// Writes one packet. The kernel refuses it while the link is down; that is counted and no more.
    pub(super) fn write(&mut self, packet: &[u8]) {
        let fitting = self.fit_incoming(packet);
        if let Err(error) = self.tun.send(fitting.as_deref().unwrap_or(packet)) {
            self.write_errors += 1;
            tracing::trace!(%error, bytes = packet.len(), "write to the tun");
        }
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Refused packets since the last call.
    pub(super) fn take_write_errors(&mut self) -> u64 {
        std::mem::take(&mut self.write_errors)
    }
}

impl AsFd for TunSide {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tun.as_fd()
    }
}
