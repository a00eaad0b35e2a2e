//! Waiting for a volume without letting the sender wait for ever.
//!
//! **Invariant:** a step that takes too long is told to the sender once, and is waited for all the same: what
//! hangs may still happen, and only what has ended can be tidied.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// The patience of one upload.
#[derive(Debug)]
pub struct Patience {
    longest: Duration,
    tell: Mutex<Option<oneshot::Sender<()>>>,
}

/// A step's result, and whether patience ended before it.
pub type Waited<T> = (T, bool);

impl Patience {
    /// The receiver hears of the first step that takes `longest`, or is closed with the upload's end.
    pub fn new(longest: Duration) -> (Patience, oneshot::Receiver<()>) {
        let (tell, hung) = oneshot::channel();
        (Patience { longest, tell: Mutex::new(Some(tell)) }, hung)
    }

    /// Waits until `step` has ended.
    pub async fn with<T>(&self, step: impl Future<Output = T>) -> Waited<T> {
        let mut step = pin!(step);
        if let Ok(done) = tokio::time::timeout(self.longest, step.as_mut()).await {
            return (done, false);
        }
        if let Some(tell) = self.tell.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::error!(seconds = self.longest.as_secs(), "a volume hangs in the midst of an upload");
            // Nobody hears it if the sender is gone.
            let _ = tell.send(());
        }
        (step.await, true)
    }
}
