//! Datagrams on their way in, many with one system call.
use super::control::{Ancillary, CONTROL_WORDS, Control, address_of, ancillary, size};
use super::{DATAGRAM_BYTES, LocalAddress, UdpSocket};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Messages taken by one system call. With UDP_GRO each can be 64 KiB of datagrams, and more of them at once would only leave
/// the processor's cache before they are opened.
const RECEIVE_BATCH: usize = 16;
const RECEIVE_COUNT: libc::c_uint = 16;
const _: () = assert!(RECEIVE_BATCH == RECEIVE_COUNT as usize);

/// Received datagrams, until the next `receive` overwrites them.
pub struct ReceiveBatch {
    /// `RECEIVE_BATCH` buffers of `DATAGRAM_BYTES`; the kernel touches only as much of each as its datagrams need.
    bytes: Box<[u8]>,
    received: Vec<ReceivedSlot>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
}

#[derive(Clone, Copy)]
struct ReceivedSlot {
    slot: usize,
    length: usize,
    /// Of each datagram in it but the last.
    segment_bytes: usize,
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

/// Where a received datagram lies.
pub struct Place {
    /// In the memory of its batch.
    pub bytes: Range<usize>,
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
            bytes: vec![0; RECEIVE_BATCH * DATAGRAM_BYTES].into_boxed_slice(),
            received: Vec::with_capacity(RECEIVE_BATCH),
            names: vec![empty; RECEIVE_BATCH].into_boxed_slice(),
            controls: vec![[0; CONTROL_WORDS]; RECEIVE_BATCH].into_boxed_slice(),
        }
    }

    /// Fills the batch with what waits on `socket` and says how many messages that is, each of one or
    /// more datagrams; 0 when none waits.
    ///
    /// # Errors
    /// What the kernel says; an ICMP error that came for an earlier datagram is skipped.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.received.clear();
        // SAFETY: `mmsghdr` and `iovec` are C structures of integers and pointers; all zeros is a value of both.
        let mut headers: [libc::mmsghdr; RECEIVE_BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; RECEIVE_BATCH] = unsafe { std::mem::zeroed() };
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
                    RECEIVE_COUNT,
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
            let Ancillary { local, segment_bytes } = ancillary(&header.msg_hdr);
            let length = (header.msg_len as usize).min(DATAGRAM_BYTES);
            let segment_bytes = segment_bytes.filter(|bytes| *bytes > 0).unwrap_or(DATAGRAM_BYTES);
            self.received.push(ReceivedSlot { slot, length, segment_bytes, remote, local });
        }
        Ok(count)
    }

    /// The datagrams of the last `receive`, in their order.
    pub fn datagrams(&self) -> impl Iterator<Item = Received<'_>> {
        self.received.iter().flat_map(ReceivedSlot::places).map(|Place { bytes, remote, local }| Received {
            bytes: &self.bytes[bytes],
            remote,
            local,
        })
    }

    /// The same for whoever changes them where they lie: the memory, and their places in it.
    pub fn places(&mut self) -> (&mut [u8], impl Iterator<Item = Place>) {
        (&mut self.bytes, self.received.iter().flat_map(ReceivedSlot::places))
    }
}

impl ReceivedSlot {
    fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let Self { slot, length, segment_bytes, remote, local } = *self;
        let (start, end) = (slot * DATAGRAM_BYTES, slot * DATAGRAM_BYTES + length);
        // An empty datagram is one, too.
        let count = length.div_ceil(segment_bytes).max(1);
        (0..count).map(move |number| {
            let first = start + number * segment_bytes;
            Place { bytes: first..end.min(first + segment_bytes), remote, local }
        })
    }
}
