//! The outer UDP sockets of a tunnel: one for IPv4 and one for IPv6 on the same port, in batches.
//!
//! Invariant: a datagram leaves from the address its peer last wrote to (IP_PKTINFO), and when the kernel says
//! that this address is gone, the datagram is sent once more with the kernel's own choice.
//! Nothing is allocated per packet: the batches keep their buffers.
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, getsockopt, setsockopt, socket,
    sockopt,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The most datagrams moved by one system call (as wireguard-go's batches; more gave nothing).
pub const BATCH: usize = 64;
const BATCH_COUNT: libc::c_uint = 64;
const _: () = assert!(BATCH == BATCH_COUNT as usize);
/// The longest UDP datagram (16-bit length), so that no batch ever cuts one short.
const DATAGRAM_BYTES: usize = 65_535;
/// What a send batch holds before it says that it is full.
const SEND_BATCH_BYTES: usize = 256 * 1024;
/// Kernel buffers asked for, as wireguard-go does (7 MiB): room for a burst while the process is not scheduled.
const KERNEL_BUFFER_BYTES: usize = 7 << 20;
/// How often another random port is tried when the other family already has it.
const RANDOM_PORT_ATTEMPTS: usize = 100;
/// How long a full send queue is waited for before a datagram is given up.
const SEND_WAIT_MS: i32 = 10;
/// Room for one `in6_pktinfo` control message (CMSG_SPACE(20) is 40) and a hop limit, in eights for their alignment.
const CONTROL_WORDS: usize = 8;
/// CMSG_SPACE of an int (24), in eights.
const HOP_LIMIT_WORDS: usize = 3;

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
    /// Binds both families to `port`, or to one random port if it is 0.
    ///
    /// # Errors
    /// `AddrInUse` when either family's port is taken; EPERM for a mark without CAP_NET_ADMIN.
    pub fn bind(port: u16, mark: u32) -> io::Result<Self> {
        let mut attempts = if port == 0 { RANDOM_PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::bind_once(port, mark) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                result => return result,
            }
        }
    }

    fn bind_once(port: u16, mark: u32) -> io::Result<Self> {
        let v4 = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), mark)?;
        let port = v4.port()?;
        let v6 = match UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), mark) {
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
    fn bind(address: SocketAddr, mark: u32) -> io::Result<Self> {
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

/// Received datagrams, until the next `receive` overwrites them.
pub struct ReceiveBatch {
    /// `BATCH` buffers of `DATAGRAM_BYTES`; the kernel touches only as much of each as its datagrams need.
    bytes: Box<[u8]>,
    received: Vec<ReceivedSlot>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[[u64; CONTROL_WORDS]]>,
}

#[derive(Clone, Copy)]
struct ReceivedSlot {
    slot: usize,
    length: usize,
    remote: SocketAddr,
    local: Option<LocalAddress>,
}

/// One received datagram.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub remote: SocketAddr,
    /// Which address of ours it was sent to.
    pub local: Option<LocalAddress>,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveBatch {
    /// An empty batch with its buffers.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: `sockaddr_storage` is a C structure of integers; all zeros is a value of it (AF_UNSPEC).
        let empty: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        Self {
            bytes: vec![0; BATCH * DATAGRAM_BYTES].into_boxed_slice(),
            received: Vec::with_capacity(BATCH),
            names: vec![empty; BATCH].into_boxed_slice(),
            controls: vec![[0; CONTROL_WORDS]; BATCH].into_boxed_slice(),
        }
    }

    /// Fills the batch with what waits on `socket` and says how many datagrams that is; 0 when none waits.
    ///
    /// # Errors
    /// What the kernel says; an ICMP error that came for an earlier datagram is skipped.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.received.clear();
        // SAFETY: `mmsghdr` and `iovec` are C structures of integers and pointers; all zeros is a value of both.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        let slots = self.bytes.chunks_exact_mut(DATAGRAM_BYTES);
        let metas = self.names.iter_mut().zip(self.controls.iter_mut());
        for (((header, vector), buffer), (name, control)) in
            headers.iter_mut().zip(&mut vectors).zip(slots).zip(metas)
        {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = buffer.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size::<libc::sockaddr_storage>();
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of_val(control) as _;
        }
        let count = loop {
            // SAFETY: each header points to an iovec, a name and a control buffer that live until the end of
            // this function and are not shared; their lengths are those of the objects.
            let count = unsafe {
                libc::recvmmsg(
                    socket.0.as_raw_fd(),
                    headers.as_mut_ptr(),
                    BATCH_COUNT,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            if let Ok(count) = usize::try_from(count) {
                break count;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(0),
                Some(libc::EINTR | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => {}
                _ => return Err(error),
            }
        };
        for (slot, header) in headers.iter().enumerate().take(count) {
            let Some(remote) = address_of(&self.names[slot]) else { continue };
            let local = local_address(&header.msg_hdr);
            let length = (header.msg_len as usize).min(DATAGRAM_BYTES);
            self.received.push(ReceivedSlot { slot, length, remote, local });
        }
        Ok(count)
    }

    /// The datagrams of the last `receive`, in their order.
    pub fn datagrams(&self) -> impl Iterator<Item = Received<'_>> {
        self.received.iter().map(|received| {
            let start = received.slot * DATAGRAM_BYTES;
            Received {
                bytes: &self.bytes[start..start + received.length],
                remote: received.remote,
                local: received.local,
            }
        })
    }
}

/// Datagrams on their way out through one socket.
pub struct SendBatch {
    bytes: Vec<u8>,
    queued: Vec<Queued>,
}

#[derive(Clone, Copy)]
struct Queued {
    start: usize,
    length: usize,
    remote: SocketAddr,
    local: Option<IpAddr>,
    hop_limit: Option<u8>,
}

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub sent: usize,
    /// Datagrams that it refused for good.
    pub failed: usize,
    /// The last remote address whose remembered local address turned out to be gone.
    pub stale_source: Option<SocketAddr>,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// An empty batch with its buffers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(SEND_BATCH_BYTES + DATAGRAM_BYTES),
            queued: Vec::with_capacity(BATCH),
        }
    }

    /// Adds a datagram; the caller flushes when `is_full`. Without a hop limit it gets the system's.
    pub fn push(
        &mut self,
        remote: SocketAddr,
        local: Option<LocalAddress>,
        hop_limit: Option<u8>,
        datagram: &[u8],
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        let local = local.map(|local| local.ip);
        self.queued.push(Queued { start, length: datagram.len(), remote, local, hop_limit });
    }

    /// Whether it is time to send.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queued.len() >= BATCH || self.bytes.len() >= SEND_BATCH_BYTES
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Sends everything and empties the batch. A datagram the kernel refuses is counted and does not stop the
    /// others.
    pub fn flush(&mut self, socket: &UdpSocket) -> Sent {
        let mut outcome = Sent::default();
        let mut next = 0;
        while next < self.queued.len() {
            let end = self.queued.len().min(next + BATCH);
            match send_some(socket.0.as_raw_fd(), &self.bytes, &self.queued[next..end]) {
                Ok(count) => {
                    outcome.sent += count;
                    next += count;
                }
                Err(error) => match self.refused(error.raw_os_error(), next, socket) {
                    Refusal::Again => {}
                    Refusal::WithoutSource => {
                        outcome.stale_source = Some(self.queued[next].remote);
                        let remote = self.queued[next].remote;
                        for queued in &mut self.queued[next..] {
                            if queued.remote == remote {
                                queued.local = None;
                            }
                        }
                    }
                    Refusal::Drop => {
                        outcome.failed += 1;
                        next += 1;
                    }
                },
            }
        }
        self.queued.clear();
        self.bytes.clear();
        outcome
    }

    /// Empties the batch without sending and says how many datagrams that cost.
    pub fn discard(&mut self) -> u64 {
        let count = self.queued.len() as u64;
        self.queued.clear();
        self.bytes.clear();
        count
    }

    fn refused(&self, errno: Option<i32>, at: usize, socket: &UdpSocket) -> Refusal {
        match errno {
            Some(libc::EINTR) => Refusal::Again,
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                if wait_writable(socket) {
                    Refusal::Again
                } else {
                    Refusal::Drop
                }
            }
            Some(
                libc::EINVAL
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENXIO,
            ) if self.queued[at].local.is_some() => Refusal::WithoutSource,
            _ => Refusal::Drop,
        }
    }
}

enum Refusal {
    Again,
    WithoutSource,
    Drop,
}

fn wait_writable(socket: &UdpSocket) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut set = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(SEND_WAIT_MS).unwrap_or(PollTimeout::ZERO);
    matches!(poll(&mut set, timeout), Ok(1..))
}

/// One `sendmmsg`: the number the kernel took, or the error of the first.
fn send_some(socket: RawFd, bytes: &[u8], queued: &[Queued]) -> io::Result<usize> {
    debug_assert!(queued.len() <= BATCH);
    // SAFETY: C structures of integers and pointers; all zeros is a value of each.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut names: [libc::sockaddr_in6; BATCH] = unsafe { std::mem::zeroed() };
    let mut controls = [[0u64; CONTROL_WORDS]; BATCH];
    let metas = names.iter_mut().zip(&mut controls);
    for (((header, vector), (name, control)), queued) in
        headers.iter_mut().zip(&mut vectors).zip(metas).zip(queued)
    {
        let datagram = &bytes[queued.start..queued.start + queued.length];
        vector.iov_base = datagram.as_ptr().cast_mut().cast();
        vector.iov_len = datagram.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_namelen = write_address(name, queued.remote);
        header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        let mut length = queued.local.map_or(0, |local| write_packet_info(control, local));
        if let Some(hop_limit) = queued.hop_limit {
            length += write_hop_limit(control, length / 8, queued.remote.is_ipv4(), hop_limit);
        }
        if length > 0 {
            header.msg_hdr.msg_controllen = length as _;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        }
    }
    let count = libc::c_uint::try_from(queued.len().min(BATCH)).unwrap_or(0);
    // SAFETY: the first `count` headers point to iovecs, names and controls of this frame and to bytes borrowed
    // for the call; the kernel only reads them.
    let sent = unsafe { libc::sendmmsg(socket, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes `address` as the kernel reads it and says how long it is. A `sockaddr_in` fits into a `sockaddr_in6`
/// and is no more strictly aligned.
fn write_address(name: &mut libc::sockaddr_in6, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_in` (16 bytes, align 4) fits into `sockaddr_in6` (28 bytes, align 4).
            unsafe { std::ptr::from_mut(name).cast::<libc::sockaddr_in>().write(value) };
            size::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            *name = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            size::<libc::sockaddr_in6>()
        }
    }
}

/// A C structure's size as the kernel's 32-bit length.
#[expect(clippy::cast_possible_truncation, reason = "the structures in this file are at most 128 bytes")]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "AF_INET is 2, AF_INET6 is 10")]
const fn family(number: libc::c_int) -> libc::sa_family_t {
    number as libc::sa_family_t
}

/// Writes the control message that chooses the source address and says how long it is.
///
/// The interface stays 0: the routing table chooses it, as in the kernel's own WireGuard, so that an address of
/// ours that lives on another interface than the route works.
fn write_packet_info(control: &mut [u64; CONTROL_WORDS], local: IpAddr) -> usize {
    let header = control.as_mut_ptr().cast::<libc::cmsghdr>();
    match local {
        IpAddr::V4(ip) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            // SAFETY: `control` is 64 bytes, aligned to 8 as `cmsghdr` wants; header (16) and `in_pktinfo` (12)
            // fit, and CMSG_DATA points right behind the header.
            unsafe {
                (*header).cmsg_level = libc::IPPROTO_IP;
                (*header).cmsg_type = libc::IP_PKTINFO;
                (*header).cmsg_len = libc::CMSG_LEN(size::<libc::in_pktinfo>()) as _;
                libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().write_unaligned(info);
                libc::CMSG_SPACE(size::<libc::in_pktinfo>()) as usize
            }
        }
        IpAddr::V6(ip) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            // SAFETY: as above; header (16) and `in6_pktinfo` (20) fit into 64 bytes.
            unsafe {
                (*header).cmsg_level = libc::IPPROTO_IPV6;
                (*header).cmsg_type = libc::IPV6_PKTINFO;
                (*header).cmsg_len = libc::CMSG_LEN(size::<libc::in6_pktinfo>()) as _;
                libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().write_unaligned(info);
                libc::CMSG_SPACE(size::<libc::in6_pktinfo>()) as usize
            }
        }
    }
}

/// Writes the control message that chooses the hop limit, behind what the first `words` hold already, and says how
/// long it is.
fn write_hop_limit(control: &mut [u64; CONTROL_WORDS], words: usize, is_v4: bool, hop_limit: u8) -> usize {
    let header = control[words..words + HOP_LIMIT_WORDS].as_mut_ptr().cast::<libc::cmsghdr>();
    let (level, kind) =
        if is_v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) };
    // SAFETY: the slice is 24 bytes, aligned to 8 as `cmsghdr` wants; header (16) and an int (4) fit, and CMSG_DATA
    // points right behind the header.
    unsafe {
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size::<libc::c_int>()) as _;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(hop_limit.into());
        libc::CMSG_SPACE(size::<libc::c_int>()) as usize
    }
}

fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a `sockaddr_in` (it says AF_INET); the storage is larger and more aligned.
            let v4 = unsafe { *std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above for AF_INET6.
            let v6 = unsafe { *std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            // The flow label is the sender's business of this one datagram, not a part of its address.
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn local_address(header: &libc::msghdr) -> Option<LocalAddress> {
    // SAFETY: the kernel wrote `msg_controllen` bytes of well-formed control messages to `msg_control`, which
    // still points to a live buffer of the batch; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside of it.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: non-null results of the two macros point to a complete header.
        let control = unsafe { *message };
        match (control.cmsg_level, control.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: a message of this type carries an `in_pktinfo`.
                let info = unsafe { libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned() };
                return Some(LocalAddress {
                    ip: Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into(),
                    interface_index: info.ipi_ifindex.cast_unsigned(),
                });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: a message of this type carries an `in6_pktinfo`.
                let info = unsafe { libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned() };
                return Some(LocalAddress {
                    ip: Ipv6Addr::from(info.ipi6_addr.s6_addr).into(),
                    interface_index: info.ipi6_ifindex,
                });
            }
            _ => {}
        }
        // SAFETY: `message` is a header inside of the buffer of `header`.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    None
}

#[cfg(test)]
mod tests;
