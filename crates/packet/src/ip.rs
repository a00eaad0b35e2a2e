//! The part of an IPv4 or IPv6 header that routing by key needs: addresses and length.
//!
//! **Invariant:** an [`IpHeader`] exists only for bytes that hold at least `total_length` bytes, and
//! `total_length` is at least the size of the header itself. Whoever slices by it stays in bounds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// The smallest IPv4 header, RFC 791 §3.1.
pub const IPV4_HEADER_BYTES: usize = 20;
/// The fixed IPv6 header, RFC 8200 §3.
pub const IPV6_HEADER_BYTES: usize = 40;

/// What an inner packet says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Which of the two header layouts this is.
    pub version: IpVersion,
    /// Who claims to have sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Header and payload, as the header announces; never more than the bytes it was parsed from.
    pub total_length: usize,
}

/// The version nibble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Why bytes are no IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IpError {
    /// Nothing to look at.
    #[error("the packet is empty")]
    Empty,
    /// Neither 4 nor 6.
    #[error("IP version {0} is neither 4 nor 6")]
    Version(u8),
    /// Fewer bytes than the header has.
    #[error("{0} bytes are too few for the IP header")]
    HeaderCutShort(usize),
    /// IPv4's IHL is below five words.
    #[error("the IPv4 header announces {0} bytes for itself")]
    HeaderLength(usize),
    /// The announced length is smaller than the header.
    #[error("total length {0} is smaller than the header")]
    LengthBelowHeader(usize),
    /// The announced length is larger than the packet.
    #[error("total length {announced} is more than the {available} bytes present")]
    LengthBeyondPacket {
        /// What the header says.
        announced: usize,
        /// What is there.
        available: usize,
    },
}

impl IpHeader {
    /// Reads the header. Bytes behind `total_length` are allowed: a decrypted packet carries padding.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<IpHeader, IpError> {
        let first = *packet.first().ok_or(IpError::Empty)?;
        match first >> 4 {
            4 => parse_v4(packet),
            6 => parse_v6(packet),
            other => Err(IpError::Version(other)),
        }
    }
}

#[inline]
fn parse_v4(packet: &[u8]) -> Result<IpHeader, IpError> {
    let header: &[u8; IPV4_HEADER_BYTES] =
        packet.first_chunk().ok_or(IpError::HeaderCutShort(packet.len()))?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    if header_length < IPV4_HEADER_BYTES {
        return Err(IpError::HeaderLength(header_length));
    }
    if header_length > packet.len() {
        return Err(IpError::HeaderCutShort(packet.len()));
    }
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    check_length(total_length, header_length, packet.len())?;
    Ok(IpHeader {
        version: IpVersion::V4,
        source: IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15])),
        destination: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
        total_length,
    })
}

#[inline]
fn parse_v6(packet: &[u8]) -> Result<IpHeader, IpError> {
    let header: &[u8; IPV6_HEADER_BYTES] =
        packet.first_chunk().ok_or(IpError::HeaderCutShort(packet.len()))?;
    let total_length = IPV6_HEADER_BYTES + usize::from(u16::from_be_bytes([header[4], header[5]]));
    check_length(total_length, IPV6_HEADER_BYTES, packet.len())?;
    let mut source = [0; 16];
    source.copy_from_slice(&header[8..24]);
    let mut destination = [0; 16];
    destination.copy_from_slice(&header[24..40]);
    Ok(IpHeader {
        version: IpVersion::V6,
        source: IpAddr::V6(Ipv6Addr::from(source)),
        destination: IpAddr::V6(Ipv6Addr::from(destination)),
        total_length,
    })
}

#[inline]
fn check_length(announced: usize, header: usize, available: usize) -> Result<(), IpError> {
    if announced < header {
        return Err(IpError::LengthBelowHeader(announced));
    }
    if announced > available {
        return Err(IpError::LengthBeyondPacket { announced, available });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_packet_is_named_as_such() {
        assert_eq!(IpHeader::parse(&[]), Err(IpError::Empty));
    }

    #[test]
    fn version_five_is_refused() {
        assert_eq!(IpHeader::parse(&[0x50; 64]), Err(IpError::Version(5)));
    }

    #[test]
    fn a_length_beyond_the_packet_is_refused() {
        let mut packet = v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 10);
        packet.pop();
        assert_eq!(
            IpHeader::parse(&packet),
            Err(IpError::LengthBeyondPacket { announced: 30, available: 29 })
        );
    }

    #[test]
    fn a_length_below_the_header_is_refused() {
        let mut packet = v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 10);
        packet[2..4].copy_from_slice(&19_u16.to_be_bytes());
        assert_eq!(IpHeader::parse(&packet), Err(IpError::LengthBelowHeader(19)));
    }

    #[test]
    fn options_count_as_header() {
        let mut packet = v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 4);
        packet[0] = 0x46;
        assert_eq!(IpHeader::parse(&packet).unwrap().total_length, 24);
        packet[0] = 0x4f;
        assert_eq!(IpHeader::parse(&packet), Err(IpError::HeaderCutShort(24)));
        packet[0] = 0x44;
        assert_eq!(IpHeader::parse(&packet), Err(IpError::HeaderLength(16)));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(header) = IpHeader::parse(&bytes) {
                prop_assert!(header.total_length <= bytes.len());
                prop_assert!(header.total_length >= IPV4_HEADER_BYTES);
            }
        }

        #[test]
        fn v4_comes_back_as_it_was_written(
            source: [u8; 4], destination: [u8; 4], payload in 0_usize..1500, padding in 0_usize..16
        ) {
            let mut packet = v4(source.into(), destination.into(), payload);
            packet.resize(packet.len() + padding, 0);
            prop_assert_eq!(IpHeader::parse(&packet), Ok(IpHeader {
                version: IpVersion::V4,
                source: IpAddr::V4(source.into()),
                destination: IpAddr::V4(destination.into()),
                total_length: IPV4_HEADER_BYTES + payload,
            }));
        }

        #[test]
        fn v6_comes_back_as_it_was_written(
            source: [u8; 16], destination: [u8; 16], payload in 0_usize..1500, padding in 0_usize..16
        ) {
            let mut packet = v6(source.into(), destination.into(), payload);
            packet.resize(packet.len() + padding, 0);
            prop_assert_eq!(IpHeader::parse(&packet), Ok(IpHeader {
                version: IpVersion::V6,
                source: IpAddr::V6(source.into()),
                destination: IpAddr::V6(destination.into()),
                total_length: IPV6_HEADER_BYTES + payload,
            }));
        }
    }

    fn v4(source: Ipv4Addr, destination: Ipv4Addr, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; IPV4_HEADER_BYTES + payload];
        packet[0] = 0x45;
        let length = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&destination.octets());
        packet
    }

    fn v6(source: Ipv6Addr, destination: Ipv6Addr, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; IPV6_HEADER_BYTES + payload];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&u16::try_from(payload).unwrap().to_be_bytes());
        packet[8..24].copy_from_slice(&source.octets());
        packet[24..40].copy_from_slice(&destination.octets());
        packet
    }
}
