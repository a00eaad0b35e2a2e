//! What is uploaded: lines of text that can be made again from a seed, each with a marker to look for.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// Stands in every line of a payload, so in every packet that would carry one in clear.
pub const MARKER: &str = "culvert-plaintext-marker-7f3a9c";

/// A stream of bytes of a given length, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Payload {
    left: u64,
    state: u64,
    row: u64,
    line: Vec<u8>,
    taken: usize,
}

impl Payload {
    /// `length` bytes made from `seed`.
    pub fn new(length: u64, seed: u64) -> Payload {
        Payload { left: length, state: seed * 2 + 1, row: 0, line: Vec::new(), taken: 0 }
    }

    /// SHA-256 of the rest, in hex.
    pub fn sha256(&self) -> String {
        let mut copy = self.clone();
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length) = copy.read(&mut buffer) {
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
        }
        hex(&hasher.finalize())
    }

    fn next_line(&mut self) {
        // xorshift64: fast, and the lines do not compress to nothing.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.row += 1;
        self.line = format!("{},{MARKER},{:016x}\n", self.row, self.state).into_bytes();
        self.taken = 0;
    }
}

impl Read for Payload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < buffer.len() && self.left > 0 {
            if self.taken == self.line.len() {
                self.next_line();
            }
            let room = (buffer.len() - written).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let length = room.min(self.line.len() - self.taken);
            buffer[written..written + length].copy_from_slice(&self.line[self.taken..self.taken + length]);
            self.taken += length;
            written += length;
            self.left -= length as u64;
        }
        Ok(written)
    }
}

/// SHA-256 of `bytes`, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let mut bytes = Vec::new();
        Payload::new(100_000, 7).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 100_000);
        assert_eq!(sha256(&bytes), Payload::new(100_000, 7).sha256());
        assert_ne!(sha256(&bytes), Payload::new(100_000, 9).sha256());
        assert!(bytes.windows(1200).all(|packet| memchr::memmem::find(packet, MARKER.as_bytes()).is_some()));
    }
}
