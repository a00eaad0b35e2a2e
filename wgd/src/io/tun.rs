//! The inner side: packets from and to the TUN device, each as it is or, with offloads, many of one flow in one piece.
//!
//! Invariant: connections that are forwarded through the tunnel fit into it: the segment size that their first
//! packets announce is lowered on the way, in both directions. Connections of this host know the MTU themselves.
use linux::tun::{Offloads, Tun};
use packet::IpHeader;
use packet::coalesce::MAX_PACKETS;
use packet::mss::Clamp;
use packet::virtio::VirtioHeader;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// The interface is gone (EBADFD, drivers/net/tun.c).
#[derive(Debug)]
pub(super) struct Gone;

/// What a read brought.
#[derive(Debug)]
pub(super) enum Read {
    /// None waits.
    Nothing,
    /// A packet, at this place of the buffer, and what the device says about it.
    Packet(VirtioHeader, Range<usize>),
    /// What the device says about it cannot be understood.
    Malformed,
}

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

    pub(super) fn offloads(&self) -> Option<Offloads> {
        self.tun.offloads()
    }

    /// Reads one packet.
    #[inline]
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<Read, Gone> {
        let length = match self.tun.receive(buffer) {
            Ok(0) => return Ok(Read::Nothing),
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Err(Gone),
            Err(error) => {
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    tracing::debug!(%error, "read from the tun");
                }
                return Ok(Read::Nothing);
            }
        };
        if self.tun.offloads().is_none() {
            return Ok(Read::Packet(VirtioHeader::default(), 0..length));
        }
        Ok(match VirtioHeader::parse(&buffer[..length]) {
            Ok((header, start)) => Read::Packet(header, start..length),
            Err(error) => {
                tracing::debug!(%error, "read from the tun");
                Read::Malformed
            }
        })
    }

    /// Lowers the segment size that a forwarded packet announces to what fits.
    #[inline]
    pub(super) fn fit_outgoing(&self, packet: &mut [u8]) {
        self.fit(packet, |header| header.source);
    }

    /// The same on the way in.
    #[inline]
    pub(super) fn fit_incoming(&self, packet: &mut [u8]) {
        self.fit(packet, |header| header.destination);
    }

    /// `end` is the one that would be ours if the connection was.
    #[inline]
    fn fit(&self, packet: &mut [u8], end: impl FnOnce(&IpHeader) -> IpAddr) {
        if let Some(clamp) = Clamp::wanted(packet, self.mtu)
            && IpHeader::parse(packet).is_ok_and(|header| !self.own_addresses.contains(&end(&header)))
        {
            clamp.apply(packet);
        }
    }

    pub(super) fn set_own_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.own_addresses = addresses;
    }

    /// Writes one packet, or a run of them, that lies in pieces. The kernel refuses it while the link is down; that is counted
    /// and no more.
    #[inline]
    pub(super) fn write(&mut self, header: &VirtioHeader, pieces: &[Range<usize>], memory: &[u8]) {
        let header = header.to_bytes();
        let written = match (self.tun.offloads(), pieces) {
            // A plain device takes packets as they are, and is given nothing else.
            (None, pieces) => pieces.iter().try_for_each(|piece| self.tun.send(&memory[piece.clone()])),
            (Some(_), [only]) => {
                self.tun.send_pieces(&[IoSlice::new(&header), IoSlice::new(&memory[only.clone()])])
            }
            (Some(_), pieces) => {
                let mut slices = [IoSlice::new(&[]); 1 + MAX_PACKETS];
                slices[0] = IoSlice::new(&header);
                for (slice, piece) in slices[1..].iter_mut().zip(pieces) {
                    *slice = IoSlice::new(&memory[piece.clone()]);
                }
                self.tun.send_pieces(&slices[..1 + pieces.len().min(MAX_PACKETS)])
            }
        };
        if let Err(error) = written {
            self.write_errors += pieces.len() as u64;
            tracing::trace!(%error, packets = pieces.len(), "write to the tun");
        }
    }

    /// Whether the interface is set up.
    pub(super) fn is_up(&self) -> bool {
        self.tun.is_up()
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
