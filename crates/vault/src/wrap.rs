//! A key sealed under another key.
//!
//! **Invariant:** a wrapped key opens only under the key that wrapped it and for the use that its associated
//! data names. The construction is [`row`]'s with another label, so one wrapping key wraps any
//! number of keys.

use zeroize::Zeroizing;

use crate::key::{KEY_BYTES, Key256};
use crate::provider::RandomError;
use crate::row::{self, OpenError};

/// Bytes of a wrapped key.
pub const WRAPPED_BYTES: usize = row::OVERHEAD_BYTES + KEY_BYTES;

/// What keeps wrapped keys apart from sealed rows. It names the version.
const INFO: &[u8] = b"culvert wrapped key v1";

/// A key that was sealed under another. These bytes may lie anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappedKey([u8; WRAPPED_BYTES]);

impl WrappedKey {
    /// The bytes to keep.
    pub fn as_bytes(&self) -> &[u8; WRAPPED_BYTES] {
        &self.0
    }
}

impl From<[u8; WRAPPED_BYTES]> for WrappedKey {
    fn from(bytes: [u8; WRAPPED_BYTES]) -> WrappedKey {
        WrappedKey(bytes)
    }
}

impl TryFrom<&[u8]> for WrappedKey {
    type Error = OpenError;

    fn try_from(bytes: &[u8]) -> Result<WrappedKey, OpenError> {
        bytes.try_into().map(WrappedKey).map_err(|_| OpenError::Length)
    }
}

/// Seals `key` under `kek` for the use that `aad` names.
pub fn wrap(kek: &Key256, aad: &[u8], key: &Key256) -> Result<WrappedKey, RandomError> {
    let sealed = row::seal_as(INFO, kek, aad, key.as_bytes())?;
    Ok(WrappedKey(sealed.try_into().expect("a sealed row of 32 bytes has this length")))
}

/// Opens what [`wrap`] made for the same use.
pub fn unwrap(kek: &Key256, aad: &[u8], wrapped: &WrappedKey) -> Result<Key256, OpenError> {
    let plain = row::open_as(INFO, kek, aad, &wrapped.0)?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    bytes.copy_from_slice(&plain);
    Ok(Key256::take(&mut bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key256 {
        Key256::from_bytes([byte; 32])
    }

    #[test]
    fn a_wrapped_key_comes_back_under_its_own_kek_and_use() {
        let wrapped = wrap(&key(1), b"file 7", &key(2)).unwrap();
        assert_eq!(unwrap(&key(1), b"file 7", &wrapped).unwrap().as_bytes(), &[2; 32]);
        assert_eq!(unwrap(&key(3), b"file 7", &wrapped).unwrap_err(), OpenError::Refused);
        assert_eq!(unwrap(&key(1), b"file 8", &wrapped).unwrap_err(), OpenError::Refused);
    }

    #[test]
    fn each_flipped_bit_of_a_wrapped_key_is_refused() {
        let wrapped = wrap(&key(1), b"", &key(2)).unwrap();
        for bit in 0..WRAPPED_BYTES * 8 {
            let mut bytes = *wrapped.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(&key(1), b"", &bytes.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_sealed_row_is_no_wrapped_key() {
        let row = row::seal(&key(1), b"", &[2; 32]).unwrap();
        let forged = WrappedKey::try_from(row.as_slice()).unwrap();
        assert_eq!(unwrap(&key(1), b"", &forged).unwrap_err(), OpenError::Refused);
    }

    #[test]
    fn bytes_of_another_length_are_no_wrapped_key() {
        assert_eq!(WrappedKey::try_from([0; 80].as_slice()), Err(OpenError::Length));
    }
}
