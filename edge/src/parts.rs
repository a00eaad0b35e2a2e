//! Several ranges of a file as one answer: `multipart/byteranges` (RFC 9110 §14.6).
//!
//! **Invariant:** one range is under way at a time, and its length is known before the head is sent: the whole answer is
//! exactly as long as announced, or its connection breaks.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame};

use crate::range::ByteRange;
use crate::refusal::Refusal;
use crate::stream::{BodyError, DownloadBody};

/// A range that is being asked for.
pub type Fetched = Pin<Box<dyn Future<Output = Result<DownloadBody, Refusal>> + Send>>;

/// The body of such an answer.
pub struct PartsBody {
    layout: Layout,
    left: VecDeque<ByteRange>,
    fetch: Box<dyn Fn(ByteRange) -> Fetched + Send>,
    state: State,
}

/// What stands between the ranges.
#[derive(Clone, Debug)]
pub struct Layout {
    boundary: String,
    size: u64,
}

enum State {
    Head(ByteRange, Option<DownloadBody>),
    Fetching(Fetched),
    Passing(DownloadBody),
    Over,
}

impl Layout {
    /// For a file of `size` bytes. The boundary is drawn at random: no content can hold it on purpose.
    pub fn new(size: u64) -> Layout {
        Layout { boundary: uuid::Uuid::new_v4().simple().to_string(), size }
    }

    /// The answer's media type.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// The answer's length.
    pub fn length(&self, ranges: &[ByteRange]) -> u64 {
        let parts = ranges.iter().map(|range| self.head(range).len() as u64 + range.length());
        parts.sum::<u64>() + self.end().len() as u64
    }

    fn head(&self, range: &ByteRange) -> String {
        format!(
            "\r\n--{}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/{}\r\n\r\n",
            self.boundary,
            range.first(),
            range.last(),
            self.size
        )
    }

    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

impl PartsBody {
    /// `first` is the body of the first of `ranges`; the others are fetched when their turn comes.
    pub fn new(
        layout: Layout,
        ranges: Vec<ByteRange>,
        first: DownloadBody,
        fetch: Box<dyn Fn(ByteRange) -> Fetched + Send>,
    ) -> PartsBody {
        let mut left = VecDeque::from(ranges);
        let state = left.pop_front().map_or(State::Over, |range| State::Head(range, Some(first)));
        PartsBody { layout, left, fetch, state }
    }

    /// The next bytes.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match &mut self.state {
                State::Over => return Poll::Ready(None),
                State::Head(range, body) => {
                    let range = *range;
                    self.state = match body.take() {
                        Some(body) => State::Passing(body),
                        None => State::Fetching((self.fetch)(range)),
                    };
                    let head = self.layout.head(&range);
                    return Poll::Ready(Some(Ok(Frame::data(head.into()))));
                }
                State::Fetching(fetched) => match ready!(fetched.as_mut().poll(cx)) {
                    Ok(body) => self.state = State::Passing(body),
                    Err(_refusal) => {
                        self.state = State::Over;
                        return Poll::Ready(Some(Err(BodyError::Incomplete)));
                    }
                },
                State::Passing(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                    Some(frame) => return Poll::Ready(Some(frame)),
                    None => match self.left.pop_front() {
                        Some(range) => self.state = State::Head(range, None),
                        None => {
                            self.state = State::Over;
                            return Poll::Ready(Some(Ok(Frame::data(self.layout.end().into()))));
                        }
                    },
                },
            }
        }
    }
}

impl fmt::Debug for PartsBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartsBody")
            .field("layout", &self.layout)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
