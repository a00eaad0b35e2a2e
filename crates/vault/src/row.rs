//! A row of a table, sealed: version ‖ salt ‖ AES-256-GCM under HKDF-SHA256(key, salt).
//!
//! **Invariant:** each row has a key of its own from 32 fresh random bytes, so one key seals any number of
//! rows; the associated data says which row of which table it is, so rows cannot trade places.

use zeroize::Zeroizing;

use crate::key::Key256;
use crate::provider::{self, AeadKey, NONCE_BYTES, RandomError, TAG_BYTES};

/// The first byte of what is sealed today.
pub const VERSION: u8 = 1;
/// Random bytes in each sealed row.
pub const SALT_BYTES: usize = 32;
/// How much longer a row is when it is sealed.
pub const OVERHEAD_BYTES: usize = 1 + SALT_BYTES + TAG_BYTES;

/// What keeps the keys of rows apart from all other keys. It names the version.
const INFO: &[u8] = b"culvert row v1";
/// Each salt gives a key that seals one row, so its nonce need not vary.
const NONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

/// Why sealed bytes cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than a sealed row of nothing, or of another length than a key's.
    #[error("not of the length of anything sealed")]
    Length,
    /// Sealed by a version that is not known here.
    #[error("sealed in version {0}, which is not known here")]
    Version(u8),
    /// Changed, moved, or sealed with another key.
    #[error("changed, moved, or sealed with another key")]
    Refused,
}

/// Seals `plain` for the place that `aad` names.
pub fn seal(key: &Key256, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, RandomError> {
    seal_as(INFO, key, aad, plain)
}

/// Opens what [`seal`] made for the same place.
pub fn open(key: &Key256, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    open_as(INFO, key, aad, sealed)
}

pub(crate) fn seal_as(info: &[u8], key: &Key256, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, RandomError> {
    let mut salt = [0; SALT_BYTES];
    provider::random(&mut salt)?;
    Ok(seal_salted(info, key, aad, plain, salt))
}

fn seal_salted(info: &[u8], key: &Key256, aad: &[u8], plain: &[u8], salt: [u8; SALT_BYTES]) -> Vec<u8> {
    // At its full size at once: growing would leave a copy of the plaintext behind.
    let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
    sealed.push(VERSION);
    sealed.extend_from_slice(&salt);
    sealed.extend_from_slice(plain);
    let own = AeadKey::new(&provider::hkdf_sha256(key, &salt, info));
    let tag = own.seal(NONCE, aad, &mut sealed[1 + SALT_BYTES..]);
    sealed.extend_from_slice(&tag);
    sealed
}

pub(crate) fn open_as(
    info: &[u8],
    key: &Key256,
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (version, rest) = sealed.split_first().ok_or(OpenError::Length)?;
    if *version != VERSION {
        return Err(OpenError::Version(*version));
    }
    let (salt, body) = rest.split_at_checked(SALT_BYTES).ok_or(OpenError::Length)?;
    if body.len() < TAG_BYTES {
        return Err(OpenError::Length);
    }
    let own = AeadKey::new(&provider::hkdf_sha256(key, salt, info));
    let mut bytes = Zeroizing::new(body.to_vec());
    let plain = own.open(NONCE, aad, &mut bytes).map_err(|provider::Refused| OpenError::Refused)?;
    bytes.truncate(plain);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::provider::tests::hex;

    fn key(byte: u8) -> Key256 {
        Key256::from_bytes([byte; 32])
    }

    proptest! {
        #[test]
        fn a_sealed_row_opens_in_its_place_only(
            plain: Vec<u8>, aad: Vec<u8>, other: Vec<u8>, flip: prop::sample::Index, bit in 0..8_u32,
        ) {
            let mut sealed = seal(&key(1), &aad, &plain).unwrap();
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD_BYTES);
            prop_assert_eq!(&**open(&key(1), &aad, &sealed).unwrap(), &*plain);
            prop_assert_eq!(open(&key(2), &aad, &sealed).unwrap_err(), OpenError::Refused);
            if other != aad {
                prop_assert_eq!(open(&key(1), &other, &sealed).unwrap_err(), OpenError::Refused);
            }
            sealed[flip.index(plain.len() + OVERHEAD_BYTES)] ^= 1_u8 << bit;
            prop_assert!(open(&key(1), &aad, &sealed).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes: Vec<u8>) {
            prop_assert!(open(&key(1), b"", &bytes).is_err());
        }
    }

    #[test]
    fn each_cut_of_a_sealed_row_is_refused() {
        let sealed = seal(&key(1), b"table", b"content").unwrap();
        (0..sealed.len()).for_each(|end| assert!(open(&key(1), b"table", &sealed[..end]).is_err(), "{end}"));
    }

    #[test]
    fn a_row_sealed_twice_differs() {
        assert_ne!(seal(&key(1), b"", b"same").unwrap(), seal(&key(1), b"", b"same").unwrap());
    }

    #[test]
    fn a_version_that_is_not_known_is_named() {
        let mut sealed = seal(&key(1), b"", b"").unwrap();
        sealed[0] = 9;
        assert_eq!(open(&key(1), b"", &sealed).unwrap_err(), OpenError::Version(9));
    }

    /// Made with Python's `cryptography`.
    #[test]
    fn a_sealed_row_is_what_the_format_page_says() {
        let salt = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let sealed = seal_salted(INFO, &key(0x11), b"table\0key", b"{\"a\":1}", salt);
        assert_eq!(
            sealed,
            hex(
                "01000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0565bb7b9711e113edd899bb7b432e264a944cb3aec351"
            )
        );
    }
}
