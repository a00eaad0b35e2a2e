//! How many may be connected, and who has to go for the next.
//!
//! Invariant: a client that asks nothing keeps nobody else out: when all places are taken, the one that has been
//! waited for longest is closed. An operation that is being carried out is never broken off.
use crate::limits;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The pause before another is asked to go, when the first has not gone yet or nobody was waiting.
const PATIENCE: Duration = Duration::from_millis(50);

/// The places. Clones share them.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Connections whose client it is to speak, in the order in which they began to wait.
#[derive(Default)]
struct Waiting {
    next: u64,
    since: BTreeMap<u64, Arc<Notify>>,
}

/// A place that is taken, until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    waiting: Arc<Mutex<Waiting>>,
}

/// While this lives the client is waited for.
struct Turn<'a> {
    number: u64,
    waiting: &'a Mutex<Waiting>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(limits::UAPI_CONNECTIONS)), waiting: Arc::default() }
    }

    /// Takes a place, somebody else's if there is no free one.
    pub(super) async fn take(&self) -> Option<Place> {
        let mut taking = std::pin::pin!(Arc::clone(&self.free).acquire_owned());
        let mut patience = Duration::ZERO;
        loop {
            match tokio::time::timeout(patience, &mut taking).await {
                Ok(permit) => {
                    return Some(Place { _permit: permit.ok()?, waiting: Arc::clone(&self.waiting) });
                }
                Err(_) => {
                    if let Some((_, longest)) = lock(&self.waiting).since.pop_first() {
                        longest.notify_one();
                    }
                    patience = PATIENCE;
                }
            }
        }
    }
}

impl Place {
    /// Waits for the client; `None` when it has to go.
    pub(super) async fn wait<T>(&self, client: impl Future<Output = T>) -> Option<T> {
        let go = Arc::new(Notify::new());
        let turn = {
            let mut waiting = lock(&self.waiting);
            let number = waiting.next;
            waiting.next += 1;
            waiting.since.insert(number, Arc::clone(&go));
            Turn { number, waiting: &self.waiting }
        };
        let spoken = tokio::select! {
            biased;
            spoken = client => Some(spoken),
            () = go.notified() => None,
        };
        drop(turn);
        spoken
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(self.waiting).since.remove(&self.number);
    }
}

fn lock(waiting: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
