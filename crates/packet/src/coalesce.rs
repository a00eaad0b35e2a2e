//! Packets of one flow that follow each other, joined into what the TUN device takes with one write.
//!
//! Nothing is copied: a run is the first packet whole and the payloads of those after it, wherever they lie, to be written
//! with one gathering write. The rules are those of the kernel's own receive offload (net/ipv4/tcp_offload.c).
//!
//! **Invariants:** cutting a run again gives the packets that it was made of; only the identification of IPv4 packets that
//! may not be fragmented can differ, which means nothing (RFC 6864 §4.1). Packets of one flow stay in order. A packet is
//! joined to others only if its checksums are right, so that none is made right on the way.

use std::ops::Range;

use crate::checksum;
use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES};
use crate::tcp;
use crate::udp::UDP_HEADER_BYTES;
use crate::virtio::{PartialChecksum, SegmentKind, Segments, VirtioHeader};

/// The longest packet, and so the longest run.
const MAX_BYTES: usize = 65_535;
/// Packets in a run: what one gathering write takes on a stack of its own, and more than 64 KiB of full-sized ones are.
pub const MAX_PACKETS: usize = 128;
/// Datagrams in a run: the kernel's UDP_MAX_SEGMENTS (include/linux/udp.h) before it was raised.
const MAX_DATAGRAMS: usize = 64;
/// How many of the latest runs are looked through for a packet's flow.
const LOOK_BACK: usize = 8;
/// IANA's protocol number.
const UDP: u8 = 17;

/// What the device takes in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams.
    pub udp: bool,
}

/// Runs that wait to be written.
#[derive(Debug)]
pub struct Coalescer {
    joins: Joins,
    /// Those in use come first; the others keep their buffers.
    runs: Vec<Run>,
    used: usize,
}

#[derive(Debug, Default)]
struct Run {
    /// The first whole, of the others the payload.
    pieces: Vec<Range<usize>>,
    shape: Option<Shape>,
    /// All pieces.
    bytes: usize,
    /// The next sequence number.
    next: u32,
    /// Nothing can follow.
    is_closed: bool,
    /// The last packet had it.
    is_pushed: bool,
}

/// Where things lie in a packet that can be joined to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    is_v4: bool,
    is_tcp: bool,
    transport: usize,
    payload: usize,
    payload_bytes: usize,
}

impl Coalescer {
    /// Nothing waits.
    #[must_use]
    pub fn new(joins: Joins) -> Coalescer {
        Coalescer { joins, runs: Vec::new(), used: 0 }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Takes the packet that lies at `place` of `memory`, as long as its header says.
    #[inline]
    pub fn push(&mut self, memory: &[u8], place: Range<usize>) {
        let packet = &memory[place.clone()];
        let shape = Shape::of(packet, self.joins);
        if let Some(shape) = shape
            && let Some(run) = self.latest_of_flow(memory, packet, shape)
            && run.takes(memory, packet, shape)
        {
            return run.join(packet, place, shape);
        }
        self.begin(packet, place, shape);
    }

    /// Hands out each run: the header before it, and the places of its pieces. Afterwards nothing waits.
    pub fn finish(&mut self, memory: &mut [u8], mut write: impl FnMut(VirtioHeader, &[Range<usize>], &[u8])) {
        for run in &self.runs[..self.used] {
            let header = run.complete(memory);
            write(header, &run.pieces, memory);
        }
        self.used = 0;
    }

    fn latest_of_flow(&mut self, memory: &[u8], packet: &[u8], shape: Shape) -> Option<&mut Run> {
        let latest = self.runs[..self.used].iter_mut().rev().take(LOOK_BACK);
        latest.into_iter().find(|run| {
            let first = run.first(memory);
            run.transport_at(first) == Some(shape.transport) && same_flow(first, packet, shape)
        })
    }

    fn begin(&mut self, packet: &[u8], place: Range<usize>, shape: Option<Shape>) {
        if self.used == self.runs.len() {
            self.runs.push(Run::default());
        }
        let run = &mut self.runs[self.used];
        self.used += 1;
        run.pieces.clear();
        run.pieces.push(place);
        run.shape = shape;
        run.bytes = packet.len();
        run.is_pushed = false;
        run.is_closed = true;
        if let Some(shape) = shape {
            run.is_closed = false;
            run.follow(packet, shape);
        }
    }
}

impl Run {
    fn first<'a>(&self, memory: &'a [u8]) -> &'a [u8] {
        // A run in use has a first piece.
        self.pieces.first().map_or(&[], |place| &memory[place.clone()])
    }

    /// Also of one that nothing can join, so that its flow's later packets do not pass it.
    fn transport_at(&self, first: &[u8]) -> Option<usize> {
        match (self.shape, first.first()? >> 4) {
            (Some(shape), _) => Some(shape.transport),
            (None, 4) => Some(usize::from(first[0] & 0x0f) * 4),
            (None, _) => Some(IPV6_HEADER_BYTES),
        }
    }

    fn takes(&self, memory: &[u8], packet: &[u8], shape: Shape) -> bool {
        let Some(own) = self.shape else { return false };
        let most = if shape.is_tcp { MAX_PACKETS } else { MAX_DATAGRAMS };
        !self.is_closed
            && own.is_v4 == shape.is_v4
            && own.is_tcp == shape.is_tcp
            && own.payload == shape.payload
            && shape.payload_bytes <= own.payload_bytes
            && self.bytes + shape.payload_bytes <= MAX_BYTES
            && self.pieces.len() < most
            && self.same_headers(self.first(memory), packet, shape)
    }

    /// Whether nothing differs that cutting could not give back.
    fn same_headers(&self, first: &[u8], packet: &[u8], shape: Shape) -> bool {
        let same_ip = if shape.is_v4 {
            let number = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
            let following = number(first).wrapping_add(u16::try_from(self.pieces.len()).unwrap_or(u16::MAX));
            let is_atomic = packet[6] & 0x40 != 0;
            let numbered = number(packet) == following || (is_atomic && number(packet) == number(first));
            // Service, flags, lifetime; the addresses are the flow's.
            first[..2] == packet[..2] && first[6..10] == packet[6..10] && numbered
        } else {
            // Class, flow label, next header, lifetime.
            first[..4] == packet[..4] && first[6..8] == packet[6..8]
        };
        if !same_ip || !shape.is_tcp {
            return same_ip;
        }
        let (first, packet) =
            (&first[shape.transport..shape.payload], &packet[shape.transport..shape.payload]);
        let sequence = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        sequence == self.next
            && first[8..13] == packet[8..13]
            && (first[tcp::FLAGS] ^ packet[tcp::FLAGS]) & !tcp::PSH == 0
            // Window.
            && first[14..16] == packet[14..16]
            // Urgent pointer and options.
            && first[18..] == packet[18..]
    }

    fn join(&mut self, packet: &[u8], place: Range<usize>, shape: Shape) {
        self.pieces.push(place.start + shape.payload..place.end);
        self.bytes += shape.payload_bytes;
        self.follow(packet, shape);
    }

    /// Notes what may come after this packet.
    fn follow(&mut self, packet: &[u8], shape: Shape) {
        let segment_bytes = self.shape.map_or(shape.payload_bytes, |first| first.payload_bytes);
        self.is_closed = shape.payload_bytes < segment_bytes;
        if shape.is_tcp {
            let header = &packet[shape.transport..];
            let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            self.next = sequence.wrapping_add(u32::try_from(shape.payload_bytes).unwrap_or(u32::MAX));
            self.is_pushed = header[tcp::FLAGS] & tcp::PSH != 0;
            self.is_closed |= self.is_pushed;
        }
    }

    /// Makes the first packet's headers those of the whole run.
    fn complete(&self, memory: &mut [u8]) -> VirtioHeader {
        let (Some(shape), [place, _, ..]) = (self.shape, self.pieces.as_slice()) else {
            return VirtioHeader::default();
        };
        let first = &mut memory[place.clone()];
        let pseudo_header = if shape.is_v4 {
            first[2..4].copy_from_slice(&low_16(self.bytes).to_be_bytes());
            first[10..12].fill(0);
            let sum = checksum::of(&first[..shape.transport]);
            first[10..12].copy_from_slice(&sum.to_be_bytes());
            checksum::add(u64::from(first[9]), &first[12..20])
        } else {
            first[4..6].copy_from_slice(&low_16(self.bytes - IPV6_HEADER_BYTES).to_be_bytes());
            checksum::add(u64::from(first[6]), &first[8..40])
        };
        let transport_bytes = self.bytes - shape.transport;
        let partial = checksum::fold(pseudo_header + transport_bytes as u64).to_be_bytes();
        let header = &mut first[shape.transport..];
        let (kind, offset) = match (shape.is_tcp, shape.is_v4) {
            (true, is_v4) => {
                header[tcp::FLAGS] |= if self.is_pushed { tcp::PSH } else { 0 };
                (if is_v4 { SegmentKind::TcpV4 } else { SegmentKind::TcpV6 }, tcp::CHECKSUM)
            }
            (false, _) => {
                header[4..6].copy_from_slice(&low_16(transport_bytes).to_be_bytes());
                (SegmentKind::Udp, 6)
            }
        };
        header[offset..offset + 2].copy_from_slice(&partial);
        let segments = Segments {
            kind,
            header_bytes: low_16(shape.payload),
            payload_bytes: low_16(shape.payload_bytes),
        };
        let checksum = PartialChecksum { start: low_16(shape.transport), offset: low_16(offset) };
        VirtioHeader { checksum: Some(checksum), segments: Some(segments) }
    }
}

impl Shape {
    /// `None` for what is written as it is: fragments, options and extension headers, what is neither TCP nor UDP, TCP
    /// without data or with flags that mean something by themselves, UDP without a checksum, and what has a wrong one.
    #[inline]
    fn of(packet: &[u8], joins: Joins) -> Option<Shape> {
        let (is_v4, protocol, transport) = match packet.first()? >> 4 {
            4 if packet.len() >= IPV4_HEADER_BYTES => {
                let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
                if packet[0] != 0x45 || is_fragment || low_16(packet.len()).to_be_bytes() != packet[2..4] {
                    return None;
                }
                (true, packet[9], IPV4_HEADER_BYTES)
            }
            6 if packet.len() >= IPV6_HEADER_BYTES => {
                let content = low_16(packet.len() - IPV6_HEADER_BYTES);
                if content.to_be_bytes() != packet[4..6] {
                    return None;
                }
                (false, packet[6], IPV6_HEADER_BYTES)
            }
            _ => return None,
        };
        let rest = &packet[transport..];
        let (is_tcp, header_bytes) = match protocol {
            tcp::TCP if joins.tcp => {
                let header_bytes = tcp::header_bytes(rest)?;
                // ECE stays the same on all of them, or they are not joined.
                if rest[tcp::FLAGS] & !(tcp::PSH | tcp::ECE) != tcp::ACK {
                    return None;
                }
                (true, header_bytes)
            }
            UDP if joins.udp && rest.len() >= UDP_HEADER_BYTES => {
                let has_checksum = rest[6..8] != [0, 0];
                if !has_checksum || low_16(rest.len()).to_be_bytes() != rest[4..6] {
                    return None;
                }
                (false, UDP_HEADER_BYTES)
            }
            _ => return None,
        };
        let payload = transport + header_bytes;
        let shape = Shape { is_v4, is_tcp, transport, payload, payload_bytes: packet.len() - payload };
        (shape.payload_bytes > 0 && shape.is_right(packet, protocol)).then_some(shape)
    }

    /// Whether the checksums are right.
    fn is_right(self, packet: &[u8], protocol: u8) -> bool {
        if self.is_v4 && checksum::of(&packet[..IPV4_HEADER_BYTES]) != 0 {
            return false;
        }
        let addresses = if self.is_v4 { &packet[12..20] } else { &packet[8..40] };
        let transport_bytes = (packet.len() - self.transport) as u64;
        let pseudo_header = checksum::add(u64::from(protocol) + transport_bytes, addresses);
        checksum::finish(checksum::add(pseudo_header, &packet[self.transport..])) == 0
    }
}

/// Addresses, protocol and ports.
#[inline]
fn same_flow(first: &[u8], packet: &[u8], shape: Shape) -> bool {
    let ports = shape.transport..shape.transport + 4;
    let same_ends = if shape.is_v4 {
        first.get(9) == packet.get(9) && first.get(12..20) == packet.get(12..20)
    } else {
        first.get(6) == packet.get(6) && first.get(8..40) == packet.get(8..40)
    };
    first.first().map(|byte| byte >> 4) == packet.first().map(|byte| byte >> 4)
        && same_ends
        && first.get(ports.clone()) == packet.get(ports)
}

/// Lengths inside a packet, which is at most 65,535 bytes long (IPv6: and 40 more).
#[expect(clippy::cast_possible_truncation, reason = "see above; IPv6 counts without its header")]
fn low_16(length: usize) -> u16 {
    length as u16
}

#[cfg(test)]
mod tests;
