//! Refusals of those who could not show who they are: which of them are recorded one by one.
//!
//! **Invariant:** a stranger cannot fill the ledger's disk. Per reason and address the first few of a minute
//! are recorded each; the others are counted, and their number is recorded with the next one or when the
//! minute is over, so that none is missing from the trail's sums. The table of addresses is bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::denial::Denial;
use crate::limits::{STRANGER_RECORDS, STRANGER_WINDOW, STRANGERS};

/// What counts as the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stranger {
    /// Why it was refused.
    pub denial: Denial,
    /// Whether it only asked for health, which edge does each second.
    pub health: bool,
    /// The tunnel address.
    pub source: Option<IpAddr>,
    /// The client's address, as edge says; of IPv6 the network of 64 bits, which one client has for itself.
    pub client: Option<IpAddr>,
}

/// What to do with a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// Record it, and that so many more were not recorded.
    Record {
        /// How many since the last record.
        more: u64,
    },
    /// It was counted, which is enough for now.
    Counted,
}

/// Counts per minute.
#[derive(Debug, Default)]
pub struct Strangers {
    windows: Mutex<HashMap<Stranger, Window>>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    recorded: u32,
    more: u64,
}

impl Stranger {
    /// Of addresses as they are.
    pub fn new(denial: Denial, health: bool, source: Option<IpAddr>, client: Option<IpAddr>) -> Stranger {
        Stranger { denial, health, source, client: client.map(network) }
    }

    fn records_at_once(&self) -> u32 {
        if self.health { 1 } else { STRANGER_RECORDS }
    }
}

impl Strangers {
    /// Counts one refusal at `now`.
    pub fn note(&self, stranger: Stranger, now: Instant) -> Noted {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        // With a full table newcomers share one row.
        let stranger = if windows.len() < STRANGERS || windows.contains_key(&stranger) {
            stranger
        } else {
            Stranger { source: None, client: None, ..stranger }
        };
        let window = windows.entry(stranger).or_insert(Window { begun: now, recorded: 0, more: 0 });
        if now.saturating_duration_since(window.begun) >= STRANGER_WINDOW {
            (window.begun, window.recorded) = (now, 0);
        }
        if window.recorded >= stranger.records_at_once() {
            window.more += 1;
            return Noted::Counted;
        }
        window.recorded += 1;
        Noted::Record { more: std::mem::take(&mut window.more) }
    }

    /// Forgets whose minute is over (or all, at the end), and says of whom there were more than recorded.
    pub fn settle(&self, now: Instant, all: bool) -> Vec<(Stranger, u64)> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |window: &Window| now.saturating_duration_since(window.begun) >= STRANGER_WINDOW;
        let over = windows.extract_if(|_, window| all || is_over(window));
        over.filter(|(_, window)| window.more > 0).map(|(stranger, window)| (stranger, window.more)).collect()
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn health_is_recorded_once_a_minute_and_its_number_is_kept() {
        let strangers = Strangers::default();
        let start = daemon::Clock.now();
        let edge = Stranger::new(Denial::PeerUnanswered, true, Some([10, 100, 0, 10].into()), None);
        let at = |second| start + Duration::from_secs(second);
        let recorded: Vec<(u64, Noted)> = (0..=120)
            .map(|second| (second, strangers.note(edge, at(second))))
            .filter(|(_, noted)| *noted != Noted::Counted)
            .collect();
        assert_eq!(
            recorded,
            [
                (0, Noted::Record { more: 0 }),
                (60, Noted::Record { more: 59 }),
                (120, Noted::Record { more: 59 })
            ]
        );
        let other = Stranger { denial: Denial::PeerUnknown, ..edge };
        assert_eq!(strangers.note(other, at(120)), Noted::Record { more: 0 }, "a change is recorded at once");
    }

    #[test]
    fn what_was_not_recorded_is_told_when_the_minute_is_over() {
        let strangers = Strangers::default();
        let start = daemon::Clock.now();
        let guesser = Stranger::new(Denial::Token, false, None, Some([192, 0, 2, 1].into()));
        let recorded = (0..1000).filter(|_| strangers.note(guesser, start) != Noted::Counted).count();
        assert_eq!(recorded, STRANGER_RECORDS as usize);
        assert_eq!(strangers.settle(start, false), []);
        assert_eq!(strangers.settle(start + STRANGER_WINDOW, false), [(guesser, 1000 - recorded as u64)]);
        assert!(strangers.windows.lock().unwrap().is_empty());
    }

    #[test]
    fn addresses_beyond_the_table_share_a_row() {
        let strangers = Strangers::default();
        let start = daemon::Clock.now();
        let mut recorded = 0;
        for client in 0..100_000u32 {
            let stranger =
                Stranger::new(Denial::Token, false, None, Some(IpAddr::from(client.to_be_bytes())));
            recorded += usize::from(strangers.note(stranger, start) != Noted::Counted);
        }
        assert_eq!(recorded, STRANGERS + STRANGER_RECORDS as usize);
        assert!(strangers.windows.lock().unwrap().len() <= STRANGERS + 1);
        let told: u64 = strangers.settle(start, true).into_iter().map(|(_, more)| more).sum();
        assert_eq!(told, 100_000 - recorded as u64);
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let of = |text: &str| Stranger::new(Denial::Token, false, None, Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
