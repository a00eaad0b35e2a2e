//! The three kinds of key, each a type of its own.
//!
//! **Invariant:** a secret wipes itself when dropped and has no `Debug` or `Display`; it leaves only
//! through functions that say so in their name. All-zero bytes mean "no key" on every interface, so
//! neither secret type ever holds them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::secrets::kept;

/// Bytes of every key here.
pub(crate) const KEY_BYTES: usize = 32;

/// Why text is no key. Never quotes the text: it may be a secret with a typo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Base64 of 32 bytes is 44 characters, the last of them `=`.
    #[error("a key is 44 characters of base64")]
    Base64,
    /// Hexadecimal of 32 bytes is 64 digits.
    #[error("a key is 64 hexadecimal digits")]
    Hex,
    /// All bits zero.
    #[error("an all-zero key is no key")]
    Zero,
}

/// A Curve25519 public key: a peer's identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Takes any bytes: low-order points are legal configuration, they just never complete a handshake.
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> PublicKey {
        PublicKey(bytes)
    }

    /// As configuration files and `wg` write it.
    pub fn from_base64(text: &str) -> Result<PublicKey, KeyError> {
        Ok(PublicKey(*bytes_from_base64(text)?))
    }

    /// As UAPI writes it.
    pub fn from_hex(text: &str) -> Result<PublicKey, KeyError> {
        Ok(PublicKey(*bytes_from_hex(text)?))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// As configuration files and `wg` write it.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }

    /// As UAPI writes it.
    pub fn to_hex(self) -> String {
        let mut text = String::with_capacity(2 * KEY_BYTES);
        push_hex(&mut text, &self.0);
        text
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        PublicKey::from_base64(text)
    }
}

/// A key's bytes where the program keeps secrets: to move a key moves a pointer, and leaves no copy behind.
struct KeptBytes(Box<[u8; KEY_BYTES]>);

impl KeptBytes {
    fn copy(bytes: &[u8; KEY_BYTES]) -> KeptBytes {
        // Zeros first, for a box is filled by way of the stack.
        let mut kept = KeptBytes(kept(|| Box::new([0; KEY_BYTES])));
        kept.0.copy_from_slice(bytes);
        kept
    }
}

impl Clone for KeptBytes {
    fn clone(&self) -> KeptBytes {
        KeptBytes::copy(&self.0)
    }
}

impl Drop for KeptBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A Curve25519 private key, clamped.
#[derive(Clone)]
pub struct SecretKey(KeptBytes);

impl SecretKey {
    /// Clamps, as every implementation does when it takes a key, so that `get` shows what is used.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<SecretKey, KeyError> {
        if bool::from(bytes.ct_eq(&[0; KEY_BYTES])) {
            return Err(KeyError::Zero);
        }
        let mut key = KeptBytes::copy(bytes);
        key.0[0] &= 0xf8;
        key.0[31] = (key.0[31] & 0x7f) | 0x40;
        Ok(SecretKey(key))
    }

    /// As configuration files and `wg` write it.
    pub fn from_base64(text: &str) -> Result<SecretKey, KeyError> {
        SecretKey::from_bytes(&*bytes_from_base64(text)?)
    }

    /// As UAPI writes it.
    pub fn from_hex(text: &str) -> Result<SecretKey, KeyError> {
        SecretKey::from_bytes(&*bytes_from_hex(text)?)
    }

    /// A fresh key from the system's randomness.
    pub fn generate() -> Result<SecretKey, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(bytes.as_mut())?;
        // 2^-256 is not a case; should the source ever return zeros, failing is right.
        SecretKey::from_bytes(&bytes).map_err(|_| getrandom::Error::UNEXPECTED)
    }

    /// The other half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(*x25519::PublicKey::from(&self.to_x25519()).as_bytes())
    }

    /// Spells out the secret, for key files.
    pub fn reveal_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0.0))
    }

    /// Equal, in a time that tells nothing.
    pub fn same_as(&self, other: &SecretKey) -> bool {
        self.0.0.ct_eq(&*other.0.0).into()
    }

    pub(crate) fn to_x25519(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(*self.0.0)
    }

    pub(crate) fn push_hex(&self, text: &mut String) {
        push_hex(text, &self.0.0);
    }
}

/// A symmetric key mixed into the handshake.
#[derive(Clone)]
pub struct PresharedKey(KeptBytes);

impl PresharedKey {
    /// Refuses zeros, which mean "none".
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<PresharedKey, KeyError> {
        if bool::from(bytes.ct_eq(&[0; KEY_BYTES])) {
            return Err(KeyError::Zero);
        }
        Ok(PresharedKey(KeptBytes::copy(bytes)))
    }

    /// As configuration files and `wg` write it.
    pub fn from_base64(text: &str) -> Result<PresharedKey, KeyError> {
        PresharedKey::from_bytes(&*bytes_from_base64(text)?)
    }

    /// A fresh key from the system's randomness.
    pub fn generate() -> Result<PresharedKey, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(bytes.as_mut())?;
        PresharedKey::from_bytes(&bytes).map_err(|_| getrandom::Error::UNEXPECTED)
    }

    /// Spells out the secret, for key files.
    pub fn reveal_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0.0))
    }

    /// Equal, in a time that tells nothing.
    pub fn same_as(&self, other: &PresharedKey) -> bool {
        self.0.0.ct_eq(&*other.0.0).into()
    }

    pub(crate) fn reveal_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0.0
    }

    pub(crate) fn push_hex(&self, text: &mut String) {
        push_hex(text, &self.0.0);
    }
}

pub(crate) fn bytes_from_base64(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    let decoded = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError::Base64)?);
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if decoded.len() != KEY_BYTES {
        return Err(KeyError::Base64);
    }
    bytes.copy_from_slice(&decoded);
    Ok(bytes)
}

pub(crate) fn bytes_from_hex(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    let digits: &[u8; 2 * KEY_BYTES] = text.as_bytes().try_into().map_err(|_| KeyError::Hex)?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Ok(bytes)
}

fn hex_digit(digit: u8) -> Result<u8, KeyError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(KeyError::Hex),
    }
}

fn push_hex(text: &mut String, bytes: &[u8; KEY_BYTES]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0x0f)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 §6.1's Alice.
    const ALICE_SECRET: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
    const ALICE_PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";

    #[test]
    fn the_public_half_is_that_of_rfc_7748() {
        let secret = SecretKey::from_bytes(&bytes_from_hex(ALICE_SECRET).unwrap()).unwrap();
        assert_eq!(secret.public_key().to_hex(), ALICE_PUBLIC);
    }

    #[test]
    fn a_secret_is_shown_clamped() {
        let secret = SecretKey::from_bytes(&[0xff; 32]).unwrap();
        let mut hex = String::new();
        secret.push_hex(&mut hex);
        assert!(hex.starts_with("f8ff") && hex.ends_with("ff7f"));
    }

    #[test]
    fn base64_and_hex_come_back_as_written() {
        let key = PublicKey::from_hex(ALICE_PUBLIC).unwrap();
        assert_eq!(PublicKey::from_base64(&key.to_base64()), Ok(key));
        assert_eq!(PublicKey::from_hex(&ALICE_PUBLIC.to_uppercase()), Ok(key));
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        for text in ["", "AAAA", &"A".repeat(44), &"A".repeat(43)] {
            assert_eq!(PublicKey::from_base64(text), Err(KeyError::Base64), "{text:?}");
        }
        for text in ["", "00", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert_eq!(PublicKey::from_hex(text), Err(KeyError::Hex), "{text:?}");
        }
    }

    #[test]
    fn zeros_are_no_secret() {
        assert_eq!(SecretKey::from_bytes(&[0; 32]).err(), Some(KeyError::Zero));
        assert_eq!(PresharedKey::from_bytes(&[0; 32]).err(), Some(KeyError::Zero));
    }
}
