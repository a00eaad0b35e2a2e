//! When a session does something by itself (paper §6), as arithmetic on the `now` it is given.
//!
//! **Invariants:** at most one attempt at a handshake is under way; it ends with keys or after [`REKEY_ATTEMPT_TIME`]. What is due
//! is said once.

use std::time::{Duration, Instant};

use crate::limits::from_the_specification::{
    KEEPALIVE_TIMEOUT, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, REKEY_TIMEOUT_JITTER,
};

/// What has happened, and when.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    attempt: Option<Attempt>,
    /// The first data that we sent since the peer was last heard.
    unanswered: Option<Instant>,
    /// The first data that came since we last sent anything.
    owed: Option<Instant>,
    /// The keys were used at an age at which they are to be renewed.
    renew: bool,
    /// The last attempt found nobody.
    gave_up: bool,
}

/// A handshake that we have begun, and begin again until it is answered.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    since: Instant,
    again: Instant,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Initiation,
    Keepalive,
    GiveUp,
}

impl Rules {
    pub(crate) fn is_attempting(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether the last attempt found nobody, and nothing was agreed on since.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// Whether nothing will be due by itself.
    pub(crate) fn is_idle(&self) -> bool {
        self.attempt.is_none() && self.unanswered.is_none() && self.owed.is_none() && !self.renew
    }

    /// `chance` spreads the attempts of those who began together.
    pub(crate) fn initiated(&mut self, now: Instant, chance: u16) {
        let since = self.attempt.map_or(now, |attempt| attempt.since);
        let jitter = REKEY_TIMEOUT_JITTER * u32::from(chance) / u32::from(u16::MAX);
        self.attempt = Some(Attempt { since, again: now + REKEY_TIMEOUT + jitter });
        self.unanswered = None;
        self.owed = None;
        self.renew = false;
    }

    /// An initiation of the peer's was answered.
    pub(crate) fn answered(&mut self) {
        self.unanswered = None;
        self.owed = None;
    }

    /// Both sides have new keys.
    pub(crate) fn agreed(&mut self) {
        self.attempt = None;
        self.unanswered = None;
        (self.renew, self.gave_up) = (false, false);
    }

    pub(crate) fn sent(&mut self, data: bool, now: Instant) {
        self.owed = None;
        if data {
            self.unanswered.get_or_insert(now);
        }
    }

    pub(crate) fn received(&mut self, data: bool, now: Instant) {
        self.unanswered = None;
        if data {
            self.owed.get_or_insert(now);
        }
    }

    /// The keys are in use, and old.
    pub(crate) fn renew(&mut self) {
        self.renew = true;
    }

    /// There are no keys any more: nothing can be sent under them.
    pub(crate) fn keys_are_gone(&mut self) {
        self.owed = None;
    }

    pub(crate) fn due(&mut self, now: Instant) -> Due {
        let past = |since: Option<Instant>, age: Duration| since.is_some_and(|since| now >= since + age);
        match self.attempt {
            Some(attempt) if now >= attempt.since + REKEY_ATTEMPT_TIME => {
                *self = Rules { gave_up: true, owed: self.owed, ..Rules::default() };
                return Due::GiveUp;
            }
            Some(attempt) if now >= attempt.again => return Due::Initiation,
            Some(_) => {}
            None if self.renew || past(self.unanswered, KEEPALIVE_TIMEOUT + REKEY_TIMEOUT) => {
                return Due::Initiation;
            }
            None => {}
        }
        if past(self.owed, KEEPALIVE_TIMEOUT) {
            self.owed = None;
            return Due::Keepalive;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "tests need one instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_attempt_is_repeated_and_given_up() {
        let (mut rules, now) = (Rules::default(), start());
        rules.initiated(now, 0);
        assert_eq!(rules.due(now + SECOND * 5 - Duration::from_nanos(1)), Due::Nothing);
        assert_eq!(rules.due(now + SECOND * 5), Due::Initiation);
        rules.initiated(now + SECOND * 5, u16::MAX);
        assert_eq!(rules.due(now + SECOND * 10 + Duration::from_millis(332)), Due::Nothing);
        assert_eq!(rules.due(now + SECOND * 10 + Duration::from_millis(333)), Due::Initiation);
        assert_eq!(rules.due(now + SECOND * 90), Due::GiveUp);
        assert!(rules.gave_up() && rules.is_idle());
        assert_eq!(rules.due(now + SECOND * 1000), Due::Nothing);
        rules.agreed();
        assert!(!rules.gave_up());
    }

    #[test]
    fn data_without_an_answer_begins_a_handshake_after_fifteen_seconds() {
        let (mut rules, now) = (Rules::default(), start());
        rules.sent(false, now);
        assert!(rules.is_idle(), "a keepalive wants no answer");
        rules.sent(true, now);
        rules.sent(true, now + SECOND * 9);
        rules.received(false, now + SECOND * 10);
        assert_eq!(rules.due(now + SECOND * 100), Due::Nothing, "answered");
        rules.sent(true, now + SECOND * 100);
        rules.sent(true, now + SECOND * 114);
        assert_eq!(rules.due(now + SECOND * 115 - Duration::from_nanos(1)), Due::Nothing);
        assert_eq!(rules.due(now + SECOND * 115), Due::Initiation);
    }

    #[test]
    fn data_is_answered_within_ten_seconds() {
        let (mut rules, now) = (Rules::default(), start());
        rules.received(false, now);
        assert!(rules.is_idle(), "a keepalive is not answered");
        rules.received(true, now);
        rules.received(true, now + SECOND * 9);
        assert_eq!(rules.due(now + SECOND * 10 - Duration::from_nanos(1)), Due::Nothing);
        assert_eq!(rules.due(now + SECOND * 10), Due::Keepalive);
        assert_eq!(rules.due(now + SECOND * 30), Due::Nothing, "once");
        rules.received(true, now);
        rules.sent(false, now + SECOND);
        assert_eq!(rules.due(now + SECOND * 30), Due::Nothing, "anything is an answer");
    }
}
