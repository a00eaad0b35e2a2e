//! Which counters of a session have come (RFC 6479): a bit each for the newest, in a ring of words.
//!
//! **Invariant:** a counter is taken once. What lies more than [`WINDOW`] behind the newest is refused unseen, for its bit has
//! gone to another.

use crate::limits::from_the_specification::REPLAY_BITS;

const WORD: u64 = u64::BITS as u64;
const WORDS: usize = (REPLAY_BITS / WORD) as usize;
/// The newest's own word is partly ahead.
const WINDOW: u64 = REPLAY_BITS - WORD;

pub(super) struct Window {
    /// One more than the newest; zero before the first.
    next: u64,
    seen: Box<[u64; WORDS]>,
}

impl Window {
    pub(super) fn new() -> Window {
        Window { next: 0, seen: Box::new([0; WORDS]) }
    }

    /// Whether it would be taken.
    #[inline]
    pub(super) fn takes(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let is_near = self.next - 1 - counter <= WINDOW;
        let (word, bit) = place(counter);
        is_near && self.seen[word] & bit == 0
    }

    /// Notes a counter that is taken.
    #[inline]
    pub(super) fn take(&mut self, counter: u64) {
        if counter >= self.next {
            let newest = self.next.saturating_sub(1) / WORD;
            // Words that the newest has reached since hold bits of a round before.
            for number in (newest + 1..=counter / WORD).take(WORDS) {
                let (word, _) = place(number * WORD);
                self.seen[word] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    (((counter / WORD) % WORDS as u64) as usize, 1 << (counter % WORD))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Steps to and fro around the bounds of a word, of the ring and beyond.
    fn step() -> impl Strategy<Value = i64> {
        let bound = prop_oneof![Just(0), Just(1), Just(64), Just(8_128), Just(8_192), 0_i64..20_000];
        (bound, -2_i64..=2, any::<bool>()).prop_map(|(bound, near, back)| {
            let step = bound + near;
            if back { -step } else { step }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn it_says_what_a_set_of_all_counters_says(
            start in prop_oneof![Just(0_u64), Just(u64::MAX - (1 << 20)), 0_u64..1 << 40],
            steps in proptest::collection::vec(step(), 1..400),
        ) {
            let (mut window, mut all) = (Window::new(), HashSet::new());
            let (mut newest, mut counter) = (None::<u64>, start);
            for step in steps {
                counter = counter.saturating_add_signed(step).min(u64::MAX - 1);
                let old = newest.is_some_and(|newest| counter < newest && newest - counter > WINDOW);
                let expected = !old && !all.contains(&counter);
                prop_assert_eq!(window.takes(counter), expected, "{} with {:?} the newest", counter, newest);
                if expected {
                    window.take(counter);
                    all.insert(counter);
                    newest = newest.max(Some(counter));
                }
            }
        }
    }

    #[test]
    fn a_whole_ring_may_come_backwards_and_only_once() {
        let mut window = Window::new();
        for counter in (0..=WINDOW).rev().map(|back| 10_000 + back) {
            assert!(window.takes(counter), "{counter}");
            window.take(counter);
            assert!(!window.takes(counter), "{counter}");
        }
        assert!(!window.takes(9_999), "too far back to tell");
    }
}
