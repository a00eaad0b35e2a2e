//! The timers of a peer, over all of its sessions: persistent keepalive, giving up and beginning again, up and
//! down, and when to look next.
//!
//! **Invariant:** everything here is arithmetic on the `now` it is given. What a session times for itself is asked every
//! [`TICK`].

use std::time::{Duration, Instant};

use crate::limits::from_the_specification::REKEY_TIMEOUT;
use crate::limits::our_choice::{PEER_DOWN_AFTER, TICK};

#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    /// Zero is off.
    keepalive: Duration,
    /// The last authenticated datagram in either direction, or the last try to send a keepalive:
    /// where the keepalive interval counts from.
    last_traffic: Option<Instant>,
    /// The last authenticated datagram from the peer.
    last_received: Option<Instant>,
    /// The last handshake message we sent, while it may still be answered.
    handshake_sent: Option<Instant>,
    /// The last initiation we sent, while it may still be answered.
    initiation_sent: Option<Instant>,
    /// How long the last answer to one took.
    round_trip: Option<Duration>,
    /// When both sides agreed on keys.
    completed: Option<Instant>,
    next_tick: Option<Instant>,
    up_since: Option<Instant>,
    up_before: Duration,
}

impl Timers {
    pub(crate) fn sent(&mut self, now: Instant) {
        self.last_traffic = Some(now);
    }

    pub(crate) fn received(&mut self, now: Instant) {
        self.last_traffic = Some(now);
        self.last_received = Some(now);
    }

    pub(crate) fn was_heard_after(&self, then: Instant) -> bool {
        self.last_received.is_some_and(|at| at > then)
    }

    pub(crate) fn handshake_message_sent(&mut self, now: Instant) {
        self.handshake_sent = Some(now);
        self.keep_ticking(now);
    }

    pub(crate) fn initiation_sent(&mut self, now: Instant) {
        self.initiation_sent = Some(now);
        self.handshake_message_sent(now);
    }

    /// An answer to our last initiation has come: how long that took.
    pub(crate) fn initiation_answered(&mut self, now: Instant) -> Option<Duration> {
        let took = now.saturating_duration_since(self.initiation_sent.take()?);
        self.round_trip = Some(took);
        Some(took)
    }

    /// Of the last initiation that was answered.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    pub(crate) fn handshake_completed(&mut self, now: Instant) {
        self.handshake_sent = None;
        self.completed = Some(now);
        self.keep_ticking(now);
    }

    /// The session gave up: the next reason to speak may begin a handshake at once.
    pub(crate) fn handshake_over(&mut self) {
        self.handshake_sent = None;
    }

    pub(crate) fn last_handshake(&self) -> Option<Instant> {
        self.completed
    }

    /// Two handshake messages of ours stand at least `REKEY_TIMEOUT` apart: else two peers that speak
    /// at the same moment answer each other's initiations for ever.
    pub(crate) fn may_initiate(&self, now: Instant) -> bool {
        self.handshake_sent.is_none_or(|sent| now >= sent + REKEY_TIMEOUT)
    }

    /// Sets the interval. `true` if it was off before: then one goes out at once.
    pub(crate) fn set_keepalive(&mut self, interval: Duration, now: Instant) -> bool {
        let was_off = self.keepalive.is_zero();
        self.keepalive = interval;
        if was_off {
            self.last_traffic.get_or_insert(now);
        }
        was_off && !interval.is_zero()
    }

    pub(crate) fn keepalive(&self) -> Duration {
        self.keepalive
    }

    /// Whether a keepalive is due; if so, the interval begins anew, whether or not it can be sent.
    pub(crate) fn take_keepalive(&mut self, now: Instant) -> bool {
        let due = self.keepalive_at().is_some_and(|at| now >= at);
        if due {
            self.last_traffic = Some(now);
        }
        due
    }

    /// Whether the session's timers are to be asked now.
    pub(crate) fn tick_is_due(&self, now: Instant) -> bool {
        self.next_tick.is_some_and(|at| now >= at)
    }

    pub(crate) fn tick_again(&mut self, now: Instant) {
        self.next_tick = Some(now + TICK);
    }

    pub(crate) fn keep_ticking(&mut self, now: Instant) {
        self.next_tick.get_or_insert(now + TICK);
    }

    pub(crate) fn stop_ticking(&mut self) {
        self.next_tick = None;
    }

    /// `true` if the peer was down.
    pub(crate) fn up(&mut self, now: Instant) -> bool {
        if self.up_since.is_some() {
            return false;
        }
        self.up_since = Some(now);
        true
    }

    pub(crate) fn up_since(&self) -> Option<Instant> {
        self.up_since
    }

    pub(crate) fn up_total(&self, now: Instant) -> Duration {
        let current = self.up_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.up_before + current
    }

    /// `true` if the peer was up and has been silent for too long.
    pub(crate) fn take_down(&mut self, now: Instant) -> bool {
        let silent = self.down_at().is_some_and(|at| now >= at);
        if silent {
            self.up_before = self.up_total(now);
            self.up_since = None;
        }
        silent
    }

    /// Nothing is under way any more, and nothing is due but keepalives. `true` if the peer was up.
    pub(crate) fn link_down(&mut self, now: Instant) -> bool {
        self.handshake_sent = None;
        self.next_tick = None;
        let was_up = self.up_since.is_some();
        self.up_before = self.up_total(now);
        self.up_since = None;
        was_up
    }

    /// When something can next be due.
    pub(crate) fn next(&self) -> Option<Instant> {
        [self.next_tick, self.keepalive_at(), self.down_at()].into_iter().flatten().min()
    }

    fn keepalive_at(&self) -> Option<Instant> {
        if self.keepalive.is_zero() {
            return None;
        }
        self.last_traffic.map(|at| at + self.keepalive)
    }

    fn down_at(&self) -> Option<Instant> {
        self.up_since?;
        self.last_received.map(|at| at + PEER_DOWN_AFTER)
    }
}

/// Of two moments, either of which may never come.
pub(crate) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}
