use proptest::prelude::*;

use super::*;

/// The pair of age's own tests.
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

fn identity() -> Identity {
    IDENTITY.parse().unwrap()
}

#[test]
fn ages_own_pair_belongs_together() {
    assert_eq!(identity().to_recipient().to_string(), RECIPIENT);
    assert_eq!(RECIPIENT.parse::<Recipient>().unwrap(), identity().to_recipient());
    assert_eq!(identity().to_text().as_str(), IDENTITY);
}

#[test]
fn a_changed_key_text_is_refused() {
    for at in 0..RECIPIENT.len() {
        let mut text = RECIPIENT.as_bytes().to_vec();
        text[at] = if text[at] == b'q' { b'p' } else { b'q' };
        assert!(String::from_utf8(text).unwrap().parse::<Recipient>().is_err(), "{at}");
    }
    for text in ["", "age1", IDENTITY, &RECIPIENT[..61], &format!("{RECIPIENT}q"), "age1Q"] {
        assert!(text.parse::<Recipient>().is_err(), "{text}");
    }
    assert!(RECIPIENT.parse::<Identity>().is_err());
}

#[test]
fn a_recipient_of_low_order_is_refused() {
    // The neutral element and a point of order two, RFC 7748 section 6.1.
    for low in [0, 1] {
        let mut bytes = [0; 32];
        bytes[0] = low;
        assert!(bech32::encode("age", &bytes).parse::<Recipient>().is_err());
    }
}

#[test]
fn each_recipient_opens_a_file_and_nobody_else_does() {
    let people = [0; 3].map(|_| Identity::generate().unwrap());
    let file = encrypt(&[people[0].to_recipient(), people[1].to_recipient()], b"text").unwrap();
    for person in &people[..2] {
        assert_eq!(decrypt(std::slice::from_ref(person), &file).unwrap().as_slice(), b"text");
    }
    assert_eq!(decrypt(&people[2..], &file).unwrap_err(), OpenError::NoIdentity);
}

#[test]
fn files_around_a_chunks_length_come_back() {
    for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES] {
        let plain = vec![7; bytes];
        let file = encrypt(&[identity().to_recipient()], &plain).unwrap();
        assert_eq!(decrypt(&[identity()], &file).unwrap().as_slice(), plain, "{bytes}");
    }
}

#[test]
fn a_secret_identity_is_not_printed() {
    assert!(!format!("{:?}", identity()).contains("GQ9778"));
}

#[test]
fn armor_comes_off_again() {
    let file = encrypt(&[identity().to_recipient()], &[1; 200]).unwrap();
    let armored = armor::wrap(&file);
    assert!(armored.lines().all(|line| line.len() <= 64) && armored.ends_with("FILE-----\n"));
    assert_eq!(armor::unwrap(&armored), Some(file));
    assert_eq!(armor::unwrap("text"), None);
}

proptest! {
    #[test]
    fn any_flipped_bit_or_cut_is_refused(plain: Vec<u8>, at: prop::sample::Index, bit in 0..8_u32) {
        let file = encrypt(&[identity().to_recipient()], &plain).unwrap();
        let at = at.index(file.len());
        prop_assert!(decrypt(&[identity()], &file[..at]).is_err());
        let mut changed = file;
        changed[at] ^= 1_u8 << bit;
        prop_assert!(decrypt(&[identity()], &changed).is_err());
    }

    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>) {
        prop_assert!(decrypt(&[identity()], &bytes).is_err());
        let begun = [b"age-encryption.org/v1\n".as_slice(), &bytes].concat();
        prop_assert!(decrypt(&[identity()], &begun).is_err());
    }
}
