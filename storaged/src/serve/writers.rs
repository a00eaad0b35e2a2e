//! Who writes which resumable upload: one request at a time, and the newest one wins.
//!
//! **Invariant:** whoever holds a [`Turn`] is the only one that changes the upload's bytes. A request that
//! comes later does not wait for a stalled client: the turn before it is told to make durable what it has
//! and to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store_proto::FileId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// All turns.
#[derive(Debug, Clone, Default)]
pub struct Writers(Arc<Mutex<HashMap<FileId, Arc<Writer>>>>);

#[derive(Debug)]
struct Writer {
    turn: Arc<Semaphore>,
    /// Counts the requests for it.
    newest: watch::Sender<u64>,
}

/// The right to change one upload.
#[derive(Debug)]
pub struct Turn {
    writers: Writers,
    upload: FileId,
    number: u64,
    newest: watch::Receiver<u64>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Writers {
    /// The turn, if nobody has or wants it. Nobody is disturbed.
    pub fn idle_turn(&self, upload: FileId) -> Option<Turn> {
        let mut all = self.all();
        if all.contains_key(&upload) {
            return None;
        }
        let writer = Arc::new(Writer { turn: Arc::new(Semaphore::new(1)), newest: watch::Sender::new(0) });
        let permit = Some(Arc::clone(&writer.turn).try_acquire_owned().ok()?);
        let newest = writer.newest.subscribe();
        all.insert(upload, writer);
        Some(Turn { writers: self.clone(), upload, number: 0, newest, permit })
    }

    /// Tells whoever has the turn to end it, and waits at most `patience` for it.
    pub async fn turn(&self, upload: FileId, patience: Duration) -> Option<Turn> {
        let writer = Arc::clone(self.all().entry(upload).or_insert_with(|| {
            Arc::new(Writer { turn: Arc::new(Semaphore::new(1)), newest: watch::Sender::new(0) })
        }));
        let mut number = 0;
        writer.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        let newest = writer.newest.subscribe();
        // From here on dropped in any case, which forgets a writer that nobody waits for.
        let mut turn = Turn { writers: self.clone(), upload, number, newest, permit: None };
        let permit = tokio::time::timeout(patience, Arc::clone(&writer.turn).acquire_owned()).await;
        drop(writer);
        turn.permit = Some(permit.ok()?.ok()?);
        Some(turn)
    }

    /// Whether somebody has or wants the turn.
    pub fn is_busy(&self, upload: FileId) -> bool {
        self.all().contains_key(&upload)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<FileId, Arc<Writer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits until another request comes for the upload.
    pub async fn preempted(&mut self) {
        let number = self.number;
        // The sender is in the map as long as there is a turn.
        let _ = self.newest.wait_for(|newest| *newest > number).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut all = self.writers.all();
        // Ours is the only subscription that is left if no other request has or wants the turn.
        let unused = all.get(&self.upload).is_some_and(|writer| writer.newest.receiver_count() <= 1);
        if unused {
            all.remove(&self.upload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_later_request_tells_the_one_before_to_end() {
        let writers = Writers::default();
        let mut first = writers.turn(ID, SECOND).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(5), first.preempted()).await.is_err());
        let waiting = tokio::spawn({
            let writers = writers.clone();
            async move { writers.turn(ID, SECOND).await.is_some() }
        });
        first.preempted().await;
        drop(first);
        assert!(waiting.await.unwrap());
        assert!(writers.all().is_empty(), "nothing is kept of uploads that nobody writes");
    }

    #[tokio::test]
    async fn a_turn_that_does_not_end_is_not_waited_for_for_ever() {
        let writers = Writers::default();
        let first = writers.turn(ID, SECOND).await.unwrap();
        assert!(writers.turn(ID, Duration::from_millis(5)).await.is_none());
        assert!(writers.turn(FileId::from_bytes([2; 16]), SECOND).await.is_some(), "another upload");
        assert!(writers.idle_turn(ID).is_none());
        drop(first);
        assert!(writers.turn(ID, SECOND).await.is_some());
        assert!(writers.all().is_empty());
        let mut idle = writers.idle_turn(ID).unwrap();
        let newer = tokio::spawn(async move { writers.turn(ID, SECOND).await.is_some() });
        idle.preempted().await;
        drop(idle);
        assert!(newer.await.unwrap());
    }

    const ID: FileId = FileId::from_bytes([1; 16]);
    const SECOND: Duration = Duration::from_secs(1);
}
