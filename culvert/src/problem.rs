//! A server's refusal (RFC 9457), as it is shown to a person.
//!
//! Invariant: what a server says is bounded in length and stripped of control characters before it is shown.

use std::fmt;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::Serialize;
use store_proto::ProblemBody;
use store_proto::headers::PROBLEM_JSON;

use crate::console::printable;

/// The longest body that is read to learn why a request was refused.
pub(crate) const PROBLEM_BYTES_AT_MOST: usize = 16 * 1024;
/// Of a body that is no problem document, so many characters are shown.
const FOREIGN_BODY_CHARACTERS: usize = 200;
/// The response header that names the request.
const REQUEST_ID: &str = "request-id";

/// An answer with an error status.
#[derive(Debug, Serialize)]
pub(crate) struct ServerProblem {
    pub(crate) status: u16,
    /// The last part of the problem's URN; none if the server spoke otherwise.
    pub(crate) kind: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) retry_after_seconds: Option<u64>,
}

impl ServerProblem {
    pub(crate) fn from_answer(status: u16, headers: &HeaderMap, body: &Bytes) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(printable);
        let is_problem = text(CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with(PROBLEM_JSON));
        let document = is_problem.then(|| serde_json::from_slice::<ProblemBody>(body).ok()).flatten();
        let (kind, detail) = match document {
            Some(document) => {
                let name = document.kind.rsplit(':').next().unwrap_or_default();
                (
                    Some(printable(name)),
                    Some(printable(document.detail.as_deref().unwrap_or(&document.title))),
                )
            }
            None => (None, foreign_detail(body)),
        };
        Self {
            status,
            kind,
            detail,
            request_id: text(REQUEST_ID),
            retry_after_seconds: text(RETRY_AFTER.as_str()).and_then(|value| value.parse().ok()),
        }
    }
}

fn foreign_detail(body: &Bytes) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().take(FOREIGN_BODY_CHARACTERS).collect();
    (!text.is_empty()).then(|| printable(&text))
}

impl fmt::Display for ServerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(kind) = &self.kind {
            write!(f, " {kind}")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        if let Some(seconds) = self.retry_after_seconds {
            write!(f, "; the server asks to try again in {seconds} s")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_status_kind_detail_and_request() {
        let problem = problem(
            &[("content-type", PROBLEM_JSON), ("request-id", "0190-abc")],
            r#"{"type":"urn:culvert:problem:unauthenticated","title":"t","status":401,"detail":"the token is unknown"}"#,
        );
        assert_eq!(problem.to_string(), "401 unauthenticated: the token is unknown (request 0190-abc)");
    }

    #[test]
    fn retry_after_is_shown() {
        let problem = problem(&[("retry-after", "5")], "");
        assert_eq!(problem.to_string(), "401; the server asks to try again in 5 s");
    }

    #[test]
    fn a_page_that_is_no_problem_is_cut_and_cleaned() {
        let problem = problem(&[], &format!("<html>\u{1b}[2J{}", "x".repeat(1000)));
        assert!(problem.to_string().starts_with("401: <html>\u{fffd}[2Jxxx"));
        assert!(problem.to_string().len() < 300);
    }

    fn problem(headers: &[(&'static str, &'static str)], body: &str) -> ServerProblem {
        let headers = headers
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), http::HeaderValue::from_static(v)));
        ServerProblem::from_answer(401, &headers.collect(), &Bytes::copy_from_slice(body.as_bytes()))
    }
}
