//! The timers of a Noise session (paper §6) by the clock of a test, in place of the one that boringtun reads.
//!
//! Invariant: the same rules with the same bounds as boringtun's `update_timers`; the messages are real.

use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};

use super::Scratch;
use crate::limits::from_the_specification::{REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT};

const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What has happened, and when; between two questions its clock stands still, as boringtun's does.
#[derive(Default)]
pub(super) struct Rules {
    clock: Option<Instant>,
    /// When the session was made, or woke up; else when its last keys were agreed on.
    since: Option<Instant>,
    keys_since: Option<Instant>,
    is_initiator: bool,
    attempt_since: Option<Instant>,
    initiation_sent: Option<Instant>,
    data_unanswered_since: Option<Instant>,
    data_received_since: Option<Instant>,
    data_sent: bool,
    expired: bool,
    marks: Vec<Mark>,
}

/// Happened since the clock moved last.
enum Mark {
    Initiated,
    Established { is_initiator: bool },
    Sent { data: bool },
    Received { data: bool },
}

impl Rules {
    pub(super) fn initiated(&mut self) {
        self.marks.push(Mark::Initiated);
    }

    /// An initiation of the peer's was answered: one of ours is forgotten over it.
    pub(super) fn answered(&mut self) {
        (self.attempt_since, self.initiation_sent) = (None, None);
        self.marks.retain(|mark| !matches!(mark, Mark::Initiated));
    }

    pub(super) fn established(&mut self, is_initiator: bool) {
        self.marks.push(Mark::Established { is_initiator });
        self.stamp();
    }

    pub(super) fn sent(&mut self, data: bool) {
        self.marks.push(Mark::Sent { data });
    }

    pub(super) fn received(&mut self, data: bool) {
        self.marks.push(Mark::Received { data });
    }

    /// `true` if it had expired: boringtun's own state does not know, and has to be told to begin anew.
    pub(super) fn wake(&mut self) -> bool {
        let expired = std::mem::take(&mut self.expired);
        if expired {
            (self.clock, self.since) = (None, None);
        }
        expired
    }

    pub(super) fn is_expired(&self) -> bool {
        self.expired
    }

    pub(super) fn keys_are_gone(&self) -> bool {
        let established = self.marks.iter().any(|mark| matches!(mark, Mark::Established { .. }));
        self.keys_since.is_none() && !established
    }

    pub(super) fn ask<'a>(
        &mut self,
        now: Instant,
        tunn: &mut Tunn,
        scratch: &'a mut Scratch,
    ) -> TunnResult<'a> {
        self.clock = Some(now);
        self.stamp();
        if self.expired {
            return TunnResult::Err(WireGuardError::ConnectionExpired);
        }
        let past = |since: Option<Instant>, age: Duration| since.is_some_and(|since| now >= since + age);
        if past(self.keys_since, REJECT_AFTER_TIME) {
            self.keys_since = None;
        }
        let since = *self.since.get_or_insert(now);
        if past(Some(since), REJECT_AFTER_TIME * 3) || past(self.attempt_since, REKEY_ATTEMPT_TIME) {
            *self = Rules { expired: true, ..Rules::default() };
            return TunnResult::Err(WireGuardError::ConnectionExpired);
        }
        let initiate = if self.attempt_since.is_some() {
            past(self.initiation_sent, REKEY_TIMEOUT)
        } else {
            let renew = self.is_initiator && self.data_sent && past(Some(since), REKEY_AFTER_TIME);
            renew || past(self.data_unanswered_since, KEEPALIVE_TIMEOUT + REKEY_TIMEOUT)
        };
        if initiate {
            self.attempt_since.get_or_insert(now);
            self.initiation_sent = Some(now);
            self.data_unanswered_since = None;
            return tunn.format_handshake_initiation(scratch, true);
        }
        if past(self.data_received_since, KEEPALIVE_TIMEOUT) {
            self.data_received_since = None;
            return tunn.encapsulate(&[], scratch);
        }
        // Its own clock runs along, by microseconds.
        let _ = tunn.update_timers(scratch);
        TunnResult::Done
    }

    /// Gives what has happened its time.
    fn stamp(&mut self) {
        let Some(now) = self.clock else { return };
        for mark in std::mem::take(&mut self.marks) {
            match mark {
                Mark::Initiated => {
                    self.attempt_since.get_or_insert(now);
                    self.initiation_sent = Some(now);
                }
                Mark::Established { is_initiator } => {
                    (self.since, self.keys_since) = (Some(now), Some(now));
                    (self.attempt_since, self.initiation_sent) = (None, None);
                    (self.is_initiator, self.data_sent) = (is_initiator, false);
                    self.data_unanswered_since = None;
                }
                Mark::Sent { data } => {
                    self.data_received_since = None;
                    if data {
                        self.data_sent = true;
                        self.data_unanswered_since.get_or_insert(now);
                    }
                }
                Mark::Received { data } => {
                    self.data_unanswered_since = None;
                    if data {
                        self.data_received_since.get_or_insert(now);
                    }
                }
            }
        }
    }
}
