//! The places and bits of a TCP header that cutting and joining segments needs (RFC 9293 §3.1).

/// The header without options.
pub const TCP_HEADER_BYTES: usize = 20;
/// IANA's protocol number.
pub const TCP: u8 = 6;
/// Where the sequence number lies.
pub const SEQUENCE: std::ops::Range<usize> = 4..8;
/// Where the flags lie.
pub const FLAGS: usize = 13;
/// Where the checksum lies.
pub const CHECKSUM: usize = 16;
/// No more data comes.
pub const FIN: u8 = 0x01;
/// The data is to be handed up at once.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// Congestion was seen (RFC 3168 §6.1).
pub const ECE: u8 = 0x40;
/// The congestion window was reduced (RFC 3168 §6.1).
pub const CWR: u8 = 0x80;

/// The length of the header at the beginning of `segment`, options included, if it is there in full.
#[inline]
#[must_use]
pub fn header_bytes(segment: &[u8]) -> Option<usize> {
    let length = usize::from(segment.get(12)? >> 4) * 4;
    (length >= TCP_HEADER_BYTES && length <= segment.len()).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_there_in_full_or_not_at_all() {
        let mut segment = [0; 24];
        for (words, expected) in [(4, None), (5, Some(20)), (6, Some(24)), (7, None)] {
            segment[12] = words << 4;
            assert_eq!(header_bytes(&segment), expected, "{words} words");
        }
        assert_eq!(header_bytes(&segment[..12]), None);
    }
}
