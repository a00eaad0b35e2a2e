//! How far a packet may go that may be a tunnel's own datagram.
//!
//! A datagram of a tunnel starts with a fresh hop limit. Where a route leads it into a tunnel again, and that tunnel's
//! datagrams back into the first, each turn would make another and longer packet for ever. So such a packet's own hop
//! limit, less a part, becomes that of the datagram around it, as other tunnels inherit it (RFC 2003 §3.1 speaks of the
//! same loops).
//!
//! **Invariant:** a chain of nested datagrams is at most 255 / [`COST`] long, whoever made them; packets that are no
//! tunnel's datagram are not touched.

use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES};

/// What a nested datagram loses of its hop limit: 64 allow eight tunnels within each other, and leave paths that are
/// longer than any on the Internet.
pub const COST: u8 = 8;

/// UDP's number (RFC 768).
const UDP: u8 = 17;
/// The IPv6 header that says that this is a fragment (RFC 8200 §4.5).
const FRAGMENT: u8 = 44;

/// What the datagram around a packet gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopLimit {
    /// The system's own: the packet is no tunnel's.
    Fresh,
    /// At most this.
    Inherited(u8),
    /// None: the packet has been through too many tunnels.
    Spent,
}

/// Looks at an inner packet. What cannot be read is for others to refuse.
#[inline]
pub fn hop_limit(packet: &[u8]) -> HopLimit {
    let Some((left, content)) = read(packet) else { return HopLimit::Fresh };
    let nested = match content {
        Content::Udp(datagram) => is_wireguard(datagram),
        // Its first part may have been a tunnel's.
        Content::LaterFragment => true,
    };
    match (nested, left.checked_sub(COST)) {
        (false, _) => HopLimit::Fresh,
        (true, Some(rest @ 1..)) => HopLimit::Inherited(rest),
        (true, Some(0) | None) => HopLimit::Spent,
    }
}

enum Content<'a> {
    /// A datagram's beginning.
    Udp(&'a [u8]),
    /// A part of one that is not its beginning.
    LaterFragment,
}

/// The hop limit and the content of a packet that carries UDP.
#[inline]
fn read(packet: &[u8]) -> Option<(u8, Content<'_>)> {
    match packet.first()? >> 4 {
        4 => {
            let header: &[u8; IPV4_HEADER_BYTES] = packet.first_chunk()?;
            if header[9] != UDP {
                return None;
            }
            let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
            let content = packet.get(usize::from(header[0] & 15) * 4..)?;
            Some((header[8], if later { Content::LaterFragment } else { Content::Udp(content) }))
        }
        6 => {
            let header: &[u8; IPV6_HEADER_BYTES] = packet.first_chunk()?;
            let content = &packet[IPV6_HEADER_BYTES..];
            match header[6] {
                UDP => Some((header[7], Content::Udp(content))),
                FRAGMENT => {
                    let (fragment, content) = content.split_first_chunk::<8>()?;
                    let later = u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0;
                    let content = if later { Content::LaterFragment } else { Content::Udp(content) };
                    (fragment[0] == UDP).then_some((header[7], content))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a UDP datagram begins as WireGuard's four messages do (WireGuard's paper, 5.4).
fn is_wireguard(datagram: &[u8]) -> bool {
    matches!(datagram.get(8..12), Some([1..=4, 0, 0, 0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(hop_limit: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([hop_limit, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0; 8]);
        packet.extend(payload);
        packet
    }

    fn v6(hop_limit: u8, fragment: Option<u16>, payload: &[u8]) -> Vec<u8> {
        let mut packet =
            vec![0x60, 0, 0, 0, 0, 0, if fragment.is_some() { FRAGMENT } else { UDP }, hop_limit];
        packet.extend([0; 32]);
        if let Some(fragment) = fragment {
            packet.extend([UDP, 0]);
            packet.extend(fragment.to_be_bytes());
            packet.extend([0; 4]);
        }
        packet.extend([0; 8]);
        packet.extend(payload);
        packet
    }

    const DATA: &[u8] = &[4, 0, 0, 0, 9, 9, 9, 9];

    #[test]
    fn a_tunnels_datagram_hands_its_hop_limit_on() {
        assert_eq!(hop_limit(&v4(64, 0, DATA)), HopLimit::Inherited(56));
        assert_eq!(hop_limit(&v6(64, None, DATA)), HopLimit::Inherited(56));
        assert_eq!(hop_limit(&v4(9, 0, DATA)), HopLimit::Inherited(1));
        assert_eq!(hop_limit(&v4(8, 0, DATA)), HopLimit::Spent);
        assert_eq!(hop_limit(&v6(3, None, DATA)), HopLimit::Spent);
    }

    #[test]
    fn fragments_of_a_tunnels_datagram_do_too() {
        // The first says what it is; of the others it is assumed.
        assert_eq!(hop_limit(&v4(64, 0x2000, DATA)), HopLimit::Inherited(56));
        assert_eq!(hop_limit(&v4(64, 0x2000, b"a query")), HopLimit::Fresh);
        assert_eq!(hop_limit(&v4(64, 0x00a4, b"anything")), HopLimit::Inherited(56));
        assert_eq!(hop_limit(&v6(64, Some(1), DATA)), HopLimit::Inherited(56));
        assert_eq!(hop_limit(&v6(64, Some(0x0520), b"anything")), HopLimit::Inherited(56));
    }

    #[test]
    fn other_packets_are_left_alone() {
        assert_eq!(hop_limit(&v4(1, 0, b"a datagram that may not leave the link")), HopLimit::Fresh);
        let mut tcp = v4(1, 0, DATA);
        tcp[9] = 6;
        assert_eq!(hop_limit(&tcp), HopLimit::Fresh);
        for length in 0..48 {
            // Cut short anywhere, it is no reason to panic.
            hop_limit(&v4(64, 0, DATA)[..length.min(36)]);
            hop_limit(&v6(64, Some(0), DATA)[..length]);
        }
    }
}
