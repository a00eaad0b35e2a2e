//! ChaCha20-Poly1305 of the transport, in place.
//!
//! **Invariant:** the tag is compared in constant time.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// A key for one direction.
pub(super) struct TransportKey(LessSafeKey);

impl TransportKey {
    pub(super) fn new(key: &[u8; 32]) -> TransportKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the cipher's length");
        TransportKey(LessSafeKey::new(key))
    }

    #[inline]
    pub(super) fn seal_in_place(&self, counter: u64, text: &mut [u8]) -> [u8; 16] {
        let tag = self.0.seal_in_place_separate_tag(nonce(counter), Aad::empty(), text);
        let tag = tag.expect("a datagram is far below the cipher's limit");
        let mut bytes = [0; 16];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    #[inline]
    pub(super) fn open_in_place(&self, counter: u64, text: &mut [u8], tag: &[u8; 16]) -> bool {
        self.0.open_in_place_separate_tag(nonce(counter), Aad::empty(), (*tag).into(), text, 0..).is_ok()
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
