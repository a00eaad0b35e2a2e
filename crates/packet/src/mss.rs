//! The maximum segment size that a TCP connection's first packets announce, made small enough for the tunnel.
//!
//! A host behind a router knows only its own link's MTU; where the ICMP message that a packet is too big gets
//! lost, its connection hangs. The routers at both ends of a tunnel therefore lower the announced size.
//!
//! **Invariant:** nothing but the two bytes of the option and the two of the TCP checksum changes, the size is
//! never raised, and a packet whose checksum was right has a right one afterwards (RFC 1624 §3, eqn. 3).

use crate::checksum;
use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES};
use crate::{IpHeader, IpVersion};

/// The TCP header without options, RFC 9293 §3.1.
const TCP_HEADER_BYTES: usize = 20;
/// Protocol number of TCP (IANA).
const TCP: u8 = 6;
/// The SYN bit in byte 13 of the TCP header.
const SYN: u8 = 0x02;
/// Option kinds, RFC 9293 §3.2.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const MAXIMUM_SEGMENT_SIZE_BYTES: u8 = 4;

/// Where a packet announces more than fits through an MTU, and what fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// Of the TCP header in the packet.
    tcp_at: usize,
    /// Of the option's value in the packet.
    value_at: usize,
    announced: u16,
    fits: u16,
}

impl Clamp {
    /// Looks for an announcement that is too large for `mtu`. Only a SYN has one.
    #[inline]
    #[must_use]
    pub fn wanted(packet: &[u8], mtu: u16) -> Option<Clamp> {
        // The quick answer for nearly every packet, before anything else is looked at.
        let tcp_at = match packet.first()? >> 4 {
            // A later fragment has no TCP header.
            4 if packet.get(9) == Some(&TCP) && packet[6] & 0x1f == 0 && packet[7] == 0 => {
                usize::from(packet[0] & 0x0f) * 4
            }
            6 if packet.get(6) == Some(&TCP) => IPV6_HEADER_BYTES,
            _ => return None,
        };
        if packet.get(tcp_at + 13)? & SYN == 0 {
            return None;
        }
        Clamp::look(packet, tcp_at, mtu)
    }

    fn look(packet: &[u8], tcp_at: usize, mtu: u16) -> Option<Clamp> {
        let header = IpHeader::parse(packet).ok()?;
        let headers = match header.version {
            IpVersion::V4 => IPV4_HEADER_BYTES + TCP_HEADER_BYTES,
            IpVersion::V6 => IPV6_HEADER_BYTES + TCP_HEADER_BYTES,
        };
        let fits = mtu.checked_sub(u16::try_from(headers).ok()?)?;
        let tcp = packet.get(tcp_at..header.total_length)?;
        let options_end = usize::from(tcp.get(12)? >> 4) * 4;
        let options = tcp.get(TCP_HEADER_BYTES..options_end)?;
        let value_at = tcp_at + TCP_HEADER_BYTES + find_value(options)?;
        let announced = u16::from_be_bytes([packet[value_at], packet[value_at + 1]]);
        (announced > fits).then_some(Clamp { tcp_at, value_at, announced, fits })
    }

    /// Lowers the announcement in the packet that it was found in.
    ///
    /// # Panics
    /// When `packet` is shorter than that one.
    pub fn apply(self, packet: &mut [u8]) {
        packet[self.value_at..self.value_at + 2].copy_from_slice(&self.fits.to_be_bytes());
        let at = self.tcp_at + 16;
        let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
        // The sum is over words that begin at even places of the TCP header. An option can begin at an odd one;
        // then its bytes stand in two words, and count there as if they were swapped.
        let odd = (self.value_at - self.tcp_at) % 2 == 1;
        let word = |value: u16| if odd { value.swap_bytes() } else { value };
        let sum = checksum::update(sum, word(self.announced), word(self.fits));
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where the value of the maximum segment size is among the options.
fn find_value(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            END_OF_OPTIONS => return None,
            NO_OPERATION => at += 1,
            MAXIMUM_SEGMENT_SIZE => {
                let complete = at + usize::from(MAXIMUM_SEGMENT_SIZE_BYTES) <= options.len();
                return (complete && options[at + 1] == MAXIMUM_SEGMENT_SIZE_BYTES).then_some(at + 2);
            }
            // A length below two would never end.
            _ => at += usize::from(*options.get(at + 1).filter(|length| **length >= 2)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each piece of the options: some that come before the size, of even and odd length.
    fn options(before: &[u8], mss: u16) -> Vec<u8> {
        let mut options = Vec::new();
        for kind in before {
            match kind % 4 {
                0 => options.push(NO_OPERATION),
                1 => options.extend([3, 3, 7]),
                2 => options.extend([4, 2]),
                _ => options.extend([8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
            }
        }
        let [high, low] = mss.to_be_bytes();
        options.extend([MAXIMUM_SEGMENT_SIZE, MAXIMUM_SEGMENT_SIZE_BYTES, high, low]);
        options.resize(options.len().next_multiple_of(4), END_OF_OPTIONS);
        options
    }

    fn syn(v6: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let tcp_bytes = TCP_HEADER_BYTES + options.len() + payload.len();
        let length = u16::try_from(tcp_bytes).unwrap();
        let mut packet = if v6 {
            let mut header = vec![0; IPV6_HEADER_BYTES];
            (header[0], header[6], header[7]) = (0x60, TCP, 64);
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header[8..40].fill(0x42);
            header
        } else {
            let mut header = vec![0; IPV4_HEADER_BYTES];
            (header[0], header[8], header[9]) = (0x45, 64, TCP);
            header[2..4].copy_from_slice(&(length + 20).to_be_bytes());
            header[12..20].fill(0x24);
            header
        };
        let tcp_at = packet.len();
        packet.resize(tcp_at + TCP_HEADER_BYTES, 0);
        packet[tcp_at] = 0x12;
        packet[tcp_at + 3] = 80;
        packet[tcp_at + 12] = u8::try_from((TCP_HEADER_BYTES + options.len()) / 4).unwrap() << 4;
        packet[tcp_at + 13] = flags;
        packet.extend(options);
        packet.extend(payload);
        let checksum = !slow_sum(&packet, tcp_at);
        packet[tcp_at + 16..tcp_at + 18].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// Over the pseudo header and everything behind it; all ones for a packet with a right checksum.
    fn slow_sum(packet: &[u8], tcp_at: usize) -> u16 {
        let addresses = if tcp_at == IPV6_HEADER_BYTES { &packet[8..40] } else { &packet[12..20] };
        let length = u16::try_from(packet.len() - tcp_at).unwrap();
        let mut bytes = addresses.to_vec();
        bytes.extend([0, TCP]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(&packet[tcp_at..]);
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        let mut sum: u32 =
            bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    fn clamped(mut packet: Vec<u8>, mtu: u16) -> Option<Vec<u8>> {
        Clamp::wanted(&packet, mtu)?.apply(&mut packet);
        Some(packet)
    }

    #[test]
    fn a_syn_and_its_answer_are_lowered_to_what_fits() {
        for flags in [SYN, SYN | 0x10] {
            let v4 = clamped(syn(false, flags, &options(&[], 1460), &[]), 1420).unwrap();
            assert_eq!(v4[42..44], 1380_u16.to_be_bytes());
            let v6 = clamped(syn(true, flags, &options(&[], 1440), &[]), 1420).unwrap();
            assert_eq!(v6[62..64], 1360_u16.to_be_bytes());
        }
    }

    #[test]
    fn what_fits_already_is_left_alone() {
        assert_eq!(clamped(syn(false, SYN, &options(&[], 1380), &[]), 1420), None);
        assert_eq!(clamped(syn(true, SYN, &options(&[], 536), &[]), 1420), None);
    }

    #[test]
    fn only_a_syn_announces() {
        assert_eq!(clamped(syn(false, 0x10, &options(&[], 1460), &[]), 1420), None);
        let mut fragment = syn(false, SYN, &options(&[], 1460), &[]);
        fragment[7] = 1;
        assert_eq!(clamped(fragment, 1420), None);
        let mut udp = syn(false, SYN, &options(&[], 1460), &[]);
        udp[9] = 17;
        assert_eq!(clamped(udp, 1420), None);
    }

    #[test]
    fn options_that_do_not_end_are_not_followed() {
        for broken in [[8, 0, 2, 4], [2, 3, 5, 180], [2, 4, 0, 0]] {
            let mut packet = syn(false, SYN, &broken, &[]);
            if broken[0] == 2 && broken[1] == 4 {
                packet.truncate(42);
            }
            assert_eq!(clamped(packet, 1420), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120), mtu: u16, version in 0_u8..3
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = match version { 0 => 0x45, 1 => 0x60, _ => *first };
            }
            if bytes.len() > 9 {
                (bytes[6], bytes[7], bytes[9]) = (if version == 1 { TCP } else { 0 }, 0, TCP);
            }
            if let Some(clamp) = Clamp::wanted(&bytes, mtu) {
                clamp.apply(&mut bytes);
            }
        }

        #[test]
        fn a_right_checksum_stays_right_and_nothing_else_changes(
            v6: bool,
            before in proptest::collection::vec(any::<u8>(), 0..4),
            payload in proptest::collection::vec(any::<u8>(), 0..33),
            mss: u16,
            mtu in 576_u16..9000,
        ) {
            // At most 40 bytes of options.
            prop_assume!(options(&before, mss).len() <= 40);
            let packet = syn(v6, SYN, &options(&before, mss), &payload);
            let tcp_at = if v6 { IPV6_HEADER_BYTES } else { IPV4_HEADER_BYTES };
            prop_assert_eq!(slow_sum(&packet, tcp_at), 0xffff);
            let fits = mtu - u16::try_from(tcp_at + TCP_HEADER_BYTES).unwrap();
            let Some(after) = clamped(packet.clone(), mtu) else {
                prop_assert!(mss <= fits);
                return Ok(());
            };
            prop_assert!(mss > fits);
            prop_assert_eq!(&after, &syn(v6, SYN, &options(&before, fits), &payload));
            prop_assert_eq!(slow_sum(&after, tcp_at), 0xffff);
            prop_assert_eq!(clamped(after, mtu), None);
        }
    }
}
