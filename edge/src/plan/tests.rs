//! Tables of request → plan, all through [`check`].

use http::Request;
use store_proto::{FileId, UploadPermission};

use super::*;

const FILE: &str = "/v1/cohorts/alpha/files/a/b.csv";
const LIST: &str = "/v1/cohorts/alpha/files";

fn bearer() -> String {
    format!("Authorization: Bearer {}", Token::from_bytes([7; 32]).expose())
}

fn meta(size: u64) -> FileMeta {
    let sha256 = ContentDigest::from_bytes([0xab; 32]);
    FileMeta {
        file_id: FileId::from_bytes([1; 16]),
        cohort: Cohort::parse("alpha").unwrap(),
        path: LogicalPath::parse("a/b.csv").unwrap(),
        size,
        sha256,
        etag: sha256.to_etag(),
        file_type: None,
        created_at: "2026-11-21T00:00:00Z".into(),
        ledger_index: 3,
        version: 1,
        state: Default::default(),
    }
}

/// What the policy and storaged say in a row of a table.
#[derive(Clone, Copy)]
struct Given {
    granted: Grant,
    max_body_bytes: Option<u64>,
    tunnel_up: bool,
    draining: bool,
}

#[derive(Clone, Copy)]
enum Grant {
    Nothing,
    Upload(u64),
    File(u64),
    Listing,
}

const NOTHING: Given =
    Given { granted: Grant::Nothing, max_body_bytes: None, tunnel_up: true, draining: false };

fn granted(granted: Grant) -> Given {
    Given { granted, ..NOTHING }
}

/// The only caller of `plan`: request line, header lines (the token is added unless a line says
/// `anonymous`), what is given, and the plan in words.
#[track_caller]
fn check(line: &str, headers: &[&str], given: Given, expected: &str) {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(target).header("Host", "edge");
    let token = bearer();
    let anonymous = headers.contains(&"anonymous");
    let lines = headers.iter().copied().filter(|line| *line != "anonymous");
    for line in lines.chain((!anonymous).then_some(token.as_str())) {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let granted = match given.granted {
        Grant::Nothing => None,
        Grant::Upload(max_bytes) => Some(Permission::Upload(UploadPermission { max_bytes })),
        Grant::File(size) => Some(Permission::Download(meta(size))),
        Grant::Listing => Some(Permission::List {}),
    };
    let Given { max_body_bytes, tunnel_up, draining, .. } = given;
    let plan = plan(&head, granted.as_ref(), &Policy { max_body_bytes, tunnel_up, draining });
    let seen = match plan {
        Plan::Refuse(refusal) => format!("{} {}", refusal.kind().status(), refusal.kind().name()),
        Plan::Ask(_, PermissionRequest::Upload { cohort, path, size }) => {
            format!("ask upload {cohort} {path} {}", words(size))
        }
        Plan::Ask(_, PermissionRequest::Download { cohort, file }) => match file {
            FileSelector::Path(path) => format!("ask download {cohort} {path}"),
            FileSelector::FileId(id) => format!("ask download {cohort} by id {id}"),
        },
        Plan::Ask(_, PermissionRequest::List { cohort }) => format!("ask list {cohort}"),
        Plan::List(_, page) => {
            let cursor = page.cursor.as_deref().unwrap_or("-");
            format!("list {} from {cursor}, {}", page.cohort, words(page.limit.map(u64::from)))
        }
        Plan::Presign(_, id) => format!("presign {id}"),
        Plan::Unsign(_, id) => format!("unsign {id}"),
        Plan::Link(Visit { link, range, with_body }) => {
            let range = range.unwrap_or_else(|| "all".to_owned());
            let head = if with_body { "" } else { ", head only" };
            format!("link to {}, {range}{head}", link.unverified_file_id())
        }
        Plan::Receive(r) => format!(
            "receive {} {} {} of {}, type {}, digest {}",
            r.cohort,
            r.path,
            words(r.length),
            r.max_bytes,
            r.file_type.map_or("-".into(), String::from),
            r.digest.map_or("-", |_| "given"),
        ),
        Plan::NotModified(_) => "304".to_owned(),
        Plan::Send(Transmission { file, range, with_body }) => {
            let what = range.map_or(format!("all {}", file.size), |r| format!("{}-{}", r.first(), r.last()));
            format!("send {what}{}", if with_body { "" } else { ", head only" })
        }
    };
    assert_eq!(seen, expected, "{line} {headers:?}");
}

fn words(number: Option<u64>) -> String {
    number.map_or("-".to_owned(), |n| n.to_string())
}

#[test]
fn each_route_asks_before_anything_else() {
    check(&format!("PUT {FILE}"), &[], NOTHING, "ask upload alpha a/b.csv -");
    check(&format!("PUT {FILE}"), &["Content-Length: 17"], NOTHING, "ask upload alpha a/b.csv 17");
    check(&format!("GET {FILE}"), &[], NOTHING, "ask download alpha a/b.csv");
    check(&format!("HEAD {FILE}"), &[], NOTHING, "ask download alpha a/b.csv");
    check(&format!("GET {LIST}"), &[], NOTHING, "list alpha from -, -");
}

#[test]
fn other_routes_and_methods_are_refused() {
    check("GET /", &[], NOTHING, "404 not-found");
    check("GET /metrics", &["anonymous"], NOTHING, "404 not-found");
    check("GET /v1/policy", &[], NOTHING, "404 not-found");
    check("OPTIONS *", &[], NOTHING, "404 not-found");
    check("CONNECT example.org:443", &[], NOTHING, "404 not-found");
    for method in ["POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "PROPFIND"] {
        check(&format!("{method} {FILE}"), &[], NOTHING, "405 method-not-allowed");
    }
    for method in ["PUT", "HEAD", "POST", "DELETE"] {
        check(&format!("{method} {LIST}"), &[], NOTHING, "405 method-not-allowed");
    }
}

#[test]
fn a_request_without_a_usable_token_is_refused_unread() {
    let put = format!("PUT {FILE}");
    check(&put, &["anonymous"], NOTHING, "401 unauthenticated");
    check(&put, &["anonymous", "Authorization: Basic dTpw"], NOTHING, "401 unauthenticated");
    check(&put, &["anonymous", "Authorization: Bearer"], NOTHING, "401 unauthenticated");
    check(&put, &["anonymous", "Authorization: Bearer x"], NOTHING, "401 unauthenticated");
    check(&put, &[&bearer()], NOTHING, "400 bad-request");
    let lower = bearer().replace("Bearer", "bearer");
    check(&put, &["anonymous", &lower], NOTHING, "ask upload alpha a/b.csv -");
    check(&format!("GET {LIST}"), &["anonymous"], NOTHING, "401 unauthenticated");
}

#[test]
fn a_dead_tunnel_or_a_stop_refuses_before_the_question() {
    let down = Given { tunnel_up: false, ..NOTHING };
    let stopping = Given { draining: true, ..NOTHING };
    for line in [format!("PUT {FILE}"), format!("GET {FILE}"), format!("GET {LIST}")] {
        check(&line, &[], down, "503 tunnel-unavailable");
        check(&line, &[], stopping, "503 overloaded");
    }
    check("GET /nothing", &[], down, "404 not-found");
}

#[test]
fn an_upload_is_bounded_by_both_limits() {
    let put = format!("PUT {FILE}");
    let receive = |length: &str, max| format!("receive alpha a/b.csv {length} of {max}, type -, digest -");
    check(&put, &[], granted(Grant::Upload(100)), &receive("-", 100));
    check(&put, &["Content-Length: 100"], granted(Grant::Upload(100)), &receive("100", 100));
    check(&put, &["Content-Length: 101"], granted(Grant::Upload(100)), "413 too-large");
    check(&put, &["Content-Length: 0"], granted(Grant::Upload(0)), &receive("0", 0));
    let ours = Given { max_body_bytes: Some(50), ..granted(Grant::Upload(100)) };
    check(&put, &[], ours, &receive("-", 50));
    check(&put, &["Content-Length: 51"], ours, "413 too-large");
    let unasked = Given { max_body_bytes: Some(50), ..NOTHING };
    check(&put, &["Content-Length: 51"], unasked, "413 too-large");
    check(&put, &["Content-Length: 99999999999999999999999"], NOTHING, "400 bad-request");
}

#[test]
fn what_would_change_the_meaning_of_a_put_is_refused() {
    let put = format!("PUT {FILE}");
    for header in [
        "Content-Range: bytes 0-1/2",
        "Content-Encoding: gzip",
        "If-Match: \"x\"",
        "If-None-Match: \"x\"",
        "Repr-Digest: sha-256=:xx:",
        "Repr-Digest: md5=:AAAA:",
        "Culvert-File-Type: no such type",
    ] {
        check(&put, &[header], NOTHING, "400 bad-request");
    }
    check(&format!("{put}?version=2"), &[], NOTHING, "400 bad-request");
    check(&put, &["If-None-Match: *", "Content-Encoding: identity"], NOTHING, "ask upload alpha a/b.csv -");
}

#[test]
fn digest_and_type_travel_with_the_upload() {
    let put = format!("PUT {FILE}");
    let digest = ContentDigest::from_bytes([1; 32]).to_repr_digest();
    let other = ContentDigest::from_bytes([2; 32]).to_repr_digest();
    let expected = "receive alpha a/b.csv - of 9, type raw_csv, digest given";
    let given = granted(Grant::Upload(9));
    check(&put, &[&format!("Repr-Digest: {digest}"), "Culvert-File-Type: raw_csv"], given, expected);
    check(&put, &[&format!("Content-Digest: {digest}"), "Culvert-File-Type: raw_csv"], given, expected);
    let both = [format!("Repr-Digest: {digest}"), format!("Content-Digest: {other}")];
    check(&put, &[&both[0], &both[1]], given, "400 bad-request");
}

#[test]
fn a_download_follows_the_order_of_preconditions() {
    let get = format!("GET {FILE}");
    let head = format!("HEAD {FILE}");
    let file = granted(Grant::File(10));
    let tag = meta(10).etag;
    let (matches, names) = (format!("If-Match: {tag}"), format!("If-None-Match: {tag}"));
    check(&get, &[], file, "send all 10");
    check(&head, &[], file, "send all 10, head only");
    check(&get, &[&matches], file, "send all 10");
    check(&get, &["If-Match: \"x\""], file, "412 precondition-failed");
    check(&get, &["If-Match: *"], file, "send all 10");
    check(&get, &[&names], file, "304");
    check(&head, &[&names], file, "304");
    check(&get, &["If-None-Match: \"x\"", &names], file, "304");
    check(&get, &["If-None-Match: \"x\""], file, "send all 10");
    check(&get, &["If-Match: \"x\"", &names], file, "412 precondition-failed");
    check(&get, &["If-None-Match: *", "Range: bytes=0-1"], file, "304");
}

#[test]
fn one_range_is_served_and_only_while_the_file_is_the_same() {
    let get = format!("GET {FILE}");
    let file = granted(Grant::File(10));
    let same = format!("If-Range: {}", meta(10).etag);
    check(&get, &["Range: bytes=2-4"], file, "send 2-4");
    check(&get, &["Range: bytes=-3"], file, "send 7-9");
    check(&get, &["Range: bytes=2-4", &same], file, "send 2-4");
    check(&get, &["Range: bytes=2-4", "If-Range: \"old\""], file, "send all 10");
    check(&get, &["Range: bytes=2-4", "If-Range: Sat, 21 Nov 2026 00:00:00 GMT"], file, "send all 10");
    check(&get, &["Range: bytes=10-"], file, "416 range-not-satisfiable");
    check(&get, &["Range: bytes=10-", "If-Range: \"old\""], file, "send all 10");
    check(&get, &["Range: bytes=0-1,4-5"], file, "send all 10");
    check(&get, &["Range: bytes=0-1", "Range: bytes=4-5"], file, "send all 10");
    check(&get, &["Range: bytes=0-"], granted(Grant::File(0)), "416 range-not-satisfiable");
    check(&get, &[], granted(Grant::File(0)), "send all 0");
    check(&format!("HEAD {FILE}"), &["Range: bytes=2-4"], file, "send all 10, head only");
    check(&format!("{get}?x=1"), &[], file, "400 bad-request");
}

#[test]
fn a_grant_for_something_else_is_not_used() {
    check(&format!("PUT {FILE}"), &[], granted(Grant::File(1)), "502 bad-gateway");
    check(&format!("PUT {FILE}"), &[], granted(Grant::Listing), "502 bad-gateway");
    check(&format!("GET {FILE}"), &[], granted(Grant::Upload(1)), "502 bad-gateway");
    check(&format!("GET {FILE}"), &[], granted(Grant::Listing), "502 bad-gateway");
}

#[test]
fn a_listing_takes_cursor_and_limit_once_each() {
    let check = |query: &str, expected| check(&format!("GET {LIST}?{query}"), &[], NOTHING, expected);
    check("", "list alpha from -, -");
    check("limit=10", "list alpha from -, 10");
    check("limit=10&cursor=YWJj", "list alpha from YWJj, 10");
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=1&limit=2",
        "cursor=",
        "cursor=a&cursor=b",
        "x=1",
        "limit",
    ] {
        check(bad, "400 bad-request");
    }
    check(&format!("cursor={}", "a".repeat(CURSOR_BYTES + 1)), "400 bad-request");
}

#[test]
fn links_are_made_with_a_token_and_used_without() {
    let id = "01".repeat(16);
    let presign = format!("/v1/files/{id}/presign");
    check(&format!("POST {presign}"), &[], NOTHING, &format!("presign {id}"));
    check(&format!("POST {presign}"), &["anonymous"], NOTHING, "401 unauthenticated");
    check(&format!("GET {presign}"), &[], NOTHING, "405 method-not-allowed");
    check(&format!("DELETE /v1/presign/{id}"), &[], NOTHING, &format!("unsign {id}"));
    check(&format!("DELETE /v1/presign/{id}"), &["anonymous"], NOTHING, "401 unauthenticated");
    let claims = store_proto::CapabilityClaims {
        id: FileId::from_bytes([2; 16]),
        method: store_proto::CapabilityMethod::Get,
        file_id: FileId::from_bytes([1; 16]),
        expires_s: 1,
        range: None,
        network: None,
    };
    let link = store_proto::CapabilitySigner::from_seed(&[9; 32]).sign(claims);
    let link = format!("/p/{}", link.expose());
    check(&format!("GET {link}"), &["anonymous"], NOTHING, &format!("link to {id}, all"));
    check(
        &format!("GET {link}"),
        &["anonymous", "Range: bytes=5-"],
        NOTHING,
        &format!("link to {id}, bytes=5-"),
    );
    check(&format!("HEAD {link}"), &["anonymous"], NOTHING, &format!("link to {id}, all, head only"));
    check(&format!("PUT {link}"), &["anonymous"], NOTHING, "405 method-not-allowed");
    let away = Given { tunnel_up: false, ..NOTHING };
    check(&format!("GET {link}"), &["anonymous"], away, "503 tunnel-unavailable");
    check(&format!("GET {link}A"), &["anonymous"], NOTHING, "404 not-found");
}
