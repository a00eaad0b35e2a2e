//! The outer UDP sockets of a tunnel: one for IPv4 and one for IPv6 on the same port, in batches.
//!
//! Invariant: a datagram leaves from the address its peer last wrote to (IP_PKTINFO), and when the kernel says
//! that this address is gone, the datagram is sent once more with the kernel's own choice. Datagrams that the kernel would
//! not take as one message (UDP_SEGMENT) are sent one by one.
//! Nothing is allocated per packet: the batches keep their buffers.
mod control;
mod receive;
mod send;

pub use receive::{Place, ReceiveBatch, Received};
pub use send::{SendBatch, Sent};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, getsockopt, setsockopt, socket,
    sockopt,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The longest UDP datagram (16-bit length), so that no batch ever cuts one short.
const DATAGRAM_BYTES: usize = 65_535;
/// Kernel buffers asked for, as wireguard-go does (7 MiB): room for a burst while the process is not scheduled.
const KERNEL_BUFFER_BYTES: usize = 7 << 20;
/// How often another random port is tried when the other family already has it.
const RANDOM_PORT_ATTEMPTS: usize = 100;

/// Where a datagram came in, or is to leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address of ours.
    pub ip: IpAddr,
    /// The interface it was delivered by; not used for sending, for the routing table decides that.
    pub interface_index: u32,
}

/// Both families on one port. IPv6 is absent on a kernel without it.
#[derive(Debug)]
pub struct UdpSockets {
    /// The IPv4 socket.
    pub v4: UdpSocket,
    /// The IPv6 socket (IPV6_V6ONLY).
    pub v6: Option<UdpSocket>,
    port: u16,
}

/// One non-blocking UDP socket with IP_PKTINFO.
#[derive(Debug)]
pub struct UdpSocket(OwnedFd);

impl UdpSockets {
    /// Binds both families to `port`, or to one random port if it is 0. With `joined`, datagrams of one flow come as one
    /// message where the kernel can do that.
    ///
    /// # Errors
    /// `AddrInUse` when either family's port is taken; EPERM for a mark without CAP_NET_ADMIN.
    pub fn bind(port: u16, mark: u32, joined: bool) -> io::Result<Self> {
        let mut attempts = if port == 0 { RANDOM_PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::bind_once(port, mark, joined) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                result => return result,
            }
        }
    }

    fn bind_once(port: u16, mark: u32, joined: bool) -> io::Result<Self> {
        let v4 = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), mark, joined)?;
        let port = v4.port()?;
        let v6 = match UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), mark, joined) {
            Ok(socket) => Some(socket),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { v4, v6, port })
    }

    /// Takes over sockets that another process bound; their order says nothing.
    ///
    /// # Errors
    /// When they are not UDP sockets of different families on one port.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not a pair of UDP sockets on one port");
        let (mut v4, mut v6) = (None, None);
        for descriptor in descriptors {
            if getsockopt(&descriptor, sockopt::SockType)? != SockType::Datagram {
                return Err(wrong());
            }
            let socket = UdpSocket(descriptor);
            let slot = if socket.address()?.is_ipv4() { &mut v4 } else { &mut v6 };
            if slot.replace(socket).is_some() {
                return Err(wrong());
            }
        }
        let v4 = v4.ok_or_else(wrong)?;
        let port = v4.port()?;
        if let Some(v6) = &v6
            && v6.port()? != port
        {
            return Err(wrong());
        }
        Ok(Self { v4, v6, port })
    }

    /// The port of both.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets SO_MARK on both.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.each().try_for_each(|socket| socket.set_mark(mark))
    }

    /// The sockets there are.
    pub fn each(&self) -> impl Iterator<Item = &UdpSocket> {
        std::iter::once(&self.v4).chain(&self.v6)
    }

    /// The same sockets once more, for another owner.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        let v6 = self.v6.as_ref().map(|socket| socket.0.try_clone().map(UdpSocket)).transpose()?;
        Ok(Self { v4: UdpSocket(self.v4.0.try_clone()?), v6, port: self.port })
    }
}

impl UdpSocket {
    fn bind(address: SocketAddr, mark: u32, joined: bool) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = Self(socket(family, SockType::Datagram, flags, None)?);
        if address.is_ipv4() {
            setsockopt(&socket.0, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket.0, sockopt::Ipv6V6Only, &true)?;
            setsockopt(&socket.0, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        if mark != 0 {
            socket.set_mark(mark)?;
        }
        if joined {
            // An older kernel brings each by itself.
            let _ = setsockopt(&socket.0, sockopt::UdpGroSegment, &true);
        }
        socket.enlarge_buffers();
        bind(socket.0.as_raw_fd(), &SockaddrStorage::from(address))?;
        Ok(socket)
    }

    /// Beyond the system's limit where that is allowed, else up to it. Small buffers lose packets in bursts but
    /// are no reason not to start.
    fn enlarge_buffers(&self) {
        if setsockopt(&self.0, sockopt::RcvBufForce, &KERNEL_BUFFER_BYTES).is_err() {
            let _ = setsockopt(&self.0, sockopt::RcvBuf, &KERNEL_BUFFER_BYTES);
        }
        if setsockopt(&self.0, sockopt::SndBufForce, &KERNEL_BUFFER_BYTES).is_err() {
            let _ = setsockopt(&self.0, sockopt::SndBuf, &KERNEL_BUFFER_BYTES);
        }
    }

    /// Sets SO_MARK.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        Ok(setsockopt(&self.0, sockopt::Mark, &mark)?)
    }

    /// Whether the kernel takes datagrams of one size as one message.
    #[must_use]
    pub fn cuts_segments(&self) -> bool {
        getsockopt(&self.0, sockopt::UdpGsoSegment).is_ok()
    }

    /// Whether it hands them up as one.
    #[must_use]
    pub fn joins_segments(&self) -> bool {
        getsockopt(&self.0, sockopt::UdpGroSegment).unwrap_or(false)
    }

    fn address(&self) -> io::Result<SocketAddr> {
        let storage: SockaddrStorage = getsockname(self.0.as_raw_fd())?;
        let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
        let v6 = || storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into()));
        v4.or_else(v6).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an internet socket"))
    }

    fn port(&self) -> io::Result<u16> {
        self.address().map(|address| address.port())
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<UdpSocket> for OwnedFd {
    fn from(socket: UdpSocket) -> Self {
        socket.0
    }
}

#[cfg(test)]
mod tests;
