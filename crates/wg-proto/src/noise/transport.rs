//! Keys of the transport (paper §5.4.6), and which of them is used for what.
//!
//! A session has up to three pairs of keys, as the kernel has them: *current* seals; *next* is what we answered with, and takes
//! its place when the peer has used it; *previous* opens what is still under way. When initiations cross, each side seals with what
//! came of its own, and opens what came of the other's: so both are initiators, and each renews its keys.
//!
//! **Invariants:** a pair neither seals nor opens once it is [`REJECT_AFTER_TIME`] old or its counter has come to
//! [`REJECT_AFTER_MESSAGES`]. A counter is noted only after its tag was verified, so forgeries use up none. A pair is moved by its
//! pointer, and wiped when it goes.

use std::time::{Duration, Instant};

use transport_cipher::TransportKey;

use super::handshake::Agreed;
use super::window::Window;
use super::{TYPE_DATA, word};
use crate::DropReason;
use crate::limits::from_the_specification::{
    DATA_HEADER_BYTES, DATA_TAG_BYTES, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES,
};
use crate::secrets::kept;

/// Whose handshake it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// What two sides send each other after one handshake.
pub(crate) struct Pair {
    /// Ours, by which the peer names it.
    index: u32,
    peer_index: u32,
    sending: TransportKey,
    receiving: TransportKey,
    /// Of the next datagram.
    counter: u64,
    window: Window,
    made: Instant,
    role: Role,
    /// The peer is known to have the keys.
    confirmed: bool,
    /// While we waited for that, a handshake of our own ended.
    crossed: bool,
}

impl Pair {
    pub(crate) fn kept(index: u32, role: Role, agreed: &Agreed, now: Instant) -> Box<Pair> {
        // No secret, and larger than all that is.
        let window = Window::new();
        kept(|| {
            Box::new(Pair {
                index,
                peer_index: agreed.peer_index,
                sending: TransportKey::new(&agreed.sending),
                receiving: TransportKey::new(&agreed.receiving),
                counter: 0,
                window,
                made: now,
                role,
                confirmed: role == Role::Initiator,
                crossed: false,
            })
        })
    }

    /// Whether it may still be used at all.
    fn lives(&self, now: Instant) -> bool {
        now < self.made + REJECT_AFTER_TIME
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }

    /// Whether the one who began is to begin again, or so much was sent that either is.
    pub(crate) fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        self.counter >= REKEY_AFTER_MESSAGES || (self.role == Role::Initiator && self.age(now) >= age)
    }

    /// Seals what lies between the place of the header and that of the tag.
    #[inline]
    fn seal(&mut self, datagram: &mut [u8]) -> bool {
        let Some((header, rest)) = datagram.split_first_chunk_mut::<DATA_HEADER_BYTES>() else {
            return false;
        };
        let Some((text, tag)) = rest.split_last_chunk_mut::<DATA_TAG_BYTES>() else { return false };
        header[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
        header[4..8].copy_from_slice(&self.peer_index.to_le_bytes());
        header[8..].copy_from_slice(&self.counter.to_le_bytes());
        *tag = self.sending.seal_in_place(self.counter, text);
        self.counter += 1;
        true
    }

    /// Opens a data datagram in its place.
    #[inline]
    fn open(&mut self, datagram: &mut [u8]) -> Result<(), DropReason> {
        let (header, rest) =
            datagram.split_first_chunk_mut::<DATA_HEADER_BYTES>().ok_or(DropReason::Malformed)?;
        let (text, tag) = rest.split_last_chunk_mut::<DATA_TAG_BYTES>().ok_or(DropReason::Malformed)?;
        let counter = header.last_chunk().map_or(u64::MAX, |counter| u64::from_le_bytes(*counter));
        if counter >= REJECT_AFTER_MESSAGES || !self.window.takes(counter) {
            return Err(DropReason::Replay);
        }
        if !self.receiving.open_in_place(counter, text, tag) {
            return Err(DropReason::DecryptFailed);
        }
        self.window.take(counter);
        Ok(())
    }
}

/// The pairs of a session.
#[derive(Default)]
pub(crate) struct Pairs {
    previous: Option<Box<Pair>>,
    current: Option<Box<Pair>>,
    next: Option<Box<Pair>>,
}

impl Pairs {
    /// Takes the keys of a handshake that we began: the peer has them already.
    pub(crate) fn begun(&mut self, pair: Box<Pair>) {
        self.previous = self.current.replace(pair);
        if let Some(next) = &mut self.next {
            next.crossed = true;
        }
    }

    /// Takes the keys of a handshake that we answered: the peer may never get the answer.
    pub(crate) fn answered(&mut self, pair: Box<Pair>) {
        self.next = Some(pair);
    }

    /// What may be used to seal with.
    pub(crate) fn sealing(&self, now: Instant) -> Option<&Pair> {
        self.current.as_deref().filter(|pair| pair.lives(now) && pair.counter < REJECT_AFTER_MESSAGES)
    }

    /// Seals in place. `false` if there is nothing to seal with.
    #[inline]
    pub(crate) fn seal(&mut self, datagram: &mut [u8], now: Instant) -> bool {
        self.sealing(now).is_some() && self.current.as_deref_mut().is_some_and(|pair| pair.seal(datagram))
    }

    /// Opens in place. Says whether it was the first under keys that we answered with.
    #[inline]
    pub(crate) fn open(&mut self, datagram: &mut [u8], now: Instant) -> Result<bool, DropReason> {
        let index = word(datagram, 4);
        let pairs = [&mut self.current, &mut self.previous, &mut self.next];
        let named = pairs.into_iter().flatten().find(|pair| pair.index == index);
        let pair = named.filter(|pair| pair.lives(now)).ok_or(DropReason::UnknownIndex)?;
        pair.open(datagram)?;
        let confirms = !std::mem::replace(&mut pair.confirmed, true);
        if confirms && self.next.as_ref().is_some_and(|next| next.index == index) {
            let next = self.next.take();
            let crossed = next.as_ref().is_some_and(|next| next.crossed);
            self.previous = if crossed { next } else { std::mem::replace(&mut self.current, next) };
        }
        Ok(confirms)
    }

    pub(crate) fn current(&self) -> Option<&Pair> {
        self.current.as_deref()
    }

    /// Whether a pair has this index of ours.
    pub(crate) fn has(&self, index: u32) -> bool {
        self.all().any(|pair| pair.index == index)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Wipes what may not be used any more.
    pub(crate) fn expire(&mut self, now: Instant) {
        for pair in [&mut self.previous, &mut self.current, &mut self.next] {
            *pair = pair.take().filter(|pair| pair.lives(now));
        }
    }

    fn all(&self) -> impl Iterator<Item = &Pair> {
        [&self.previous, &self.current, &self.next].into_iter().flatten().map(|pair| &**pair)
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    /// Keys that open what they sealed.
    fn pair(role: Role, now: Instant) -> Box<Pair> {
        let key = || Zeroizing::new([7; 32]);
        Pair::kept(1, role, &Agreed { peer_index: 1, sending: key(), receiving: key() }, now)
    }

    #[test]
    fn keys_come_to_an_end_by_number_as_well() {
        let now = start();
        let mut pairs = Pairs::default();
        pairs.begun(pair(Role::Responder, now));
        let set = |pairs: &mut Pairs, counter| pairs.current.as_mut().unwrap().counter = counter;
        let is_old = |pairs: &Pairs| pairs.current().unwrap().is_older_than(Duration::MAX, now);
        let mut datagram = [0; 32];
        set(&mut pairs, REKEY_AFTER_MESSAGES - 1);
        assert!(!is_old(&pairs));
        assert!(pairs.seal(&mut datagram, now) && is_old(&pairs), "also for who did not begin");
        set(&mut pairs, REJECT_AFTER_MESSAGES - 1);
        assert!(pairs.seal(&mut datagram, now));
        assert_eq!(pairs.open(&mut datagram, now), Ok(true));
        assert!(!pairs.seal(&mut datagram, now) && pairs.sealing(now).is_none());
    }

    #[expect(clippy::disallowed_methods, reason = "tests need one instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }
}
