//! Draining: no new work, and what runs may finish within a grace.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// The switch, and the count of what still runs. Clones share both.
#[derive(Debug, Clone)]
pub struct Drain {
    begun: Arc<watch::Sender<bool>>,
    running: Arc<watch::Sender<usize>>,
    grace: Duration,
}

/// Work that counts as running while this lives.
#[derive(Debug)]
pub struct DrainGuard {
    running: Arc<watch::Sender<usize>>,
}

impl Drain {
    /// Nothing runs yet; `grace` is how long [`Drain::finished`] waits.
    pub fn new(grace: Duration) -> Self {
        Self { begun: Arc::new(watch::Sender::new(false)), running: Arc::new(watch::Sender::new(0)), grace }
    }

    /// Starts draining.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Whether draining has started.
    pub fn is_draining(&self) -> bool {
        *self.begun.borrow()
    }

    /// Returns once draining has started.
    pub async fn begun(&self) {
        let mut begun = self.begun.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = begun.wait_for(|begun| *begun).await;
    }

    /// Registers running work.
    pub fn guard(&self) -> DrainGuard {
        self.running.send_modify(|running| *running += 1);
        DrainGuard { running: Arc::clone(&self.running) }
    }

    /// How much work runs.
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// Waits until nothing runs, at most for the grace. Returns what was left running.
    pub async fn finished(&self) -> usize {
        let mut running = self.running.subscribe();
        let _ = tokio::time::timeout(self.grace, running.wait_for(|running| *running == 0)).await;
        self.running()
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        self.running.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_for_what_runs() {
        let drain = Drain::new(Duration::from_secs(5));
        let guard = drain.guard();
        drain.begin();
        drain.begun().await;
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finished().await }
        });
        drop(guard);
        assert_eq!(waiting.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn it_gives_up_after_the_grace() {
        let drain = Drain::new(Duration::from_millis(10));
        let _guard = drain.guard();
        assert_eq!(drain.finished().await, 1);
    }
}
