//! Names that climb, by every way that a name comes in: header, permission, metadata of an upload that resumes,
//! query, and where an id is expected. Each is refused, recorded, and leaves nothing anywhere.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use storaged::ledger::Action;
use store_proto::{Cohort, headers, routes};
use support::{Lab, files_below};

/// What `LogicalPath` must refuse, decoded.
const CLIMBING: &[&str] = &[
    "",
    "/",
    "//",
    "/etc/passwd",
    "//server/share",
    ".",
    "..",
    "../",
    "../x",
    "a/..",
    "a/../b",
    "a/./b",
    "./a",
    "a/b/../../../etc/shadow",
    "../../../../../../etc/passwd",
    "objects/../../state/ledger.redb",
    "a//b",
    "a/",
    "..\\..\\windows\\win.ini",
    "a\\b",
    "\\\\server\\share",
    "a\0.csv",
    "a/b\0/../c",
    "a\nb",
    "a\r\nSet-Cookie: x",
    "a\tb",
    "a\u{7f}",
    "a\u{85}b",
    "a\u{2028}b",
    "gpj.\u{202e}exe",
    "e\u{301}.csv",
    "%2e%2e",
    "%2E%2e/x",
    "a%2fb",
    "..%5c..%5cx",
    "a%00",
    ".%2e",
    "\u{ff0e}\u{ff0e}/x",
    "\u{2025}/x",
    "..\u{ff0f}x",
];

/// The same as they may stand in a header or URL, spelled to be decoded once too often.
const ENCODED: &[&str] = &[
    "%2e%2e/x",
    "..%2fx",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%2fetc/passwd",
    "..%5cx",
    "%252e%252e%252fx",
    "%25%32%65%25%32%65/x",
    "%c0%ae%c0%ae/x",
    "%c0%af",
    "%e0%80%ae/x",
    "%ff",
    "a%00b",
    "a%0d%0ab",
    "%ef%bc%8e%ef%bc%8e/x",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_climbs_by_any_way_in() {
    assert!(CLIMBING.len() >= 34);
    let lab = Lab::start().await;
    lab.upload("there", "x").send().await;
    let before = files_below(lab.folder.path());
    let cohort = Cohort::parse("c1").unwrap();
    for text in CLIMBING {
        let encoded = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let told = lab.upload(&encoded, "x").send().await;
        let expected = if text.is_empty() { ["invalid-path", "bad-request"] } else { ["invalid-path"; 2] };
        assert!(expected.contains(&told.problem().as_str()), "header {text:?}: {told:?}");
        let asked = json!({"action": "upload", "cohort": "c1", "path": text}).to_string();
        let told = lab.request(Method::POST, routes::PERMISSIONS).body(asked).send().await;
        assert_eq!(told.problem(), "bad-request", "permission {text:?}");
        let new = json!({"cohort": "c1", "path": text, "length": 1}).to_string();
        let told = lab.request(Method::POST, routes::UPLOADS).body(new).send().await;
        assert_eq!(told.problem(), "bad-request", "upload {text:?}");
        let query = format!("{}?path={encoded}", routes::versions(&cohort));
        assert_eq!(lab.request(Method::GET, &query).send().await.problem(), "invalid-path", "query {text:?}");
    }
    for text in ENCODED {
        assert_eq!(lab.upload(text, "x").send().await.problem(), "invalid-path", "header {text:?}");
        let query = format!("{}?path={text}", routes::versions(&cohort));
        assert_eq!(lab.request(Method::GET, &query).send().await.problem(), "invalid-path", "query {text:?}");
    }
    let climbing_cohorts = ["..", "../c1", "c1/..", "c1%2f..", ".", "C:", "c1\u{202e}"];
    for cohort in climbing_cohorts {
        let new = json!({"cohort": cohort, "path": "a", "length": 1}).to_string();
        assert_eq!(
            lab.request(Method::POST, routes::UPLOADS).body(new).send().await.problem(),
            "bad-request"
        );
        if cohort.is_ascii() {
            let told = lab.upload("a", "x").with(headers::CULVERT_COHORT, cohort).send().await;
            assert_eq!(told.problem(), "bad-request", "cohort {cohort:?}");
        }
    }
    for id in ["..", "../../state/ledger.redb", "%2e%2e", "..%2f..%2fetc%2fpasswd", "0/../../x", "ABCDEF"] {
        for (method, path) in [
            (Method::GET, format!("{}{id}", routes::FILES)),
            (Method::PATCH, format!("{}/{id}", routes::UPLOADS)),
            (Method::POST, format!("{}{id}/verdict", routes::STORED)),
        ] {
            assert_eq!(lab.request(method, &path).send().await.problem(), "not-found", "{path}");
        }
    }
    assert_eq!(files_below(lab.folder.path()), before, "nothing was made, anywhere");
    let refused = lab.records().iter().filter(|record| record.action == Action::AccessDenied).count();
    assert!(refused >= 4 * CLIMBING.len(), "each is recorded: {refused}");
}
