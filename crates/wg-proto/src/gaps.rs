//! True packet loss: what a peer's transport counters say it sent, and what came.
//!
//! A sender numbers the datagrams of a session from 0 without gaps (WireGuard paper §5.4.6), so a number that
//! never comes is a datagram that was lost, keepalives included. A number counts once it is *settled*: when
//! [`WINDOW`] later ones have been authenticated, or when its session is forgotten. Counting then and not before
//! makes both sums grow only, whatever the order of arrival.
//!
//! **Invariant:** only authenticated datagrams are told to [`Gaps::saw`]; nobody outside can move these sums.

/// How far behind the newest number another may still arrive and not be lost. Reordering on real paths stays
/// far below; a larger window would only delay the figure.
const WINDOW: u64 = 256;
const WORDS: usize = (WINDOW / 64) as usize;
/// The recent share of loss looks back over about this many datagrams.
const RECENT: u64 = 4096;
/// Sessions whose numbers may arrive interleaved: the one before a re-key, the one after, one more for roaming
/// paths that deliver late.
const SESSIONS: usize = 3;

/// The sums of one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps {
    sessions: [Option<Numbers>; SESSIONS],
    settled: Settled,
    /// The same, halved whenever it covers more than [`RECENT`]: the past fades.
    recent: Settled,
}

/// Datagrams whose fate is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Datagrams that the peer sent.
    pub expected: u64,
    /// Those of them that never came.
    pub lost: u64,
}

/// The numbers of one session, told apart by our receiver index.
#[derive(Clone, Debug)]
struct Numbers {
    index: u32,
    /// One more than the highest number seen.
    next: u64,
    /// Whether each of the last [`WINDOW`] numbers came: a bit each, at its number modulo the window.
    seen: [u64; WORDS],
}

impl Gaps {
    /// An authenticated datagram of the session `index` had the number `counter`.
    pub(crate) fn saw(&mut self, index: u32, counter: u64) {
        if let Some(session) = self.sessions.iter_mut().flatten().find(|session| session.index == index) {
            let settled = session.saw(counter);
            return self.add(settled);
        }
        // The oldest makes room: sessions come one after the other.
        if let Some(oldest) = self.sessions[0].take() {
            self.add(oldest.end());
        }
        self.sessions.rotate_left(1);
        let mut session = Numbers { index, next: 0, seen: [0; WORDS] };
        let settled = session.saw(counter);
        self.add(settled);
        self.sessions[SESSIONS - 1] = Some(session);
    }

    fn add(&mut self, more: Settled) {
        self.settled.add(more);
        self.recent.add(more);
        if self.recent.expected > RECENT {
            self.recent = Settled { expected: self.recent.expected / 2, lost: self.recent.lost / 2 };
        }
    }

    /// The share of the peer's recent datagrams that never came (0 to 1); `None` before any is settled.
    pub(crate) fn recent_loss(&self) -> Option<f32> {
        let Settled { expected, lost } = self.recent;
        #[expect(clippy::cast_precision_loss, reason = "a share of some thousands")]
        (expected > 0).then(|| lost as f32 / expected as f32)
    }

    /// The sums so far.
    pub(crate) fn settled(&self) -> Settled {
        self.settled
    }
}

impl Settled {
    fn add(&mut self, more: Settled) {
        self.expected += more.expected;
        self.lost += more.lost;
    }
}

impl Numbers {
    /// Marks `counter`, and settles what falls out of the window by it.
    fn saw(&mut self, counter: u64) -> Settled {
        let mut settled = Settled::default();
        if counter >= self.next {
            let leap = counter - self.next;
            // Of a leap over the whole window, what lies before the new window was never seen.
            let skipped = leap.saturating_sub(WINDOW);
            for number in self.next..=self.next + leap.min(WINDOW) {
                self.settle(number, &mut settled);
            }
            settled.expected += skipped;
            settled.lost += skipped;
            self.next = counter + 1;
        } else if self.next - counter > WINDOW {
            // Settled as lost already; the replay window let it pass, the sum stands.
            return settled;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
        settled
    }

    /// `number` takes the place of the one a window before it, whose fate is known now.
    fn settle(&mut self, number: u64, settled: &mut Settled) {
        let came = self.came(number);
        let (word, bit) = place(number);
        self.seen[word] &= !bit;
        if number >= WINDOW {
            settled.expected += 1;
            settled.lost += u64::from(!came);
        }
    }

    fn came(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.seen[word] & bit != 0
    }

    /// The session is over: all its numbers are settled.
    fn end(&self) -> Settled {
        let open = self.next.min(WINDOW);
        let came = (self.next - open..self.next).filter(|number| self.came(*number)).count() as u64;
        Settled { expected: open, lost: open - came }
    }
}

/// A word of the window and its bit.
fn place(number: u64) -> (usize, u64) {
    ((number / 64) as usize % WORDS, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Numbers `0..count` of one session, less the lost ones; then three more sessions push it out.
    fn run(count: u64, lost: impl Fn(u64) -> bool) -> Settled {
        let mut gaps = Gaps::default();
        (0..count).filter(|number| !lost(*number)).for_each(|number| gaps.saw(1, number));
        forget(&mut gaps)
    }

    fn forget(gaps: &mut Gaps) -> Settled {
        let before = 3; // one datagram each
        (100..106).for_each(|index| gaps.saw(index, 0));
        let Settled { expected, lost } = gaps.settled();
        Settled { expected: expected - before, lost }
    }

    #[test]
    fn nothing_is_lost_when_all_arrive() {
        assert_eq!(run(10_000, |_| false), Settled { expected: 10_000, lost: 0 });
    }

    #[test]
    fn every_tenth_is_counted_as_lost() {
        assert_eq!(run(1_000, |number| number % 10 == 5), Settled { expected: 1_000, lost: 100 });
    }

    #[test]
    fn a_long_silence_is_lost_in_one_step() {
        assert_eq!(run(100_000, |number| (100..99_000).contains(&number)).lost, 98_900);
    }

    #[test]
    fn a_datagram_that_is_overtaken_is_not_lost() {
        let mut gaps = Gaps::default();
        for number in [0, 2, 1, 5, 3, 4, 200, 6] {
            gaps.saw(1, number);
        }
        assert_eq!(gaps.settled(), Settled::default());
        // 7..200 never came.
        assert_eq!(forget(&mut gaps), Settled { expected: 201, lost: 193 });
    }

    #[test]
    fn sessions_that_interleave_are_kept_apart() {
        let mut gaps = Gaps::default();
        for number in 0..300 {
            gaps.saw(1, number);
            gaps.saw(2, number);
        }
        assert_eq!(gaps.settled().lost, 0);
    }

    proptest! {
        /// Against a set: however they arrive within the window, lost is what is missing.
        #[test]
        fn sums_agree_with_a_slow_count(missing in proptest::collection::btree_set(0_u64..2_000, 0..300), swap in 1_usize..100) {
            let mut numbers: Vec<u64> = (0..2_000).filter(|number| !missing.contains(number)).collect();
            for pair in numbers.chunks_mut(swap + 1) {
                pair.reverse();
            }
            let mut gaps = Gaps::default();
            numbers.iter().for_each(|number| gaps.saw(1, *number));
            let highest = numbers.iter().max().map_or(0, |highest| highest + 1);
            let really: BTreeSet<_> = missing.iter().filter(|number| **number < highest).collect();
            prop_assert_eq!(forget(&mut gaps), Settled { expected: highest, lost: really.len() as u64 });
        }
    }
}
