//! Which of the four messages a datagram is, by type and length alone.
//!
//! **Invariant:** whatever has a [`Message`] is long enough for its fixed fields, and a handshake
//! message has exactly its length.

use crate::limits::from_the_specification::{
    COOKIE_REPLY_BYTES, DATA_OVERHEAD_BYTES, INITIATION_BYTES, RESPONSE_BYTES,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Initiation,
    Response { receiver: u32 },
    Cookie { receiver: u32 },
    Data { receiver: u32 },
}

impl Message {
    /// Paper §5.4: one byte of type, three of zero, which makes one little-endian number.
    #[inline]
    pub(super) fn of(datagram: &[u8]) -> Option<Message> {
        match (word(datagram, 0)?, datagram.len()) {
            (1, INITIATION_BYTES) => Some(Message::Initiation),
            (2, RESPONSE_BYTES) => Some(Message::Response { receiver: word(datagram, 8)? }),
            (3, COOKIE_REPLY_BYTES) => Some(Message::Cookie { receiver: word(datagram, 4)? }),
            (4, DATA_OVERHEAD_BYTES..) => Some(Message::Data { receiver: word(datagram, 4)? }),
            _ => None,
        }
    }
}

fn word(datagram: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*datagram.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_length_must_fit() {
        let datagram = |first: u32, length: usize| {
            let mut bytes = vec![7; length];
            bytes[..4].copy_from_slice(&first.to_le_bytes());
            Message::of(&bytes)
        };
        let receiver = 0x0707_0707;
        assert_eq!(datagram(1, 148), Some(Message::Initiation));
        assert_eq!(datagram(2, 92), Some(Message::Response { receiver }));
        assert_eq!(datagram(3, 64), Some(Message::Cookie { receiver }));
        assert_eq!(datagram(4, 32), Some(Message::Data { receiver }));
        for (first, length) in [(1, 147), (1, 149), (2, 148), (3, 65), (4, 31), (5, 148), (0x0100_0004, 64)] {
            assert_eq!(datagram(first, length), None, "type {first}, {length} bytes");
        }
        assert_eq!(Message::of(&[4, 0]), None);
    }
}
