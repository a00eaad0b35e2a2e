//! The symmetric half of the handshake: a chaining key, a hash over all that was said, and the keys that come of both.
//!
//! **Invariant:** the state and every key derived from it are wiped when dropped. No key seals twice: each is new, so its
//! nonce is zero.

use blake2::{Blake2s256, Digest};
use boringtun::x25519;
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use hmac::{Mac, SimpleHmac};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::DropReason;

/// Paper §5.4.
const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const TAG_BYTES: usize = 16;

/// A derived key.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// What both sides have in common so far.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Symmetric {
    chaining_key: [u8; 32],
    hash: [u8; 32],
}

impl Symmetric {
    /// Of a handshake with this responder.
    pub(super) fn new(responder: &x25519::PublicKey) -> Symmetric {
        let chaining_key = hash(&[CONSTRUCTION]);
        let hash = hash(&[&hash(&[&chaining_key, IDENTIFIER]), responder.as_bytes()]);
        Symmetric { chaining_key, hash }
    }

    /// A public key of the moment, in the clear.
    pub(super) fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.mix_key(public);
    }

    /// KDF₁.
    pub(super) fn mix_key(&mut self, input: &[u8]) {
        let [chaining_key] = derive(&self.chaining_key, input);
        self.chaining_key = *chaining_key;
    }

    /// KDF₂: gives a key to seal with.
    pub(super) fn mix_secret(&mut self, input: &[u8; 32]) -> Key {
        let [chaining_key, key] = derive(&self.chaining_key, input);
        self.chaining_key = *chaining_key;
        key
    }

    /// KDF₃: the same with the pre-shared key, which goes into the hash, too.
    pub(super) fn mix_preshared(&mut self, preshared: &[u8; 32]) -> Key {
        let [chaining_key, mixed, key] = derive(&self.chaining_key, preshared);
        self.chaining_key = *chaining_key;
        self.mix_hash(&mixed[..]);
        key
    }

    /// Seals `text` into `sealed`, which is longer by a tag.
    pub(super) fn seal(&mut self, key: &Key, text: &[u8], sealed: &mut [u8]) {
        let (body, tag) = sealed.split_at_mut(text.len());
        body.copy_from_slice(text);
        let made = ChaCha20Poly1305::new((&**key).into())
            .encrypt_in_place_detached(&Nonce::default(), &self.hash, body)
            .expect("a handshake's text is far below the cipher's limit");
        tag.copy_from_slice(&made);
        self.mix_hash(sealed);
    }

    /// Opens what is `N` bytes and a tag long.
    pub(super) fn open<const N: usize>(&mut self, key: &Key, sealed: &[u8]) -> Result<[u8; N], DropReason> {
        let (body, tag) = sealed.split_at_checked(N).ok_or(DropReason::Malformed)?;
        if tag.len() != TAG_BYTES {
            return Err(DropReason::Malformed);
        }
        let mut text = [0; N];
        text.copy_from_slice(body);
        ChaCha20Poly1305::new((&**key).into())
            .decrypt_in_place_detached(&Nonce::default(), &self.hash, &mut text, Tag::from_slice(tag))
            .map_err(|_| DropReason::DecryptFailed)?;
        self.mix_hash(sealed);
        Ok(text)
    }

    /// The keys of the transport: the initiator's to send with, and the responder's.
    pub(super) fn split(&self) -> [Key; 2] {
        derive(&self.chaining_key, &[])
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }
}

/// BLAKE2s over all parts.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in parts {
        Digest::update(&mut hash, part);
    }
    hash.finalize().into()
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Key {
    let mut hmac =
        <SimpleHmac<Blake2s256> as Mac>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        Mac::update(&mut hmac, part);
    }
    Zeroizing::new(hmac.finalize().into_bytes().into())
}

/// The first keys of a chain (paper §5.4, KDFₙ).
fn derive<const N: usize>(chaining_key: &[u8; 32], input: &[u8]) -> [Key; N] {
    let extracted = hmac(chaining_key, &[input]);
    let mut last: Option<Key> = None;
    let mut number = 0;
    [(); N].map(|()| {
        number += 1;
        let before: &[u8] = last.as_ref().map_or(&[], |key| &key[..]);
        let key = hmac(&extracted, &[before, &[number]]);
        last = Some(key.clone());
        key
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::bytes_from_hex;

    #[test]
    fn the_hash_is_that_of_rfc_7693() {
        // Appendix B.
        let expected =
            bytes_from_hex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982").unwrap();
        assert_eq!(hash(&[b"abc"]), *expected);
        assert_eq!(hash(&[b"a", b"", b"bc"]), *expected);
    }

    /// RFC 2104's construction, spelled out over the hash.
    fn hmac_by_hand(key: &[u8; 32], data: &[u8]) -> [u8; 32] {
        let mut block = [0; 64];
        block[..32].copy_from_slice(key);
        let inner = hash(&[&block.map(|byte| byte ^ 0x36), data]);
        hash(&[&block.map(|byte| byte ^ 0x5c), &inner])
    }

    #[test]
    fn keys_are_derived_as_the_paper_says() {
        let (chaining_key, input) = ([3; 32], [5; 32]);
        let extracted = hmac_by_hand(&chaining_key, &input);
        let first = hmac_by_hand(&extracted, &[1]);
        let second = hmac_by_hand(&extracted, &[&first[..], &[2]].concat());
        let third = hmac_by_hand(&extracted, &[&second[..], &[3]].concat());
        assert_eq!(derive::<3>(&chaining_key, &input).map(|key| *key), [first, second, third]);
        assert_eq!(derive::<1>(&chaining_key, &input).map(|key| *key), [first]);
    }
}
