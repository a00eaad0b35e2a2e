//! How many handshake messages are taken while there are more than are worth their curve arithmetic.
//!
//! As long as the device is at ease everybody's handshake is taken. Under load each source address has an
//! allowance of its own, so a flood from one address costs that address its handshakes and nobody else's.
//! Who is over it is asked for proof of its address (a cookie), and has a second allowance with that proof.
//!
//! **Invariants:** what arrives without proof never uses up an allowance that needs proof, so nobody can
//! silence an address by forging it. Memory is bounded: an allowance that has grown back is forgotten, and
//! when there is room for no more, strangers have to prove themselves.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::limits::our_choice::{
    HANDSHAKE_SOURCES, HANDSHAKES_PER_SECOND_BEFORE_COOKIES, LOAD_LASTS, SOURCE_HANDSHAKE_BURST,
    SOURCE_HANDSHAKES_PER_SECOND,
};

/// The device's handshake messages, counted.
#[derive(Default)]
pub(crate) struct Load {
    /// Empty means load.
    device: Option<Bucket>,
    /// What is taken without proof of address while under load, from all sources together.
    strangers: Option<Bucket>,
    until: Option<Instant>,
    unproven: Sources,
    proven: Sources,
}

const DEVICE: Rate =
    Rate { per_second: HANDSHAKES_PER_SECOND_BEFORE_COOKIES, burst: HANDSHAKES_PER_SECOND_BEFORE_COOKIES };
const SOURCE: Rate = Rate { per_second: SOURCE_HANDSHAKES_PER_SECOND, burst: SOURCE_HANDSHAKE_BURST };

impl Load {
    /// Counts a message whose first MAC is right. `true` if it may be taken without proof of its address.
    pub(crate) fn takes_unproven(&mut self, from: IpAddr, now: Instant) -> bool {
        let device = self.device.get_or_insert_with(|| Bucket::full(DEVICE, now));
        if !device.take(DEVICE, now) {
            self.until = Some(now + LOAD_LASTS);
        }
        if !self.is_high(now) {
            return true;
        }
        let strangers = self.strangers.get_or_insert_with(|| Bucket::full(DEVICE, now));
        self.unproven.take(Source::of(from), now) && strangers.take(DEVICE, now)
    }

    /// `true` if a message that proved its address may be taken.
    pub(crate) fn takes_proven(&mut self, from: IpAddr, now: Instant) -> bool {
        self.proven.take(Source::of(from), now)
    }

    /// Whether proof of address is asked for.
    pub(crate) fn is_high(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Who shares an allowance: an IPv4 address, or the /64 that an IPv6 host is given to choose from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Source {
    fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Source::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Allowances by source; who is not in it has its full one.
#[derive(Default)]
struct Sources {
    buckets: HashMap<Source, Bucket>,
    swept: Option<Instant>,
}

impl Sources {
    fn take(&mut self, source: Source, now: Instant) -> bool {
        if !self.buckets.contains_key(&source) && self.buckets.len() >= HANDSHAKE_SOURCES {
            self.sweep(now);
            if self.buckets.len() >= HANDSHAKE_SOURCES {
                return false;
            }
        }
        self.buckets.entry(source).or_insert_with(|| Bucket::full(SOURCE, now)).take(SOURCE, now)
    }

    /// Forgets who has its full allowance again. Not more often than one can grow back: that many entries
    /// cost more to look at than a handshake.
    fn sweep(&mut self, now: Instant) {
        let all_full = SOURCE.time_to_fill();
        if self.swept.is_some_and(|swept| now < swept + all_full) {
            return;
        }
        self.swept = Some(now);
        self.buckets.retain(|_, bucket| now < bucket.filled + all_full);
    }
}

#[derive(Clone, Copy)]
struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    fn time_of_one(self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }

    fn time_to_fill(self) -> Duration {
        self.time_of_one() * self.burst
    }
}

/// A token bucket, kept as the time at which it would have been empty last: whatever has grown since is in it.
#[derive(Clone, Copy)]
struct Bucket {
    /// Every token is worth [`Rate::time_of_one`] of the time since; more than a burst is not kept.
    filled: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Bucket {
        // The monotonic clock may be younger than a burst: then the first second's is a little smaller.
        Bucket { filled: now.checked_sub(rate.time_to_fill()).unwrap_or(now) }
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full = Bucket::full(rate, now).filled;
        let filled = self.filled.max(full) + rate.time_of_one();
        let taken = filled <= now;
        if taken {
            self.filled = filled;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOODER: &str = "203.0.113.9";
    const NEIGHBOUR: &str = "192.0.2.1";

    #[expect(clippy::disallowed_methods, reason = "the tests' one origin of time")]
    fn start() -> Instant {
        // Far from the clock's beginning, where buckets cannot be full.
        Instant::now() + Duration::from_secs(1000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of `count` messages in one moment are taken.
    fn taken(count: u32, mut take: impl FnMut() -> bool) -> u32 {
        (0..count).map(|_| u32::from(take())).sum()
    }

    fn under_load(now: Instant) -> Load {
        let mut load = Load::default();
        taken(1000, || load.takes_unproven(ip(FLOODER), now));
        assert!(load.is_high(now));
        load
    }

    #[test]
    fn at_ease_one_source_may_send_what_many_may() {
        let (mut load, now) = (Load::default(), start());
        assert_eq!(taken(200, || load.takes_unproven(ip(FLOODER), now)), 200);
        assert!(!load.is_high(now));
    }

    #[test]
    fn a_flood_from_one_source_leaves_another_its_handshakes() {
        let now = start();
        let mut load = under_load(now);
        assert_eq!(taken(100, || load.takes_unproven(ip(FLOODER), now)), 0);
        assert_eq!(taken(100, || load.takes_unproven(ip(NEIGHBOUR), now)), SOURCE_HANDSHAKE_BURST);
    }

    #[test]
    fn an_allowance_grows_back_at_its_rate() {
        let mut now = start();
        let mut load = under_load(now);
        let mut count = 0;
        for _ in 0..1000 {
            now += Duration::from_millis(2);
            count += taken(3, || load.takes_unproven(ip(FLOODER), now));
        }
        // 2 s of 20 a second; the device's first second of ease has gone before.
        assert!((40..=41).contains(&count), "{count}");
        assert!(load.is_high(now), "1500 a second is load as long as it lasts");
    }

    #[test]
    fn forging_an_address_does_not_silence_it() {
        let now = start();
        let mut load = under_load(now);
        assert_eq!(taken(100, || load.takes_proven(ip(FLOODER), now)), SOURCE_HANDSHAKE_BURST);
    }

    #[test]
    fn load_is_over_a_second_after_the_flood() {
        let now = start();
        let mut load = under_load(now);
        let later = now + LOAD_LASTS;
        assert!(!load.is_high(later));
        assert_eq!(taken(50, || load.takes_unproven(ip(FLOODER), later)), 50);
    }

    #[test]
    fn a_v6_host_has_one_allowance_and_a_mapped_v4_address_that_of_v4() {
        let now = start();
        let mut load = under_load(now);
        let mut last = 0_u16;
        let all = taken(100, || {
            last += 1;
            load.takes_unproven(ip(&format!("2001:db8:0:1::{last:x}")), now)
        });
        assert_eq!(all, SOURCE_HANDSHAKE_BURST);
        assert!(load.takes_unproven(ip("2001:db8:0:2::1"), now));
        assert!(!load.takes_unproven(ip(&format!("::ffff:{FLOODER}")), now));
    }

    #[test]
    fn forged_sources_are_bounded_in_number_and_in_work() {
        let now = start();
        let mut load = under_load(now);
        let forged = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut n = 0;
        let count = taken(100_000, || {
            n += 1;
            load.takes_unproven(forged(n), now)
        });
        assert_eq!(
            count + SOURCE_HANDSHAKE_BURST,
            HANDSHAKES_PER_SECOND_BEFORE_COOKIES,
            "all strangers together, the flooder's own included"
        );
        assert_eq!(load.unproven.buckets.len(), HANDSHAKE_SOURCES);
        // They are forgotten once they say nothing any more.
        let later = now + SOURCE.time_to_fill();
        assert!(load.unproven.take(Source::of(forged(200_001)), later));
        assert_eq!(load.unproven.buckets.len(), 1);
        assert!(load.takes_proven(ip(NEIGHBOUR), later));
    }
}
