//! The threads that touch the volumes.
//!
//! **Invariant:** their number is fixed at start. Jobs wait in a queue that needs no bound of its own,
//! because each belongs to a transfer slot or to one of a handful of background tasks. A pool is of one volume.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::objects::spool::Spool;
use crate::objects::together::{Together, Turn};

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the threads; they end when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Pool {
    jobs: Sender<Job>,
    together: Arc<Together>,
}

/// The job was lost: it panicked, or the threads are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an input/output thread failed")]
pub struct JobLost;

impl From<JobLost> for io::Error {
    fn from(lost: JobLost) -> io::Error {
        io::Error::other(lost)
    }
}

impl Pool {
    /// Starts `threads` threads.
    pub fn start(threads: usize) -> io::Result<Pool> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("io-{number}")).spawn(move || work(&queue))?;
        }
        Ok(Pool { jobs, together: Arc::default() })
    }

    /// Runs a job and waits for it without holding a thread of the runtime. If the caller stops waiting, the
    /// job still runs.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobLost> {
        self.begin(job).await.map_err(|_| JobLost)
    }

    /// Who waits for a sync of the volume's spool.
    pub fn together(&self) -> &Together {
        &self.together
    }

    /// Waits for a sync of the spool that begins after this call. The job that syncs stands in the queue behind
    /// those who write, so it finds all who had come with whoever asked for it.
    pub async fn settle(&self, spool: &Arc<Spool>, turn: Turn) -> io::Result<()> {
        let (told, lead) = self.together.wait(turn);
        if let Some(lead) = lead {
            let (together, spool) = (Arc::clone(&self.together), Arc::clone(spool));
            let _ended = self.begin(move || together.run(lead, || spool.sync()));
        }
        told.await.unwrap_or_else(|_lost| Err(JobLost.into()))
    }

    /// Queues a job now; the result can be waited for later. A lost job closes the channel.
    pub fn begin<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        // If the threads are gone the job is dropped, and with it the sender.
        let _ = self.jobs.send(Box::new(move || {
            let _ = done.send(job());
        }));
        result
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // The guard is dropped before the job runs; a panic in a job cannot poison the queue.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // The panic hook has printed the place; whoever waits is told by the dropped channel.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_loses_one_job_and_no_thread() {
        let pool = Pool::start(1).unwrap();
        assert_eq!(pool.run(|| -> u8 { panic!("on purpose") }).await, Err(JobLost));
        assert_eq!(pool.run(|| 5).await, Ok(5));
    }
}
