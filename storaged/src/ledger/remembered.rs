//! What the newest groups changed, until the journal mirror has it or a durable row says it.
//!
//! **Invariant:** of each group that a snapshot holds and the mirror may lack, the places are here, in the table
//! `unmirrored` of that snapshot, or in both. A crash loses what is here and nothing else: the log ahead has it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::journal::Coded;

/// Shared by the writer and by whoever makes frames again. It holds no more than the log ahead.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<VecDeque<Arc<Coded>>>);

impl Remembered {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Coded>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the group can be seen. One that was tried before and lost goes.
    pub(crate) fn add(&self, frame: Arc<Coded>) {
        let mut frames = self.lock();
        while frames.back().is_some_and(|last| last.last >= frame.last) {
            frames.pop_back();
        }
        frames.push_back(frame);
    }

    /// The mirror has the groups up to this one.
    pub(crate) fn drop_mirrored(&self, group: u64) {
        let mut frames = self.lock();
        while frames.front().is_some_and(|frame| frame.last <= group) {
            frames.pop_front();
        }
    }

    /// What the database is to be told before it is made durable.
    pub(crate) fn all(&self) -> Vec<Arc<Coded>> {
        self.lock().iter().cloned().collect()
    }

    /// After that.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Looks at the database while nothing is taken from here, and says what is here.
    pub(crate) fn with<T>(&self, look: impl FnOnce() -> T) -> (T, Vec<Arc<Coded>>) {
        let frames = self.lock();
        let seen = look();
        (seen, frames.iter().cloned().collect())
    }
}
