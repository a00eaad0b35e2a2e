//! What is wrong at the moment, and what has to be told of it.
//!
//! Invariant: of each matter one alert goes out when it has been wrong for long enough, and one when it is right again;
//! what was not told to be wrong is not told to be right.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// More matters than a host can have: daemons times conditions, peers, providers.
const MATTERS: usize = 1024;

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A peer of the tunnel does not answer.
    TunnelDown,
    /// A daemon does not answer, or says that a condition does not hold.
    DaemonNotReady,
    /// The keys of an identity provider cannot be fetched, or are no keys.
    KeysNotFetched,
}

impl Kind {
    /// For programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::TunnelDown => "tunnel-down",
            Kind::DaemonNotReady => "daemon-not-ready",
            Kind::KeysNotFetched => "keys-not-fetched",
        }
    }

    /// For people.
    fn sentence(self, state: State) -> &'static str {
        match (self, state) {
            (Kind::TunnelDown, State::Firing) => "the tunnel's peer does not answer",
            (Kind::TunnelDown, State::Resolved) => "the tunnel's peer answers again",
            (Kind::DaemonNotReady, State::Firing) => "does not hold",
            (Kind::DaemonNotReady, State::Resolved) => "holds again",
            (Kind::KeysNotFetched, State::Firing) => "the provider's keys could not be fetched",
            (Kind::KeysNotFetched, State::Resolved) => "the provider's keys were fetched",
        }
    }
}

/// One thing that can be wrong: its kind, and of what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Matter {
    pub(super) kind: Kind,
    /// A peer's name, `edge: tunnel`, a provider's name: of the configuration and of our own programs.
    pub(super) subject: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Firing,
    Resolved,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Firing => "firing",
            State::Resolved => "resolved",
        }
    }
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alert {
    pub(super) matter: Matter,
    pub(super) state: State,
    /// Since when it was wrong.
    pub(super) since: Timestamp,
    pub(super) at: Timestamp,
}

impl Alert {
    /// In one sentence.
    pub(super) fn text(&self) -> String {
        format!("{}: {}", self.matter.subject, self.matter.kind.sentence(self.state))
    }
}

struct Wrong {
    since: Instant,
    since_date: Timestamp,
    told: bool,
}

/// The moment, on the clock that only goes forward and on the wall's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) date: Timestamp,
}

/// Everything that is wrong.
#[derive(Default)]
pub(super) struct Board {
    wrong: BTreeMap<Matter, Wrong>,
}

impl Board {
    /// It is wrong at this moment; told once it has been so for `patience`.
    pub(super) fn wrong(&mut self, matter: &Matter, moment: Moment, patience: Duration) -> Option<Alert> {
        if !self.wrong.contains_key(matter) && self.wrong.len() >= MATTERS {
            return None;
        }
        let wrong = self.wrong.entry(matter.clone()).or_insert(Wrong {
            since: moment.now,
            since_date: moment.date,
            told: false,
        });
        if wrong.told || moment.now.duration_since(wrong.since) < patience {
            return None;
        }
        wrong.told = true;
        let since = wrong.since_date;
        Some(Alert { matter: matter.clone(), state: State::Firing, since, at: moment.date })
    }

    /// It is right at this moment.
    pub(super) fn right(&mut self, matter: &Matter, moment: Moment) -> Option<Alert> {
        let wrong = self.wrong.remove(matter)?;
        let alert = Alert {
            matter: matter.clone(),
            state: State::Resolved,
            since: wrong.since_date,
            at: moment.date,
        };
        wrong.told.then_some(alert)
    }

    /// Those of a kind whose subject begins so.
    pub(super) fn of(&self, kind: Kind, beginning: &str) -> Vec<Matter> {
        let ours = |matter: &&Matter| matter.kind == kind && matter.subject.starts_with(beginning);
        self.wrong.keys().filter(ours).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn matter() -> Matter {
        Matter { kind: Kind::DaemonNotReady, subject: "edge: tunnel".into() }
    }

    fn after(seconds: u64, start: Instant) -> Moment {
        let date = Timestamp::from_second(1_700_000_000 + i64::try_from(seconds).unwrap()).unwrap();
        Moment { now: start + Duration::from_secs(seconds), date }
    }

    #[test]
    fn a_matter_is_told_once_when_it_lasts_and_once_when_it_is_over() {
        let (mut board, start) = (Board::default(), daemon::Clock.now());
        assert_eq!(board.wrong(&matter(), after(0, start), PATIENCE), None);
        assert_eq!(board.wrong(&matter(), after(29, start), PATIENCE), None);
        let told = board.wrong(&matter(), after(30, start), PATIENCE).unwrap();
        assert_eq!((told.state, told.since), (State::Firing, after(0, start).date));
        assert_eq!(board.wrong(&matter(), after(31, start), PATIENCE), None, "told already");
        let over = board.right(&matter(), after(40, start)).unwrap();
        assert_eq!((over.state, over.since, over.at), (State::Resolved, told.since, after(40, start).date));
        assert_eq!(board.right(&matter(), after(41, start)), None);
        assert_eq!(over.text(), "edge: tunnel: holds again");
    }

    #[test]
    fn what_was_short_is_told_neither_way_and_begins_anew() {
        let (mut board, start) = (Board::default(), daemon::Clock.now());
        assert_eq!(board.wrong(&matter(), after(0, start), PATIENCE), None);
        assert_eq!(board.right(&matter(), after(20, start)), None);
        assert_eq!(board.wrong(&matter(), after(35, start), PATIENCE), None);
        assert!(board.wrong(&matter(), after(65, start), PATIENCE).is_some());
    }

    #[test]
    fn there_is_an_end_to_how_much_can_be_wrong() {
        let (mut board, start) = (Board::default(), daemon::Clock.now());
        for number in 0..2 * MATTERS {
            let matter = Matter { kind: Kind::TunnelDown, subject: format!("peer {number}") };
            let told = board.wrong(&matter, after(0, start), Duration::ZERO);
            assert_eq!(told.is_some(), number < MATTERS);
        }
        assert_eq!(board.of(Kind::TunnelDown, "peer 7").len(), 1 + 10 + 100);
    }
}
