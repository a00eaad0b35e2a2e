//! Counts what each user asks of each cohort within an hour, and tells when that is unusual.
//!
//! **Invariant:** an hour is sixty minutes of counts, so an old minute leaves as a new one comes and no burst
//! hides at a full hour's edge. Each user and cohort is told about once, until an hour was usual again. The
//! table is bounded; what is forgotten first is who has been quiet longest.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use store_proto::{Cohort, UserName};

use crate::limits::MONITORED;

const MINUTES: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// When an hour is unusual, and what is done then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// More than this in an hour is unusual.
    pub max_hourly_access: u32,
    /// Refuse it, beside telling.
    pub enforce: bool,
}

/// What one access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// As always.
    Usual,
    /// Over the line for the first time: to be told.
    BecameUnusual {
        /// How many in the hour, with this one.
        in_the_hour: u32,
    },
    /// Over the line, and told before.
    StillUnusual,
}

/// The counts of the last hour.
#[derive(Debug, Default)]
pub struct AccessMonitor {
    hours: Mutex<HashMap<(UserName, Cohort), Hour>>,
}

#[derive(Debug)]
struct Hour {
    minutes: [u32; MINUTES],
    /// When the newest minute began.
    newest: Instant,
    at: usize,
    told: bool,
}

impl AccessMonitor {
    /// Counts one access at `now`.
    pub fn note(&self, user: &UserName, cohort: &Cohort, rule: Rule, now: Instant) -> Access {
        let mut hours = self.hours.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (user.clone(), cohort.clone());
        if hours.len() >= MONITORED && !hours.contains_key(&key) {
            let quietest = hours.iter().min_by_key(|(_, hour)| hour.newest).map(|(key, _)| key.clone());
            quietest.map(|quietest| hours.remove(&quietest));
        }
        let hour = hours.entry(key).or_insert_with(|| Hour::begin(now));
        hour.advance(now);
        hour.minutes[hour.at] = hour.minutes[hour.at].saturating_add(1);
        let in_the_hour = hour.minutes.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        let unusual = in_the_hour > rule.max_hourly_access;
        match (unusual, std::mem::replace(&mut hour.told, unusual)) {
            (false, _) => Access::Usual,
            (true, false) => Access::BecameUnusual { in_the_hour },
            (true, true) => Access::StillUnusual,
        }
    }
}

impl Hour {
    fn begin(now: Instant) -> Hour {
        Hour { minutes: [0; MINUTES], newest: now, at: 0, told: false }
    }

    /// Empties the minutes that have passed since the newest.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.newest).as_secs() / MINUTE.as_secs();
        for _ in 0..passed.min(MINUTES as u64) {
            self.at = (self.at + 1) % MINUTES;
            self.minutes[self.at] = 0;
        }
        self.newest += MINUTE * u32::try_from(passed).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { max_hourly_access: 10, enforce: false };

    fn note(monitor: &AccessMonitor, user: &str, at: Instant) -> Access {
        let (user, cohort) = (UserName::parse(user).unwrap(), Cohort::parse("c1").unwrap());
        monitor.note(&user, &cohort, RULE, at)
    }

    #[test]
    fn the_eleventh_in_an_hour_is_told_once() {
        let (monitor, start) = (AccessMonitor::default(), daemon::Clock.now());
        let seen: Vec<Access> = (0..13).map(|i| note(&monitor, "ada", start + MINUTE * i)).collect();
        assert!(seen[..10].iter().all(|access| *access == Access::Usual));
        assert_eq!(
            seen[10..],
            [Access::BecameUnusual { in_the_hour: 11 }, Access::StillUnusual, Access::StillUnusual,]
        );
        assert_eq!(note(&monitor, "bob", start), Access::Usual, "another user has another hour");
    }

    #[test]
    fn a_burst_over_a_full_hours_edge_is_seen() {
        let (monitor, start) = (AccessMonitor::default(), daemon::Clock.now());
        note(&monitor, "ada", start);
        for i in 0..8 {
            assert_eq!(note(&monitor, "ada", start + MINUTE * 59 + Duration::from_secs(i)), Access::Usual);
        }
        assert_eq!(note(&monitor, "ada", start + MINUTE * 61), Access::Usual, "the first has left");
        assert_eq!(note(&monitor, "ada", start + MINUTE * 61), Access::Usual);
        let over = note(&monitor, "ada", start + MINUTE * 62);
        assert_eq!(over, Access::BecameUnusual { in_the_hour: 11 });
    }

    #[test]
    fn a_quiet_hour_forgets() {
        let (monitor, start) = (AccessMonitor::default(), daemon::Clock.now());
        for _ in 0..20 {
            note(&monitor, "ada", start);
        }
        assert_eq!(note(&monitor, "ada", start + MINUTE * 60), Access::Usual);
        for _ in 0..9 {
            note(&monitor, "ada", start + MINUTE * 61);
        }
        let again = note(&monitor, "ada", start + MINUTE * 61);
        assert_eq!(again, Access::BecameUnusual { in_the_hour: 11 }, "told anew");
    }

    #[test]
    fn the_table_is_bounded() {
        let (monitor, start) = (AccessMonitor::default(), daemon::Clock.now());
        for i in 0..MONITORED + 5 {
            note(&monitor, &format!("u{i}"), start + Duration::from_millis(i as u64));
        }
        assert_eq!(monitor.hours.lock().unwrap().len(), MONITORED);
    }
}
