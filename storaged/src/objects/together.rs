//! One sync for all who wait for one.
//!
//! **Invariant:** whoever is told that all went well has begun to write after the end of the last sync that failed,
//! and ended before the begin of the one that did not. A failure is told by the system once, to whoever asks next,
//! and may be about what others wrote.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Those who wait for a sync of one file.
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
}

#[derive(Debug)]
struct Waiting {
    turn: Turn,
    done: oneshot::Sender<io::Result<()>>,
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
    /// To be taken before the first byte is written.
    pub fn turn(&self) -> Turn {
        Turn { failures: self.lock().failures }
    }

    /// Waits for a sync that begins after this. With the second value somebody has to be made to sync.
    pub fn wait(&self, turn: Turn) -> (oneshot::Receiver<io::Result<()>>, Option<Lead>) {
        let (done, told) = oneshot::channel();
        let mut state = self.lock();
        state.waiting.push(Waiting { turn, done });
        let lead = !std::mem::replace(&mut state.running, true);
        (told, lead.then_some(Lead(())))
    }

    /// Syncs as long as somebody waits.
    pub fn run(&self, _lead: Lead, sync: impl Fn() -> io::Result<()>) {
        let _running = Running(self);
        loop {
            let group = std::mem::take(&mut self.lock().waiting);
            let synced = sync();
            let mut state = self.lock();
            state.failures += u64::from(synced.is_err());
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

fn told(synced: &io::Result<()>, turn: Turn, failures: u64) -> io::Result<()> {
    match synced {
        Ok(()) if turn.failures == failures => Ok(()),
        Ok(()) => Err(io::Error::other("a sync failed while this was written")),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

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
            Ok(())
        });
        assert_eq!(syncs.into_inner(), 2);
        first.blocking_recv().unwrap().unwrap();
        for told in late.into_inner().unwrap() {
            told.blocking_recv().unwrap().unwrap();
        }
        assert!(together.wait(turn).1.is_some(), "whoever comes after the end leads");
    }

    #[test]
    fn a_failure_is_told_to_all_who_had_begun_before_it() {
        let together = Together::default();
        let (a, b) = (together.turn(), together.turn());
        let (told_a, lead) = together.wait(a);
        together.run(lead.unwrap(), || Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        let error = told_a.blocking_recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        // What it had written may have been what failed: the next sync says nothing of that.
        let (told_b, lead) = together.wait(b);
        together.run(lead.unwrap(), || Ok(()));
        told_b.blocking_recv().unwrap().unwrap_err();
        let (told_c, lead) = together.wait(together.turn());
        together.run(lead.unwrap(), || Ok(()));
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
}
