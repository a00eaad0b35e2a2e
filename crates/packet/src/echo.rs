//! ICMP echo (RFC 792, RFC 4443): requests that a tunnel makes itself to measure a peer, and the replies to them.
//!
//! **Invariant:** a request is complete and right in every checksum, so that any IP stack answers it; a reply is
//! recognised only if its checksum holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpHeader, IpVersion};

/// Type, code, checksum, identifier, sequence number.
const ICMP_HEADER_BYTES: usize = 8;
/// IANA protocol numbers.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// RFC 792.
const V4_REPLY: u8 = 0;
const V4_REQUEST: u8 = 8;
/// RFC 4443.
const V6_REQUEST: u8 = 128;
const V6_REPLY: u8 = 129;
const HOP_LIMIT: u8 = 64;

/// A question to a peer's IP stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoRequest {
    /// Our address and the peer's, of one family.
    pub addresses: Addresses,
    /// Comes back in the reply.
    pub identifier: u16,
    /// Comes back in the reply.
    pub sequence: u16,
    /// Of the whole packet; what headers leave is zeros.
    pub total_length: usize,
}

/// Source and destination, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

impl Addresses {
    /// Both, if they are of one family.
    pub fn between(source: IpAddr, destination: IpAddr) -> Option<Addresses> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Addresses::V4(source, destination)),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Addresses::V6(source, destination)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoReply {
    /// Who answers.
    pub source: IpAddr,
    /// The request's.
    pub identifier: u16,
    /// The request's.
    pub sequence: u16,
    /// Of the whole packet.
    pub total_length: usize,
}

impl EchoRequest {
    /// The smallest packet that can ask.
    pub fn smallest(addresses: Addresses) -> usize {
        ICMP_HEADER_BYTES
            + match addresses {
                Addresses::V4(..) => IPV4_HEADER_BYTES,
                Addresses::V6(..) => IPV6_HEADER_BYTES,
            }
    }

    /// Writes the packet to the beginning of `buffer` and returns it. `None` if the length is impossible: below
    /// [`EchoRequest::smallest`], above 65535 or above the buffer.
    pub fn write<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        if self.total_length < Self::smallest(self.addresses) {
            return None;
        }
        let length = u16::try_from(self.total_length).ok()?;
        let packet = buffer.get_mut(..self.total_length)?;
        packet.fill(0);
        let (header_bytes, kind, pseudo) = match self.addresses {
            Addresses::V4(source, destination) => {
                packet[0] = 0x45;
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                packet[6] = 0x40; // do not fragment: a probe measures
                packet[8] = HOP_LIMIT;
                packet[9] = ICMP;
                packet[12..16].copy_from_slice(&source.octets());
                packet[16..20].copy_from_slice(&destination.octets());
                let sum = checksum::of(&packet[..IPV4_HEADER_BYTES]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                (IPV4_HEADER_BYTES, V4_REQUEST, 0)
            }
            Addresses::V6(source, destination) => {
                let payload = length - u16::try_from(IPV6_HEADER_BYTES).ok()?;
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&payload.to_be_bytes());
                packet[6] = ICMPV6;
                packet[7] = HOP_LIMIT;
                packet[8..24].copy_from_slice(&source.octets());
                packet[24..40].copy_from_slice(&destination.octets());
                (IPV6_HEADER_BYTES, V6_REQUEST, pseudo_header(&packet[8..40], payload))
            }
        };
        let message = &mut packet[header_bytes..];
        message[0] = kind;
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        let sum = checksum::finish(checksum::add(pseudo, message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Some(packet)
    }
}

impl EchoReply {
    /// Reads a packet; `None` for anything but an intact echo reply without options or extension headers.
    pub fn parse(packet: &[u8]) -> Option<EchoReply> {
        let header = IpHeader::parse(packet).ok()?;
        let packet = &packet[..header.total_length];
        let (header_bytes, kind, pseudo) = match header.version {
            // No options, no fragment.
            IpVersion::V4
                if packet[0] == 0x45 && packet[9] == ICMP && packet[6] & 0x3f == 0 && packet[7] == 0 =>
            {
                (IPV4_HEADER_BYTES, V4_REPLY, 0)
            }
            IpVersion::V6 if packet[6] == ICMPV6 => {
                let payload = u16::try_from(packet.len() - IPV6_HEADER_BYTES).ok()?;
                (IPV6_HEADER_BYTES, V6_REPLY, pseudo_header(&packet[8..40], payload))
            }
            IpVersion::V4 | IpVersion::V6 => return None,
        };
        let message = &packet[header_bytes..];
        if message.len() < ICMP_HEADER_BYTES || message[0] != kind || message[1] != 0 {
            return None;
        }
        if checksum::finish(checksum::add(pseudo, message)) != 0 {
            return None;
        }
        Some(EchoReply {
            source: header.source,
            identifier: u16::from_be_bytes([message[4], message[5]]),
            sequence: u16::from_be_bytes([message[6], message[7]]),
            total_length: header.total_length,
        })
    }
}

/// The sum over the IPv6 pseudo-header of an ICMPv6 message (RFC 8200 §8.1).
fn pseudo_header(addresses: &[u8], payload: u16) -> u64 {
    checksum::add(0, addresses) + u64::from(payload) + u64::from(ICMPV6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(addresses: Addresses, total_length: usize) -> Vec<u8> {
        let mut buffer = vec![0xaa; 65_536];
        let request = EchoRequest { addresses, identifier: 0x1234, sequence: 7, total_length };
        request.write(&mut buffer).unwrap().to_vec()
    }

    fn v4() -> Addresses {
        Addresses::V4([10, 100, 0, 10].into(), [10, 100, 0, 11].into())
    }

    fn v6() -> Addresses {
        Addresses::V6("fd00::a".parse().unwrap(), "fd00::b".parse().unwrap())
    }

    /// What a host makes of a request.
    fn answer(mut packet: Vec<u8>) -> Vec<u8> {
        let (header_bytes, reply, from, to) =
            if packet[0] >> 4 == 4 { (20, V4_REPLY, 12..16, 16..20) } else { (40, V6_REPLY, 8..24, 24..40) };
        let (source, destination) = (packet[from.clone()].to_vec(), packet[to.clone()].to_vec());
        packet[from].copy_from_slice(&destination);
        packet[to].copy_from_slice(&source);
        let old = u16::from_be_bytes([packet[header_bytes], 0]);
        packet[header_bytes] = reply;
        let new = u16::from_be_bytes([reply, 0]);
        let sum = u16::from_be_bytes([packet[header_bytes + 2], packet[header_bytes + 3]]);
        packet[header_bytes + 2..header_bytes + 4]
            .copy_from_slice(&checksum::update(sum, old, new).to_be_bytes());
        packet
    }

    #[test]
    fn the_answer_to_a_request_is_recognised_in_both_families() {
        for (addresses, length) in [(v4(), 28), (v4(), 1_419), (v6(), 48), (v6(), 1_420), (v6(), 65_535)] {
            let reply = EchoReply::parse(&answer(request(addresses, length))).unwrap();
            assert_eq!((reply.identifier, reply.sequence, reply.total_length), (0x1234, 7, length));
        }
    }

    #[test]
    fn a_request_is_no_reply_and_a_damaged_reply_is_none() {
        assert_eq!(EchoReply::parse(&request(v4(), 64)), None);
        let mut damaged = answer(request(v4(), 64));
        damaged[40] ^= 1;
        assert_eq!(EchoReply::parse(&damaged), None);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let mut buffer = [0; 100];
        for total_length in [0, 27, 101, 70_000] {
            let request = EchoRequest { addresses: v4(), identifier: 0, sequence: 0, total_length };
            assert!(request.write(&mut buffer).is_none(), "{total_length}");
        }
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = EchoReply::parse(&bytes);
        }
    }
}
