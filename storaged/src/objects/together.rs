//! One sync for all small objects that wait for one, where that is cheaper than a sync for each.
//!
//! A small object costs two syncs, of its bytes and of its name. The file system can bring all that was written to
//! the disk in one step (`syncfs`), for which objects that come at the same time wait together. But that step takes
//! along what others have written there, which may be gigabytes: so it is measured, and left alone for a while
//! when it takes longer than syncs one by one.
//!
//! **Invariant:** whoever is told that all went well has begun to write after the end of the last sync that failed,
//! and ended before the begin of the one that did not. A failure is told by the system once, to whoever asks next,
//! and may be about what others wrote.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use daemon::Clock;
use tokio::sync::oneshot;

use crate::limits::{IO_THREADS, TOGETHER_AGAIN, TOGETHER_PAUSE_MAX};

/// Those who wait for a sync of one volume.
#[derive(Debug, Default)]
pub struct Together {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    /// Somebody syncs, and looks again for who waits when that is done.
    running: bool,
    /// Syncs that failed.
    failures: u64,
    pace: Pace,
}

#[derive(Debug)]
struct Waiting {
    turn: Turn,
    done: oneshot::Sender<io::Result<u64>>,
}

/// From before the first byte was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    failures: u64,
}

/// Whoever holds it has to call [`Together::run`], off the runtime's threads.
#[derive(Debug)]
pub struct Lead(());

impl Together {
    /// Before an object is written that could be synced with others: whether it should be.
    pub fn turn(&self) -> Option<Turn> {
        let mut state = self.lock();
        let together = state.pace.chooses_together(Clock.now());
        together.then_some(Turn { failures: state.failures })
    }

    /// An object was synced by itself; its two syncs took so long.
    pub fn alone(&self, took: Duration) {
        self.lock().pace.alone(took);
    }

    /// Waits for a sync that begins after this. With the second value somebody has to be made to sync.
    pub fn wait(&self, turn: Turn) -> (oneshot::Receiver<io::Result<u64>>, Option<Lead>) {
        let (done, told) = oneshot::channel();
        let mut state = self.lock();
        state.waiting.push(Waiting { turn, done });
        let lead = !std::mem::replace(&mut state.running, true);
        (told, lead.then_some(Lead(())))
    }

    /// Syncs as long as somebody waits.
    pub fn run(&self, _lead: Lead, sync: impl Fn() -> io::Result<u64>) {
        let _running = Running(self);
        loop {
            let group = std::mem::take(&mut self.lock().waiting);
            let begun = Clock.now();
            let synced = sync();
            let ended = Clock.now();
            let mut state = self.lock();
            match &synced {
                Ok(_) => state.pace.together(group.len(), ended.duration_since(begun), ended),
                Err(_) => state.failures += 1,
            }
            let failures = state.failures;
            if state.waiting.is_empty() {
                // Under the lock under which the last look found nobody: whoever comes next leads.
                state.running = false;
            }
            let ends = !state.running;
            drop(state);
            for Waiting { turn, done } in group {
                // Whoever no longer waits has given up.
                let _ = done.send(told(&synced, turn, failures));
            }
            if ends {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(synced: &io::Result<u64>, turn: Turn, failures: u64) -> io::Result<u64> {
    match synced {
        Ok(mount) if turn.failures == failures => Ok(*mount),
        Ok(_) => Err(io::Error::other("a sync failed while this was written")),
        // The kind is what decides about the answer: a full disk is told from a broken one.
        Err(error) => Err(match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(error.kind(), error.to_string()),
        }),
    }
}

/// However a sync ends, nobody waits for one that never comes.
struct Running<'a>(&'a Together);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.lock();
            state.running = false;
            state.failures += 1;
            // Their senders go, which tells them.
            state.waiting.clear();
        }
    }
}

/// What syncs took, and what follows from it.
#[derive(Debug, Default)]
struct Pace {
    /// Of an object by itself, about.
    alone: Option<Duration>,
    /// Objects since one went by itself.
    since: u32,
    /// Until then each goes by itself.
    not_before: Option<Instant>,
}

impl Pace {
    fn chooses_together(&mut self, now: Instant) -> bool {
        self.since += 1;
        if self.alone.is_none() || self.since >= TOGETHER_AGAIN {
            self.since = 0;
            return false;
        }
        self.not_before.is_none_or(|until| now >= until)
    }

    fn alone(&mut self, took: Duration) {
        self.alone = Some(self.alone.map_or(took, |before| (before * 7 + took) / 8));
    }

    fn together(&mut self, objects: usize, took: Duration, now: Instant) {
        let Some(alone) = self.alone else { return };
        // By themselves they would have gone side by side, as many as there are threads. Half as long again is noise.
        let threads = u32::try_from(IO_THREADS).unwrap_or(u32::MAX);
        let rounds = u32::try_from(objects).unwrap_or(u32::MAX).max(threads);
        if took.saturating_mul(2 * threads) > alone.saturating_mul(rounds.saturating_mul(3)) {
            // So that what is lost by trying is a hundredth.
            let pause = took.saturating_mul(100).min(TOGETHER_PAUSE_MAX);
            self.not_before = now.checked_add(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn those_who_come_during_a_sync_share_the_next() {
        let together = Together::default();
        let turn = Turn { failures: 0 };
        let (first, lead) = together.wait(turn);
        let syncs = AtomicUsize::new(0);
        let late = Mutex::new(Vec::new());
        together.run(lead.unwrap(), || {
            if syncs.fetch_add(1, Ordering::Relaxed) == 0 {
                for _ in 0..5 {
                    let (told, lead) = together.wait(turn);
                    assert!(lead.is_none(), "one syncs at a time");
                    late.lock().unwrap().push(told);
                }
            }
            Ok(7)
        });
        assert_eq!(syncs.into_inner(), 2);
        assert_eq!(first.blocking_recv().unwrap().unwrap(), 7);
        for told in late.into_inner().unwrap() {
            told.blocking_recv().unwrap().unwrap();
        }
        assert!(together.wait(turn).1.is_some(), "whoever comes after the end leads");
    }

    #[test]
    fn a_failure_is_told_to_all_who_had_begun_before_it() {
        let together = Together::default();
        together.alone(MS);
        let (a, b) = (together.turn().unwrap(), together.turn().unwrap());
        let (told_a, lead) = together.wait(a);
        together.run(lead.unwrap(), || Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        let error = told_a.blocking_recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        // What it had written may have been what failed: the next sync says nothing of that.
        let (told_b, lead) = together.wait(b);
        together.run(lead.unwrap(), || Ok(7));
        told_b.blocking_recv().unwrap().unwrap_err();
        let (told_c, lead) = together.wait(together.turn().unwrap());
        together.run(lead.unwrap(), || Ok(7));
        told_c.blocking_recv().unwrap().unwrap();
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let together = Arc::new(Together::default());
        let (told, lead) = together.wait(Turn { failures: 0 });
        let here = Arc::clone(&together);
        let ran = std::thread::spawn(move || here.run(lead.unwrap(), || panic!("on purpose"))).join();
        assert!(ran.is_err());
        assert!(told.blocking_recv().is_err());
        assert!(together.wait(Turn { failures: 1 }).1.is_some());
    }

    #[test]
    fn a_sync_of_all_that_is_dearer_than_one_for_each_is_left_alone_for_a_while() {
        let now = Clock.now();
        let mut pace = Pace::default();
        assert!(!pace.chooses_together(now), "nobody knows yet what one by itself takes");
        pace.alone(MS * 4);
        assert!(pace.chooses_together(now));
        pace.together(1, MS * 6, now);
        pace.together(64, MS * 48, now);
        assert!(pace.chooses_together(now));
        pace.together(1, MS * 7, now);
        assert!(!pace.chooses_together(now + MS * 699));
        assert!(pace.chooses_together(now + MS * 701));
        pace.together(64, MS * 49, now);
        assert!(!pace.chooses_together(now + MS * 4899));
        pace.together(1, Duration::from_secs(100), now);
        assert!(!pace.chooses_together(now + TOGETHER_PAUSE_MAX - MS));
        assert!(pace.chooses_together(now + TOGETHER_PAUSE_MAX));
    }

    #[test]
    fn now_and_then_one_goes_by_itself_so_that_it_is_known_what_that_takes() {
        let (now, mut pace) = (Clock.now(), Pace::default());
        pace.alone(MS);
        let alone = (0..1000).filter(|_| !pace.chooses_together(now)).count();
        assert_eq!(alone, 1000 / usize::try_from(TOGETHER_AGAIN).unwrap());
    }
}
