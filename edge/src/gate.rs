//! Who may ask now: lock-outs after failed attempts, and rates, by principal and by address.
//!
//! A principal is known by the digest of what it showed, an address by its [`Place`]. **Invariant:** the table is
//! bounded, what is full gives way before what is locked, and a request that is refused here has cost neither
//! storaged nor the tunnel anything. A principal that was let in lately is not locked out with its address: one
//! who guesses behind a shared address must not shut out those beside him.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::request::Parts;
use store_proto::{Lockout, LockoutReason, PrincipalId};

use crate::bearer;
use crate::census::Place;
use crate::config::Limits;
use crate::limits::{GATE_SUBJECTS, KNOWN_GOOD, RATE_RECORDED_EVERY};

/// A duration of the configuration is a day at most.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Whose attempts or requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Whoever shows this token.
    Principal,
    /// Everyone at this address.
    Address,
}

impl By {
    /// Both.
    pub const ALL: [By; 2] = [By::Principal, By::Address];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            By::Principal => "principal",
            By::Address => "address",
        }
    }
}

/// What the gate says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be asked.
    Pass,
    /// Too many failed attempts; for so long nothing is listened to.
    LockedOut(By, Duration),
    /// Too many requests.
    TooFast {
        /// Whose.
        by: By,
        /// The next one is heard after so long.
        wait: Duration,
        /// Whether this is to be told: not if it was lately.
        is_news: bool,
    },
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    client: IpAddr,
    principal: Option<PrincipalId>,
}

impl Caller {
    /// From a request. What is no token is nobody: its failures count for the address alone.
    pub fn of(address: IpAddr, head: &Parts) -> Caller {
        let proof = bearer::proof(head).ok();
        Caller { client: address, principal: proof.as_ref().and_then(bearer::principal) }
    }

    fn subjects(&self) -> impl Iterator<Item = (By, Subject)> {
        let principal = self.principal.map(|principal| (By::Principal, Subject::of(principal)));
        principal.into_iter().chain([(By::Address, Subject::at(self.client))])
    }
}

/// A key of the table: 128 bits of a place or of a digest, and which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Subject(u128, &'static str);

impl Subject {
    fn of(principal: PrincipalId) -> Subject {
        Subject(principal.0, By::Principal.label())
    }

    fn at(address: IpAddr) -> Subject {
        Subject(Place::of(address).bits(), By::Address.label())
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    /// When the requests so far would have been over at the sustained rate.
    paid_until: Option<Instant>,
    failures: u32,
    /// Of the first of them.
    since: Option<Instant>,
    locked_until: Option<Instant>,
    /// When it was last let in.
    let_in: Option<Instant>,
    /// When it was last told of as too fast.
    told: Option<Instant>,
}

/// The table.
#[derive(Debug, Default)]
pub struct Gate(Mutex<HashMap<Subject, Standing>>);

impl Gate {
    /// Whether a request may be asked now; if so it counts.
    pub fn pass(&self, caller: &Caller, limits: &Limits, now: Instant) -> Verdict {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known_good = false;
        for (by, subject) in caller.subjects() {
            let Some(standing) = table.get(&subject) else { continue };
            let left = standing.locked_until.map(|until| until.saturating_duration_since(now));
            match (by, left) {
                (_, None | Some(Duration::ZERO)) => {}
                (By::Address, Some(_)) if known_good => {}
                (By::Principal | By::Address, Some(left)) => return Verdict::LockedOut(by, left),
            }
            let lately = |let_in| now.saturating_duration_since(let_in) < KNOWN_GOOD;
            known_good |= by == By::Principal && standing.let_in.is_some_and(lately);
        }
        let Some(per_second) = limits.rate_per_second else { return Verdict::Pass };
        let step = Duration::from_secs(1) / per_second;
        let burst = step * limits.rate_burst;
        for (by, subject) in caller.subjects() {
            let Some(standing) = entry(&mut table, subject, limits, now) else { continue };
            let paid_until = standing.paid_until.map_or(now, |paid| paid.max(now)) + step;
            let ahead = paid_until.saturating_duration_since(now);
            if ahead > burst {
                let lately = |told| now.saturating_duration_since(told) < RATE_RECORDED_EVERY;
                let is_news = !standing.told.is_some_and(lately);
                if is_news {
                    standing.told = Some(now);
                }
                return Verdict::TooFast { by, wait: ahead - burst, is_news };
            }
            standing.paid_until = Some(paid_until);
        }
        Verdict::Pass
    }

    /// storaged let the caller in.
    pub fn succeeded(&self, caller: &Caller, limits: &Limits, now: Instant) {
        let Some(principal) = caller.principal else { return };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = entry(&mut table, Subject::of(principal), limits, now) {
            let Standing { paid_until, told, .. } = *standing;
            *standing = Standing { paid_until, told, let_in: Some(now), ..Standing::default() };
        }
    }

    /// storaged said that it does not know the caller; answers who is locked out from now on because of it.
    pub fn failed(&self, caller: &Caller, limits: &Limits, now: Instant) -> Vec<By> {
        let Some(limit) = limits.auth_failure_limit else { return Vec::new() };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut locked = Vec::new();
        for (by, subject) in caller.subjects() {
            let Some(standing) = entry(&mut table, subject, limits, now) else { continue };
            let over = |since: Instant| now.saturating_duration_since(since) > limits.auth_cooloff;
            if standing.since.is_none_or(over) {
                (standing.since, standing.failures) = (Some(now), 0);
            }
            standing.failures += 1;
            standing.let_in = None;
            if standing.failures >= limit {
                (standing.since, standing.failures) = (None, 0);
                standing.locked_until = Some(now + limits.auth_cooloff);
                locked.push(by);
            }
        }
        locked
    }

    /// What is said to storaged of one who is not listened to.
    pub fn lockout(caller: &Caller, by: By, reason: LockoutReason, until_ms: u64) -> Lockout {
        let principal = match by {
            By::Principal => caller.principal,
            By::Address => None,
        };
        Lockout { client_address: caller.client, principal, until_ms, reason }
    }

    /// A lock-out from before the start holds for what is left of it.
    pub fn restore(&self, lockout: &Lockout, now: Instant, now_ms: u64) {
        let left = Duration::from_millis(lockout.until_ms.saturating_sub(now_ms)).min(LONGEST);
        let subject = lockout.principal.map_or_else(|| Subject::at(lockout.client_address), Subject::of);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() < GATE_SUBJECTS {
            table.entry(subject).or_default().locked_until = Some(now + left);
        }
    }

    /// How many are locked out.
    pub fn locked_out(&self, now: Instant) -> usize {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.values().filter(|standing| standing.is_locked(now)).count()
    }
}

impl Standing {
    fn is_locked(&self, now: Instant) -> bool {
        self.locked_until.is_some_and(|until| until > now)
    }

    /// Whether forgetting it changes nothing.
    fn is_idle(&self, limits: &Limits, now: Instant) -> bool {
        let lately =
            |at: Option<Instant>, within| at.is_some_and(|at| now.saturating_duration_since(at) <= within);
        !self.is_locked(now)
            && self.paid_until.is_none_or(|paid| paid <= now)
            && !lately(self.since, limits.auth_cooloff)
            && !lately(self.let_in, KNOWN_GOOD)
    }
}

/// The subject's row; `None` when the table is full of those that are locked out.
fn entry<'a>(
    table: &'a mut HashMap<Subject, Standing>,
    subject: Subject,
    limits: &Limits,
    now: Instant,
) -> Option<&'a mut Standing> {
    if table.len() >= GATE_SUBJECTS && !table.contains_key(&subject) {
        table.retain(|_, standing| !standing.is_idle(limits, now));
        if table.len() >= GATE_SUBJECTS {
            // Half of the rest go at once, so that the next ones need no look at all of them.
            let mut keep = false;
            table.retain(|_, standing| {
                keep = !keep;
                keep || standing.is_locked(now)
            });
        }
        if table.len() >= GATE_SUBJECTS {
            return None;
        }
    }
    Some(table.entry(subject).or_default())
}

#[cfg(test)]
mod tests {
    use store_proto::Token;

    use super::*;

    fn limits() -> Limits {
        Limits {
            rate_per_second: Some(10),
            rate_burst: 20,
            auth_failure_limit: Some(3),
            auth_cooloff: Duration::from_secs(60),
            ..Limits::default()
        }
    }

    fn caller(address: &str, token: u8) -> Caller {
        let digest = Token::from_bytes([token; 32]).digest();
        Caller { client: address.parse().unwrap(), principal: Some(PrincipalId::of(&digest)) }
    }

    fn start() -> Instant {
        daemon::Clock.now()
    }

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn failures_lock_the_address_out_whatever_is_shown_until_the_cool_off_is_over() {
        let (gate, limits, now) = (Gate::default(), limits(), start());
        for token in 0..2 {
            assert_eq!(gate.failed(&caller("192.0.2.1", token), &limits, now), []);
        }
        assert_eq!(gate.failed(&caller("192.0.2.1", 2), &limits, now), [By::Address]);
        let locked = Verdict::LockedOut(By::Address, Duration::from_secs(50));
        assert_eq!(gate.pass(&caller("192.0.2.1", 3), &limits, after(now, 10)), locked);
        assert_eq!(gate.pass(&caller("192.0.2.2", 3), &limits, after(now, 10)), Verdict::Pass, "another one");
        assert_eq!(gate.locked_out(after(now, 10)), 1);
        assert_eq!(gate.pass(&caller("192.0.2.1", 3), &limits, after(now, 60)), Verdict::Pass);
        assert_eq!(gate.locked_out(after(now, 60)), 0);
    }

    #[test]
    fn a_token_that_fails_is_locked_out_wherever_it_is_shown() {
        let (gate, limits, now) = (Gate::default(), limits(), start());
        for address in ["192.0.2.1", "192.0.2.2"] {
            assert_eq!(gate.failed(&caller(address, 7), &limits, now), []);
        }
        assert_eq!(gate.failed(&caller("192.0.2.3", 7), &limits, now), [By::Principal]);
        let locked = Verdict::LockedOut(By::Principal, Duration::from_secs(60));
        assert_eq!(gate.pass(&caller("192.0.2.4", 7), &limits, now), locked);
        assert_eq!(gate.pass(&caller("192.0.2.1", 8), &limits, now), Verdict::Pass);
    }

    #[test]
    fn failures_far_apart_do_not_add_up() {
        let (gate, limits, now) = (Gate::default(), limits(), start());
        for attempt in 0..10 {
            assert_eq!(
                gate.failed(&caller("192.0.2.1", attempt), &limits, after(now, 61 * u64::from(attempt))),
                []
            );
        }
    }

    #[test]
    fn who_was_let_in_is_not_shut_out_by_a_neighbour() {
        let (gate, limits, now) = (Gate::default(), limits(), start());
        gate.succeeded(&caller("2001:db8::1", 9), &limits, now);
        for token in 0..3 {
            gate.failed(&caller("2001:db8::2", token), &limits, now);
        }
        assert!(matches!(
            gate.pass(&caller("2001:db8::3", 4), &limits, now),
            Verdict::LockedOut(By::Address, _)
        ));
        assert_eq!(gate.pass(&caller("2001:db8::1", 9), &limits, now), Verdict::Pass);
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (gate, limits, now) = (Gate::default(), limits(), start());
        let passed = |now| {
            (0..100).take_while(|_| gate.pass(&caller("192.0.2.1", 1), &limits, now) == Verdict::Pass).count()
        };
        assert_eq!(passed(now), 20);
        let wait = Duration::from_millis(100);
        let too_fast = Verdict::TooFast { by: By::Principal, wait, is_news: false };
        assert_eq!(gate.pass(&caller("192.0.2.1", 1), &limits, now), too_fast);
        assert_eq!(passed(after(now, 1)), 10);
        let other = gate.pass(&caller("192.0.2.1", 2), &limits, after(now, 1));
        assert!(
            matches!(other, Verdict::TooFast { by: By::Address, .. }),
            "{other:?}: the address is as fast"
        );
        assert_eq!(passed(after(now, 100)), 20);
    }

    #[test]
    fn who_is_too_fast_is_news_once_in_a_while() {
        let (gate, limits, now) = (Gate::default(), limits(), start());
        let news = |now| {
            let verdicts = (0..100).map(|_| gate.pass(&caller("192.0.2.1", 1), &limits, now));
            verdicts.filter(|verdict| matches!(verdict, Verdict::TooFast { is_news: true, .. })).count()
        };
        assert_eq!((news(now), news(after(now, 300))), (1, 0));
        gate.succeeded(&caller("192.0.2.1", 1), &limits, after(now, 300));
        assert_eq!((news(after(now, 500)), news(after(now, 700))), (0, 1));
    }

    #[test]
    fn the_table_stays_bounded_and_keeps_who_is_locked_out() {
        let (gate, limits, now) = (Gate::default(), limits(), start());
        for token in 0..3 {
            gate.failed(&caller("192.0.2.1", token), &limits, now);
        }
        for number in 0..u32::try_from(GATE_SUBJECTS).unwrap() * 3 {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
            gate.pass(&Caller { client: address, principal: None }, &limits, now);
        }
        assert!(gate.0.lock().unwrap().len() <= GATE_SUBJECTS);
        assert!(matches!(
            gate.pass(&caller("192.0.2.1", 9), &limits, now),
            Verdict::LockedOut(By::Address, _)
        ));
    }
}
