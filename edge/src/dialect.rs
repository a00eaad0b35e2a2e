//! Which of the two protocols of resumable uploads a request speaks: tus 1.0 or the IETF's draft.
//!
//! **Invariant:** both work on the same resources with the same state; a dialect changes only how a request is read and
//! how its answer is written. A request that says neither is answered so that both kinds of client understand it.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use store_proto::ProblemKind;

use crate::answer::Payload;
use crate::limits::{DRAFT_VERSIONS, TUS_VERSION};
use crate::refusal::Refusal;

/// `Tus-Resumable`: the version of tus that the request, or the answer, speaks.
pub const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
/// `Upload-Draft-Interop-Version`: which wire format of the draft the client knows.
pub const INTEROP_VERSION: HeaderName = HeaderName::from_static("upload-draft-interop-version");
/// `Upload-Complete`: whether the request's body is the last of the upload (draft).
pub const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
/// `X-HTTP-Method-Override`: the method that is meant, from clients that can only send `POST` (tus).
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// How a request speaks of uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// tus 1.0.
    Tus,
    /// The IETF's draft.
    Draft,
    /// Neither says so.
    Plain,
}

impl Dialect {
    /// What the headers say.
    pub fn of(headers: &HeaderMap) -> Result<Dialect, Refusal> {
        if let Some(version) = headers.get(TUS_RESUMABLE) {
            return if version == TUS_VERSION { Ok(Dialect::Tus) } else { Err(Refusal::TusVersion) };
        }
        if let Some(version) = headers.get(INTEROP_VERSION) {
            let version = version.to_str().ok().and_then(|text| text.parse::<u32>().ok());
            if version.is_none_or(|version| !DRAFT_VERSIONS.contains(&version)) {
                return Err(Refusal::Header {
                    name: "Upload-Draft-Interop-Version",
                    rule: format!("{} to {} are served", DRAFT_VERSIONS.start(), DRAFT_VERSIONS.end()),
                });
            }
            return Ok(Dialect::Draft);
        }
        Ok(if headers.contains_key(UPLOAD_COMPLETE) { Dialect::Draft } else { Dialect::Plain })
    }
}

/// The method that a request means.
pub fn meant_method(method: &Method, headers: &HeaderMap) -> Method {
    if method != Method::POST {
        return method.clone();
    }
    match headers.get(METHOD_OVERRIDE).map(HeaderValue::as_bytes) {
        Some(b"PATCH") => Method::PATCH,
        Some(b"DELETE") => Method::DELETE,
        Some(_) | None => method.clone(),
    }
}

/// What tus wants on every answer to one of its requests.
pub fn stand(asked: &HeaderMap, response: &mut Response<Payload>) {
    if asked.contains_key(TUS_RESUMABLE) {
        response.headers_mut().insert(TUS_RESUMABLE, HeaderValue::from_static(TUS_VERSION));
    }
}

/// The status of a problem: tus has one of its own for a digest that does not match.
pub fn status(asked: &HeaderMap, kind: ProblemKind) -> u16 {
    if kind == ProblemKind::DigestMismatch && asked.contains_key(TUS_RESUMABLE) { 460 } else { kind.status() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_headers_say_which_protocol_it_is() {
        type Case = (&'static [(&'static str, &'static str)], Result<Dialect, &'static str>);
        let table: [Case; 9] = [
            (&[], Ok(Dialect::Plain)),
            (&[("tus-resumable", "1.0.0")], Ok(Dialect::Tus)),
            (&[("tus-resumable", "0.2.2")], Err("precondition-failed")),
            (&[("upload-draft-interop-version", "5")], Ok(Dialect::Draft)),
            (&[("upload-draft-interop-version", "6")], Ok(Dialect::Draft)),
            (&[("upload-draft-interop-version", "4")], Err("bad-request")),
            (&[("upload-draft-interop-version", "x")], Err("bad-request")),
            (&[("upload-complete", "?0")], Ok(Dialect::Draft)),
            (&[("tus-resumable", "1.0.0"), ("upload-complete", "?0")], Ok(Dialect::Tus)),
        ];
        for (lines, expected) in table {
            let seen = Dialect::of(&headers(lines)).map_err(|refusal| refusal.kind().name());
            assert_eq!(seen, expected, "{lines:?}");
        }
    }

    #[test]
    fn only_a_post_can_mean_another_method() {
        let meaning = |value| headers(&[("x-http-method-override", value)]);
        assert_eq!(meant_method(&Method::POST, &meaning("PATCH")), Method::PATCH);
        assert_eq!(meant_method(&Method::POST, &meaning("DELETE")), Method::DELETE);
        for (method, value) in [(Method::POST, "PUT"), (Method::POST, "patch"), (Method::GET, "DELETE")] {
            assert_eq!(meant_method(&method, &meaning(value)), method);
        }
    }

    #[test]
    fn a_wrong_digest_has_tus_own_status() {
        let tus = headers(&[("tus-resumable", "1.0.0")]);
        assert_eq!(status(&tus, ProblemKind::DigestMismatch), 460);
        assert_eq!(status(&tus, ProblemKind::Conflict), 409);
        assert_eq!(status(&headers(&[]), ProblemKind::DigestMismatch), 400);
    }
}
