//! Packet sockets: every frame that enters the network namespace, as it came (packet(7)).
//!
//! Invariant: a frame that was not handed over is counted by the kernel, and [`PacketSocket::statistics`] tells; one
//! that was cut short says so itself ([`Frame::length`]).

use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, getsockopt, recv, setsockopt, socket, sockopt,
};

/// Length of the `struct virtio_net_hdr` before each frame (linux/virtio_net.h).
const VIRTIO_HEADER: usize = 10;

/// `VIRTIO_NET_HDR_GSO_NONE` and `VIRTIO_NET_HDR_GSO_UDP_L4` (linux/virtio_net.h).
const GSO_NONE: u8 = 0;
const GSO_UDP_L4: u8 = 5;

/// `PACKET_STATISTICS`, `PACKET_VNET_HDR` and `PACKET_IGNORE_OUTGOING` (linux/if_packet.h).
const PACKET_STATISTICS: libc::c_int = 6;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// A socket that sees every frame entering the network namespace it was opened in.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

/// A frame in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// How much of it is in the buffer.
    pub captured: usize,
    /// How long it was.
    pub length: usize,
    /// Set for a train of UDP datagrams that the sender left to the card to cut: the payload of each but the last.
    pub segment_bytes: Option<u16>,
}

/// The kernel's own count since the last question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Frames queued for this socket.
    pub delivered: u64,
    /// Frames for which there was no room.
    pub dropped: u64,
}

impl PacketSocket {
    /// Opens it in the calling thread's network namespace. Frames that the namespace itself sends are not shown, so
    /// that a router sees what it forwards once.
    pub fn open_incoming() -> io::Result<PacketSocket> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )?;
        let socket = PacketSocket { socket };
        socket.set(PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(PACKET_VNET_HDR, 1)?;
        Ok(socket)
    }

    /// Asks for room for `bytes` and gives what was granted: less without privileges.
    pub fn grow_buffer(&self, bytes: usize) -> io::Result<usize> {
        match setsockopt(&self.socket, sockopt::RcvBufForce, &bytes) {
            Ok(()) => {}
            Err(Errno::EPERM) => setsockopt(&self.socket, sockopt::RcvBuf, &bytes)?,
            Err(errno) => return Err(errno.into()),
        }
        Ok(getsockopt(&self.socket, sockopt::RcvBuf)?)
    }

    /// Takes the next frame; `None` when none waits. The frame begins with its Ethernet header at `buffer[0]`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Frame>> {
        // MSG_TRUNC: the call gives the real length.
        let length = match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let in_buffer = length.min(buffer.len());
        if in_buffer < VIRTIO_HEADER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame without its virtio header"));
        }
        // flags, gso_type, hdr_len (2), gso_size (2), csum_start (2), csum_offset (2); in the machine's byte order.
        let gso_type = buffer[1];
        let gso_size = u16::from_ne_bytes([buffer[4], buffer[5]]);
        buffer.copy_within(VIRTIO_HEADER..in_buffer, 0);
        let segment_bytes = match gso_type {
            GSO_NONE => None,
            GSO_UDP_L4 => Some(gso_size),
            // Trains of TCP: one frame to look at, whatever the card would have made of it.
            _ => None,
        };
        Ok(Some(Frame { captured: in_buffer - VIRTIO_HEADER, length: length - VIRTIO_HEADER, segment_bytes }))
    }

    /// Waits until a frame is there, at most for `bound`.
    pub fn wait(&self, bound: Duration) -> io::Result<()> {
        let bound = PollTimeout::try_from(bound).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], bound) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks what was delivered and dropped since the last question.
    pub fn statistics(&self) -> io::Result<Statistics> {
        // struct tpacket_stats: tp_packets (drops included), tp_drops.
        let mut counts = [0_u32; 2];
        let mut length = libc::socklen_t::try_from(size_of_val(&counts)).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: `counts` is as long as `length` says, any bytes are valid numbers, and both outlive the call.
        let outcome = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        Errno::result(outcome)?;
        let [packets, drops] = counts.map(u64::from);
        Ok(Statistics { delivered: packets.saturating_sub(drops), dropped: drops })
    }

    fn set(&self, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the kernel reads `length` bytes from `value`, which outlives the call.
        let outcome = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const value).cast(),
                length,
            )
        };
        Errno::result(outcome)?;
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
