//! Bodies on their way through: frames pass as they come and are never collected.
//!
//! hyper asks for the next frame only when the last one has been written, so a slow side slows the
//! other down and at most a frame or two of each stream is in memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prometheus::{IntCounter, IntGauge};
use store_proto::headers::{CONTENT_DIGEST, REPR_DIGEST};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use crate::client_body::ClientBody;
use crate::form::FormBody;
use crate::limits::MIN_BYTES_PER_SECOND;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::store_client::Lease;

/// Why a body did not reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The sender went away, or sent less than it announced.
    #[error("the body ended early")]
    Incomplete,
    /// The sender paused for too long, at once or in many small pauses.
    #[error("the body made too little progress for {0:?}")]
    Slow(Duration),
    /// More came than is allowed.
    #[error("the body is longer than {0} bytes")]
    TooLong(u64),
    /// A form that is not one file at its end.
    #[error("the form is refused: {0}")]
    Form(&'static str),
    /// The receiver has answered already.
    #[error("the body is not wanted any more")]
    Unwanted,
}

impl BodyError {
    /// What the client is told.
    pub fn refusal(self) -> Refusal {
        match self {
            BodyError::Incomplete | BodyError::Unwanted => Refusal::IncompleteBody,
            BodyError::Slow(after) => Refusal::SlowBody { after },
            BodyError::TooLong(limit) => Refusal::TooLarge { limit },
            BodyError::Form(rule) => Refusal::Body(rule.to_owned()),
        }
    }
}

/// What edge sends to storaged.
#[derive(Debug)]
pub enum Outgoing {
    /// A small message of edge's own.
    Message(Full<Bytes>),
    /// A client's body.
    Upload(UploadBody),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Outgoing::Message(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Outgoing::Upload(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Message(body) => body.is_end_stream(),
            Outgoing::Upload(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Message(body) => body.size_hint(),
            Outgoing::Upload(body) => body.inner.size_hint(),
        }
    }
}

/// A client's bytes, as they come in.
#[derive(Debug)]
pub enum Inbound {
    /// The body is the bytes.
    Raw(ClientBody),
    /// They are the file of a form.
    Form(Box<FormBody<ClientBody>>),
}

impl Inbound {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Inbound::Raw(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|_| BodyError::Incomplete))),
            Inbound::Form(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Inbound::Raw(body) => body.is_end_stream(),
            Inbound::Form(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Inbound::Raw(body) => body.size_hint(),
            Inbound::Form(_) => SizeHint::default(),
        }
    }
}

/// A client's body on its way to storaged: counted, bounded, and watched for pauses.
#[derive(Debug)]
pub struct UploadBody {
    inner: Inbound,
    /// Whether a digest may follow the bytes.
    trailing: bool,
    pause: Pause,
    left: u64,
    max_bytes: u64,
    verdict: Verdict,
    /// Closed when storaged has answered: an early answer ends the body.
    wanted: oneshot::Receiver<()>,
    /// Goes away with the body.
    _ended: oneshot::Sender<()>,
    passed: IntCounter,
    buffered: IntGauge,
}

/// How a body ended, seen from outside of the connection that it went down.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<Mutex<Option<BodyError>>>);

impl Verdict {
    /// Why the body failed, if it did.
    pub fn error(&self) -> Option<BodyError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, error: BodyError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// The end of a body's rope, in the hands of the one who waits for the answer: dropped, it stops
/// the body.
#[derive(Debug)]
pub struct Wanted {
    _wanted: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Wanted {
    /// Returns when the body's last byte has been handed over, or it was given up.
    pub async fn ended(&mut self) {
        // Nothing is ever sent: the other half goes away together with the body.
        let _ = (&mut self.ended).await;
    }
}

impl UploadBody {
    /// Wraps a client's body.
    pub fn new(
        inner: Inbound,
        trailing: bool,
        max_bytes: u64,
        idle: Duration,
        metrics: &Metrics,
    ) -> (UploadBody, Verdict, Wanted) {
        let verdict = Verdict::default();
        let (sender, wanted) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let body = UploadBody {
            inner,
            trailing,
            pause: Pause::new(idle),
            left: max_bytes,
            max_bytes,
            verdict: verdict.clone(),
            wanted,
            _ended: ending,
            passed: metrics.request_body_bytes.clone(),
            buffered: metrics.buffered_bytes.clone(),
        };
        (body, verdict, Wanted { _wanted: sender, ended })
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if Pin::new(&mut self.wanted).poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        loop {
            let frame = match self.inner.poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return self.pause.poll(cx).map(|error| Some(Err(error))),
            };
            let length = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Err(_)) | None => 0,
            };
            self.pause.ended_with(length);
            let frame = match frame {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => frame,
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => match frame.into_trailers().ok().filter(|_| self.trailing).and_then(digest) {
                    Some(trailer) => return Poll::Ready(Some(Ok(Frame::trailers(trailer)))),
                    // Trailers carry nothing else that edge passes on.
                    None => continue,
                },
            };
            let Some(left) = self.left.checked_sub(length) else {
                return Poll::Ready(Some(Err(BodyError::TooLong(self.max_bytes))));
            };
            self.left = left;
            self.passed.inc_by(length);
            return Poll::Ready(Some(Ok(Frame::data(Accounted::wrap(data, &self.buffered)))));
        }
    }
}

/// Takes what nobody needs of a body, to its end: a client that hears good news while it sends goes on all the same, and one
/// whose bytes are then refused takes the news for a failure. `false`: not all came, or more than this.
pub(crate) async fn pass_over(body: Inbound, max_bytes: u64, idle: Duration, metrics: &Metrics) -> bool {
    let (mut body, verdict, _wanted) = UploadBody::new(body, false, max_bytes, idle, metrics);
    while let Some(Ok(_)) = body.frame().await {}
    verdict.error().is_none()
}

/// The digest in a body's trailers, under the one name that storaged reads. What is malformed goes on as it is: the
/// upload is refused there, and nothing is stored.
fn digest(mut trailers: HeaderMap) -> Option<HeaderMap> {
    let value = [REPR_DIGEST, CONTENT_DIGEST].into_iter().find_map(|name| trailers.remove(name))?;
    Some([(HeaderName::from_static(REPR_DIGEST), value)].into_iter().collect())
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let next = ready!(this.next(cx));
        if let Some(Err(error)) = &next {
            this.verdict.set(*error);
        }
        Poll::Ready(next)
    }
}

/// Counts the time in which the sender has nothing to say; never the time in which the receiver takes
/// nothing, for then nobody asks.
#[derive(Debug)]
struct Pause {
    longest: Duration,
    timer: Pin<Box<Sleep>>,
    since: Option<Instant>,
    /// Time waited that no bytes have paid for.
    debt: Duration,
}

impl Pause {
    fn new(longest: Duration) -> Pause {
        Pause { longest, timer: Box::pin(sleep(longest)), since: None, debt: Duration::ZERO }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            self.timer.as_mut().reset(now + self.longest.saturating_sub(self.debt));
        }
        self.timer.as_mut().poll(cx).map(|()| BodyError::Slow(self.longest))
    }

    /// The sender said something: whatever it was, the wait is over.
    fn ended(&mut self) {
        (self.since, self.debt) = (None, Duration::ZERO);
    }

    /// The sender said so much: bytes pay for the wait at [`MIN_BYTES_PER_SECOND`].
    fn ended_with(&mut self, bytes: u64) {
        if let Some(since) = self.since.take() {
            self.debt += since.elapsed();
        }
        let paid = Duration::from_micros(bytes.saturating_mul(1_000_000) / MIN_BYTES_PER_SECOND);
        self.debt = self.debt.saturating_sub(paid);
    }
}

/// A frame that is on the gauge until its last byte has been written and its memory released.
struct Accounted {
    data: Bytes,
    gauge: IntGauge,
}

impl Accounted {
    fn wrap(data: Bytes, gauge: &IntGauge) -> Bytes {
        gauge.add(signed(data.len()));
        Bytes::from_owner(Accounted { data, gauge: gauge.clone() })
    }
}

impl AsRef<[u8]> for Accounted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Accounted {
    fn drop(&mut self) {
        self.gauge.sub(signed(self.data.len()));
    }
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// storaged's body on its way to a client: exactly as long as announced, or an error that ends the
/// connection, so that a short file never looks like a whole one.
#[derive(Debug)]
pub struct DownloadBody {
    inner: Incoming,
    pause: Pause,
    /// Bytes to come, where the length is known.
    left: Option<u64>,
    /// Given back with the end.
    lease: Option<Lease>,
    passed: IntCounter,
    buffered: IntGauge,
}

impl DownloadBody {
    /// Wraps storaged's body, of which `length` bytes are announced.
    pub fn new(
        inner: Incoming,
        length: Option<u64>,
        idle: Duration,
        lease: Lease,
        metrics: &Metrics,
    ) -> Self {
        DownloadBody {
            inner,
            pause: Pause::new(idle),
            left: length,
            lease: Some(lease),
            passed: metrics.response_body_bytes.clone(),
            buffered: metrics.buffered_bytes.clone(),
        }
    }

    /// Whether all of it has passed.
    pub fn is_complete(&self) -> bool {
        self.left == Some(0) || self.lease.is_none()
    }
}

impl Body for DownloadBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return this.pause.poll(cx).map(|error| Some(Err(error))),
            };
            this.pause.ended();
            let frame = match frame {
                Some(Ok(frame)) => frame,
                None if this.left.unwrap_or(0) == 0 => {
                    if let Some(lease) = this.lease.take() {
                        lease.give_back();
                    }
                    return Poll::Ready(None);
                }
                None | Some(Err(_)) => return Poll::Ready(Some(Err(BodyError::Incomplete))),
            };
            let Ok(data) = frame.into_data() else { continue };
            let length = data.len() as u64;
            if let Some(left) = &mut this.left {
                match left.checked_sub(length) {
                    Some(rest) => *left = rest,
                    None => return Poll::Ready(Some(Err(BodyError::TooLong(*left)))),
                }
            }
            this.passed.inc_by(length);
            return Poll::Ready(Some(Ok(Frame::data(Accounted::wrap(data, &this.buffered)))));
        }
    }

    fn is_end_stream(&self) -> bool {
        false // not at the last byte either: the lease is given back by the poll after it
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// hyper may not ask again after the last announced byte; the connection has served all the same.
impl Drop for DownloadBody {
    fn drop(&mut self) {
        if self.left == Some(0)
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_leaves_the_gauge_with_its_last_clone() {
        let gauge = IntGauge::new("g", "g").unwrap();
        let frame = Accounted::wrap(Bytes::from_static(b"12345"), &gauge);
        let rest = frame.slice(3..);
        drop(frame);
        assert_eq!(gauge.get(), 5);
        drop(rest);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_body_that_ends_early_is_the_clients_fault() {
        assert_eq!(BodyError::Incomplete.refusal(), Refusal::IncompleteBody);
        assert_eq!(BodyError::TooLong(7).refusal(), Refusal::TooLarge { limit: 7 });
    }
}
