//! A file's bytes, sealed in segments: the `AES256_GCM_HKDF` streaming format of Tink.
//!
//! header = length (40) ‖ salt (32) ‖ nonce prefix (7); key = HKDF-SHA256(DEK, salt, associated data);
//! segment = AES-256-GCM under that key, nonce = prefix ‖ segment number (u32 BE) ‖ last (0 or 1), no
//! associated data of its own. `docs/formats/sealed-object.md` has the bytes and an example.
//!
//! **Invariant:** no (key, segment) is sealed twice: a [`Sealer`] draws its salt itself, cannot be copied,
//! kept or set back, and numbers its segments. What was cut off, put in another order, taken twice or
//! changed does not open. Sealing and opening are in place and allocate nothing for a segment.

pub mod layout;

use std::fmt;

pub use self::layout::{Extent, Layout};
use crate::key::Key256;
use crate::provider::{self, AeadKey, NONCE_BYTES, RandomError, TAG_BYTES};

/// Bytes of a sealed segment that the store writes.
pub const SEGMENT_BYTES: u32 = 256 * 1024;
/// Bytes before the first segment.
pub const HEADER_BYTES: usize = 1 + SALT_BYTES + PREFIX_BYTES;
/// Bytes behind each segment's ciphertext.
pub const SEGMENT_OVERHEAD_BYTES: usize = TAG_BYTES;

/// As long as the key that is derived with it: Tink's rule.
const SALT_BYTES: usize = 32;
const PREFIX_BYTES: usize = 7;
#[expect(clippy::cast_possible_truncation, reason = "it is 40")]
const HEADER_LENGTH_BYTE: u8 = HEADER_BYTES as u8;

/// Why a segment cannot be sealed. Each is a mistake of the caller, none depends on the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The last segment was sealed before.
    #[error("the stream has ended")]
    Ended,
    /// Not full though others follow, longer than a segment, or empty though others came before.
    #[error("a segment of {bytes} plain bytes, where {full} fill it")]
    Length {
        /// What was given.
        bytes: usize,
        /// What fills this segment.
        full: usize,
    },
    /// 2³² segments were sealed.
    #[error("more segments than the nonce can number")]
    TooLong,
}

/// Why a stream or a segment cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The first bytes are not those of a stream.
    #[error("not the header of a sealed stream")]
    Header,
    /// No segment at this place has this length.
    #[error("not the length of a sealed segment")]
    Length,
    /// Changed, cut off, moved, or sealed with another key or for another file.
    #[error("changed, cut off, moved, or sealed with another key")]
    Refused,
}

/// What both directions share.
struct Stream {
    key: AeadKey,
    prefix: [u8; PREFIX_BYTES],
    layout: Layout,
}

/// Seals one stream from its first segment to its last.
pub struct Sealer {
    stream: Stream,
    /// The number of the next segment; none when the stream has ended.
    next: Option<u32>,
    exhausted: bool,
}

/// Opens segments of one stream, in any order.
pub struct Opener(Stream);

impl Sealer {
    /// Begins a stream under `dek` (one for each stream) and gives the header, which goes first.
    pub fn new(
        dek: &Key256,
        aad: &[u8],
        layout: Layout,
    ) -> Result<(Sealer, [u8; HEADER_BYTES]), RandomError> {
        let (mut salt, mut prefix) = ([0; SALT_BYTES], [0; PREFIX_BYTES]);
        provider::random(&mut salt)?;
        provider::random(&mut prefix)?;
        Ok(Sealer::salted(dek, aad, layout, salt, prefix))
    }

    fn salted(
        dek: &Key256,
        aad: &[u8],
        layout: Layout,
        salt: [u8; SALT_BYTES],
        prefix: [u8; PREFIX_BYTES],
    ) -> (Sealer, [u8; HEADER_BYTES]) {
        let mut header = [0; HEADER_BYTES];
        header[0] = HEADER_LENGTH_BYTE;
        header[1..=SALT_BYTES].copy_from_slice(&salt);
        header[1 + SALT_BYTES..].copy_from_slice(&prefix);
        let stream = Stream::new(dek, aad, layout, &salt, prefix);
        (Sealer { stream, next: Some(0), exhausted: false }, header)
    }

    /// Plain bytes that fill the next segment.
    pub fn next_plain_bytes(&self) -> usize {
        self.stream.layout.plain_bytes_in(self.next.unwrap_or(u32::MAX))
    }

    /// Seals the next segment in place. `segment` is the plain bytes and [`SEGMENT_OVERHEAD_BYTES`] of room for
    /// the tag, whatever stands there. Each but the last is full; the last is not empty, unless it is the only
    /// one.
    pub fn seal_segment(&mut self, segment: &mut [u8], last: bool) -> Result<(), SealError> {
        let Some(number) = self.next else {
            return Err(if self.exhausted { SealError::TooLong } else { SealError::Ended });
        };
        let full = self.stream.layout.plain_bytes_in(number);
        let bytes = segment.len().saturating_sub(TAG_BYTES);
        let fits = if last { bytes <= full && (bytes > 0 || number == 0) } else { bytes == full };
        if !fits || segment.len() < TAG_BYTES {
            return Err(SealError::Length { bytes, full });
        }
        self.next = if last { None } else { number.checked_add(1) };
        self.exhausted = self.next.is_none() && !last;
        let (plain, room) = segment.split_at_mut(bytes);
        let tag = self.stream.key.seal(self.stream.nonce(number, last), &[], plain);
        room.copy_from_slice(&tag);
        Ok(())
    }
}

impl Opener {
    /// Begins to read a stream by its header. Nothing is authenticated before a segment is opened.
    pub fn new(dek: &Key256, aad: &[u8], header: &[u8], layout: Layout) -> Result<Opener, OpenError> {
        let header: &[u8; HEADER_BYTES] = header.try_into().map_err(|_| OpenError::Header)?;
        let Some((&HEADER_LENGTH_BYTE, rest)) = header.split_first() else { return Err(OpenError::Header) };
        let (salt, rest) = rest.split_at(SALT_BYTES);
        let mut prefix = [0; PREFIX_BYTES];
        prefix.copy_from_slice(rest);
        Ok(Opener(Stream::new(dek, aad, layout, salt, prefix)))
    }

    /// Opens segment `number` in place (ciphertext ‖ tag) and says how many of its first bytes are plain. What
    /// does not open is left without content. `last` comes from the stream's length as it is *recorded*: a
    /// stream that was cut off then ends in a segment that does not open.
    pub fn open_segment(&self, number: u32, last: bool, segment: &mut [u8]) -> Result<usize, OpenError> {
        let full = self.0.layout.plain_bytes_in(number);
        let bytes = segment.len().checked_sub(TAG_BYTES).ok_or(OpenError::Length)?;
        let fits = if last { bytes <= full && (bytes > 0 || number == 0) } else { bytes == full };
        if !fits {
            return Err(OpenError::Length);
        }
        let opened = self.0.key.open(self.0.nonce(number, last), &[], segment);
        opened.map_err(|provider::Refused| OpenError::Refused)
    }
}

impl Stream {
    fn new(dek: &Key256, aad: &[u8], layout: Layout, salt: &[u8], prefix: [u8; PREFIX_BYTES]) -> Stream {
        Stream { key: AeadKey::new(&provider::hkdf_sha256(dek, salt, aad)), prefix, layout }
    }

    fn nonce(&self, number: u32, last: bool) -> [u8; NONCE_BYTES] {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..PREFIX_BYTES].copy_from_slice(&self.prefix);
        nonce[PREFIX_BYTES..NONCE_BYTES - 1].copy_from_slice(&number.to_be_bytes());
        nonce[NONCE_BYTES - 1] = u8::from(last);
        nonce
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("next", &self.next).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
