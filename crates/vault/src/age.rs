//! Files for people: `age-encryption.org/v1` with X25519 recipients, so that any `age` program opens them.
//!
//! The format is C2SP's `age.md`. Ours is the smaller half of it, over the primitives of
//! [`crate::provider`]: no passphrases, no plugins, no keys of SSH.
//!
//! **Invariant:** each file has a key of its own, and nothing of a chunk is given out before its tag was checked.

pub mod armor;
pub mod bech32;
pub mod stream;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use crate::key::Key256;
use crate::provider::{self, AeadKey, NONCE_BYTES, RandomError, TAG_BYTES};

/// Plain bytes of each chunk but the last.
pub const CHUNK_BYTES: usize = 64 * 1024;

const INTRO: &str = "age-encryption.org/v1";
const STANZA: &str = "X25519";
const WRAP_INFO: &[u8] = b"age-encryption.org/v1/X25519";
const RECIPIENT_PREFIX: &str = "age";
const IDENTITY_PREFIX: &str = "age-secret-key-";
const FILE_KEY_BYTES: usize = 16;
const PAYLOAD_NONCE_BYTES: usize = 16;
/// A bound of ours: some hundred recipients.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Whom a file is for: `age1…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

/// What opens it: `AGE-SECRET-KEY-1…`.
#[derive(Debug, Clone)]
pub struct Identity(Key256);

/// Not `age1…`, or not `AGE-SECRET-KEY-1…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(&'static str);

/// Why a file cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not an age file, or of another version.
    #[error("not an age file of version 1")]
    Format,
    /// For others.
    #[error("no identity at hand opens it")]
    NoIdentity,
    /// Changed or cut off.
    #[error("changed or cut off")]
    Refused,
}

impl FromStr for Recipient {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Recipient, ParseError> {
        let bytes = bech32::decode(RECIPIENT_PREFIX, text)
            .ok_or(ParseError("not an age recipient (age1… and 58 more characters)"))?;
        // With a point of low order nobody shares a secret, whatever the scalar.
        match provider::x25519(&Key256::from_bytes([1; 32]), &bytes) {
            Some(_) => Ok(Recipient(*bytes)),
            None => Err(ParseError("an age recipient with which nobody can share a secret")),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::encode(RECIPIENT_PREFIX, &self.0))
    }
}

impl FromStr for Identity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Identity, ParseError> {
        let mut bytes = bech32::decode(IDENTITY_PREFIX, text).ok_or(ParseError("not an age identity"))?;
        Ok(Identity(Key256::take(&mut bytes)))
    }
}

impl Identity {
    /// Draws one.
    pub fn generate() -> Result<Identity, RandomError> {
        Key256::generate().map(Identity)
    }

    /// Whom to encrypt to for this identity.
    pub fn to_recipient(&self) -> Recipient {
        Recipient(provider::x25519_public(&self.0))
    }

    /// The line that stands in an identity file.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(bech32::encode(IDENTITY_PREFIX, self.0.as_bytes()).to_ascii_uppercase())
    }
}

/// Encrypts a whole file.
pub fn encrypt(recipients: &[Recipient], plain: &[u8]) -> Result<Vec<u8>, RandomError> {
    let (mut sealer, mut file) = ChunkSealer::new(recipients)?;
    let mut chunks = plain.chunks(CHUNK_BYTES).peekable();
    if plain.is_empty() {
        file.extend_from_slice(&sealer.seal(Vec::new(), true));
    }
    while let Some(chunk) = chunks.next() {
        file.extend_from_slice(&sealer.seal(chunk.to_vec(), chunks.peek().is_none()));
    }
    Ok(file)
}

/// Decrypts a whole file.
pub fn decrypt(identities: &[Identity], file: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (file_key, rest) = open_header(identities, file)?;
    let (nonce, payload) = rest.split_first_chunk::<PAYLOAD_NONCE_BYTES>().ok_or(OpenError::Refused)?;
    let key = AeadKey::chacha20_poly1305(&provider::hkdf_sha256_of(&*file_key, nonce, b"payload"));
    let mut plain = Zeroizing::new(Vec::with_capacity(payload.len()));
    let mut chunks = payload.chunks(CHUNK_BYTES + TAG_BYTES).enumerate().peekable();
    if chunks.peek().is_none() {
        return Err(OpenError::Refused);
    }
    while let Some((number, chunk)) = chunks.next() {
        let last = chunks.peek().is_none();
        let mut bytes = Zeroizing::new(chunk.to_vec());
        let opened = key.open(chunk_nonce(number as u64, last), &[], &mut bytes);
        let length = opened.map_err(|provider::Refused| OpenError::Refused)?;
        if length == 0 && number > 0 {
            return Err(OpenError::Refused);
        }
        plain.extend_from_slice(&bytes[..length]);
    }
    Ok(plain)
}

/// Encrypts a file chunk by chunk.
#[derive(Debug)]
pub struct ChunkSealer {
    key: AeadKey,
    number: u64,
}

impl ChunkSealer {
    /// Begins a file: its first bytes.
    pub fn new(recipients: &[Recipient]) -> Result<(ChunkSealer, Vec<u8>), RandomError> {
        let mut file_key = Zeroizing::new([0; FILE_KEY_BYTES]);
        provider::random(&mut *file_key)?;
        let mut file = header(recipients, &file_key)?.into_bytes();
        let mut nonce = [0; PAYLOAD_NONCE_BYTES];
        provider::random(&mut nonce)?;
        file.extend_from_slice(&nonce);
        let key = provider::hkdf_sha256_of(&*file_key, &nonce, b"payload");
        Ok((ChunkSealer { key: AeadKey::chacha20_poly1305(&key), number: 0 }, file))
    }

    /// Seals the next chunk: [`CHUNK_BYTES`], or fewer if it is the last. The last is empty only if the file is.
    pub fn seal(&mut self, mut chunk: Vec<u8>, last: bool) -> Vec<u8> {
        assert!(
            if last { chunk.len() <= CHUNK_BYTES } else { chunk.len() == CHUNK_BYTES },
            "all chunks but the last are full"
        );
        let tag = self.key.seal(chunk_nonce(self.number, last), &[], &mut chunk);
        self.number += 1;
        chunk.extend_from_slice(&tag);
        chunk
    }
}

fn chunk_nonce(number: u64, last: bool) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[3..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(last);
    nonce
}

fn header(recipients: &[Recipient], file_key: &[u8; FILE_KEY_BYTES]) -> Result<String, RandomError> {
    let mut header = format!("{INTRO}\n");
    for recipient in recipients {
        let (share, body) = wrap(recipient, file_key)?;
        header.push_str(&format!("-> {STANZA} {}\n{}\n", encode(&share), encode(&body)));
    }
    header.push_str("---");
    let mac = header_mac(file_key, header.as_bytes());
    header.push_str(&format!(" {}\n", encode(&mac)));
    Ok(header)
}

fn header_mac(file_key: &[u8; FILE_KEY_BYTES], text: &[u8]) -> [u8; 32] {
    provider::hmac_sha256(&provider::hkdf_sha256_of(file_key, &[], b"header"), &[text])
}

fn wrap(recipient: &Recipient, file_key: &[u8; FILE_KEY_BYTES]) -> Result<([u8; 32], Vec<u8>), RandomError> {
    let secret = Key256::generate()?;
    let share = provider::x25519_public(&secret);
    let shared = provider::x25519(&secret, &recipient.0).expect("no recipient of low order is let in");
    let key = wrapping_key(&shared, &share, &recipient.0);
    let mut body = file_key.to_vec();
    let tag = key.seal([0; NONCE_BYTES], &[], &mut body);
    body.extend_from_slice(&tag);
    Ok((share, body))
}

fn unwrap(identity: &Identity, share: &[u8; 32], body: &[u8]) -> Option<Zeroizing<[u8; FILE_KEY_BYTES]>> {
    let shared = provider::x25519(&identity.0, share)?;
    let key = wrapping_key(&shared, share, &identity.to_recipient().0);
    let mut bytes = Zeroizing::new(body.to_vec());
    if bytes.len() != FILE_KEY_BYTES + TAG_BYTES {
        return None;
    }
    key.open([0; NONCE_BYTES], &[], &mut bytes).ok()?;
    let mut file_key = Zeroizing::new([0; FILE_KEY_BYTES]);
    file_key.copy_from_slice(&bytes[..FILE_KEY_BYTES]);
    Some(file_key)
}

fn wrapping_key(shared: &Key256, share: &[u8; 32], recipient: &[u8; 32]) -> AeadKey {
    let salt = [share.as_slice(), recipient].concat();
    AeadKey::chacha20_poly1305(&provider::hkdf_sha256(shared, &salt, WRAP_INFO))
}

/// Finds the file key, checks the header's MAC, and gives what comes behind the header.
fn open_header<'a>(
    identities: &[Identity],
    file: &'a [u8],
) -> Result<(Zeroizing<[u8; FILE_KEY_BYTES]>, &'a [u8]), OpenError> {
    let mut lines = Lines { rest: file, taken: 0 };
    if lines.next()? != INTRO {
        return Err(OpenError::Format);
    }
    let mut found = None;
    let mut line = lines.next()?;
    while let Some(arguments) = line.strip_prefix("-> ") {
        let mut body = Vec::new();
        // A body ends with a line that is not full.
        loop {
            line = lines.next()?;
            body.extend(decode(line)?);
            if line.len() < 64 {
                break;
            }
        }
        if let Some(share) = arguments.strip_prefix(STANZA).and_then(|rest| rest.strip_prefix(' ')) {
            let share = decode(share)?.try_into().map_err(|_| OpenError::Format)?;
            found = found.or_else(|| identities.iter().find_map(|identity| unwrap(identity, &share, &body)));
        }
        line = lines.next()?;
    }
    let mac = line.strip_prefix("--- ").ok_or(OpenError::Format)?;
    let file_key = found.ok_or(OpenError::NoIdentity)?;
    let authenticated = &file[..lines.taken - line.len() - 1 + "---".len()];
    // Not a secret to be guessed byte by byte: whoever has the file has all day.
    if decode(mac)? != header_mac(&file_key, authenticated) {
        return Err(OpenError::Refused);
    }
    Ok((file_key, lines.rest))
}

struct Lines<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, OpenError> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(OpenError::Format)?;
        self.taken += end + 1;
        if self.taken > MAX_HEADER_BYTES {
            return Err(OpenError::Format);
        }
        let line = std::str::from_utf8(&self.rest[..end]).map_err(|_| OpenError::Format)?;
        self.rest = &self.rest[end + 1..];
        Ok(line)
    }
}

fn encode(bytes: &[u8]) -> String {
    STANDARD_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Result<Vec<u8>, OpenError> {
    STANDARD_NO_PAD.decode(text).map_err(|_| OpenError::Format)
}

#[cfg(test)]
mod tests;
