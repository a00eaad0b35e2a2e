//! 256 secret bits.
//!
//! **Invariant:** they are wiped when dropped and printed nowhere.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::provider::{self, RandomError};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// A key. Its content has no `Debug`, no order and no equality.
#[derive(Clone)]
pub struct Key256(Zeroizing<[u8; KEY_BYTES]>);

impl Key256 {
    /// A new random key.
    pub fn generate() -> Result<Key256, RandomError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        provider::random(&mut *bytes)?;
        Ok(Key256(bytes))
    }

    /// A key that was kept elsewhere.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Key256 {
        Key256(Zeroizing::new(bytes))
    }

    /// Takes over `bytes` and wipes the caller's copy.
    pub fn take(bytes: &mut [u8; KEY_BYTES]) -> Key256 {
        let key = Key256::from_bytes(*bytes);
        bytes.zeroize();
        key
    }

    /// The bytes, for a cipher or for sealing them.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Key256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key256(…)")
    }
}

#[cfg(test)]
mod tests {
    use zeroize::ZeroizeOnDrop;

    use super::*;

    #[test]
    fn a_secret_key_is_not_printed() {
        assert_eq!(format!("{:?}", Key256::from_bytes([0x41; 32])), "Key256(…)");
    }

    #[test]
    fn a_secret_key_is_wiped_when_dropped() {
        fn wiped(_: &impl ZeroizeOnDrop) {}
        wiped(&Key256::from_bytes([1; 32]).0);
    }

    #[test]
    fn taking_a_secret_key_wipes_where_it_was() {
        let mut bytes = [7; 32];
        let key = Key256::take(&mut bytes);
        assert_eq!((bytes, key.as_bytes()), ([0; 32], &[7; 32]));
    }

    #[test]
    fn two_generated_keys_differ() {
        assert_ne!(Key256::generate().unwrap().as_bytes(), Key256::generate().unwrap().as_bytes());
    }
}
