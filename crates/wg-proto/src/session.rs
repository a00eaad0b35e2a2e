//! One Noise session with a peer: its handshakes, its keys, and what it wants to do by itself.
//!
//! What is sealed and opened is so in place, in the buffers of whoever calls: in front of the text there is room for the header,
//! behind it for the tag.
//!
//! **Invariants:** all receiver indices of a session lie in its range, and no two handshakes that are alive share one. Nothing is
//! sealed without keys that may be used. After each key agreement the stack is wiped.

use std::time::Instant;

use crate::identity::Identity;
use crate::limits::from_the_specification::{
    DATA_OVERHEAD_BYTES, INITIATION_BYTES, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME,
    REKEY_TIMEOUT, RESPONSE_BYTES,
};
use crate::limits::our_choice::SCRATCH_BYTES;
use crate::noise::handshake::{Agreed, Initiated, Parties};
use crate::noise::initiation::Initiation;
use crate::noise::macs::Macs;
use crate::noise::rules::{Due, Rules};
use crate::noise::stamp::Stamper;
use crate::noise::transport::{Pair, Pairs, Role};
use crate::secrets::forget;
use crate::{DropReason, PresharedKey, PublicKey};

/// Room for any datagram, made once.
pub(crate) type Scratch = [u8; SCRATCH_BYTES];

pub(crate) struct Session {
    parties: Box<Parties>,
    macs: Macs,
    /// Ours, while it may be answered.
    initiated: Option<Box<Initiated>>,
    pairs: Pairs,
    rules: Rules,
    /// The upper 24 bits of every index this session hands out.
    range: u32,
    last_index: u8,
}

/// A data datagram that authenticated.
pub(crate) struct Opened {
    /// Of the text, padding included; a keepalive has none.
    pub(crate) bytes: usize,
    /// The first packet under keys that we answered with: the handshake is complete.
    pub(crate) confirms: bool,
}

/// What the session asks for.
pub(crate) enum Tick<'a> {
    Nothing,
    /// A handshake message: a first one, or again after no answer came.
    Initiation(&'a [u8]),
    Keepalive(&'a [u8]),
    /// 90 s of handshakes went unanswered. Keys that are left serve on.
    GaveUp,
}

impl Session {
    pub(crate) fn new(
        identity: &Identity,
        peer: &PublicKey,
        preshared_key: Option<&PresharedKey>,
        range: u32,
    ) -> Session {
        let parties = identity.with(peer, preshared_key);
        // It was made on the stack before it got to its place.
        forget();
        Session {
            macs: Macs::new(parties.peer()),
            parties,
            initiated: None,
            pairs: Pairs::default(),
            rules: Rules::default(),
            range,
            last_index: 0,
        }
    }

    pub(crate) fn range(&self) -> u32 {
        self.range
    }

    /// Whether there are keys to seal with.
    #[inline]
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        self.pairs.sealing(now).is_some()
    }

    /// Whether there are keys to seal with, and nothing says that the peer has lost them.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.is_ready(now) && !self.rules.gave_up()
    }

    /// Whether keys can be in use, ours or those the peer has still to confirm.
    pub(crate) fn may_hold_keys(&self) -> bool {
        !self.pairs.is_empty()
    }

    /// Whether a handshake can ever succeed.
    pub(crate) fn can_agree(&self) -> bool {
        self.parties.can_agree()
    }

    /// How long a datagram with so much text is.
    #[inline]
    pub(crate) fn sealed_bytes(padded: usize) -> usize {
        padded + DATA_OVERHEAD_BYTES
    }

    /// Seals a datagram whose text (padded already; none makes a keepalive) lies behind the place of its header and in front of
    /// that of its tag. `false` unless ready.
    #[inline]
    pub(crate) fn seal(&mut self, datagram: &mut [u8], now: Instant) -> bool {
        if !self.pairs.seal(datagram, now) {
            return false;
        }
        self.rules.sent(datagram.len() > DATA_OVERHEAD_BYTES, now);
        if self.pairs.current().is_some_and(|pair| pair.is_older_than(REKEY_AFTER_TIME, now)) {
            self.rules.renew();
        }
        true
    }

    /// Begins a handshake. `None` if one is under way already, or none can succeed.
    pub(crate) fn initiate<'a>(
        &mut self,
        now: Instant,
        stamper: &mut Stamper,
        scratch: &'a mut Scratch,
    ) -> Option<&'a [u8]> {
        if self.rules.is_attempting() { None } else { self.begin(now, stamper, scratch) }
    }

    /// Answers an initiation that is known to be from this peer.
    pub(crate) fn accept_initiation<'a>(
        &mut self,
        initiation: &Initiation,
        now: Instant,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], DropReason> {
        let index = self.free_index();
        let message = scratch.first_chunk_mut::<RESPONSE_BYTES>().ok_or(DropReason::TooBig)?;
        let agreed = self.parties.respond(initiation, index, message);
        let taken =
            agreed.map(|agreed| self.pairs.answered(Pair::kept(index, Role::Responder, &agreed, now)));
        forget();
        taken?;
        self.macs.sign(index, message, now);
        self.rules.answered();
        Ok(message)
    }

    /// Takes the answer to our initiation, and gives what is to follow it: the keepalive that proves the keys to the peer.
    pub(crate) fn accept_response<'a>(
        &mut self,
        response: &[u8],
        now: Instant,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], DropReason> {
        let initiated = self.initiated.as_deref().ok_or(DropReason::UnknownIndex)?;
        let taken = self.parties.finish(initiated, response).map(|agreed: Agreed| {
            self.pairs.begun(Pair::kept(initiated.index(), Role::Initiator, &agreed, now));
        });
        forget();
        taken?;
        self.initiated = None;
        self.rules.agreed();
        self.keepalive(now, scratch).ok_or(DropReason::NoSession)
    }

    /// Takes a cookie; the next handshake message carries it.
    pub(crate) fn accept_cookie(&mut self, reply: &[u8], now: Instant) -> Result<(), DropReason> {
        self.macs.take_cookie(reply, now)
    }

    /// Opens a data datagram whose receiver index lies in our range; its text is where it was sealed.
    #[inline]
    pub(crate) fn open(&mut self, datagram: &mut [u8], now: Instant) -> Result<Opened, DropReason> {
        let bytes = datagram.len().checked_sub(DATA_OVERHEAD_BYTES).ok_or(DropReason::Malformed)?;
        let confirms = self.pairs.open(datagram, now)?;
        self.rules.received(bytes > 0, now);
        if confirms {
            self.initiated = None;
            self.rules.agreed();
        }
        // So old that they would not outlive the time in which silence is noticed.
        let last_chance = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        if self.pairs.current().is_some_and(|pair| pair.is_older_than(last_chance, now)) {
            self.rules.renew();
        }
        Ok(Opened { bytes, confirms })
    }

    /// Wipes what is too old, and does what is due. To be called every `TICK` unless the session is dormant.
    pub(crate) fn tick<'a>(
        &mut self,
        now: Instant,
        stamper: &mut Stamper,
        scratch: &'a mut Scratch,
    ) -> Tick<'a> {
        self.pairs.expire(now);
        if self.pairs.is_empty() {
            self.rules.keys_are_gone();
        }
        let message = match self.rules.due(now) {
            Due::Nothing => None,
            Due::Initiation => self.begin(now, stamper, scratch).map(Tick::Initiation),
            Due::Keepalive => self.keepalive(now, scratch).map(Tick::Keepalive),
            Due::GiveUp => {
                self.initiated = None;
                Some(Tick::GaveUp)
            }
        };
        message.unwrap_or(Tick::Nothing)
    }

    /// Whether [`Session::tick`] has nothing to do until something is sent or comes.
    pub(crate) fn is_dormant(&self) -> bool {
        self.rules.is_idle() && self.pairs.is_empty()
    }

    /// Begins a handshake in place of the one that was begun before.
    fn begin<'a>(
        &mut self,
        now: Instant,
        stamper: &mut Stamper,
        scratch: &'a mut Scratch,
    ) -> Option<&'a [u8]> {
        let chance = getrandom::u32().ok()?.to_le_bytes();
        let index = self.free_index();
        let message = scratch.first_chunk_mut::<INITIATION_BYTES>()?;
        let initiated = self.parties.initiate(index, stamper.stamp(), message);
        forget();
        self.initiated = Some(initiated?);
        self.macs.sign(index, message, now);
        self.rules.initiated(now, u16::from_le_bytes([chance[0], chance[1]]));
        Some(message)
    }

    fn keepalive<'a>(&mut self, now: Instant, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        let datagram = &mut scratch[..DATA_OVERHEAD_BYTES];
        self.seal(datagram, now).then_some(&*datagram)
    }

    /// One that no handshake has that is alive: of 256 there are four at most.
    fn free_index(&mut self) -> u32 {
        loop {
            self.last_index = self.last_index.wrapping_add(1);
            let index = self.range << 8 | u32::from(self.last_index);
            let initiated = self.initiated.as_ref().is_some_and(|initiated| initiated.index() == index);
            if !initiated && !self.pairs.has(index) {
                return index;
            }
        }
    }
}
