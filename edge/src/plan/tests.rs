//! Tables of request → plan, all through [`check`].

use http::Request;
use store_proto::{ContentDigest, FileId, Token, UploadPermission};

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
        attributes: Default::default(),
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
        Plan::Ask(_, PermissionRequest::Upload { cohort, path, size, replaces, attributes, key, .. }) => {
            let instead = if replaces.is_some() { " instead" } else { "" };
            let said =
                if attributes.is_empty() { String::new() } else { format!(", {}", attributes.to_list()) };
            let key = key.map_or(String::new(), |key| format!(", called {key}"));
            format!("ask upload {cohort} {path} {}{instead}{said}{key}", words(size))
        }
        Plan::Ask(_, PermissionRequest::Download { cohort, file }) => match file {
            FileSelector::Path(path) => format!("ask download {cohort} {path}"),
            FileSelector::Version { path, number } => {
                format!("ask download {cohort} {path}, version {number}")
            }
            FileSelector::FileId(id) => format!("ask download {cohort} by id {id}"),
        },
        Plan::Ask(_, PermissionRequest::List { cohort }) => format!("ask list {cohort}"),
        Plan::Ask(_, PermissionRequest::DownloadFile { file_id }) => format!("ask download of {file_id}"),
        Plan::Show(_, Shown::Versions(cohort, path)) => format!("show versions of {cohort} {path}"),
        Plan::Show(_, Shown::Receipt(id)) => format!("show receipt {id}"),
        Plan::Show(_, Shown::Policy) => "show policy".to_owned(),
        Plan::Form(_, form) => {
            let digest = form.announced.digest.map_or("-", |_| "given");
            format!("form to {} by {}, digest {digest}", form.cohort, form.boundary)
        }
        Plan::Show(_, Shown::Uploads) => "show uploads".to_owned(),
        Plan::Show(_, Shown::Upload(id)) => format!("show upload {id}"),
        Plan::Delete(_, id, reason) => format!("delete {id}: {}", reason.as_deref().unwrap_or("-")),
        Plan::Discover(_) => "discover".to_owned(),
        Plan::Begin(_, beginning) => {
            let Beginning { new, dialect, first } = *beginning;
            let last = if first.is_last { ", the last" } else { "" };
            let checked = if first.checksum.is_some() { ", checked" } else { "" };
            format!(
                "begin {dialect:?} {} {} of {}, type {}, digest {}{}; brings {}{checked}{last}",
                new.cohort,
                new.path,
                words(new.length),
                new.file_type.map_or("-".into(), String::from),
                new.sha256.map_or("-", |_| "given"),
                new.replaces.map_or("", |_| ", instead"),
                words(first.content_length),
            )
        }
        Plan::Append(_, Addition { upload, dialect, offset, length, stretch }) => {
            let last = if stretch.is_last { ", the last" } else { "" };
            let checked = if stretch.checksum.is_some() { ", checked" } else { "" };
            let (length, bytes) = (words(length), words(stretch.content_length));
            format!("append {dialect:?} {upload} at {offset} of {length}; brings {bytes}{checked}{last}")
        }
        Plan::Look(_, id) => format!("look at {id}"),
        Plan::GiveUp(_, id) => format!("give up {id}"),
        Plan::List(_, page) => {
            let cursor = page.cursor.as_deref().unwrap_or("-");
            let only = page.file_type.map_or(String::new(), |of| format!(", only {of}"));
            let days = [page.from, page.to].map(|day| day.map_or(String::new(), |day| format!(", {day}")));
            let days = days.concat();
            let with: String = page.attributes.iter().map(|with| format!(", with {with}")).collect();
            format!(
                "list {} from {cursor}, {}{only}{with}{days}",
                page.cohort,
                words(page.limit.map(u64::from))
            )
        }
        Plan::Page { known, with_body } => format!("page, known: {known}, body: {with_body}"),
        Plan::Presign(_, id) => format!("presign {id}"),
        Plan::Unsign(_, id) => format!("unsign {id}"),
        Plan::Link(Visit { link, range, with_body }) => {
            let range = range.unwrap_or_else(|| "all".to_owned());
            let head = if with_body { "" } else { ", head only" };
            format!("link to {}, {range}{head}", link.unverified_file_id())
        }
        Plan::Before(before) => format!("as before, {}", before.receipt.file_id),
        Plan::Receive(r) => format!(
            "receive {} {} {} of {}, type {}, digest {}",
            r.cohort,
            r.path,
            words(r.announced.length),
            r.max_bytes,
            r.announced.file_type.map_or("-".into(), String::from),
            r.announced.digest.map_or("-", |_| "given"),
        ),
        Plan::NotModified(_) => "304".to_owned(),
        Plan::Send(Transmission { file, ranges, with_body, digests }) => {
            let parts: Vec<_> = ranges.iter().map(|r| format!("{}-{}", r.first(), r.last())).collect();
            let what = if parts.is_empty() { format!("all {}", file.size) } else { parts.join(" and ") };
            let digests = match (digests.file, digests.content) {
                (true, false) => "",
                (true, true) => ", both digests",
                (false, true) => ", the content's digest",
                (false, false) => ", no digest",
            };
            format!("send {what}{}{digests}", if with_body { "" } else { ", head only" })
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
fn small_routes_lead_where_they_say() {
    let id = "01".repeat(16);
    let file = format!("/v1/files/{id}");
    check(&format!("GET {file}"), &[], NOTHING, &format!("ask download of {id}"));
    check(&format!("HEAD {file}"), &[], granted(Grant::File(3)), "send all 3, head only");
    check(&format!("GET {file}"), &["Range: bytes=1-1"], granted(Grant::File(3)), "send 1-1");
    check(&format!("GET {file}/receipt"), &[], NOTHING, &format!("show receipt {id}"));
    check(&format!("DELETE {file}"), &[], NOTHING, &format!("delete {id}: -"));
    check(&format!("DELETE {file}"), &["Culvert-Reason: twice"], NOTHING, &format!("delete {id}: twice"));
    check("GET /", &["anonymous"], NOTHING, "page, known: false, body: true");
    check("HEAD /", &[], Given { tunnel_up: false, ..NOTHING }, "page, known: false, body: false");
    check("GET /", &["If-None-Match: *"], NOTHING, "page, known: true, body: true");
    check("POST /", &[], NOTHING, "405 method-not-allowed");
    check("GET /?token=x", &[], NOTHING, "400 bad-request");
    check("GET /v1/policy", &[], NOTHING, "show policy");
    check("GET /v1/cohorts/alpha/versions/a/b.csv", &[], NOTHING, "show versions of alpha a/b.csv");
    check(&format!("GET {FILE}?version=2"), &[], NOTHING, "ask download alpha a/b.csv, version 2");
    for query in ["version=0", "version=x", "version=1&version=2", "version", "cursor=x"] {
        check(&format!("GET {FILE}?{query}"), &[], NOTHING, "400 bad-request");
    }
    for line in
        [format!("PUT {FILE}?version=1"), format!("GET {file}?version=1"), format!("GET {file}/receipt?x")]
    {
        check(&line, &[], NOTHING, "400 bad-request");
    }
    for line in [format!("DELETE {file}"), format!("GET {file}/receipt")] {
        check(&line, &["anonymous"], NOTHING, "401 unauthenticated");
        check(&line, &[], Given { tunnel_up: false, ..NOTHING }, "503 tunnel-unavailable");
    }
}

#[test]
fn a_form_needs_its_boundary() {
    let post = format!("POST {LIST}");
    let boundary = "Content-Type: multipart/form-data; boundary=xyz";
    check(&post, &[boundary], NOTHING, "form to alpha by xyz, digest -");
    let digest = format!("Repr-Digest: {}", ContentDigest::from_bytes([1; 32]).to_repr_digest());
    check(&post, &[boundary, &digest], NOTHING, "form to alpha by xyz, digest given");
    for other in ["Content-Type: application/json", "Content-Type: multipart/form-data", "anonymous: x"] {
        check(&post, &[other], NOTHING, "415 unsupported-media-type");
    }
    check(&post, &["anonymous", boundary], NOTHING, "401 unauthenticated");
    check(&format!("{post}?limit=1"), &[boundary], NOTHING, "400 bad-request");
}

#[test]
fn digests_are_named_as_they_are_wanted() {
    let get = format!("GET {FILE}");
    let file = granted(Grant::File(3));
    check(&get, &["Want-Repr-Digest: sha-512=3, sha-256=10"], file, "send all 3");
    check(&get, &["Want-Repr-Digest: sha-256=0"], file, "send all 3, no digest");
    check(&get, &["Want-Content-Digest: sha-256=1"], file, "send all 3, both digests");
    check(&get, &["Want-Content-Digest: sha-512=1"], file, "send all 3");
}

#[test]
fn a_listing_is_narrowed_by_type_and_day() {
    let narrowed = format!("GET {LIST}?type=raw_csv&from=2026-11-01&to=2026-11-22&limit=5");
    check(&narrowed, &[], NOTHING, "list alpha from -, 5, only raw_csv, 2026-11-01, 2026-11-22");
    for query in ["type=No", "from=today", "from=2026-11-01&from=2026-11-02", "type=a&type=b", "order=asc"] {
        check(&format!("GET {LIST}?{query}"), &[], NOTHING, "400 bad-request");
    }
}

#[test]
fn a_key_for_repeating_is_checked_for_its_form() {
    let put = format!("PUT {FILE}");
    check(
        &put,
        &["Idempotency-Key: \"8e03978e-40d5-43dd-bc93-6894a57f9324\""],
        NOTHING,
        "ask upload alpha a/b.csv -, called 8e03978e-40d5-43dd-bc93-6894a57f9324",
    );
    check(&put, &["Idempotency-Key: k 1"], NOTHING, "ask upload alpha a/b.csv -, called k 1");
    let long = format!("Idempotency-Key: {}", "x".repeat(129));
    for bad in [long.as_str(), "Idempotency-Key: \"\"", "Idempotency-Key: a\"b"] {
        check(&put, &[bad], NOTHING, "400 bad-request");
        check(&format!("GET {FILE}"), &[bad], NOTHING, "400 bad-request");
    }
}

#[test]
fn what_is_said_of_a_file_comes_in_fields_and_lists() {
    let put = format!("PUT {FILE}");
    let (one, other) = ("Culvert-Attribute: site=x", "Culvert-Attribute: year=2026, arm=b");
    check(&put, &[one, other], NOTHING, "ask upload alpha a/b.csv -, arm=b,site=x,year=2026");
    for bad in ["Culvert-Attribute: site", "Culvert-Attribute: site=<script>", "Culvert-Attribute: Site=x"] {
        check(&put, &[bad], NOTHING, "400 bad-request");
    }
    check(&put, &[one, one], NOTHING, "400 bad-request");
}

#[test]
fn a_listing_is_narrowed_by_what_is_said_of_files() {
    let list = |query: &str| format!("GET /v1/cohorts/alpha/files?{query}");
    for query in ["attribute=site=a/b&attribute=year=2026", "attribute=site%3Da%2Fb&attribute=year%3D2026"] {
        check(&list(query), &[], NOTHING, "list alpha from -, -, with site=a/b, with year=2026");
    }
    for bad in ["attribute=site", "attribute=", "attribute=site=%0d%0a", "attribute=%ff=x"] {
        check(&list(bad), &[], NOTHING, "400 bad-request");
    }
}

const UPLOADS: &str = "/v1/cohorts/alpha/uploads";
const TUS: &str = "Tus-Resumable: 1.0.0";
/// `filename` with `a.csv`.
const NAMED: &str = "Upload-Metadata: filename YS5jc3Y=";

#[test]
fn tus_begins_an_upload_with_a_length_or_none() {
    let post = format!("POST {UPLOADS}");
    let begun = |rest: &str| format!("begin Tus alpha a.csv of {rest}");
    let expected = begun("10, type -, digest -; brings -");
    check(&post, &[TUS, NAMED, "Upload-Length: 10"], NOTHING, &expected);
    let deferred = begun("-, type -, digest -; brings -");
    check(&post, &[TUS, NAMED, "Upload-Defer-Length: 1"], NOTHING, &deferred);
    let with_bytes = [
        TUS,
        NAMED,
        "Upload-Length: 9",
        "Content-Length: 4",
        "Content-Type: application/offset+octet-stream",
    ];
    check(&post, &with_bytes, NOTHING, &begun("9, type -, digest -; brings 4"));
    let typed = "Upload-Metadata: path YS5jc3Y=,culvert-file-type cmF3X2Nzdg==";
    check(&post, &[TUS, typed, "Upload-Length: 0"], NOTHING, &begun("0, type raw_csv, digest -; brings -"));
    for (headers, expected) in [
        (&[TUS, NAMED][..], "400 bad-request"),
        (&[TUS, NAMED, "Upload-Length: 1", "Upload-Defer-Length: 1"], "400 bad-request"),
        (&[TUS, NAMED, "Upload-Defer-Length: 2"], "400 bad-request"),
        (&[TUS, NAMED, "Upload-Length: -1"], "400 bad-request"),
        (&[TUS, NAMED, "Upload-Length: "], "400 bad-request"),
        (&[TUS, "Upload-Length: 1"], "400 bad-request"),
        (&[TUS, "Upload-Metadata: filename Li4veA==", "Upload-Length: 1"], "400 bad-request"),
        (&["Tus-Resumable: 0.2.2", NAMED, "Upload-Length: 1"], "412 precondition-failed"),
        (&[NAMED, "Upload-Length: 1"], "400 bad-request"),
        (
            &[TUS, NAMED, "Upload-Length: 1", "Content-Length: 1", "Content-Type: text/csv"],
            "415 unsupported-media-type",
        ),
        (&["anonymous", TUS, NAMED, "Upload-Length: 1"], "401 unauthenticated"),
    ] {
        check(&post, headers, NOTHING, expected);
    }
    let small = Given { max_body_bytes: Some(9), ..NOTHING };
    check(&post, &[TUS, NAMED, "Upload-Length: 10"], small, "413 too-large");
    check(&format!("OPTIONS {UPLOADS}"), &["anonymous"], NOTHING, "discover");
    check(
        &format!("OPTIONS {UPLOADS}"),
        &["anonymous", TUS],
        Given { tunnel_up: false, ..NOTHING },
        "discover",
    );
    check(&format!("GET {UPLOADS}"), &[], NOTHING, "405 method-not-allowed");
}

#[test]
fn the_draft_begins_an_upload_that_may_be_whole() {
    let post = format!("POST {UPLOADS}");
    let begun = |rest: &str| format!("begin Draft alpha a.csv of {rest}");
    let interop = "Upload-Draft-Interop-Version: 6";
    let more = [interop, NAMED, "Upload-Complete: ?0"];
    check(&post, &more, NOTHING, &begun("-, type -, digest -; brings -"));
    let all =
        ["Upload-Complete: ?1", "Content-Length: 7", "Content-Disposition: attachment; filename=\"a.csv\""];
    check(&post, &all, NOTHING, &begun("7, type -, digest -; brings 7, the last"));
    let digest = ContentDigest::from_bytes([1; 32]).to_repr_digest();
    let (repr, content) = (format!("Repr-Digest: {digest}"), format!("Content-Digest: {digest}"));
    let checked = [&repr, &content, NAMED, "Upload-Complete: ?0", "Upload-Length: 7"];
    check(&post, &checked, NOTHING, &begun("7, type -, digest given; brings -, checked"));
    for headers in [
        &[interop, NAMED][..],
        &[NAMED, "Upload-Complete: 1"],
        &["Upload-Draft-Interop-Version: 3", NAMED, "Upload-Complete: ?0"],
        &["Upload-Complete: ?0", "Content-Disposition: attachment; filename=\"../a\""],
        &["Upload-Complete: ?0"],
    ] {
        let refused = if headers.len() == 2 && headers[1].contains("../") {
            "400 invalid-path"
        } else {
            "400 bad-request"
        };
        check(&post, headers, NOTHING, refused);
    }
}

#[test]
fn bytes_go_where_their_head_says() {
    let id = "01".repeat(16);
    let patch = format!("PATCH /v1/uploads/{id}");
    let bytes = "Content-Type: application/offset+octet-stream";
    let tus = |rest: &str| format!("append Tus {id} at {rest}");
    check(&patch, &[TUS, bytes, "Upload-Offset: 3", "Content-Length: 4"], NOTHING, &tus("3 of -; brings 4"));
    let checksum = "Upload-Checksum: sha256 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    check(&patch, &[TUS, bytes, "Upload-Offset: 0", checksum], NOTHING, &tus("0 of -; brings -, checked"));
    check(&patch, &[TUS, bytes, "Upload-Offset: 0", "Upload-Length: 9"], NOTHING, &tus("0 of 9; brings -"));
    let as_post = ["X-HTTP-Method-Override: PATCH", TUS, bytes, "Upload-Offset: 0"];
    check(&format!("POST /v1/uploads/{id}"), &as_post, NOTHING, &tus("0 of -; brings -"));
    check(&format!("POST /v1/uploads/{id}"), &[TUS], NOTHING, "405 method-not-allowed");
    let part = "Content-Type: application/partial-upload";
    let draft = |rest: &str| format!("append Draft {id} at {rest}");
    let last = [part, "Upload-Complete: ?1", "Upload-Offset: 3", "Content-Length: 4"];
    check(&patch, &last, NOTHING, &draft("3 of 7; brings 4, the last"));
    check(
        &patch,
        &["Upload-Complete: ?1", "Upload-Offset: 3"],
        NOTHING,
        &draft("3 of -; brings -, the last"),
    );
    check(&patch, &["Upload-Complete: ?0", "Upload-Offset: 3"], NOTHING, &draft("3 of -; brings -"));
    for (headers, expected) in [
        (&[TUS, bytes][..], "400 bad-request"),
        (&[TUS, "Upload-Offset: 0"], "415 unsupported-media-type"),
        (&[TUS, bytes, "Upload-Offset: x"], "400 bad-request"),
        (&[TUS, bytes, "Upload-Offset: 0", "Upload-Checksum: md5 AAAA"], "400 bad-request"),
        (&[bytes, "Upload-Offset: 0"], "400 bad-request"),
        (
            &["Content-Type: text/csv", "Upload-Complete: ?0", "Upload-Offset: 0"],
            "415 unsupported-media-type",
        ),
        (
            &[part, "Upload-Complete: ?1", "Upload-Offset: 0", "Content-Length: 4", "Upload-Length: 5"],
            "400 bad-request",
        ),
        (&[TUS, bytes, "Upload-Offset: 18446744073709551615", "Content-Length: 1"], "413 too-large"),
    ] {
        check(&patch, headers, NOTHING, expected);
    }
    let small = Given { max_body_bytes: Some(9), ..NOTHING };
    check(&patch, &[TUS, bytes, "Upload-Offset: 6", "Content-Length: 4"], small, "413 too-large");
    check(&format!("HEAD /v1/uploads/{id}"), &[], NOTHING, &format!("look at {id}"));
    check(&format!("GET /v1/uploads/{id}"), &[], NOTHING, &format!("show upload {id}"));
    check(&format!("DELETE /v1/uploads/{id}"), &[TUS], NOTHING, &format!("give up {id}"));
    check("GET /v1/uploads", &[], NOTHING, "show uploads");
}

#[test]
fn a_new_version_names_what_it_replaces() {
    let put = format!("PUT {FILE}");
    let tag = format!("If-Match: {}", meta(1).etag);
    check(&put, &[&tag], NOTHING, "ask upload alpha a/b.csv - instead");
    check(&put, &[&tag, "If-None-Match: *"], NOTHING, "400 bad-request");
}

#[test]
fn other_routes_and_methods_are_refused() {
    check("GET /index.html", &[], NOTHING, "404 not-found");
    check("GET /metrics", &["anonymous"], NOTHING, "404 not-found");
    check("OPTIONS *", &[], NOTHING, "404 not-found");
    check("CONNECT example.org:443", &[], NOTHING, "404 not-found");
    for method in ["POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "PROPFIND"] {
        check(&format!("{method} {FILE}"), &[], NOTHING, "405 method-not-allowed");
    }
    for method in ["PUT", "HEAD", "DELETE"] {
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
        "If-Match: *",
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
    check(&get, &["Range: bytes=0-1,4-5"], file, "send 0-1 and 4-5");
    check(&get, &["Range: bytes=0-1,4-5", "If-Range: \"old\""], file, "send all 10");
    check(&get, &["Range: bytes=0-4,4-5"], file, "send all 10");
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
        certificate: None,
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
