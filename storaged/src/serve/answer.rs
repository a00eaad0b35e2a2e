//! Answers: JSON, problems, and streams.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use store_proto::{ProblemBody, ProblemKind, headers};
use tokio::sync::mpsc;

use crate::denial::Denial;
use crate::keys::KeysError;
use crate::ledger::LedgerUnavailable;
use crate::live::Live;

/// An answer.
pub type Answer = Response<AnswerBody>;

/// The body of an answer, which keeps its request among the live ones until it is written.
#[derive(Debug)]
pub struct LiveBody {
    pub(super) body: AnswerBody,
    /// Never read: what counts is when it is dropped.
    pub(super) _live: Option<Live>,
}

impl Body for LiveBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Seconds after which edge may try again when something is away for a while.
const RETRY_SECONDS: u32 = 5;

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// Nothing, or nothing more.
    Empty,
    /// All of it.
    Whole(Bytes),
    /// As it comes from the disk.
    Stream(mpsc::Receiver<Result<Bytes, std::io::Error>>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut *self {
            AnswerBody::Empty => Poll::Ready(None),
            AnswerBody::Whole(_) => match std::mem::replace(&mut *self, AnswerBody::Empty) {
                AnswerBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                AnswerBody::Empty | AnswerBody::Stream(_) => Poll::Ready(None),
            },
            AnswerBody::Stream(frames) => {
                frames.poll_recv(context).map(|next| next.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AnswerBody::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Empty => SizeHint::with_exact(0),
            AnswerBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            AnswerBody::Stream(_) => SizeHint::default(),
        }
    }
}

/// A problem with what this occurrence is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which problem.
    pub kind: ProblemKind,
    /// What about it; never a path, a name or a secret.
    pub detail: Option<String>,
}

impl Refusal {
    /// Without a detail.
    pub fn of(kind: ProblemKind) -> Refusal {
        Refusal { kind, detail: None }
    }

    /// With a detail.
    pub fn because(kind: ProblemKind, detail: impl std::fmt::Display) -> Refusal {
        Refusal { kind, detail: Some(detail.to_string()) }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Refusal {
        Refusal { detail: denial.advice().map(str::to_owned), ..Refusal::of(denial.problem()) }
    }
}

impl From<LedgerUnavailable> for Refusal {
    fn from(_: LedgerUnavailable) -> Refusal {
        Refusal::of(ProblemKind::LedgerUnavailable)
    }
}

/// Without its key nothing of a file can be recorded.
impl From<KeysError> for Refusal {
    fn from(error: KeysError) -> Refusal {
        tracing::error!(%error, "a key cannot be had");
        Refusal::of(ProblemKind::LedgerUnavailable)
    }
}

/// `application/problem+json`.
pub fn problem(refusal: Refusal) -> Answer {
    let kind = refusal.kind;
    let body = ProblemBody::new(kind, refusal.detail);
    let status =
        StatusCode::from_u16(kind.status()).expect("the kinds' statuses are tested to be 400 to 599");
    let mut answer = whole(status, headers::PROBLEM_JSON, to_json(&body));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
    }
    answer
}

/// `application/json`.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    whole(status, "application/json", to_json(value))
}

/// `text/plain`.
pub fn text(status: StatusCode, text: String) -> Answer {
    whole(status, "text/plain; charset=utf-8", text.into_bytes())
}

/// `application/octet-stream`.
pub fn bytes(status: StatusCode, bytes: Vec<u8>) -> Answer {
    whole(status, "application/octet-stream", bytes)
}

fn whole(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(AnswerBody::Whole(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("the protocol's types are strings, numbers and lists")
}
