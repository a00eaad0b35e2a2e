//! The Internet checksum (RFC 1071), and how it changes when a field does (RFC 1624).

/// The one's-complement sum of `bytes`, added to `sum`; fold it with [`finish`]. Only the last piece of a sum may have an
/// odd length.
///
/// Words are added as this machine reads them and the bytes of the sum swapped at the end (RFC 1071 §2.B): without a swap
/// for each, the compiler adds several at once.
#[inline]
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        total += u64::from(u32::from_ne_bytes(last));
    }
    sum + u64::from(u16::from_be(fold(total)))
}

/// Folds a sum into 16 bits, as the checksum field of a packet holds it that the network card or the kernel completes.
#[expect(clippy::cast_possible_truncation, reason = "the loop leaves 16 bits")]
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Folds a sum into the 16 bits of a checksum field.
#[inline]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// The checksum of `bytes`.
pub fn of(bytes: &[u8]) -> u16 {
    finish(add(0, bytes))
}

/// The new value of a checksum field when one 16-bit word under it changes (RFC 1624 §3, equation 3).
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::made::slow_checksum as slow;

    #[test]
    fn the_example_of_rfc_1071_holds() {
        assert_eq!(of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_slow_way(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert_eq!(of(&bytes), slow(&bytes));
        }

        #[test]
        fn a_sum_in_pieces_is_the_sum_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000), at in 0_usize..1_000,
        ) {
            let (first, second) = bytes.split_at((2 * at).min(bytes.len() / 2 * 2));
            prop_assert_eq!(finish(add(add(0, first), second)), slow(&bytes));
        }

        #[test]
        fn an_update_is_the_checksum_of_the_changed_bytes(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..60), at in 0_usize..9, new: u16,
        ) {
            // A header is never all zeros, which is where the two ways of writing zero would differ.
            bytes[0] |= 1;
            let before = of(&bytes);
            let place = 2 + 2 * at;
            let old = u16::from_be_bytes([bytes[place], bytes[place + 1]]);
            bytes[place..place + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), of(&bytes));
        }
    }
}
