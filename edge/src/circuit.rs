//! Whether storaged is there: a decision from proofs of life, without clocks or sockets.
//!
//! The circuit opens when there was no proof of life for [`PROOF_OF_LIFE`], and closes with a
//! complete answer to a health request. While it is closed any byte from storaged is a proof; while
//! it is open only an answer is, for there are no other connections then.
//!
//! Silence is counted in ticks, and a gap between ticks counts for at most [`TICK_WORTH`]: a process
//! that was itself not scheduled has heard nothing because it did not listen.

use std::time::{Duration, Instant};

use crate::limits::{PROOF_OF_LIFE, TICK_WORTH};

/// What the shell has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Reads from storaged that brought bytes.
    pub heard: u64,
    /// Complete answers to health requests.
    pub answered: u64,
}

/// A change of state that the shell must act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing changed.
    None,
    /// storaged is gone: abort what is in flight.
    Opened,
    /// storaged is back.
    Closed,
}

/// The state; its owner is the one task that ticks.
#[derive(Debug)]
pub struct Circuit {
    closed: bool,
    seen: Signs,
    last_tick: Instant,
    silence: Duration,
}

impl Circuit {
    /// Open, until storaged has answered.
    pub fn new(now: Instant) -> Self {
        Circuit { closed: false, seen: Signs::default(), last_tick: now, silence: Duration::ZERO }
    }

    /// Takes stock.
    pub fn tick(&mut self, now: Instant, signs: Signs) -> Change {
        let gap = now.saturating_duration_since(self.last_tick).min(TICK_WORTH);
        self.last_tick = now;
        let alive = signs.answered != self.seen.answered || (self.closed && signs.heard != self.seen.heard);
        self.seen = signs;
        if alive {
            self.silence = Duration::ZERO;
            let was_closed = std::mem::replace(&mut self.closed, true);
            return if was_closed { Change::None } else { Change::Closed };
        }
        self.silence = self.silence.saturating_add(gap);
        if self.closed && self.silence >= PROOF_OF_LIFE {
            self.closed = false;
            return Change::Opened;
        }
        Change::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks every `step` for `time`, always with `signs`; says after how long something changed.
    fn run(
        circuit: &mut Circuit,
        now: &mut Instant,
        step: u64,
        time: u64,
        signs: Signs,
    ) -> Option<(u64, Change)> {
        for elapsed in (step..=time).step_by(usize::try_from(step).unwrap()) {
            *now += Duration::from_millis(step);
            match circuit.tick(*now, signs) {
                Change::None => {}
                change @ (Change::Opened | Change::Closed) => return Some((elapsed, change)),
            }
        }
        None
    }

    fn closed() -> (Circuit, Instant, Signs) {
        let mut now = daemon::Clock.now();
        let mut circuit = Circuit::new(now);
        let signs = Signs { heard: 1, answered: 1 };
        now += Duration::from_millis(100);
        assert_eq!(circuit.tick(now, signs), Change::Closed);
        (circuit, now, signs)
    }

    #[test]
    fn silence_opens_within_three_seconds() {
        let (mut circuit, mut now, signs) = closed();
        assert_eq!(run(&mut circuit, &mut now, 100, 9000, signs), Some((2500, Change::Opened)));
        assert_eq!(run(&mut circuit, &mut now, 100, 9000, signs), None);
    }

    #[test]
    fn any_byte_keeps_it_closed() {
        let (mut circuit, mut now, mut signs) = closed();
        for _ in 0..10 {
            signs.heard += 1;
            assert_eq!(run(&mut circuit, &mut now, 100, 2400, signs), None);
        }
    }

    #[test]
    fn only_an_answer_closes_it_again() {
        let (mut circuit, mut now, mut signs) = closed();
        assert!(run(&mut circuit, &mut now, 100, 3000, signs).is_some());
        signs.heard += 1;
        assert_eq!(run(&mut circuit, &mut now, 100, 1000, signs), None);
        signs.answered += 1;
        assert_eq!(run(&mut circuit, &mut now, 100, 1000, signs), Some((100, Change::Closed)));
    }

    #[test]
    fn time_in_which_nobody_listened_is_no_silence() {
        let (mut circuit, mut now, mut signs) = closed();
        now += Duration::from_secs(60);
        assert_eq!(circuit.tick(now, signs), Change::None);
        signs.heard += 1;
        assert_eq!(run(&mut circuit, &mut now, 100, 200, signs), None);
    }

    #[test]
    fn late_ticks_still_open_it_in_time() {
        let (mut circuit, mut now, signs) = closed();
        assert_eq!(run(&mut circuit, &mut now, 400, 9000, signs), Some((2800, Change::Opened)));
    }
}
