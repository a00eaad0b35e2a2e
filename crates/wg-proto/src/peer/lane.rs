//! One set of keys that handshakes are made with, and the session that has come of them.

use std::time::Instant;

use crate::identities::Generation;
use crate::session::Session;
use crate::{PresharedKey, PublicKey};

/// What a handshake needs to know.
#[derive(Clone)]
pub(crate) struct Keys {
    /// Which of our static keys.
    pub(crate) own: Generation,
    /// The peer's.
    pub(crate) peer: PublicKey,
    /// What both share.
    pub(crate) preshared: Option<PresharedKey>,
}

/// Keys with their session.
pub(super) struct Lane {
    pub(super) keys: Keys,
    /// Made on first use: it needs our key.
    pub(super) session: Option<Session>,
    /// Grows over both lanes of a peer: where the latest handshake was proven, packets are sealed.
    pub(super) proven: u64,
}

/// The lane that is to take over.
pub(super) struct Next {
    pub(super) lane: Lane,
    /// Our handshakes begin with it rather than with *current*.
    pub(super) offered: bool,
    /// It takes over when told to, and not by itself when it is first used.
    pub(super) held: bool,
    /// The peer has used it.
    pub(super) in_use: bool,
}

/// Which of a peer's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Current,
    Next,
    Draining,
}

impl Lane {
    pub(super) fn new(keys: Keys) -> Lane {
        Lane { keys, session: None, proven: 0 }
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_ready(now))
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_fresh(now))
    }

    pub(super) fn has(&self, receiver_index: u32) -> bool {
        self.session.as_ref().is_some_and(|session| session.range() == receiver_index >> 8)
    }
}

impl Keys {
    pub(crate) fn same_preshared(&self, other: Option<&PresharedKey>) -> bool {
        match (&self.preshared, other) {
            (Some(one), Some(other)) => one.same_as(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}
