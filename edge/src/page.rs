//! The page at `/`: people upload, list and share with a browser alone.
//!
//! **Invariant:** it is one document that the program was built with. What it may do is bound by hashes of its own
//! scripts and style: no other code runs in it, nothing is fetched from elsewhere, nobody frames it. It uses the public
//! API like any other client, and nothing in it is of one user or one request.

use std::fmt::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};
use store_proto::ContentDigest;

use crate::answer::Payload;
use crate::conditional::if_none_match_names;

const DOCUMENT: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In this order: each uses what stands before it.
const SCRIPTS: [&str; 3] =
    [include_str!("page/sha256.js"), include_str!("page/transfer.js"), include_str!("page/page.js")];

/// What a browser may be asked for by a page; ours asks for nothing.
const PERMISSIONS: &str = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()";

/// The document, ready to be sent.
#[derive(Debug)]
struct Page {
    body: Bytes,
    etag: HeaderValue,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(Page::assemble);

impl Page {
    fn assemble() -> Page {
        let mut scripts = String::new();
        let mut sources = String::new();
        for script in SCRIPTS {
            // Writing to a string cannot fail.
            let _ = writeln!(scripts, "<script>{script}</script>");
            let _ = write!(sources, " {}", source(script));
        }
        let text = DOCUMENT.replace("/*STYLE*/", STYLE).replace("<!--SCRIPTS-->\n", &scripts);
        let policy = format!(
            "default-src 'none'; script-src{sources}; style-src {}; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            source(STYLE)
        );
        let etag = format!("\"{}\"", ContentDigest::from_bytes(Sha256::digest(&text).into()));
        Page {
            body: Bytes::from(text),
            etag: HeaderValue::from_str(&etag).expect("hexadecimal digits in quotes"),
            policy: HeaderValue::from_str(&policy).expect("base64 and words of our own"),
        }
    }
}

/// What names an inline script or style in a Content-Security-Policy.
fn source(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

/// Whether the browser has the page already.
pub(crate) fn is_known(asked: &HeaderMap) -> bool {
    let etag = PAGE.etag.to_str().unwrap_or_default();
    let tags = asked.get_all(header::IF_NONE_MATCH).iter();
    tags.filter_map(|value| value.to_str().ok()).any(|list| if_none_match_names(list, etag))
}

/// The page, or that it is known.
pub(crate) fn show(known: bool, with_body: bool) -> Response<Payload> {
    let body =
        if known || !with_body { Payload::empty() } else { Payload::Whole(Full::new(PAGE.body.clone())) };
    let mut response = Response::new(body);
    let fields = response.headers_mut();
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(PAGE.body.len()));
    }
    let fields = response.headers_mut();
    fields.insert(header::ETAG, PAGE.etag.clone());
    // Kept by the browser, and asked for each time: another edge may have another version.
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(header::CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    fields.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("inline"));
    fields.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let more = [("cross-origin-resource-policy", "same-origin"), ("permissions-policy", PERMISSIONS)];
    for (name, value) in more {
        fields.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_of_code_is_named_by_its_hash_and_no_other_is() {
        let text = std::str::from_utf8(&PAGE.body).unwrap();
        let policy = PAGE.policy.to_str().unwrap();
        let mut pieces = 0;
        for (open, close) in [("<script>", "</script>"), ("<style>", "</style>")] {
            for piece in text.split(open).skip(1) {
                let (piece, _) = piece.split_once(close).unwrap();
                assert!(policy.contains(&source(piece)), "a {open} is not in the policy");
                pieces += 1;
            }
        }
        assert_eq!((pieces, policy.matches("'sha256-").count()), (4, 4));
        for loose in ["unsafe", "*", "http:", "https:", "nonce"] {
            assert!(!policy.contains(loose), "{policy}");
        }
    }

    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        let text = std::str::from_utf8(&PAGE.body).unwrap();
        // Handlers and styles in attributes, and whatever makes markup or code out of text.
        for forbidden in [
            " style=",
            " onclick=",
            " onload=",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "javascript:",
            "<link rel=\"stylesheet\"",
            "<script src",
            "<iframe",
        ] {
            assert!(!text.contains(forbidden), "{forbidden}");
        }
        let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "an address of elsewhere");
    }

    #[test]
    fn the_token_is_in_memory_alone() {
        let text = std::str::from_utf8(&PAGE.body).unwrap();
        assert!(!text.contains("sessionStorage") && !text.contains("document.cookie"));
        // The one use of storage is where the marks of uploads are kept.
        assert_eq!(text.matches("localStorage").count(), 2);
    }

    #[test]
    fn a_browser_that_has_it_is_told_so() {
        let asked = HeaderMap::from_iter([(header::IF_NONE_MATCH, PAGE.etag.clone())]);
        assert!(is_known(&asked) && !is_known(&HeaderMap::new()));
        assert_eq!(show(true, true).status(), StatusCode::NOT_MODIFIED);
        let whole = show(false, true);
        assert_eq!(whole.headers()[header::CONTENT_LENGTH], PAGE.body.len().to_string());
        assert_eq!(whole.headers()[header::CACHE_CONTROL], "no-cache");
        assert!(!whole.headers().contains_key(header::SET_COOKIE));
    }
}
