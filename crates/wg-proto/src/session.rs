//! One Noise session with a peer: the only place that touches boringtun's `Tunn`.
//!
//! What `Tunn` expects of its callers and does not check stops here: buffers it panics on when they
//! are short, the call that is repeated until `Done`, a clock of its own that stands still between
//! calls of `update_timers`, and a limiter and a queue of its own, both of which stay unused.
//!
//! **Invariants:** scratch space holds any datagram, and space that others give is measured before it is used, so no buffer
//! is short. `ready` says exactly
//! whether `Tunn` holds a session to seal with; nothing is sealed without one, so its queue, which
//! drops silently, stays empty. Before a handshake begins or ends the private clock has been moved.

#[cfg(test)]
mod virtual_time;

use std::time::Instant;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use crate::identity::Identity;
use crate::limits::from_the_specification::{DATA_OVERHEAD_BYTES, INITIATION_BYTES, REJECT_AFTER_MESSAGES};
use crate::limits::our_choice::SCRATCH_BYTES;
use crate::secrets::{forget, kept};
use crate::{DropReason, PresharedKey, PublicKey};

/// Room for any datagram, made once.
pub(crate) type Scratch = [u8; SCRATCH_BYTES];

pub(crate) struct Session {
    /// 11 KB, so not inside the peer.
    tunn: Box<Tunn>,
    /// The upper 24 bits of every index this session hands out.
    range: u32,
    ready: bool,
    /// The index of our latest response, until a packet that uses it proves that it arrived.
    unconfirmed: Option<u32>,
    /// `false` for a low-order peer key.
    can_agree: bool,
    /// No handshake is made with it any more; its keys serve until then.
    retired_until: Option<Instant>,
    /// In place of the private clock, which a test cannot move.
    #[cfg(test)]
    rules: virtual_time::Rules,
}

/// What a data datagram held.
pub(crate) enum Content {
    Keepalive,
    Packet {
        bytes: usize,
    },
    /// Authentic, but no IP packet.
    NotIp,
}

/// A data datagram that authenticated.
pub(crate) struct Opened {
    pub(crate) content: Content,
    /// The first packet under keys that we answered with: the handshake is complete.
    pub(crate) confirms: bool,
}

/// What the session's timers ask for.
pub(crate) enum Tick<'a> {
    Nothing,
    /// A handshake message: a first one, or again after no answer came.
    Initiation(&'a [u8]),
    Keepalive(&'a [u8]),
    /// 90 s of handshakes went unanswered, or the session is long dead. Nothing happens by itself now.
    GaveUp,
}

impl Session {
    pub(crate) fn new(
        identity: &Identity,
        peer: &PublicKey,
        preshared_key: Option<&PresharedKey>,
        range: u32,
    ) -> Session {
        let tunn = kept(|| {
            Box::new(Tunn::new(
                identity.secret().to_x25519(),
                x25519::PublicKey::from(*peer.as_bytes()),
                preshared_key.map(|key| *key.reveal_bytes()),
                None,
                range,
                Some(identity.unlimited()),
            ))
        });
        // A session is made on the stack before it gets to its place.
        forget();
        Session {
            tunn,
            range,
            ready: false,
            unconfirmed: None,
            can_agree: identity.can_agree_with(peer),
            retired_until: None,
            #[cfg(test)]
            rules: virtual_time::Rules::default(),
        }
    }

    pub(crate) fn range(&self) -> u32 {
        self.range
    }

    /// Whether there are keys to seal with.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether keys can be in use, ours or those the peer has still to confirm.
    pub(crate) fn may_hold_keys(&self) -> bool {
        self.ready || self.unconfirmed.is_some()
    }

    /// Whether a handshake can ever succeed.
    pub(crate) fn can_agree(&self) -> bool {
        self.can_agree
    }

    /// How much space [`Session::seal`] wants.
    #[inline]
    pub(crate) fn sealed_bytes(padded: usize) -> usize {
        // The Noise implementation takes no less than a handshake would need.
        (padded + DATA_OVERHEAD_BYTES).max(INITIATION_BYTES)
    }

    /// Seals a packet (padded already) or, if empty, a keepalive, and says how long the datagram is that lies at the
    /// beginning of the space then. `None` unless ready.
    #[inline]
    pub(crate) fn seal(&mut self, padded: &[u8], space: &mut [u8]) -> Option<usize> {
        if !self.ready || space.len() < Self::sealed_bytes(padded.len()) {
            return None;
        }
        #[cfg(test)]
        self.rules.sent(!padded.is_empty());
        datagram(self.tunn.encapsulate(padded, space)).map(<[u8]>::len)
    }

    /// Begins a handshake. `None` if one is under way already, or none can succeed.
    pub(crate) fn initiate<'a>(&mut self, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        if !self.can_agree {
            return None;
        }
        let anew = self.wake(scratch);
        let initiation = datagram(self.tunn.format_handshake_initiation(scratch, anew));
        forget();
        #[cfg(test)]
        if initiation.is_some() {
            self.rules.initiated();
        }
        initiation
    }

    /// Answers an initiation that is known to be from this peer.
    pub(crate) fn accept_initiation<'a>(
        &mut self,
        initiation: &[u8],
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], DropReason> {
        self.wake(scratch);
        let answer = self.tunn.decapsulate(None, initiation, scratch);
        forget();
        match answer {
            TunnResult::WriteToNetwork(response) => {
                self.unconfirmed = response.get(4..8).and_then(|index| {
                    let index = index.try_into().ok()?;
                    Some(u32::from_le_bytes(index))
                });
                #[cfg(test)]
                self.rules.answered();
                // The repeated call is left out on purpose: it would try to seal under keys that the
                // peer has not confirmed, find none, and answer an initiation with an initiation.
                Ok(response)
            }
            TunnResult::Err(error) => Err(drop_reason(&error)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                Err(DropReason::Malformed)
            }
        }
    }

    /// Takes the answer to our initiation, and gives `send` what is to follow it: the keepalive that
    /// proves the keys to the peer.
    pub(crate) fn accept_response(
        &mut self,
        response: &[u8],
        scratch: &mut Scratch,
        mut send: impl FnMut(&[u8]),
    ) -> Result<(), DropReason> {
        let mut result = self.tunn.decapsulate(None, response, scratch);
        forget();
        if let TunnResult::Err(error) = &result {
            return Err(drop_reason(error));
        }
        self.ready = true;
        #[cfg(test)]
        self.rules.established(true);
        while let Some(datagram) = datagram(result) {
            send(datagram);
            result = self.tunn.decapsulate(None, &[], scratch);
        }
        Ok(())
    }

    /// Takes a cookie; the next initiation carries it.
    pub(crate) fn accept_cookie(&mut self, reply: &[u8], scratch: &mut Scratch) -> Result<(), DropReason> {
        match self.tunn.decapsulate(None, reply, scratch) {
            TunnResult::Err(error) => Err(drop_reason(&error)),
            TunnResult::Done
            | TunnResult::WriteToNetwork(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => Ok(()),
        }
    }

    /// Opens a data datagram whose receiver index lies in our range; its packet lies at the beginning of the space
    /// afterwards, which is as long as the datagram.
    #[inline]
    pub(crate) fn open(&mut self, datagram: &[u8], space: &mut [u8]) -> Result<Opened, DropReason> {
        if space.len() < datagram.len() {
            return Err(DropReason::TooBig);
        }
        if counter(datagram).is_none_or(|counter| counter >= REJECT_AFTER_MESSAGES) {
            return Err(DropReason::Replay);
        }
        #[cfg(test)]
        if self.rules.keys_are_gone() && self.unconfirmed != receiver_index(datagram) {
            return Err(DropReason::UnknownIndex);
        }
        let content = match self.tunn.decapsulate(None, datagram, space) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Content::Packet { bytes: packet.len() }
            }
            TunnResult::Done => Content::Keepalive,
            // The datagram's form was checked before, so this is about what it held: by now the tag
            // has been verified and the counter spent.
            TunnResult::Err(WireGuardError::InvalidPacket) => Content::NotIp,
            TunnResult::Err(error) => return Err(drop_reason(&error)),
            TunnResult::WriteToNetwork(_) => return Err(DropReason::Malformed),
        };
        // Opening makes the session the current one, so there is one to seal with.
        self.ready = true;
        let confirms = self.unconfirmed.is_some() && self.unconfirmed == receiver_index(datagram);
        if confirms {
            self.unconfirmed = None;
        }
        #[cfg(test)]
        {
            if confirms {
                self.rules.established(false);
            }
            self.rules.received(matches!(content, Content::Packet { .. }));
        }
        Ok(Opened { content, confirms })
    }

    /// Moves the private clock and asks the session's timers. To be called every `TICK` as long as
    /// it does not say [`Tick::GaveUp`].
    pub(crate) fn tick<'a>(&mut self, now: Instant, scratch: &'a mut Scratch) -> Tick<'a> {
        if let Some(until) = self.retired_until {
            if now >= until {
                (self.ready, self.unconfirmed) = (false, None);
            }
            return Tick::Nothing;
        }
        let (result, has_keys) = self.ask_timers(now, scratch);
        self.ready = has_keys;
        if matches!(result, TunnResult::Err(_)) {
            self.unconfirmed = None;
            return Tick::GaveUp;
        }
        match datagram(result) {
            None => Tick::Nothing,
            Some(message) if message.first() == Some(&MESSAGE_INITIATION) => {
                forget();
                Tick::Initiation(message)
            }
            Some(message) => Tick::Keepalive(message),
        }
    }

    #[cfg(not(test))]
    fn ask_timers<'a>(&mut self, _now: Instant, scratch: &'a mut Scratch) -> (TunnResult<'a>, bool) {
        let result = self.tunn.update_timers(scratch);
        (result, self.tunn.time_since_last_handshake().is_some())
    }

    #[cfg(test)]
    fn ask_timers<'a>(&mut self, now: Instant, scratch: &'a mut Scratch) -> (TunnResult<'a>, bool) {
        let result = self.rules.ask(now, &mut self.tunn, scratch);
        (result, !self.rules.keys_are_gone())
    }

    /// No handshakes any more, and so no giving up, which would wipe the keys: they serve until then.
    pub(crate) fn retire(&mut self, until: Instant) {
        self.retired_until = Some(until);
    }

    /// Whether [`Session::tick`] has nothing to do until a handshake begins.
    pub(crate) fn is_dormant(&self) -> bool {
        if self.retired_until.is_some() {
            return !self.may_hold_keys();
        }
        #[cfg(test)]
        return self.rules.is_expired();
        #[cfg(not(test))]
        self.tunn.is_expired()
    }

    /// A dormant session's clock stands where it was left; a handshake that began there would be
    /// over its time at the next tick. `true` if it was dormant.
    fn wake(&mut self, scratch: &mut Scratch) -> bool {
        let was_dormant = self.tunn.is_expired();
        #[cfg(test)]
        let was_dormant = self.rules.wake() || was_dormant;
        if was_dormant {
            // Says only that it is expired, which is known.
            let _ = self.tunn.update_timers(scratch);
        }
        was_dormant
    }
}

/// First byte of message 1, paper §5.4.2.
const MESSAGE_INITIATION: u8 = 1;

/// The receiver index of a data message, paper §5.4.6.
fn receiver_index(datagram: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(datagram.get(4..8)?.try_into().ok()?))
}

/// The counter of a data message, paper §5.4.6.
fn counter(datagram: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(datagram.get(8..16)?.try_into().ok()?))
}

fn datagram(result: TunnResult<'_>) -> Option<&[u8]> {
    match result {
        TunnResult::WriteToNetwork(datagram) => Some(datagram),
        TunnResult::Done
        | TunnResult::Err(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => None,
    }
}

fn drop_reason(error: &WireGuardError) -> DropReason {
    match error {
        WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter
        | WireGuardError::WrongTai64nTimestamp => DropReason::Replay,
        WireGuardError::InvalidAeadTag
        | WireGuardError::WrongKey
        | WireGuardError::InvalidTai64nTimestamp => DropReason::DecryptFailed,
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex | WireGuardError::UnexpectedPacket => {
            DropReason::UnknownIndex
        }
        WireGuardError::InvalidMac => DropReason::Mac1Invalid,
        WireGuardError::UnderLoad => DropReason::Mac2Missing,
        WireGuardError::ConnectionExpired => DropReason::NoSession,
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::InvalidPacket
        | WireGuardError::LockFailed => DropReason::Malformed,
    }
}
