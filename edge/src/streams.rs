//! The streams of one HTTP/2 connection: counted, and given up when the client takes nothing of an answer.
//!
//! A client that lets its window run dry does not stall the connection, which other streams use, but its own
//! answer, and with it a place and a transfer of storaged's. **Invariant:** an answer of which no part was taken
//! for the idle time-out is dropped, which resets its stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::{Instant, Sleep, sleep};

tokio::task_local! {
    /// Of the stream whose task this is: grows with each part of its answer that was taken.
    static TAKEN: Arc<AtomicU64>;
}

/// Runs the streams of one connection.
#[derive(Clone, Debug)]
pub struct Streams {
    open: Arc<watch::Sender<usize>>,
    stall: Duration,
}

/// One stream is open while this lives.
struct Open(Arc<watch::Sender<usize>>);

impl Streams {
    /// None are open; `stall` is how long an answer may go untaken.
    pub fn new(stall: Duration) -> Streams {
        Streams { open: Arc::new(watch::Sender::new(0)), stall }
    }

    /// Returns when no stream has been open for so long.
    pub async fn idle(&self, longest: Duration) {
        let mut open = self.open.subscribe();
        loop {
            // The sender lives in `self`, so waiting cannot fail.
            let _ = open.wait_for(|open| *open == 0).await;
            if tokio::time::timeout(longest, open.wait_for(|open| *open > 0)).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.open.send_modify(|open| *open += 1);
        let open = Open(Arc::clone(&self.open));
        let taken = Arc::new(AtomicU64::new(0));
        let watched = Watched {
            stream: Box::pin(TAKEN.scope(Arc::clone(&taken), stream)),
            taken,
            seen: 0,
            stall: self.stall,
            timer: Box::pin(sleep(self.stall)),
        };
        tokio::spawn(async move {
            let _open = open;
            watched.await;
        });
    }
}

/// A stream's task, with an eye on its answer.
struct Watched<F> {
    stream: Pin<Box<TaskLocalFuture<Arc<AtomicU64>, F>>>,
    taken: Arc<AtomicU64>,
    seen: u64,
    stall: Duration,
    timer: Pin<Box<Sleep>>,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let taken = self.taken.load(Ordering::Acquire);
        if taken == 0 {
            return Poll::Pending; // there is no answer yet
        }
        if taken != self.seen {
            self.seen = taken;
            let deadline = Instant::now() + self.stall;
            self.timer.as_mut().reset(deadline);
        }
        ready!(self.timer.as_mut().poll(cx));
        tracing::debug!("an answer was not taken");
        Poll::Ready(())
    }
}

/// An answer's body that says when a part of it is taken.
#[derive(Debug)]
pub struct Noted<B> {
    body: B,
    taken: Option<Arc<AtomicU64>>,
}

impl<B> Noted<B> {
    /// To be made within the stream's task.
    pub fn new(body: B) -> Noted<B> {
        let taken = TAKEN.try_with(Arc::clone).ok();
        let noted = Noted { body, taken };
        noted.note();
        noted
    }

    fn note(&self) {
        if let Some(taken) = &self.taken {
            taken.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Noted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.note();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
