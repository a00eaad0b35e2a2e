//! A client's connection, with the manners that hyper leaves to its transport.
//!
//! - **Lingering close.** A refused client may still be sending. Closing at once would answer its
//!   bytes with a reset, and the reset would overtake the refusal. So the end is half-closed first,
//!   and what still comes is discarded, up to [`LINGER_BYTES`] or [`LINGER_TIME`]. What is beyond those bytes stays in the
//!   kernel until the time is up: its window is full then, and the client can do nothing but read.
//! - **Stalled readers.** A write that makes no progress for the idle time-out ends the connection.
//! - **hyper's own refusals.** A head that hyper cannot read is answered by hyper, bare. As long as
//!   no request has reached the service, whatever is written is such an answer, and our problem
//!   document takes its place. Later on it cannot be told from a body, and is left alone.
//! - **Floods.** On HTTP/2 each frame is looked at as it passes ([`FrameWatch`]).

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use daemon::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::frame_watch::FrameWatch;
use crate::limits::{LINGER_BYTES, LINGER_TIME};
use crate::transport::Transport;

/// Makes the answer that takes the place of hyper's bare one with this status.
pub type OwnRefusal = Box<dyn Fn(u16) -> Bytes + Send + Sync>;

/// A client's connection.
pub struct ClientStream {
    stream: Transport,
    /// Set by the service with the first request.
    served: Arc<AtomicBool>,
    own_refusal: OwnRefusal,
    /// On HTTP/2.
    frames: Option<Frames>,
    /// What is left to write of our answer in hyper's place.
    own: Bytes,
    stall: Stall,
    linger: Linger,
}

struct Frames {
    watch: FrameWatch,
    /// Told once when the client floods.
    flooded: Box<dyn Fn() + Send + Sync>,
}

struct Stall {
    after: Duration,
    timer: Pin<Box<Sleep>>,
    running: bool,
}

enum Linger {
    NotYet,
    Discarding { timer: Pin<Box<Sleep>>, left: usize },
    Done,
}

impl ClientStream {
    /// Wraps a connection that speaks HTTP/1.1. `served` is to be set when a request reaches the service.
    pub fn http1(
        stream: Transport,
        served: Arc<AtomicBool>,
        own_refusal: OwnRefusal,
        stall_after: Duration,
    ) -> Self {
        let stall = Stall { after: stall_after, timer: Box::pin(sleep(stall_after)), running: false };
        ClientStream {
            stream,
            served,
            own_refusal,
            frames: None,
            own: Bytes::new(),
            stall,
            linger: Linger::NotYet,
        }
    }

    /// Wraps a connection that speaks HTTP/2; `flooded` is told when it is ended for what it sends.
    pub fn http2(
        stream: Transport,
        flooded: impl Fn() + Send + Sync + 'static,
        stall_after: Duration,
    ) -> Self {
        // What hyper writes there is never HTTP/1.1, so nothing is put in its place.
        let served = Arc::new(AtomicBool::new(true));
        let mut this = Self::http1(stream, served, Box::new(|_| Bytes::new()), stall_after);
        let watch = FrameWatch::new(Clock.now());
        this.frames = Some(Frames { watch, flooded: Box::new(flooded) });
        this
    }

    fn is_hypers_refusal(&self, bytes: &[u8]) -> Option<u16> {
        if self.served.load(Ordering::Acquire) {
            return None;
        }
        let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        std::str::from_utf8(status).ok()?.parse().ok()
    }

    fn note_sent(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Some(frames), Poll::Ready(Ok(length))) = (&mut self.frames, written) {
            frames.watch.sent(*length);
        }
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.own))?;
            self.own.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Stall {
    /// Passes a write's result on; a pending one counts time, any other stops the count.
    fn watch(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.running = false;
            return result;
        }
        if !self.running {
            self.running = true;
            let deadline = Instant::now() + self.after;
            self.timer.as_mut().reset(deadline);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(frames) = &mut self.frames
            && let Err(flood) = frames.watch.came(&buf.filled()[before..], Clock.now())
        {
            (frames.flooded)();
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(status) = this.is_hypers_refusal(buf) {
            this.served.store(true, Ordering::Release);
            this.own = (this.own_refusal)(status);
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note_sent(&result);
        this.stall.watch(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        if first.is_some_and(|buf| self.is_hypers_refusal(buf).is_some()) {
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.note_sent(&result);
        this.stall.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.linger {
                Linger::NotYet => {
                    ready!(this.poll_own(cx))?;
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    this.linger =
                        Linger::Discarding { timer: Box::pin(sleep(LINGER_TIME)), left: LINGER_BYTES };
                }
                Linger::Discarding { timer, left: 0 } => {
                    ready!(timer.as_mut().poll(cx));
                    this.linger = Linger::Done;
                }
                Linger::Discarding { timer, left } => {
                    let mut scrap = [0; 8192];
                    let mut buf = ReadBuf::new(&mut scrap);
                    // An error or the end: the client has closed. Pending: its time may be up.
                    let gone = match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                        Poll::Ready(Ok(())) => buf.filled().is_empty(),
                        Poll::Ready(Err(_)) => true,
                        Poll::Pending => {
                            ready!(timer.as_mut().poll(cx));
                            true
                        }
                    };
                    *left = left.saturating_sub(buf.filled().len());
                    if gone || timer.is_elapsed() {
                        this.linger = Linger::Done;
                    }
                }
                Linger::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}
