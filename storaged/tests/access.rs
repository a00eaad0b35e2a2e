//! Who may do what: every role on every route in every cohort, masked and not; and shutting somebody out while they are
//! in the midst of it.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test panics where it fails")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use storaged::ledger::access::{Settings, Wish};
use storaged::ledger::{Action, Ending, Origin};
use store_proto::{
    Capability, Cohort, ContentDigest, FileId, Proof, RequestContext, Role, Token, UploadReceipt, UserName,
    headers, routes,
};
use support::{Asking, Lab};

fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

async fn stored(lab: &Lab, path: &str, body: &[u8]) -> FileId {
    let told = lab.upload(path, body.to_vec()).send().await;
    assert_eq!(told.status, StatusCode::CREATED, "{told:?}");
    serde_json::from_slice::<UploadReceipt>(&told.body).unwrap().file_id
}

/// What each role may do, said a second time and in other words than the policy.
#[tokio::test(flavor = "multi_thread")]
async fn every_role_route_and_cohort() {
    for masked in [false, true] {
        let lab = Lab::start().await;
        let settings = Settings { mask_cohorts: masked, ..Settings::default() };
        if masked {
            lab.change(Wish::Set { settings }).await;
        }
        let file = routes::file(stored(&lab, "there", b"x").await);
        let (closed, closed_file) = if masked {
            ("unknown-cohort", "unknown-file")
        } else {
            ("cohort-forbidden", "cohort-forbidden")
        };
        for (who, reads, writes) in
            [("ada", true, true), ("vic", true, false), ("adm", true, true), ("aud", false, false)]
        {
            let told = lab.request(Method::GET, &file).of_user(who).send().await;
            assert_eq!(told.status.is_success(), reads, "{who} reads");
            let told = lab.request(Method::GET, "/internal/v1/cohorts/c1/files").of_user(who).send().await;
            assert_eq!(told.status.is_success(), reads, "{who} lists");
            let told = lab.upload(&format!("by-{who}"), "x").of_user(who).send().await;
            assert_eq!(told.status.is_success(), writes, "{who} writes");
            let link = json!({"file_id": file.rsplit('/').next().unwrap(), "expires_in": 60});
            let told = lab.request(Method::POST, routes::CAPABILITIES).of_user(who).body(link.to_string());
            assert_eq!(told.send().await.status.is_success(), reads, "{who} makes a link");
            for (cohort, problem) in [("c2", closed), ("none", "unknown-cohort")] {
                let listing = format!("/internal/v1/cohorts/{cohort}/files");
                let told = lab.request(Method::GET, &listing).of_user(who).send().await;
                assert_eq!(told.problem(), problem, "{who} lists {cohort}, masked: {masked}");
                let told =
                    lab.upload("f", "x").of_user(who).with(headers::CULVERT_COHORT, cohort).send().await;
                assert_eq!(told.problem(), problem, "{who} writes to {cohort}, masked: {masked}");
                for ask in [
                    json!({"action": "upload", "cohort": cohort, "path": "f"}),
                    json!({"action": "download", "cohort": cohort, "path": "f"}),
                    json!({"action": "list", "cohort": cohort}),
                ] {
                    let asking = lab.request(Method::POST, routes::PERMISSIONS).of_user(who);
                    let told = asking.body(ask.to_string()).send().await;
                    assert_eq!(told.problem(), problem, "{who}: {ask}, masked: {masked}");
                }
            }
        }
        // To bob a file of another cohort must look like one that is not there, if cohorts are masked.
        let told = lab.request(Method::GET, &file).of_user("bob").send().await;
        assert_eq!(told.problem(), closed_file);
        let link = json!({"file_id": file.rsplit('/').next().unwrap(), "expires_in": 60});
        let told = lab.request(Method::POST, routes::CAPABILITIES).of_user("bob").body(link.to_string());
        assert_eq!(told.send().await.problem(), closed_file, "a link is as much as the file");
        let none = routes::file(FileId::from_bytes([9; 16]));
        assert_eq!(lab.request(Method::GET, &none).of_user("bob").send().await.problem(), "unknown-file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_opens_its_cohort_and_leaving_it_closes() {
    let lab = Lab::start().await;
    let list = || lab.request(Method::GET, "/internal/v1/cohorts/c2/files").of_user("ada").send();
    assert_eq!(list().await.status, StatusCode::FORBIDDEN);
    lab.change(Wish::JoinGroup { user: user("ada"), group: "c2_users".into() }).await;
    assert_eq!(list().await.status, StatusCode::OK);
    lab.change(Wish::LeaveGroup { user: user("ada"), group: "c2_users".into() }).await;
    assert_eq!(list().await.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ran_out_or_was_revoked_stands_for_nobody() {
    let lab = Lab::start().await;
    let issue = async |byte: u8, expires_ms: u64| {
        let (token, id) = (Token::from_bytes([byte; 32]), FileId::from_bytes([byte; 16]));
        let (user, sha256) = (user("ada"), token.digest());
        let wish = Wish::IssueToken { token: id, user, sha256, expires_ms: Some(expires_ms), label: None };
        lab.change(wish).await;
        (token, id)
    };
    let ask = |token: &Token| {
        let list = lab.request(Method::GET, "/internal/v1/cohorts/c1/files");
        list.with_proof(Proof::Token(token.clone())).send()
    };
    let (hour, soon) = (3_600_000, 2_000);
    let end_ms = daemon::Clock.unix_milliseconds() + soon;
    let (short, short_id) = issue(7, end_ms).await;
    let (long, _) = issue(8, end_ms + hour).await;
    assert_eq!(ask(&long).await.status, StatusCode::OK);
    while daemon::Clock.unix_milliseconds() <= end_ms {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&long).await.status, StatusCode::OK);
    assert_eq!(ask(&short).await.problem(), "unauthenticated");
    assert_eq!(lab.records().pop().unwrap().detail.as_deref(), Some("token_expired"));
    lab.change(Wish::RevokeToken { token: short_id }).await;
    assert_eq!(ask(&short).await.problem(), "unauthenticated");
    assert_eq!(lab.records().pop().unwrap().detail.as_deref(), Some("token"));
}

/// A request by hand, so that it can stop in its midst.
fn begin(lab: &Lab, method: &str, path: &str, more: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(lab.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\n{}: {}\r\n{}: {}\r\n{more}\r\n",
        lab.address,
        headers::X_INTERNAL_KEY,
        lab.key,
        headers::CULVERT_CONTEXT,
        lab.context("ada").encode(),
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_or_a_cohort_that_is_taken_away_ends_what_goes_on_with_it() {
    let lab = Lab::start().await;
    let announced = |path: &str| {
        let (cohort, name) = (headers::CULVERT_COHORT, headers::CULVERT_PATH);
        format!("{cohort}: c1\r\n{name}: {path}\r\ncontent-length: 1000000\r\n")
    };
    let tokens = lab.store.policy.load().book().tokens.clone();
    let of_ada = *tokens.iter().find(|(_, row)| row.user == user("ada")).unwrap().0;
    let metrics = std::sync::Arc::clone(&lab.store.metrics);
    for (path, wish) in [
        ("a", Wish::Revoke { cohort: Cohort::parse("c1").unwrap(), user: user("ada") }),
        ("b", Wish::RevokeToken { token: of_ada }),
    ] {
        let mut writer = begin(&lab, "POST", routes::UPLOAD, &announced(path), &[1; 1000]);
        support::eventually("it runs", || metrics.transfers.get() == 1).await;
        let changes = lab.store.change_access(Origin::default(), wish).await.unwrap().unwrap();
        assert_eq!(lab.store.end_without_right(&changes).uploads, 1);
        support::eventually("it has ended", || metrics.transfers.get() == 0).await;
        let _ = writer.read_to_end(&mut Vec::new());
        let told = lab.upload(path, "x").send().await;
        assert!(!told.status.is_success(), "{told:?}");
        // The first of the two; the second has no way back.
        let grant = Wish::Grant { cohort: Cohort::parse("c1").unwrap(), user: user("ada") };
        let _ = lab.store.change_access(Origin::default(), grant).await.unwrap();
    }
    support::eventually("both ends are recorded", || {
        let aborted = (Action::FileUploadedViaStream, Some(Ending::Aborted));
        lab.trail().iter().filter(|record| **record == aborted).count() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_a_user_out_ends_what_they_have_open_within_a_second() {
    let lab = Lab::start().await;
    let large = vec![5u8; 24 << 20];
    let file = routes::file(stored(&lab, "large", &large).await);
    let link = lab.request(Method::POST, routes::CAPABILITIES);
    let ask = json!({"file_id": file.rsplit('/').next().unwrap(), "expires_in": 60, "max_uses": 5});
    let made = link.body(ask.to_string()).send().await.json();

    let partial = json!({"cohort": "c1", "path": "partial", "length": 300});
    let told = lab.request(Method::POST, routes::UPLOADS).body(partial.to_string()).send().await;
    assert_eq!(told.status, StatusCode::CREATED, "{told:?}");

    // A reader that takes only the head, and a writer that stops in the midst.
    let mut reader = begin(&lab, "GET", &file, "", b"");
    let mut first = [0; 4096];
    reader.read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    let announced = format!(
        "{}: c1\r\n{}: slow\r\ncontent-length: 1000000\r\n",
        headers::CULVERT_COHORT,
        headers::CULVERT_PATH
    );
    let mut writer = begin(&lab, "POST", routes::UPLOAD, &announced, &[1; 1000]);
    support::eventually("both run", || lab.store.metrics.transfers.get() == 2).await;

    let begun = daemon::Clock.now();
    lab.change(Wish::DisableUser { user: user("ada") }).await;
    let closed = lab.store.end_what_is_open(Origin::default(), &user("ada")).await.unwrap();
    assert_eq!((closed.links, closed.requests.uploads, closed.requests.downloads), (1, 1, 1));
    assert_eq!(closed.partial_uploads, 1);
    assert_eq!(lab.store.ledger.reader().partials(None).unwrap(), []);
    support::eventually("both have ended", || lab.store.metrics.transfers.get() == 0).await;
    // A second, on a machine that has nothing else to do; no time-out of theirs is shorter than this.
    assert!(daemon::Clock.now().duration_since(begun) < Duration::from_secs(5));
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest);
    assert!(rest.len() < large.len(), "the whole file came all the same");
    let _ = writer.read_to_end(&mut Vec::new());
    support::eventually("both ends are recorded", || {
        let aborted = |action| lab.trail().contains(&(action, Some(Ending::Aborted)));
        aborted(Action::FileUploadedViaStream) && aborted(Action::FileDownloadedViaStream)
    })
    .await;
    assert!(lab.store.ledger.reader().open_intents().unwrap().is_empty());
    assert_eq!(lab.request(Method::GET, &file).send().await.problem(), "unauthenticated");
    assert_eq!(through(&lab, &made).send().await.problem(), "expired-capability");
    // Let in again, the old token and the old link stay dead.
    lab.change(Wish::EnableUser { user: user("ada") }).await;
    assert_eq!(lab.request(Method::GET, &file).send().await.problem(), "unauthenticated");
    assert_eq!(through(&lab, &made).send().await.problem(), "expired-capability");
}

/// A request for the file of a link, by whoever holds it.
fn through<'a>(lab: &'a Lab, made: &Value) -> Asking<'a> {
    let capability = Capability::parse(made["capability"].as_str().unwrap()).unwrap();
    let claims = capability.verify(&lab.store.signer.key()).unwrap().clone();
    lab.request(Method::GET, &routes::file(claims.file_id))
        .with_proof(Proof::Capability(Box::new(capability)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_its_file_as_often_as_it_says() {
    let lab = Lab::start().await;
    let id = stored(&lab, "f", b"0123456789").await;
    let make = async |more: Value| {
        let mut ask = json!({"file_id": id, "expires_in": 60});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        lab.request(Method::POST, routes::CAPABILITIES).body(ask.to_string()).send().await
    };
    let once = make(json!({})).await.json();
    assert!(!once.to_string().contains("ada"), "a link names nobody: {once}");
    assert_eq!(through(&lab, &once).send().await.body, "0123456789");
    // The use was recorded before the download began.
    let trail: Vec<Action> = lab.trail().into_iter().map(|(action, _)| action).collect();
    let used = trail.iter().position(|action| *action == Action::AccessCapabilityUsed).unwrap();
    assert_eq!(trail[used + 1], Action::FileDownloadedViaStream);
    // The same use may go on where it broke off, and not begin anew.
    assert_eq!(through(&lab, &once).with("range", "bytes=4-").send().await.body, "456789");
    assert_eq!(through(&lab, &once).send().await.problem(), "used-capability");
    assert_eq!(through(&lab, &once).with("range", "bytes=-4").send().await.problem(), "cohort-forbidden");

    let part = make(json!({"max_uses": 9, "range": [2, 5]})).await.json();
    let told = through(&lab, &part).send().await;
    assert_eq!((told.status, &told.body[..]), (StatusCode::PARTIAL_CONTENT, &b"2345"[..]));
    assert_eq!(through(&lab, &part).with("range", "bytes=0-9").send().await.problem(), "cohort-forbidden");

    let elsewhere = make(json!({"network": "198.51.100.0/24"})).await.json();
    assert_eq!(through(&lab, &elsewhere).send().await.problem(), "cohort-forbidden");

    // Bound to a certificate: whoever else has it has nothing, and uses nothing up.
    let ours = ContentDigest::from_bytes([9; 32]);
    let bound = make(json!({"certificate": ours})).await.json();
    let proving = |certificate| {
        let capability = Capability::parse(bound["capability"].as_str().unwrap()).unwrap();
        let proof = Proof::Capability(Box::new(capability));
        let context = RequestContext { certificate, proof, ..lab.context("ada") }.encode();
        through(&lab, &bound).with(headers::CULVERT_CONTEXT, &context)
    };
    for other in [None, Some(ContentDigest::from_bytes([8; 32]))] {
        assert_eq!(proving(other).send().await.problem(), "cohort-forbidden");
    }
    assert_eq!(proving(Some(ours)).send().await.body, "0123456789");

    assert_eq!(make(json!({"range": [2, 10]})).await.problem(), "range-not-satisfiable");
    assert_eq!(make(json!({"expires_in": 604_801})).await.problem(), "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_for_nothing_else_and_ends_with_its_makers_rights() {
    let lab = Lab::start().await;
    let id = stored(&lab, "f", b"x").await;
    let other = stored(&lab, "g", b"y").await;
    let ask = json!({"file_id": id, "expires_in": 60, "max_uses": 100});
    let made = lab.request(Method::POST, routes::CAPABILITIES).body(ask.to_string()).send().await.json();
    let capability = Capability::parse(made["capability"].as_str().unwrap()).unwrap();
    let proof = || Proof::Capability(Box::new(capability.clone()));
    for asking in [
        lab.request(Method::GET, &routes::file(other)),
        lab.request(Method::GET, "/internal/v1/cohorts/c1/files"),
        lab.request(Method::GET, routes::CAPABILITIES),
        lab.request(Method::POST, routes::CAPABILITIES).body(ask.to_string()),
        lab.request(Method::POST, routes::PERMISSIONS)
            .body(json!({"action": "list", "cohort": "c1"}).to_string()),
        lab.upload("h", "z"),
    ] {
        assert_eq!(asking.with_proof(proof()).send().await.problem(), "cohort-forbidden");
    }
    assert_eq!(through(&lab, &made).send().await.status, StatusCode::OK);
    // The cohort is closed to whoever made it: so is the link. The refused use does not count.
    lab.change(Wish::Revoke { cohort: Cohort::parse("c1").unwrap(), user: user("ada") }).await;
    assert_eq!(through(&lab, &made).send().await.problem(), "cohort-forbidden");
    lab.change(Wish::Grant { cohort: Cohort::parse("c1").unwrap(), user: user("ada") }).await;
    lab.change(Wish::SetRole { user: user("ada"), role: Role::Auditor }).await;
    assert_eq!(through(&lab, &made).send().await.problem(), "cohort-forbidden");
    lab.change(Wish::SetRole { user: user("ada"), role: Role::User }).await;
    let listed = lab.request(Method::GET, routes::CAPABILITIES).send().await.json();
    assert_eq!(listed["capabilities"][0]["used"], 1, "{listed}");
    // Revoked by its id, by nobody but its maker.
    let path = format!("{}/{}", routes::CAPABILITIES, made["capability_id"].as_str().unwrap());
    assert_eq!(lab.request(Method::DELETE, &path).of_user("vic").send().await.problem(), "not-found");
    assert_eq!(lab.request(Method::DELETE, &path).send().await.status, StatusCode::OK);
    assert_eq!(through(&lab, &made).send().await.problem(), "expired-capability");
    let forged = store_proto::CapabilitySigner::from_seed(&[1; 32])
        .sign(capability.verify(&lab.store.signer.key()).unwrap().clone());
    let told = lab.request(Method::GET, &routes::file(id)).with_proof(Proof::Capability(Box::new(forged)));
    assert_eq!(told.send().await.problem(), "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_alone_is_not_enough_to_get_in() {
    let lab = Lab::start().await;
    let id = stored(&lab, "f", b"x").await;
    let ask = json!({"file_id": id, "expires_in": 60, "max_uses": 9});
    let made = lab.request(Method::POST, routes::CAPABILITIES).body(ask.to_string()).send().await.json();
    let told = through(&lab, &made).without(headers::X_INTERNAL_KEY).send().await;
    assert_eq!(told.problem(), "edge-forbidden");
    lab.peers.lock().unwrap().clear();
    tokio::time::sleep(storaged::limits::WHOIS_CACHE).await;
    assert_eq!(through(&lab, &made).send().await.problem(), "edge-forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_day_a_token_was_last_shown_is_known() {
    let lab = Lab::start().await;
    lab.request(Method::GET, "/internal/v1/cohorts/c1/files").send().await;
    let snapshot = lab.store.ledger.reader().snapshot().unwrap();
    let seen = storaged::ledger::access::last_seen(&snapshot).unwrap();
    let today = u32::try_from(daemon::Clock.unix_milliseconds() / 86_400_000).unwrap();
    assert_eq!(seen.len(), 1);
    assert!(today - seen[0].1 <= 1);
}
