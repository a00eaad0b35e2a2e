//! The fast way against the RFC's vectors, and against `ring` for every length and any text.

use proptest::prelude::*;

use super::{KEY_BYTES, TAG_BYTES, TransportKey};

/// Both ways, where this processor has both.
fn ways(key: &[u8; KEY_BYTES]) -> [TransportKey; 2] {
    [TransportKey::new(key), TransportKey::general(key)]
}

fn text(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn agree(key: &[u8; KEY_BYTES], counter: u64, text: &[u8]) {
    let [own, general] = ways(key);
    let (mut ours, mut theirs) = (text.to_vec(), text.to_vec());
    let tags = [own.seal_in_place(counter, &mut ours), general.seal_in_place(counter, &mut theirs)];
    assert_eq!(tags[0], tags[1], "the tag of {} bytes", text.len());
    assert!(ours == theirs, "the text of {} bytes", text.len());
    assert!(own.open_in_place(counter, &mut ours, &tags[0]));
    assert!(ours == text, "{} bytes come back", text.len());
}

#[test]
fn every_length_up_to_five_thousand_agrees_with_ring() {
    let text = text(5_000);
    let key = text[..32].try_into().unwrap();
    for length in 0..=text.len() {
        agree(key, length as u64, &text[..length]);
    }
}

#[test]
fn texts_of_many_blocks_agree_with_ring() {
    for length in [65_535, 65_536, 1 << 20, (1 << 20) + 1] {
        agree(&[0xff; 32], u64::MAX, &text(length));
    }
}

/// Numbers whose limbs are as large as they get, so that each carry is made.
#[test]
fn texts_of_all_ones_and_zeros_agree_with_ring() {
    for key in [[0; 32], [0xff; 32], [0x0f; 32]] {
        for byte in [0, 0xff, 0xfb, 0x80] {
            for length in [0, 1, 15, 16, 17, 112, 113, 127, 128, 129, 959, 960, 961, 1_420, 4_096] {
                agree(&key, 1, &vec![byte; length]);
            }
        }
    }
}

/// RFC 8439 appendix A.1, test vector 2: the first block that a text gets, for the key and the nonce of zeros.
#[test]
fn the_key_stream_is_the_rfcs() {
    const BLOCK: [u8; 64] = [
        0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a, 0x98, 0xba, 0x97, 0x7c, 0x73, 0x2d, 0x08, 0x0d, 0xcb,
        0x0f, 0x29, 0xa0, 0x48, 0xe3, 0x65, 0x69, 0x12, 0xc6, 0x53, 0x3e, 0x32, 0xee, 0x7a, 0xed, 0x29, 0xb7,
        0x21, 0x76, 0x9c, 0xe6, 0x4e, 0x43, 0xd5, 0x71, 0x33, 0xb0, 0x74, 0xd8, 0x39, 0xd5, 0x31, 0xed, 0x1f,
        0x28, 0x51, 0x0a, 0xfb, 0x45, 0xac, 0xe1, 0x0a, 0x1f, 0x4b, 0x79, 0x4d, 0x6f,
    ];
    for key in ways(&[0; 32]) {
        let mut text = [0; 64];
        let _ = key.seal_in_place(0, &mut text);
        assert_eq!(text, BLOCK, "{key:?}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let key = [7; 32];
    for length in [0, 1, 40, 112, 113, 1_420] {
        let (own, plain) = (TransportKey::new(&key), text(length));
        let mut sealed = plain.clone();
        let tag = own.seal_in_place(9, &mut sealed);
        for bit in 0..TAG_BYTES * 8 {
            let mut wrong = tag;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!own.open_in_place(9, &mut sealed.clone(), &wrong), "bit {bit} of the tag");
        }
        for bit in 0..length * 8 {
            let mut wrong = sealed.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!own.open_in_place(9, &mut wrong, &tag), "bit {bit} of {length} bytes");
        }
        assert!(!own.open_in_place(8, &mut sealed.clone(), &tag), "another counter");
        assert!(!TransportKey::new(&[8; 32]).open_in_place(9, &mut sealed.clone(), &tag), "another key");
        assert!(own.open_in_place(9, &mut sealed, &tag));
        assert!(sealed == plain);
    }
}

#[test]
fn a_key_says_nothing_of_itself() {
    let said = format!("{:?}", TransportKey::general(&[0xab; 32]));
    assert_eq!(said, "TransportKey(\"general\")");
}

proptest! {
    #[test]
    fn any_text_agrees_with_ring(
        key: [u8; 32],
        counter: u64,
        text in prop::collection::vec(any::<u8>(), 0..3_000),
    ) {
        agree(&key, counter, &text);
    }
}
