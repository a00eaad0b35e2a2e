//! ChaCha20-Poly1305 (RFC 8439) as WireGuard's transport uses it: in place, with a counter for a nonce, and nothing
//! authenticated beside the text.
//!
//! A packet is too short for what makes general libraries fast: their vector code pays off over kilobytes. Where the
//! processor has AVX-512 with its 52-bit multiplication, sixteen blocks of key stream are made at a time, and the tag
//! is taken over eight blocks at a time. Elsewhere `ring` does it.
//!
//! **Invariant:** both ways give the same bytes, and neither branches or looks anything up by a secret.
#![deny(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// Texts are shorter: a block has a number of 32 bits, and the first is the tag's.
const TEXT_BYTES_END: usize = u32::MAX as usize;

/// A key of one direction of one session.
///
/// Wiped when it is dropped; `ring`'s copy, where there is one, by whoever keeps the memory it lies in.
pub struct TransportKey(Way);

enum Way {
    #[cfg(target_arch = "x86_64")]
    Avx512([u32; 8]),
    General(Box<LessSafeKey>),
}

impl TransportKey {
    /// Takes the way that this processor is fastest at.
    pub fn new(key: &[u8; KEY_BYTES]) -> TransportKey {
        #[cfg(target_arch = "x86_64")]
        if avx512::is_available() {
            return TransportKey(Way::Avx512(bytemuck::cast(*key)));
        }
        TransportKey::general(key)
    }

    /// Takes `ring`'s way, which every processor has: to compare with.
    pub fn general(key: &[u8; KEY_BYTES]) -> TransportKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes are a key");
        TransportKey(Way::General(Box::new(LessSafeKey::new(key))))
    }

    /// Encrypts the text where it lies; the tag of it. No counter may be used twice with a key.
    #[must_use]
    pub fn seal_in_place(&self, counter: u64, text: &mut [u8]) -> [u8; TAG_BYTES] {
        assert!(text.len() < TEXT_BYTES_END, "a block has a number of 32 bits");
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512(key) => avx512::seal(key, counter, text),
            Way::General(key) => {
                let tag = key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), text);
                let tag = tag.expect("a text in memory is shorter than 256 GiB");
                tag.as_ref().try_into().expect("a tag of this cipher has 16 bytes")
            }
        }
    }

    /// Decrypts the text where it lies if the tag is its own; otherwise the text is of no use any more.
    #[must_use]
    pub fn open_in_place(&self, counter: u64, text: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool {
        assert!(text.len() < TEXT_BYTES_END, "a block has a number of 32 bits");
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512(key) => avx512::open(key, counter, text, |found| found.ct_eq(tag).into()),
            Way::General(key) => {
                key.open_in_place_separate_tag(nonce(counter), Aad::empty(), (*tag).into(), text, 0..).is_ok()
            }
        }
    }
}

impl Drop for TransportKey {
    fn drop(&mut self) {
        match &mut self.0 {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512(key) => key.zeroize(),
            Way::General(_) => (),
        }
    }
}

impl fmt::Debug for TransportKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512(_) => "avx512",
            Way::General(_) => "general",
        };
        formatter.debug_tuple("TransportKey").field(&way).finish()
    }
}

/// Paper §5.4.6: four zero bytes, then the counter.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests;
