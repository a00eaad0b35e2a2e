//! The header before each packet of a TUN device with offloads (`struct virtio_net_hdr`, linux/virtio_net.h).
//!
//! **Invariant:** a [`VirtioHeader`] that was parsed says only what this crate carries out: no segmentation of a kind that
//! was never asked for, and a segment size wherever there is segmentation.

use thiserror::Error;

use crate::checksum;

/// Its length without the count of merged buffers, which a TUN device does not have.
pub const VIRTIO_HEADER_BYTES: usize = 10;

/// The checksum is to be completed (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
const NEEDS_CHECKSUM: u8 = 1;
/// Beside the kind: the first segment carries CWR (`VIRTIO_NET_HDR_GSO_ECN`).
const ECN: u8 = 0x80;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// What the device says about a packet, or is told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// Where a checksum has to be completed.
    pub checksum: Option<PartialChecksum>,
    /// That this is several packets in one.
    pub segments: Option<Segments>,
}

/// A checksum field that holds the sum of the pseudo header only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// The first byte that is summed.
    pub start: u16,
    /// The field, from there.
    pub offset: u16,
}

/// How a packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// What is cut.
    pub kind: SegmentKind,
    /// The length of all headers, as a hint.
    pub header_bytes: u16,
    /// Payload of each segment but the last.
    pub payload_bytes: u16,
}

/// Which transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of one size, over either.
    Udp,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VirtioError {
    /// Fewer bytes than the header has.
    #[error("{0} bytes are too few for the virtio header")]
    CutShort(usize),
    /// Segmentation of a kind that was not asked for.
    #[error("segmentation of kind {0} was never asked for")]
    Kind(u8),
    /// Segments without a size.
    #[error("segments of no size")]
    NoSize,
    /// The checksum's place lies behind the packet's end.
    #[error("the checksum lies outside of the packet")]
    Checksum,
}

impl VirtioHeader {
    /// Takes the header off what was read.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(VirtioHeader, usize), VirtioError> {
        let header: &[u8; VIRTIO_HEADER_BYTES] =
            bytes.first_chunk().ok_or(VirtioError::CutShort(bytes.len()))?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let kind = match header[1] & !ECN {
            GSO_NONE => None,
            GSO_TCP_V4 => Some(SegmentKind::TcpV4),
            GSO_TCP_V6 => Some(SegmentKind::TcpV6),
            GSO_UDP_L4 => Some(SegmentKind::Udp),
            other => return Err(VirtioError::Kind(other)),
        };
        let segments = kind.map(|kind| Segments { kind, header_bytes: word(2), payload_bytes: word(4) });
        if segments.is_some_and(|segments| segments.payload_bytes == 0) {
            return Err(VirtioError::NoSize);
        }
        let checksum =
            (header[0] & NEEDS_CHECKSUM != 0).then(|| PartialChecksum { start: word(6), offset: word(8) });
        Ok((VirtioHeader { checksum, segments }, VIRTIO_HEADER_BYTES))
    }

    /// The header's bytes.
    #[inline]
    #[must_use]
    pub fn to_bytes(&self) -> [u8; VIRTIO_HEADER_BYTES] {
        let mut bytes = [0; VIRTIO_HEADER_BYTES];
        if let Some(checksum) = self.checksum {
            bytes[0] = NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&checksum.start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&checksum.offset.to_ne_bytes());
        }
        if let Some(segments) = self.segments {
            bytes[1] = match segments.kind {
                SegmentKind::TcpV4 => GSO_TCP_V4,
                SegmentKind::TcpV6 => GSO_TCP_V6,
                SegmentKind::Udp => GSO_UDP_L4,
            };
            bytes[2..4].copy_from_slice(&segments.header_bytes.to_ne_bytes());
            bytes[4..6].copy_from_slice(&segments.payload_bytes.to_ne_bytes());
        }
        bytes
    }
}

impl PartialChecksum {
    /// Completes the checksum of a packet that is sent as it is.
    ///
    /// # Errors
    /// When its place lies outside of the packet.
    #[inline]
    pub fn complete(self, packet: &mut [u8]) -> Result<(), VirtioError> {
        let start = usize::from(self.start);
        let field = start + usize::from(self.offset);
        if field + 2 > packet.len() || start >= packet.len() {
            return Err(VirtioError::Checksum);
        }
        // The field holds the pseudo header's sum, so it is summed with the rest. Zero would say that there is no
        // checksum; the kernel's skb_checksum_help writes the other zero too, whatever the transport.
        let sum = match checksum::of(&packet[start..]) {
            0 => 0xffff,
            sum => sum,
        };
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Datagram;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for kind in [SegmentKind::TcpV4, SegmentKind::TcpV6, SegmentKind::Udp] {
            let segments = Segments { kind, header_bytes: 52, payload_bytes: 1368 };
            let header = VirtioHeader {
                checksum: Some(PartialChecksum { start: 20, offset: 16 }),
                segments: Some(segments),
            };
            assert_eq!(VirtioHeader::parse(&header.to_bytes()), Ok((header, VIRTIO_HEADER_BYTES)));
        }
        assert_eq!(VirtioHeader::default().to_bytes(), [0; VIRTIO_HEADER_BYTES]);
    }

    #[test]
    fn what_was_never_asked_for_is_refused() {
        let with =
            |kind: u8, size: u8| VirtioHeader::parse(&[1, kind, 40, 0, size, size, 20, 0, 16, 0]).map(|_| ());
        assert_eq!(with(3, 1), Err(VirtioError::Kind(3)));
        assert_eq!(with(1, 0), Err(VirtioError::NoSize));
        assert_eq!(with(0x81, 1), Ok(()));
        assert_eq!(VirtioHeader::parse(&[0; 9]), Err(VirtioError::CutShort(9)));
    }

    #[test]
    fn a_checksum_outside_of_the_packet_is_refused() {
        for (start, offset) in [(20, 5), (24, 0), (u16::MAX, u16::MAX)] {
            let outside = PartialChecksum { start, offset }.complete(&mut [0; 24]);
            assert_eq!(outside, Err(VirtioError::Checksum), "{start} + {offset}");
        }
    }

    proptest! {
        #[test]
        fn a_completed_checksum_is_the_right_one(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let datagram = Datagram {
                source: "10.0.0.1:7".parse().unwrap(),
                destination: "10.0.0.2:9".parse().unwrap(),
                payload: &payload,
            };
            let right = datagram.to_packet().unwrap();
            let mut packet = right.clone();
            let length = u64::from(u16::from_be_bytes([packet[24], packet[25]]));
            let partial = checksum::fold(checksum::add(17 + length, &packet[12..20]));
            packet[26..28].copy_from_slice(&partial.to_be_bytes());
            PartialChecksum { start: 20, offset: 6 }.complete(&mut packet).unwrap();
            prop_assert_eq!(packet, right);
        }
    }
}
