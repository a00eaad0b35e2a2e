//! Whole UDP datagrams over IPv4 and IPv6: read, and written with their checksums.
//!
//! **Invariant:** a [`Datagram`] is read only from a packet that is no fragment and has neither IPv4 options
//! nor IPv6 extension headers, so that two readers of the same bytes never see different datagrams.

use crate::checksum;
use std::net::{IpAddr, SocketAddr};

use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES};
use crate::{IpHeader, IpVersion};

/// RFC 768.
pub const UDP_HEADER_BYTES: usize = 8;
/// IANA's protocol number.
const UDP: u8 = 17;
/// What a datagram of ours may pass through.
const HOP_LIMIT: u8 = 64;

/// A UDP datagram inside an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// From where.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads a packet; `None` for whatever is not one whole UDP datagram. The checksum is left to those for
    /// whom nothing else proves that the bytes are whole.
    pub fn parse(packet: &'a [u8]) -> Option<Datagram<'a>> {
        let header = IpHeader::parse(packet).ok()?;
        let packet = &packet[..header.total_length];
        let start = match header.version {
            IpVersion::V4 => {
                let is_fragment = (packet[6] & 0x3f) != 0 || packet[7] != 0;
                if packet[0] != 0x45 || packet[9] != UDP || is_fragment {
                    return None;
                }
                IPV4_HEADER_BYTES
            }
            IpVersion::V6 if packet[6] == UDP => IPV6_HEADER_BYTES,
            IpVersion::V6 => return None,
        };
        let (udp, rest) = packet[start..].split_first_chunk::<UDP_HEADER_BYTES>()?;
        let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
        let payload = rest.get(..length.checked_sub(UDP_HEADER_BYTES)?)?;
        Some(Datagram {
            source: SocketAddr::new(header.source, u16::from_be_bytes([udp[0], udp[1]])),
            destination: SocketAddr::new(header.destination, u16::from_be_bytes([udp[2], udp[3]])),
            payload,
        })
    }

    /// Writes the packet. `None` if the addresses are of two families or the payload is too long.
    pub fn to_packet(&self) -> Option<Vec<u8>> {
        let udp_length = u16::try_from(UDP_HEADER_BYTES + self.payload.len()).ok()?;
        let mut packet = Vec::with_capacity(IPV6_HEADER_BYTES + usize::from(udp_length));
        let pseudo = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = u16::try_from(IPV4_HEADER_BYTES).ok()?.checked_add(udp_length)?;
                packet.extend([0x45, 0]);
                packet.extend(total.to_be_bytes());
                // Don't fragment; such a datagram needs no identification (RFC 6864 §4.1).
                packet.extend([0, 0, 0x40, 0, HOP_LIMIT, UDP, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                let sum = checksum::of(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                checksum::add(0, &packet[12..20])
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(udp_length.to_be_bytes());
                packet.extend([UDP, HOP_LIMIT]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                checksum::add(0, &packet[8..40])
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let start = packet.len();
        packet.extend(self.source.port().to_be_bytes());
        packet.extend(self.destination.port().to_be_bytes());
        packet.extend(udp_length.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(self.payload);
        let sum = pseudo + u64::from(UDP) + u64::from(udp_length);
        // Zero means "no checksum" (RFC 768), so a sum of zero is sent as its other form.
        let checksum = match checksum::finish(checksum::add(sum, &packet[start..])) {
            0 => 0xffff,
            sum => sum,
        };
        packet[start + 6..start + 8].copy_from_slice(&checksum.to_be_bytes());
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram<'a>(source: &str, destination: &str, payload: &'a [u8]) -> Datagram<'a> {
        Datagram { source: source.parse().unwrap(), destination: destination.parse().unwrap(), payload }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for (source, destination) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")] {
            for payload in [&b""[..], b"a", b"abc"] {
                let datagram = datagram(source, destination, payload);
                let packet = datagram.to_packet().unwrap();
                assert_eq!(Datagram::parse(&packet), Some(datagram));
            }
        }
    }

    #[test]
    fn sums_over_the_checksum_are_all_ones() {
        let packet = datagram("10.0.0.1:7", "10.0.0.2:9", b"odd").to_packet().unwrap();
        assert_eq!(checksum::of(&packet[..20]), 0);
        let pseudo = checksum::add(checksum::add(0, &packet[12..20]), &[0, UDP, 0, 11]);
        assert_eq!(checksum::finish(checksum::add(pseudo, &packet[20..])), 0);
    }

    #[test]
    fn fragments_and_options_are_not_read() {
        let packet = datagram("10.0.0.1:7", "10.0.0.2:9", b"x").to_packet().unwrap();
        for (at, value) in [(0, 0x46), (6, 0x20), (7, 1), (9, 6)] {
            let mut changed = packet.clone();
            changed[at] = value;
            assert_eq!(Datagram::parse(&changed), None, "byte {at}");
        }
        assert_eq!(datagram("10.0.0.1:7", "[fd00::1]:9", b"").to_packet(), None);
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Datagram::parse(&bytes);
        }
    }
}
