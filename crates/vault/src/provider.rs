//! The only place that names the crates of ciphers: AES-256-GCM and ChaCha20-Poly1305 in place, HKDF-SHA256,
//! HMAC-SHA256, X25519, random.
//!
//! **Invariant:** all bulk cryptography of the store goes through these functions, so another provider (a
//! validated module, say) replaces this file and nothing else. What is handed out of it is wiped; the
//! expanded AES schedule inside ring's own key type is not, and lives as long as the [`AeadKey`].

use std::fmt;

use ring::rand::SecureRandom as _;
use ring::{aead, hkdf, hmac, rand};
use zeroize::Zeroizing;

use crate::key::{KEY_BYTES, Key256};

/// Bytes of an authentication tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;
/// The most that one message may hold: GCM's own bound is 2³⁶ − 32 bytes.
const MAX_MESSAGE_BYTES: u64 = (1 << 36) - 32;

/// The machine gives no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel gives no random bytes")]
pub struct RandomError;

/// What was opened is not what was sealed, or not with this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// Fills `bytes` from the kernel's generator.
pub fn random(bytes: &mut [u8]) -> Result<(), RandomError> {
    rand::SystemRandom::new().fill(bytes).map_err(|_| RandomError)
}

/// HMAC-SHA256 over the concatenation of `parts`.
pub fn hmac_sha256(key: &Key256, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()));
    parts.iter().for_each(|part| context.update(part));
    let mut tag = [0; 32];
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

/// HKDF-SHA256 (RFC 5869): 32 bytes for `info`.
pub fn hkdf_sha256(key: &Key256, salt: &[u8], info: &[u8]) -> Key256 {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    hkdf_fill(key.as_bytes(), salt, info, &mut *bytes);
    Key256::take(&mut bytes)
}

/// As [`hkdf_sha256`], from a secret of any length.
pub(crate) fn hkdf_sha256_of(secret: &[u8], salt: &[u8], info: &[u8]) -> Key256 {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    hkdf_fill(secret, salt, info, &mut *bytes);
    Key256::take(&mut bytes)
}

/// X25519 (RFC 7748): the public key of `secret`.
pub(crate) fn x25519_public(secret: &Key256) -> [u8; 32] {
    x25519_dalek::x25519(*secret.as_bytes(), x25519_dalek::X25519_BASEPOINT_BYTES)
}

/// X25519 (RFC 7748). None: the other's key is of low order, so the result is no secret.
pub(crate) fn x25519(secret: &Key256, public: &[u8; 32]) -> Option<Key256> {
    let mut shared = x25519_dalek::x25519(*secret.as_bytes(), *public);
    let key = Key256::take(&mut shared);
    let any = key.as_bytes().iter().fold(0, |any, byte| any | byte);
    (any != 0).then_some(key)
}

fn hkdf_fill(secret: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let pseudo_random = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    pseudo_random
        .expand(&[info], Length(out.len()))
        .and_then(|material| material.fill(out))
        .expect("a few blocks of output: RFC 5869 allows 255");
}

/// A key of an authenticated cipher, expanded once.
pub struct AeadKey(aead::LessSafeKey);

impl AeadKey {
    /// A ChaCha20-Poly1305 key.
    pub(crate) fn chacha20_poly1305(key: &Key256) -> AeadKey {
        let unbound = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key.as_bytes());
        AeadKey(aead::LessSafeKey::new(unbound.expect("32 bytes are a ChaCha20 key")))
    }

    /// Expands an AES-256-GCM key.
    pub fn new(key: &Key256) -> AeadKey {
        let unbound = aead::UnboundKey::new(&aead::AES_256_GCM, key.as_bytes());
        AeadKey(aead::LessSafeKey::new(unbound.expect("32 bytes are an AES-256 key")))
    }

    /// Encrypts `bytes` in place. The caller never repeats `nonce` under one key.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        assert!(bytes.len() as u64 <= MAX_MESSAGE_BYTES, "a message beyond AES-GCM's own bound");
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, aead::Aad::from(aad), bytes);
        let mut copy = [0; TAG_BYTES];
        copy.copy_from_slice(tag.expect("the length was looked at above").as_ref());
        copy
    }

    /// Decrypts `bytes` (ciphertext ‖ tag) in place and says how many are plaintext. What is refused is left
    /// without content.
    pub fn open(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], bytes: &mut [u8]) -> Result<usize, Refused> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        match self.0.open_in_place(nonce, aead::Aad::from(aad), bytes) {
            Ok(plain) => Ok(plain.len()),
            Err(ring::error::Unspecified) => {
                bytes.fill(0);
                Err(Refused)
            }
        }
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AeadKey(…)")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    fn key(text: &str) -> Key256 {
        Key256::from_bytes(hex(text).try_into().unwrap())
    }

    /// McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 16.
    #[test]
    fn aes_256_gcm_gives_the_published_vector() {
        let aead = AeadKey::new(&key("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"));
        let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
        let mut bytes = plain.clone();
        let tag = aead.seal(nonce, &aad, &mut bytes);
        assert_eq!(
            bytes,
            hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                 8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662")
        );
        assert_eq!(tag.to_vec(), hex("76fc6ece0f4e1768cddf8853bb2d551b"));
        bytes.extend(tag);
        assert_eq!(aead.open(nonce, &aad, &mut bytes), Ok(plain.len()));
        assert_eq!(&bytes[..plain.len()], plain);
    }

    #[test]
    fn what_is_refused_is_wiped() {
        let aead = AeadKey::new(&Key256::from_bytes([1; 32]));
        let mut bytes = b"some secret text".to_vec();
        let tag = aead.seal([0; 12], b"", &mut bytes);
        bytes.extend(tag);
        bytes[3] ^= 1;
        assert_eq!(aead.open([0; 12], b"", &mut bytes), Err(Refused));
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    /// RFC 5869, appendix A, test cases 1 and 3.
    #[test]
    fn hkdf_gives_the_vectors_of_rfc_5869() {
        let mut out = [0; 42];
        hkdf_fill(&[0x0b; 22], &hex("000102030405060708090a0b0c"), &hex("f0f1f2f3f4f5f6f7f8f9"), &mut out);
        assert_eq!(
            out.to_vec(),
            hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
        );
        hkdf_fill(&[0x0b; 22], &[], &[], &mut out);
        assert_eq!(
            out.to_vec(),
            hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")
        );
    }

    /// RFC 4231 has no 32-byte key; this vector is Python's `hmac.new(bytes(range(32)), b"ab", "sha256")`.
    #[test]
    fn hmac_takes_its_parts_as_one_message() {
        let key = Key256::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        assert_eq!(
            hmac_sha256(&key, &[b"a", b"", b"b"]).to_vec(),
            hex("2e2f68fb95e31672b7a745ed580c12454641604e37fc2f1867fb34fae4a03973")
        );
    }
}
