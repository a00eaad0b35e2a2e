//! Datagrams on their way out, many with one system call and, where they have one size, as one message (UDP_SEGMENT).
use super::control::{
    CONTROL_WORDS, size, write_address, write_hop_limit, write_packet_info, write_segment_size,
};
use super::{DATAGRAM_BYTES, LocalAddress, UdpSocket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// The most messages moved by one system call (as wireguard-go's batches; more gave nothing).
const BATCH: usize = 64;
/// The longest message of datagrams of one size: an IPv4 packet less its headers.
const MESSAGE_BYTES: usize = 65_535 - 20 - 8;
/// Datagrams in one message: UDP_MAX_SEGMENTS (include/linux/udp.h) before it was raised.
const MESSAGE_DATAGRAMS: usize = 64;
/// What a batch holds before it says that it is full: one message of full length, sent while it is in the cache.
const BATCH_BYTES: usize = MESSAGE_BYTES;
/// How long a full send buffer is waited for before a datagram is given up.
const SEND_WAIT_MS: i32 = 10;

/// Datagrams on their way out through one socket.
pub struct SendBatch {
    bytes: Box<[u8]>,
    used: usize,
    pub(super) queued: Vec<Message>,
    /// Datagrams of one size leave as one message.
    segments: bool,
}

/// One datagram, or several of one size, the last perhaps shorter.
#[derive(Clone, Copy)]
pub(super) struct Message {
    start: usize,
    length: usize,
    segment_bytes: usize,
    pub(super) datagrams: usize,
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

impl SendBatch {
    /// An empty batch with its buffers. With `segments`, datagrams of one size to one address leave as one message; see
    /// [`UdpSocket::cuts_segments`].
    #[must_use]
    pub fn new(segments: bool) -> Self {
        Self {
            bytes: vec![0; BATCH_BYTES + DATAGRAM_BYTES].into_boxed_slice(),
            used: 0,
            queued: Vec::with_capacity(BATCH),
            segments,
        }
    }

    /// Whether datagrams of one size leave as one message. It ends when the kernel says that the way out cannot do it.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.segments
    }

    /// Room for the next datagram, to be given to the batch by [`SendBatch::push_written`]. There is some for the longest
    /// as long as the batch is flushed whenever it is full.
    #[inline]
    pub fn space(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.bytes[self.used..self.used + bytes]
    }

    /// Adds a datagram; the caller flushes when `is_full`. Without a hop limit it gets the system's.
    pub fn push(
        &mut self,
        remote: SocketAddr,
        local: Option<LocalAddress>,
        hop_limit: Option<u8>,
        datagram: &[u8],
    ) {
        self.space(datagram.len()).copy_from_slice(datagram);
        self.push_written(remote, local, hop_limit, datagram.len());
    }

    /// The same with the first `length` bytes of the room that was given last.
    #[inline]
    pub fn push_written(
        &mut self,
        remote: SocketAddr,
        local: Option<LocalAddress>,
        hop_limit: Option<u8>,
        length: usize,
    ) {
        let local = local.map(|local| local.ip);
        let start = self.used;
        self.used += length;
        if self.segments
            && let Some(last) = self.queued.last_mut()
            && last.takes(remote, local, hop_limit, length)
        {
            last.length += length;
            last.datagrams += 1;
            return;
        }
        let message =
            Message { start, length, segment_bytes: length, datagrams: 1, remote, local, hop_limit };
        self.queued.push(message);
    }

    /// Whether it is time to send: another datagram of the last one's size would make too much of it.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        let next = self.queued.last().map_or(0, |last| last.segment_bytes);
        self.queued.len() >= BATCH || self.used + next > BATCH_BYTES
    }

    /// Whether there is nothing to send.
    #[inline]
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
                    let taken = &self.queued[next..next + count];
                    outcome.sent += taken.iter().map(|message| message.datagrams).sum::<usize>();
                    next += count;
                }
                Err(error) => match self.refused(error.raw_os_error(), next, socket) {
                    Refusal::Again => {}
                    Refusal::OneByOne => self.take_apart(next),
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
                        outcome.failed += self.queued[next].datagrams;
                        next += 1;
                    }
                },
            }
        }
        self.clear();
        outcome
    }

    /// Empties the batch without sending and says how many datagrams that cost.
    pub fn discard(&mut self) -> u64 {
        let count = self.queued.iter().map(|message| message.datagrams as u64).sum();
        self.clear();
        count
    }

    fn clear(&mut self) {
        self.queued.clear();
        self.used = 0;
    }

    pub(super) fn refused(&mut self, errno: Option<i32>, at: usize, socket: &UdpSocket) -> Refusal {
        let several = self.queued[at].datagrams > 1;
        match errno {
            Some(libc::EINTR) => Refusal::Again,
            // Our own buffer is full: the socket says when there is room again.
            Some(libc::EAGAIN) if wait_writable(socket) => Refusal::Again,
            // The device does not compute checksums (net/ipv4/udp.c, udp_send_skb), and will not do so next time.
            Some(libc::EIO) if several => {
                self.segments = false;
                Refusal::OneByOne
            }
            // Among others, a datagram does not fit the route's MTU: alone it is sent in fragments.
            Some(libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP) if several => Refusal::OneByOne,
            Some(
                libc::EINVAL
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENXIO,
            ) if self.queued[at].local.is_some() => Refusal::WithoutSource,
            // Among others, a queue further down is full (ENOBUFS), and nothing says when it is not.
            _ => Refusal::Drop,
        }
    }

    /// Puts its datagrams in the place of a message of several.
    fn take_apart(&mut self, at: usize) {
        let whole = self.queued[at];
        let end = whole.start + whole.length;
        let each = (whole.start..end).step_by(whole.segment_bytes.max(1)).map(|start| {
            let length = whole.segment_bytes.min(end - start);
            Message { start, length, segment_bytes: length, datagrams: 1, ..whole }
        });
        self.queued.splice(at..=at, each);
    }
}

impl Message {
    #[inline]
    fn takes(&self, remote: SocketAddr, local: Option<IpAddr>, hop_limit: Option<u8>, length: usize) -> bool {
        // A shorter datagram was the last.
        self.length == self.segment_bytes * self.datagrams
            && (1..=self.segment_bytes).contains(&length)
            && self.datagrams < MESSAGE_DATAGRAMS
            && self.length + length <= MESSAGE_BYTES
            && self.remote == remote
            && self.local == local
            && self.hop_limit == hop_limit
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Again,
    OneByOne,
    WithoutSource,
    Drop,
}

fn wait_writable(socket: &UdpSocket) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut set = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(SEND_WAIT_MS).unwrap_or(PollTimeout::ZERO);
    matches!(poll(&mut set, timeout), Ok(1..))
}

/// One system call: the number of messages the kernel took, or the error of the first.
fn send_some(socket: RawFd, bytes: &[u8], queued: &[Message]) -> io::Result<usize> {
    // What is made ready for the kernel is cleared before: not 64 places where one is used.
    match queued.len() {
        0 => Ok(0),
        1 => send_up_to::<1>(socket, bytes, queued),
        2..=8 => send_up_to::<8>(socket, bytes, queued),
        _ => send_up_to::<BATCH>(socket, bytes, queued),
    }
}

fn send_up_to<const N: usize>(socket: RawFd, bytes: &[u8], queued: &[Message]) -> io::Result<usize> {
    debug_assert!(queued.len() <= N);
    // SAFETY: C structures of integers and pointers; all zeros is a value of each.
    let mut headers: [libc::mmsghdr; N] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut vectors: [libc::iovec; N] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut names: [libc::sockaddr_in6; N] = unsafe { std::mem::zeroed() };
    let mut controls = [[0u64; CONTROL_WORDS]; N];
    let metas = names.iter_mut().zip(&mut controls);
    for (((header, vector), (name, control)), queued) in
        headers.iter_mut().zip(&mut vectors).zip(metas).zip(queued)
    {
        let message = &bytes[queued.start..queued.start + queued.length];
        vector.iov_base = message.as_ptr().cast_mut().cast();
        vector.iov_len = message.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_namelen = write_address(name, queued.remote);
        header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        let mut length = queued.local.map_or(0, |local| write_packet_info(control, local));
        if let Some(hop_limit) = queued.hop_limit {
            length += write_hop_limit(control, length / 8, queued.remote.is_ipv4(), hop_limit);
        }
        if queued.datagrams > 1 {
            let segment_bytes = u16::try_from(queued.segment_bytes).unwrap_or(u16::MAX);
            length += write_segment_size(control, length / 8, segment_bytes);
        }
        if length > 0 {
            header.msg_hdr.msg_controllen = length as _;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        }
    }
    let count = libc::c_uint::try_from(queued.len().min(N)).unwrap_or(0);
    // SAFETY: the first `count` headers point to iovecs, names and controls of this frame and to bytes borrowed
    // for the call; the kernel only reads them.
    let sent = unsafe { libc::sendmmsg(socket, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

const _: () = assert!(size::<libc::sockaddr_in6>() == 28);
