//! Answers: standing headers, problem documents, and the body with its book-keeping.
//!
//! Every answer edge gives passes through [`Answer::new`] or [`raw_refusal`], so no header that must
//! stand on all of them can be forgotten, and nothing ever sets a cookie.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, STRICT_TRANSPORT_SECURITY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use store_proto::headers::{PROBLEM_JSON, UPLOAD_OFFSET};
use store_proto::{ProblemBody, RequestId, ServerRole};

use crate::limits::TUS_VERSION;
use crate::parts::PartsBody;
use crate::refusal::Refusal;
use crate::stream::{BodyError, DownloadBody};

/// Pages of other origins that opened ours have no hold of it.
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// On every answer of an edge whose role is `testing`: nobody shall take it for the real one.
const TESTING: HeaderName = HeaderName::from_static("culvert-role");

/// A body that goes to a client.
#[derive(Debug)]
pub enum Payload {
    /// Known as a whole; possibly empty.
    Whole(Full<Bytes>),
    /// Passed on from storaged.
    Passed(DownloadBody),
    /// Several ranges of a file, and the length of all.
    Parts(Box<PartsBody>, u64),
}

/// A body with what must end when it ends (`T` is dropped with it).
#[derive(Debug)]
pub struct Answer<T> {
    payload: Payload,
    _kept: T,
}

impl Payload {
    /// No body.
    pub fn empty() -> Payload {
        Payload::Whole(Full::default())
    }
}

impl<T> Answer<T> {
    /// Completes a response: standing headers, and `kept` until the body's end.
    pub fn new(
        response: Response<Payload>,
        request_id: &RequestId,
        role: ServerRole,
        kept: T,
    ) -> Response<Answer<T>> {
        let mut response = response.map(|payload| Answer { payload, _kept: kept });
        stand(response.headers_mut(), request_id, role);
        response
    }
}

fn stand(headers: &mut HeaderMap, request_id: &RequestId, role: ServerRole) {
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The page has its own: everything else is kept nowhere and may do nothing.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let nothing = HeaderValue::from_static("sandbox; default-src 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(nothing);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CONTENT_DISPOSITION).or_insert(HeaderValue::from_static("attachment"));
    if role == ServerRole::Testing {
        headers.insert(TESTING, HeaderValue::from_static("testing"));
    }
}

/// What stands on every answer under TLS, and would mean nothing without.
pub fn stand_over_tls(headers: &mut HeaderMap) {
    // A year, in which a browser asks this host by TLS alone, whatever it is told.
    headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
}

/// A refusal as a problem document (RFC 9457).
pub fn refusal(refusal: &Refusal) -> Response<Payload> {
    refusal_with(refusal, refusal.kind().status())
}

/// The same with another status than the problem's own.
pub fn refusal_with(refusal: &Refusal, status: u16) -> Response<Payload> {
    let kind = refusal.kind();
    let detail =
        if let Refusal::Store { detail, .. } = refusal { detail.clone() } else { Some(refusal.to_string()) };
    let body = ProblemBody { status, ..ProblemBody::new(kind, detail) };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Payload::Whole(Full::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some(seconds) = refusal.retry_after_seconds() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Refusal::Method { allow } = refusal {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if let Refusal::Offset { at } = refusal {
        headers.insert(HeaderName::from_static(UPLOAD_OFFSET), HeaderValue::from(*at));
    }
    if *refusal == Refusal::TusVersion {
        headers.insert(HeaderName::from_static("tus-version"), HeaderValue::from_static(TUS_VERSION));
    }
    if let Refusal::Range { size } = refusal
        && let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}"))
    {
        headers.insert(CONTENT_RANGE, value);
    }
    if kind.status() == StatusCode::UNAUTHORIZED.as_u16() {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"culvert\""));
    }
    response
}

/// A refusal as bytes, in the place of an answer that hyper gives by itself.
pub fn raw_refusal(refused: &Refusal, request_id: &RequestId, role: ServerRole) -> Bytes {
    let response = refusal(refused);
    let (mut head, payload) = response.into_parts();
    stand(&mut head.headers, request_id, role);
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let length = match &payload {
        Payload::Whole(body) => body.size_hint().exact().unwrap_or(0),
        Payload::Passed(_) | Payload::Parts(..) => 0,
    };
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    if let Payload::Whole(mut body) = payload {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx)
            && let Ok(data) = frame.into_data()
        {
            bytes.extend_from_slice(&data);
        }
    }
    Bytes::from(bytes)
}

impl<T: Unpin> Body for Answer<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().payload {
            Payload::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Payload::Passed(body) => Pin::new(body).poll_frame(cx),
            Payload::Parts(body, _) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Whole(body) => body.is_end_stream(),
            Payload::Passed(body) => body.is_end_stream(),
            Payload::Parts(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Whole(body) => body.size_hint(),
            Payload::Passed(body) => body.size_hint(),
            Payload::Parts(_, length) => SizeHint::with_exact(*length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::parse("r-1").unwrap()
    }

    #[test]
    fn a_raw_refusal_is_a_complete_answer() {
        let bytes = raw_refusal(&Refusal::HeadTooLarge { limit: 9 }, &id(), ServerRole::Web);
        let text = std::str::from_utf8(&bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(head.contains("request-id: r-1") && head.contains("connection: close"));
        assert!(body.contains("urn:culvert:problem:headers-too-large"));
    }

    #[test]
    fn every_answer_carries_the_standing_headers_and_no_cookie() {
        let response = Answer::new(refusal(&Refusal::NoRoute), &id(), ServerRole::Testing, ());
        for name in [
            "request-id",
            "cache-control",
            "x-content-type-options",
            "content-security-policy",
            "content-disposition",
            "referrer-policy",
            "culvert-role",
        ] {
            assert!(response.headers().contains_key(name), "{name}");
        }
        assert!(!response.headers().contains_key("set-cookie"));
    }

    #[test]
    fn refusals_name_what_would_be_accepted() {
        let method = refusal(&Refusal::Method { allow: "GET" });
        assert_eq!(method.headers()[ALLOW], "GET");
        let range = refusal(&Refusal::Range { size: 10 });
        assert_eq!(range.headers()[CONTENT_RANGE], "bytes */10");
        let auth = refusal(&Refusal::Unauthenticated("there is none"));
        assert!(auth.headers().contains_key(WWW_AUTHENTICATE));
        let down = refusal(&Refusal::TunnelUnavailable);
        assert!(down.headers().contains_key(RETRY_AFTER));
    }
}
