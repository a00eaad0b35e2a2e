//! The frames of the log ahead, as bytes.
//!
//! **Invariant:** a frame has its blocks for itself, so that writing one cannot harm another. It says behind which
//! frames it was written, so it opens wherever it stands, also behind one that does not.
//!
//! The bytes are described in `docs/formats/ledger.md`.

use std::io;

use redb::StorageBackend;
use sha2::{Digest as _, Sha256};
use vault::{Key256, row};
use zeroize::Zeroizing;

use crate::ledger::redo::Decoder;
use crate::ledger::tables::{CorruptError, StoreId};

/// What a disk writes as one. Each frame begins one, as the first does.
pub const BLOCK_BYTES: u64 = BLOCK as u64;
const BLOCK: usize = 4096;
/// The hash before the first frame of a round.
pub const CHAIN_START: [u8; 32] = [0; 32];
/// Where a frame begins. Among blocks that end within something sealed, one in 2⁶⁴ does by chance.
const MARKER: [u8; 8] = *b"frame 2\n";
/// Marker, length of what is sealed, mark, hash over the frames before.
pub const HEAD_BYTES: usize = MARKER.len() + 4 + 8 + 32;

/// What a frame is sealed with.
#[derive(Clone, Copy)]
pub struct Envelope<'a> {
    /// Whose it is.
    pub store: StoreId,
    /// The store key `journal`.
    pub key: &'a Key256,
}

impl Envelope<'_> {
    fn aad(&self, mark: u64, before: &[u8; 32]) -> [u8; 62] {
        let mut aad = [0; 62];
        aad[..6].copy_from_slice(b"ahead\0");
        aad[6..22].copy_from_slice(self.store.0.as_bytes());
        aad[22..30].copy_from_slice(&mark.to_be_bytes());
        aad[30..].copy_from_slice(before);
        aad
    }

    /// A frame as its blocks, and the hash of the round behind it.
    pub fn seal(
        &self,
        mark: u64,
        before: &[u8; 32],
        plain: &[u8],
    ) -> Result<(Vec<u8>, [u8; 32]), vault::RandomError> {
        let sealed = row::seal(self.key, &self.aad(mark, before), plain)?;
        let length = u32::try_from(sealed.len()).expect("groups are far below 4 GiB");
        let mut frame =
            [MARKER.as_slice(), &length.to_be_bytes(), &mark.to_be_bytes(), before, &sealed].concat();
        // Whole blocks: what is not written need not be read first.
        frame.resize(frame.len().next_multiple_of(BLOCK), 0);
        Ok((frame, after(before, &sealed)))
    }

    /// The frame that begins at a place, if one stands there and opens.
    ///
    /// `in_vain` counts the bytes that did not open. Frames do not overlap, so what storaged wrote has no more of them than
    /// the file is long, however it was damaged; heads that claim more would make a start read for hours.
    fn open(
        &self,
        storage: &dyn StorageBackend,
        length: u64,
        at: u64,
        in_vain: &mut u64,
    ) -> io::Result<Option<Found>> {
        let mut head = [0; HEAD_BYTES];
        let sealed_at = at + HEAD_BYTES as u64;
        if sealed_at > length {
            return Ok(None);
        }
        storage.read(at, &mut head)?;
        let Some(rest) = head.strip_prefix(&MARKER) else { return Ok(None) };
        let (bytes, rest) = rest.split_first_chunk().expect("44 bytes are left");
        let (mark, before) = rest.split_first_chunk().expect("40 bytes are left");
        let (bytes, mark) = (u32::from_be_bytes(*bytes), u64::from_be_bytes(*mark));
        let before: [u8; 32] = before.try_into().expect("32 bytes are left");
        let end = sealed_at + u64::from(bytes);
        if end > length {
            return Ok(None);
        }
        let mut sealed = vec![0; usize::try_from(bytes).expect("it fits the file")];
        storage.read(sealed_at, &mut sealed)?;
        let Ok(plain) = row::open(self.key, &self.aad(mark, &before), &sealed) else {
            *in_vain += u64::from(bytes);
            if *in_vain > 2 * length {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it has more heads of frames that do not open than storaged can have written: move it away, and \
                     `culvert restore --replay` brings back from the journal mirror what the ledger lacks",
                ));
            }
            return Ok(None);
        };
        let (after, end) = (after(&before, &sealed), end.next_multiple_of(BLOCK_BYTES));
        Ok(Some(Found { at, mark, plain, before, after, end }))
    }
}

/// A frame that opens.
pub struct Found {
    /// Where it begins.
    pub at: u64,
    /// Its mark.
    pub mark: u64,
    /// What a frame of the journal mirror holds.
    pub plain: Zeroizing<Vec<u8>>,
    before: [u8; 32],
    after: [u8; 32],
    end: u64,
}

impl Found {
    /// The first and the last group of commands that it covers.
    pub fn groups(&self) -> Result<(u64, u64), CorruptError> {
        let mut from = Decoder(&self.plain);
        Ok((from.number()?, from.number()?))
    }
}

/// Goes over a file from block to block: over the frames of this round, and from the first place where none of them stands
/// over whatever frames are left.
pub struct Walk<'a> {
    storage: &'a dyn StorageBackend,
    envelope: Envelope<'a>,
    length: u64,
    at: u64,
    chain: [u8; 32],
    broken_at: Option<u64>,
    in_vain: u64,
}

impl<'a> Walk<'a> {
    /// From the first frame on.
    pub fn new(storage: &'a dyn StorageBackend, envelope: Envelope<'a>) -> io::Result<Walk<'a>> {
        let length = storage.len()?;
        Ok(Walk {
            storage,
            envelope,
            length,
            at: BLOCK_BYTES,
            chain: CHAIN_START,
            broken_at: None,
            in_vain: 0,
        })
    }

    /// The next frame that opens.
    pub fn next_frame(&mut self) -> io::Result<Option<Found>> {
        while self.at < self.length {
            match self.envelope.open(self.storage, self.length, self.at, &mut self.in_vain)? {
                Some(found) if self.broken_at.is_some() || found.before == self.chain => {
                    (self.at, self.chain) = (found.end, found.after);
                    return Ok(Some(found));
                }
                Some(_) | None if self.broken_at.is_none() => self.broken_at = Some(self.at),
                Some(_) | None => self.at += BLOCK_BYTES,
            }
        }
        Ok(None)
    }

    /// Where the round's next frame would stand: what was given since did not have to follow what was given before.
    pub fn broken_at(&self) -> Option<u64> {
        self.broken_at
    }
}

fn after(before: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(before).chain_update(sealed).finalize().into()
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use store_proto::FileId;

    use super::*;

    #[test]
    fn heads_without_frames_do_not_make_a_start_read_for_hours() {
        let (store, key) = (StoreId(FileId::from_bytes([1; 16])), Key256::from_bytes([2; 32]));
        let envelope = Envelope { store, key: &key };
        let (length, storage) = (1 << 20, InMemoryBackend::new());
        storage.set_len(length).unwrap();
        let (frame, _) = envelope.seal(2, &CHAIN_START, b"whole").unwrap();
        storage.write(BLOCK_BYTES, &frame).unwrap();
        for at in (2 * BLOCK_BYTES..length).step_by(BLOCK) {
            let claimed = u32::try_from(length - at - HEAD_BYTES as u64).unwrap();
            storage.write(at, &[MARKER.as_slice(), &claimed.to_be_bytes()].concat()).unwrap();
        }
        let mut walk = Walk::new(&storage, envelope).unwrap();
        assert!(walk.next_frame().unwrap().is_some());
        let error = walk.next_frame().err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(walk.in_vain <= 3 * length, "{} bytes were read for nothing", walk.in_vain);
    }
}
