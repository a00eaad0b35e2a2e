//! One large packet from the TUN device, cut into the packets that it stands for.
//!
//! The rules are the kernel's own (net/ipv4/tcp_offload.c, udp_offload.c): each packet has its own lengths, identification,
//! sequence number and checksums; FIN and PSH stay on the last, CWR on the first.
//!
//! **Invariant:** no packet carries more payload than the device said, and together they carry what the large one did.

use thiserror::Error;

use crate::checksum;
use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES};
use crate::tcp;
use crate::udp::UDP_HEADER_BYTES;
use crate::virtio::{SegmentKind, VirtioHeader};
use crate::{IpHeader, IpVersion};

/// IANA's protocol number.
const UDP: u8 = 17;
/// Where a UDP header has its checksum (RFC 768).
const UDP_CHECKSUM: usize = 6;

/// A packet that is being cut.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    ip: IpHeader,
    is_tcp: bool,
    /// Where the transport header begins.
    transport: usize,
    /// Where the payload begins.
    payload: usize,
    /// Of each packet but the last.
    payload_bytes: usize,
    /// Over addresses and protocol.
    pseudo_header: u64,
    /// Payload that has been handed out.
    done: usize,
    number: u16,
}

/// Why a packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SplitError {
    /// It is one packet.
    #[error("the packet is not made of segments")]
    NotSegmented,
    /// The IP header is not good.
    #[error("the IP header: {0}")]
    Ip(#[from] crate::IpError),
    /// The header contradicts the packet.
    #[error("the virtio header does not fit the packet")]
    Contradiction,
}

impl<'a> Split<'a> {
    /// Looks at a packet and what the device said about it.
    pub fn new(header: &VirtioHeader, packet: &'a [u8]) -> Result<Split<'a>, SplitError> {
        let segments = header.segments.ok_or(SplitError::NotSegmented)?;
        // The kernel leaves the checksum of what is to be cut always to whoever cuts.
        let partial = header.checksum.ok_or(SplitError::Contradiction)?;
        let ip = IpHeader::parse(packet)?;
        if ip.total_length != packet.len() {
            return Err(SplitError::Contradiction);
        }
        let transport = usize::from(partial.start);
        let fits = match ip.version {
            IpVersion::V4 => {
                let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
                let protocol = if segments.kind == SegmentKind::Udp { UDP } else { tcp::TCP };
                transport == usize::from(packet[0] & 0x0f) * 4
                    && packet[9] == protocol
                    && !is_fragment
                    && segments.kind != SegmentKind::TcpV6
            }
            // Extension headers may lie between, and go with each packet.
            IpVersion::V6 => transport >= IPV6_HEADER_BYTES && segments.kind != SegmentKind::TcpV4,
        };
        let (is_tcp, protocol, field) = match segments.kind {
            SegmentKind::TcpV4 | SegmentKind::TcpV6 => (true, tcp::TCP, tcp::CHECKSUM),
            SegmentKind::Udp => (false, UDP, UDP_CHECKSUM),
        };
        let rest = packet.get(transport..).ok_or(SplitError::Contradiction)?;
        let header_bytes = if is_tcp {
            tcp::header_bytes(rest)
        } else {
            (rest.len() >= UDP_HEADER_BYTES).then_some(UDP_HEADER_BYTES)
        };
        let payload = transport + header_bytes.ok_or(SplitError::Contradiction)?;
        if !fits || usize::from(partial.offset) != field || payload >= packet.len() {
            return Err(SplitError::Contradiction);
        }
        let addresses = match ip.version {
            IpVersion::V4 => &packet[12..20],
            IpVersion::V6 => &packet[8..40],
        };
        Ok(Split {
            packet,
            ip,
            is_tcp,
            transport,
            payload,
            payload_bytes: usize::from(segments.payload_bytes),
            pseudo_header: checksum::add(u64::from(protocol), addresses),
            done: 0,
            number: 0,
        })
    }

    /// The large packet's header; but for its length it is that of each.
    #[must_use]
    pub fn ip(&self) -> IpHeader {
        self.ip
    }

    /// Whether it is TCP that is cut, of which no packet can be a datagram of anything.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// The length of the longest packet.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.payload + self.payload_bytes.min(self.packet.len() - self.payload)
    }

    /// How many packets are still to come.
    #[must_use]
    pub fn remaining(&self) -> usize {
        (self.packet.len() - self.payload - self.done).div_ceil(self.payload_bytes)
    }

    /// Writes the next packet to the beginning of `into`, which has room for [`Split::longest`], and says how long it is.
    /// `None` after the last.
    #[inline]
    pub fn write_next(&mut self, into: &mut [u8]) -> Option<usize> {
        let left = &self.packet[self.payload + self.done..];
        if left.is_empty() {
            return None;
        }
        let bytes = left.len().min(self.payload_bytes);
        let is_last = bytes == left.len();
        let length = self.payload + bytes;
        let packet = into.get_mut(..length)?;
        packet[..self.payload].copy_from_slice(&self.packet[..self.payload]);
        packet[self.payload..].copy_from_slice(&left[..bytes]);
        self.write_ip(packet);
        let transport_bytes = length - self.transport;
        let segment = &mut packet[self.transport..];
        let field = if self.is_tcp {
            self.write_tcp(segment, is_last);
            tcp::CHECKSUM
        } else {
            segment[4..6].copy_from_slice(&low_16(transport_bytes).to_be_bytes());
            UDP_CHECKSUM
        };
        segment[field..field + 2].fill(0);
        let sum = self.pseudo_header + transport_bytes as u64;
        let sum = match checksum::finish(checksum::add(sum, segment)) {
            // Zero says "no checksum" in UDP (RFC 768).
            0 if !self.is_tcp => 0xffff,
            sum => sum,
        };
        segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        self.done += bytes;
        self.number = self.number.wrapping_add(1);
        Some(length)
    }

    fn write_ip(&self, packet: &mut [u8]) {
        let length = packet.len();
        match self.ip.version {
            IpVersion::V4 => {
                packet[2..4].copy_from_slice(&low_16(length).to_be_bytes());
                let identification = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(self.number);
                packet[4..6].copy_from_slice(&identification.to_be_bytes());
                packet[10..12].fill(0);
                let header_bytes = self.transport.max(IPV4_HEADER_BYTES);
                let sum = checksum::of(&packet[..header_bytes]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            IpVersion::V6 => {
                packet[4..6].copy_from_slice(&low_16(length - IPV6_HEADER_BYTES).to_be_bytes());
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a packet is at most 65,535 bytes long")]
    fn write_tcp(&self, segment: &mut [u8], is_last: bool) {
        let sequence = &mut segment[tcp::SEQUENCE];
        let first = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
        sequence.copy_from_slice(&first.wrapping_add(self.done as u32).to_be_bytes());
        if !is_last {
            segment[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
        }
        if self.number > 0 {
            segment[tcp::FLAGS] &= !tcp::CWR;
        }
    }
}

/// Lengths inside a packet, which is at most 65,535 bytes long (IPv6: and 40 more).
#[expect(clippy::cast_possible_truncation, reason = "see above; IPv6 counts without its header")]
fn low_16(length: usize) -> u16 {
    length as u16
}

#[cfg(test)]
mod tests;
