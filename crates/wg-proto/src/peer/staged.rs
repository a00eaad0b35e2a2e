//! Packets that wait for a handshake.
//!
//! **Invariant:** never more than `MAX_STAGED_PACKETS`; the oldest goes first.

use std::collections::VecDeque;

use crate::limits::our_choice::MAX_STAGED_PACKETS;

#[derive(Debug, Default)]
pub(super) struct Staged(VecDeque<Vec<u8>>);

impl Staged {
    /// Keeps a copy. Gives how many had to go for it.
    pub(super) fn push(&mut self, packet: &[u8]) -> u64 {
        let full = self.0.len() >= MAX_STAGED_PACKETS;
        // The buffer of the one that goes serves the one that comes.
        let mut buffer = if full { self.0.pop_front().unwrap_or_default() } else { Vec::new() };
        buffer.clear();
        buffer.extend_from_slice(packet);
        self.0.push_back(buffer);
        u64::from(full)
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        self.0.pop_front()
    }

    pub(super) fn put_back(&mut self, packet: Vec<u8>) {
        self.0.push_front(packet);
    }

    /// Forgets all of them. Gives how many.
    pub(super) fn clear(&mut self) -> u64 {
        std::mem::take(&mut self.0).len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let mut staged = Staged::default();
        let overflowed: u64 = (0..=u8::MAX).map(|number| staged.push(&[number])).sum();
        assert_eq!(overflowed, 128);
        assert_eq!(staged.pop(), Some(vec![128]));
        assert_eq!(staged.clear(), 127);
    }
}
