//! Problems as the HTTP APIs answer them (RFC 9457).

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// The media type of a problem.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// One problem. `kind` is stable and for programs; `detail` is for people and never holds file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The last part of the type: `urn:culvert:problem:KIND`.
    pub kind: &'static str,
    /// A short sentence, the same for all problems of this kind.
    pub title: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong this time, and what to do.
    pub detail: String,
    /// `Retry-After`, for what passes.
    pub retry_after_seconds: Option<u32>,
}

#[derive(Serialize)]
struct Wire<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    /// The JSON text.
    pub fn to_json(&self) -> String {
        let wire = Wire {
            r#type: format!("urn:culvert:problem:{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        serde_json::to_string(&wire).unwrap_or_else(|_| "{}".into())
    }

    /// A complete response.
    pub fn to_response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.to_json())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_and_when_to_come_back() {
        let problem = Problem {
            kind: "tunnel-unavailable",
            title: "The tunnel is down",
            status: StatusCode::SERVICE_UNAVAILABLE,
            detail: "no answer for 3 s".into(),
            retry_after_seconds: Some(5),
        };
        let response = problem.to_response();
        assert_eq!(response.headers()["retry-after"], "5");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let json: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
        assert_eq!(json["type"], "urn:culvert:problem:tunnel-unavailable");
        assert_eq!(json["status"], 503);
    }
}
