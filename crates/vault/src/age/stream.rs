//! An age file that is sealed or opened as it passes: one chunk of it in memory.
//!
//! **Invariant:** the writer seals a chunk as the last only in [`Writer::finish`], and the reader gives an end only
//! behind a chunk that was sealed as the last: what was cut off never looks whole.

use std::io::{self, BufRead, Read, Write};

use zeroize::Zeroizing;

use super::{
    CHUNK_BYTES, ChunkSealer, Identity, MAX_HEADER_BYTES, OpenError, PAYLOAD_NONCE_BYTES, Recipient,
    chunk_nonce, open_header,
};
use crate::provider::{self, AeadKey, TAG_BYTES};

/// Encrypts what is written to it.
#[derive(Debug)]
pub struct Writer<W> {
    sealer: ChunkSealer,
    to: W,
    /// Sealed when more follows, for the last chunk may be full.
    chunk: Zeroizing<Vec<u8>>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(recipients: &[Recipient], mut to: W) -> io::Result<Writer<W>> {
        let (sealer, head) = ChunkSealer::new(recipients).map_err(io::Error::other)?;
        to.write_all(&head)?;
        Ok(Writer { sealer, to, chunk: Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + TAG_BYTES)) })
    }

    /// Writes the last chunk. What is dropped without it cannot be opened.
    pub fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.to)
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let room = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + TAG_BYTES));
        let mut chunk = std::mem::replace(&mut self.chunk, room);
        let sealed = self.sealer.seal(std::mem::take(&mut *chunk), last);
        self.to.write_all(&sealed)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.chunk.len() == CHUNK_BYTES {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// A chunk is written when it is full, not before.
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no age file, or one for others.
    #[error(transparent)]
    Age(#[from] OpenError),
}

/// Decrypts what is read through it.
pub struct Reader<R> {
    from: R,
    key: AeadKey,
    number: u64,
    plain: Zeroizing<Vec<u8>>,
    given: usize,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header and finds the identity that opens it.
    pub fn new(identities: &[Identity], mut from: R) -> Result<Reader<R>, ReadError> {
        let mut header = Vec::new();
        loop {
            let begin = header.len();
            let room = (MAX_HEADER_BYTES + 1).saturating_sub(begin);
            let line = from.by_ref().take(room as u64).read_until(b'\n', &mut header)?;
            // At the end of the file, and of the room, the last byte is still the newline of the line before.
            if line == 0 || header.last() != Some(&b'\n') {
                return Err(OpenError::Format.into());
            }
            if header[begin..].starts_with(b"---") {
                break;
            }
        }
        let (file_key, _) = open_header(identities, &header)?;
        let mut nonce = [0; PAYLOAD_NONCE_BYTES];
        from.read_exact(&mut nonce).map_err(cut_off)?;
        let key = AeadKey::chacha20_poly1305(&provider::hkdf_sha256_of(&*file_key, &nonce, b"payload"));
        Ok(Reader { from, key, number: 0, plain: Zeroizing::default(), given: 0, ended: false })
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + TAG_BYTES));
        self.from.by_ref().take((CHUNK_BYTES + TAG_BYTES) as u64).read_to_end(&mut chunk)?;
        let last = self.from.fill_buf()?.is_empty();
        let opened = self.key.open(chunk_nonce(self.number, last), &[], &mut chunk);
        let length = opened.map_err(|provider::Refused| refused())?;
        // Only a whole empty file ends with an empty chunk.
        if length == 0 && self.number > 0 {
            return Err(refused());
        }
        chunk.truncate(length);
        (self.plain, self.given) = (chunk, 0);
        self.number += 1;
        self.ended = last;
        Ok(())
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.given == self.plain.len() {
            if self.ended || to.is_empty() {
                return Ok(0);
            }
            self.next_chunk()?;
        }
        let taken = to.len().min(self.plain.len() - self.given);
        to[..taken].copy_from_slice(&self.plain[self.given..self.given + taken]);
        self.given += taken;
        Ok(taken)
    }
}

impl<R> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("number", &self.number).finish_non_exhaustive()
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, OpenError::Refused)
}

fn cut_off(error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::UnexpectedEof { OpenError::Refused.into() } else { error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::age;

    fn sealed(plain: &[u8], identity: &Identity) -> Vec<u8> {
        let mut writer = Writer::new(&[identity.to_recipient()], Vec::new()).unwrap();
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    fn opened(file: &[u8], identity: &Identity) -> Result<Vec<u8>, String> {
        let identities = std::slice::from_ref(identity);
        let mut reader = Reader::new(identities, file).map_err(|error| error.to_string())?;
        let mut plain = Vec::new();
        reader.read_to_end(&mut plain).map_err(|error| error.to_string())?;
        Ok(plain)
    }

    #[test]
    fn a_header_that_ends_between_two_lines_is_refused() {
        let identity = Identity::generate().unwrap();
        let file = sealed(b"", &identity);
        let lines: Vec<usize> = file
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|(at, _)| at + 1)
            .take(3)
            .collect();
        for end in lines {
            assert!(opened(&file[..end], &identity).is_err(), "{end} bytes");
        }
        let endless = b"age-encryption.org/v1\n".iter().chain(b"-> x\n".iter().cycle().take(1 << 20));
        assert!(opened(&endless.copied().collect::<Vec<u8>>(), &identity).is_err());
    }

    #[test]
    fn a_stream_is_the_same_file_as_a_whole_one() {
        let identity = Identity::generate().unwrap();
        for length in
            [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7]
        {
            let plain: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let file = sealed(&plain, &identity);
            assert_eq!(*age::decrypt(std::slice::from_ref(&identity), &file).unwrap(), plain, "{length}");
            let whole = age::encrypt(&[identity.to_recipient()], &plain).unwrap();
            assert_eq!(opened(&whole, &identity).unwrap(), plain, "{length}");
        }
    }

    #[test]
    fn what_was_cut_changed_or_is_for_others_is_refused() {
        let identity = Identity::generate().unwrap();
        let file = sealed(&[7; CHUNK_BYTES + 10], &identity);
        for cut in
            [0, 10, 150, 200, file.len() - CHUNK_BYTES, file.len() - 27, file.len() - 26, file.len() - 1]
        {
            assert!(opened(&file[..cut], &identity).is_err(), "cut at {cut}");
        }
        for flipped in [30, 170, 230, file.len() / 2, file.len() - 1] {
            let mut file = file.clone();
            file[flipped] ^= 1;
            assert!(opened(&file, &identity).is_err(), "flipped at {flipped}");
        }
        let longer = [file.clone(), vec![0]].concat();
        assert!(opened(&longer, &identity).is_err());
        let refused = opened(&file, &Identity::generate().unwrap()).unwrap_err();
        assert_eq!(refused, OpenError::NoIdentity.to_string());
    }
}
