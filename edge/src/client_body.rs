//! A client's body, which is not taken away under a client that is still sending.
//!
//! **Invariant:** dropped before its end on HTTP/2, it is held on to until the client ends it, [`LINGER_TIME`] at most. Without
//! that the stream would be reset behind the answer, and some clients that see a reset look at nothing that came before it.
//! (On HTTP/1.1 the whole connection lingers: `client_stream`.) What still comes is discarded, up to [`LINGER_BYTES`]; what is
//! beyond that stays unread, so that its window fills and the client can do nothing but read the answer. Memory is bounded by
//! that window, as for every stream.

use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{EXPECT, HeaderValue};
use http::{HeaderMap, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::limits::{LINGER_BYTES, LINGER_TIME};

/// What a client sends behind a request's head.
#[derive(Debug)]
pub struct ClientBody {
    /// Taken by `drop` alone.
    inner: Option<Incoming>,
    lingers: bool,
}

/// Whether a client holds its body back (`Expect: 100-continue`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Until an answer asks for it.
    ToBeAsked,
    /// It sends, whatever is said.
    No,
}

impl Waits {
    /// By the head of a request.
    pub(crate) fn of(headers: &HeaderMap) -> Waits {
        let expected = headers.get(EXPECT).map(HeaderValue::as_bytes);
        match expected.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")) {
            true => Waits::ToBeAsked,
            false => Waits::No,
        }
    }
}

impl ClientBody {
    /// The body of a request that came by this version of HTTP.
    pub fn new(inner: Incoming, version: Version) -> ClientBody {
        ClientBody { inner: Some(inner), lingers: version == Version::HTTP_2 }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.inner.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let Some(body) = self.inner.take().filter(|body| self.lingers && !body.is_end_stream()) else {
            return;
        };
        // Without a runtime the process is at its end, and every connection with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(linger(body));
        }
    }
}

async fn linger(mut body: Incoming) {
    let until_it_ends = async {
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return pending().await;
            }
        }
    };
    // Over or not, the stream ends with the body.
    let _ = timeout(LINGER_TIME, until_it_ends).await;
}
