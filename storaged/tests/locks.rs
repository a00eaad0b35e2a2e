//! Each lock of a request, taken away one at a time: refused, with nothing stored, counted and recorded.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test panics where it fails")]

mod support;

use http::{Method, StatusCode};
use serde_json::json;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use storaged::ledger::{Action, Ending};
use store_proto::{EdgeName, Proof, Token, UploadReceipt, headers, routes};
use support::{Asking, Lab};

async fn refused(lab: &Lab, asking: Asking<'_>, status: u16, problem: &str, reason: &str) {
    let before = lab.records().len();
    let told = asking.send().await;
    assert_eq!((told.status.as_u16(), told.problem().as_str()), (status, problem), "{reason}: {told:?}");
    let record = lab.records().pop().unwrap();
    assert_eq!(lab.records().len(), before + 1, "{reason} leaves one record");
    assert_eq!((record.action, record.ending), (Action::AccessDenied, Some(Ending::Denied)));
    assert_eq!(record.detail.as_deref(), Some(reason));
    assert!(lab.on_volume().is_empty(), "{reason} left something on the volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_locks_open_it_works() {
    let lab = Lab::start().await;
    assert_eq!(lab.upload("f", "x").send().await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_tunnels_word_it_is_refused() {
    let lab = Lab::start().await;
    lab.peers.lock().unwrap().clear();
    refused(&lab, lab.upload("f", "x"), 403, "edge-forbidden", "peer_unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_wgd_is_silent_it_is_refused_and_may_be_tried_again() {
    let lab = Lab::start().await;
    lab.wgd_answers.store(false, Ordering::Relaxed);
    let begun = daemon::Clock.now();
    refused(&lab, lab.upload("f", "x"), 503, "peer-unverified", "peer_unanswered").await;
    assert!(daemon::Clock.now() - begun >= std::time::Duration::from_millis(900), "it is waited for");
    lab.wgd_answers.store(true, Ordering::Relaxed);
    assert_eq!(lab.upload("f", "x").send().await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unregistered_peer_is_refused_even_for_health() {
    let lab = Lab::start().await;
    lab.peers.lock().unwrap().insert(IpAddr::from([127, 0, 0, 1]), "laptop".into());
    refused(&lab, lab.upload("f", "x"), 403, "edge-forbidden", "peer_not_registered").await;
    refused(&lab, lab.request(Method::GET, routes::HEALTH), 403, "edge-forbidden", "peer_not_registered")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_edges_context_is_refused() {
    let lab = Lab::start().await;
    lab.peers.lock().unwrap().insert(IpAddr::from([127, 0, 0, 1]), "web2".into());
    refused(&lab, lab.upload("f", "x"), 403, "edge-forbidden", "edge_mismatch").await;
    let mut context = lab.context("ada");
    context.edge = EdgeName::parse("web2").unwrap();
    let asking = lab.upload("f", "x").with(headers::CULVERT_CONTEXT, &context.encode());
    refused(&lab, asking, 403, "cohort-forbidden", "edge_cohort").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_internal_key_is_needed_and_its_alias_does() {
    let lab = Lab::start().await;
    let asking = lab.upload("f", "x").without(headers::X_INTERNAL_KEY);
    refused(&lab, asking, 403, "edge-forbidden", "key_missing").await;
    let asking = lab.upload("f", "x").with(headers::X_INTERNAL_KEY, "0123456789abcdef0123456789abcdef");
    refused(&lab, asking, 403, "edge-forbidden", "key_wrong").await;
    let asking = lab.upload("f", "x").with(headers::X_API_KEY, "another");
    refused(&lab, asking, 400, "bad-request", "keys_differ").await;
    let alias =
        lab.upload("f", "x").without(headers::X_INTERNAL_KEY).with(headers::X_API_KEY, &lab.key.clone());
    assert_eq!(alias.send().await.status, StatusCode::CREATED);
    let both = lab.upload("f", "x").with(headers::X_API_KEY, &lab.key.clone());
    assert_eq!(both.send().await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_is_refused() {
    let lab = Lab::start().await;
    refused(&lab, lab.upload("f", "x").with("host", "evil.example"), 421, "wrong-store", "host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_another_store_is_refused() {
    let lab = Lab::start().await;
    let own = lab.store.keys.store().0.to_string();
    let asked = |mark: &str| lab.upload("f", "x").with(headers::CULVERT_STORE, mark);
    for other in ["00000000", "", &own] {
        refused(&lab, asked(other), 421, "wrong-store", "other_store").await;
    }
    assert_eq!(asked(&own[..8]).send().await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_unreadable_context_is_refused() {
    let lab = Lab::start().await;
    let asking = lab.upload("f", "x").without(headers::CULVERT_CONTEXT);
    refused(&lab, asking, 400, "bad-request", "context_missing").await;
    let asking = lab.upload("f", "x").with(headers::CULVERT_CONTEXT, "AAAA");
    refused(&lab, asking, 400, "bad-request", "context_malformed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_context_is_refused() {
    let lab = Lab::start().await;
    for offset in [-61_000i64, 61_000] {
        let mut context = lab.context("ada");
        context.timestamp_ms = context.timestamp_ms.checked_add_signed(offset).unwrap();
        let asking = lab.upload("f", "x").with(headers::CULVERT_CONTEXT, &context.encode());
        refused(&lab, asking, 503, "clock-skew", "clock_skew").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_stands_for_nobody_is_refused() {
    let lab = Lab::start().await;
    let mut context = lab.context("ada");
    context.proof = Proof::Token(Token::from_bytes([0x55; 32]));
    let asking = lab.upload("f", "x").with(headers::CULVERT_CONTEXT, &context.encode());
    refused(&lab, asking, 401, "unauthenticated", "token").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn role_and_cohort_must_allow_the_action() {
    let lab = Lab::start().await;
    refused(&lab, lab.upload("f", "x").of_user("vic"), 403, "cohort-forbidden", "role").await;
    refused(&lab, lab.upload("f", "x").of_user("aud"), 403, "cohort-forbidden", "role").await;
    refused(&lab, lab.upload("f", "x").of_user("bob"), 403, "cohort-forbidden", "user_cohort").await;
    let asking = lab.upload("f", "x").with(headers::CULVERT_COHORT, "c3");
    refused(&lab, asking, 404, "unknown-cohort", "unknown_cohort").await;
    let asking = lab.request(Method::GET, "/internal/v1/cohorts/c1/files").of_user("aud");
    refused(&lab, asking, 403, "cohort-forbidden", "role").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_not_served_to_another_cohorts_user() {
    let lab = Lab::start().await;
    let receipt: UploadReceipt =
        serde_json::from_slice(&lab.upload("f", "secret").send().await.body).unwrap();
    let file = routes::file(receipt.file_id);
    for (user, status) in [("vic", 200), ("bob", 403), ("aud", 403)] {
        let told = lab.request(Method::GET, &file).of_user(user).send().await;
        assert_eq!(told.status.as_u16(), status, "{user}");
        assert!(status == 200 || !told.body.windows(6).any(|window| window == b"secret"));
    }
}

/// What each user may do (requirement A-132), said here a second time and in other words than the policy.
const MATRIX: [(&str, &str, &[&str]); 5] = [
    ("vic", "c1", &["download", "list"]),
    ("ada", "c1", &["upload", "download", "list"]),
    ("adm", "c1", &["upload", "download", "list"]),
    ("aud", "c1", &[]),
    ("bob", "c2", &["upload", "download", "list"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_role_on_every_route_in_every_cohort_through_every_edge() {
    let lab = Lab::start().await;
    let mut files = Vec::new();
    for (user, cohort) in [("ada", "c1"), ("bob", "c2")] {
        let told = lab.upload("f", "x").of_user(user).with(headers::CULVERT_COHORT, cohort).send().await;
        let receipt: UploadReceipt = serde_json::from_slice(&told.body).unwrap();
        files.push((cohort, routes::file(receipt.file_id)));
    }
    for (edge, edge_cohorts) in [("web1", ["c1", "c2"].as_slice()), ("web2", &["c2"])] {
        if edge == "web2" {
            lab.peers.lock().unwrap().insert(IpAddr::from([127, 0, 0, 1]), "web2".into());
            tokio::time::sleep(storaged::limits::WHOIS_CACHE).await;
        }
        for (user, own_cohort, actions) in MATRIX {
            let mut context = lab.context(user);
            context.edge = EdgeName::parse(edge).unwrap();
            let context = context.encode();
            for cohort in ["c1", "c2", "c3"] {
                let expect = |action: &str| match cohort {
                    "c3" => 404,
                    _ if edge_cohorts.contains(&cohort)
                        && own_cohort == cohort
                        && actions.contains(&action) =>
                    {
                        200
                    }
                    _ => 403,
                };
                let permission = |body: serde_json::Value| {
                    lab.request(Method::POST, routes::PERMISSIONS).body(body.to_string())
                };
                let mut table = vec![
                    ("upload", lab.upload("f", "x").with(headers::CULVERT_COHORT, cohort)),
                    (
                        "upload",
                        permission(json!({"action": "upload", "cohort": cohort, "path": "f", "size": 1})),
                    ),
                    ("download", permission(json!({"action": "download", "cohort": cohort, "path": "f"}))),
                    ("list", permission(json!({"action": "list", "cohort": cohort}))),
                    ("list", lab.request(Method::GET, &format!("/internal/v1/cohorts/{cohort}/files"))),
                ];
                for (_, file) in files.iter().filter(|(of, _)| *of == cohort) {
                    table.push(("download", lab.request(Method::GET, file)));
                    table.push(("download", lab.request(Method::HEAD, file)));
                }
                for (i, (action, asking)) in table.into_iter().enumerate() {
                    let told = asking.with(headers::CULVERT_CONTEXT, &context).send().await;
                    let case = format!("{user} {action} ({i}) {cohort} through {edge}");
                    assert_eq!(told.status.as_u16(), expect(action), "{case}");
                    if told.status != StatusCode::OK {
                        // The end of a download before it may be recorded only now.
                        let records = lab.records().into_iter().rev();
                        let mut records =
                            records.filter(|record| record.action != Action::FileDownloadedViaStream);
                        let last = records.next().unwrap();
                        assert_eq!(
                            (last.action, last.ending),
                            (Action::AccessDenied, Some(Ending::Denied)),
                            "{case}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_that_is_refused_each_second_does_not_fill_the_ledger() {
    let lab = Lab::start().await;
    lab.peers.lock().unwrap().clear();
    let before = lab.records().len();
    for _ in 0..20 {
        assert_eq!(lab.request(Method::GET, routes::HEALTH).send().await.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(lab.records().len(), before + 1);
    lab.store.settle_strangers(true).await;
    let last = lab.records().pop().unwrap();
    assert_eq!(lab.records().len(), before + 2);
    assert_eq!(last.detail.as_deref(), Some("peer_unknown: 19 more, not recorded one by one"));
    assert_eq!(last.origin.source_address, Some(IpAddr::from([127, 0, 0, 1])));
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_tokens_does_not_fill_the_ledger() {
    let lab = Lab::start().await;
    let before = lab.records().len();
    for guess in 0..40 {
        let mut context = lab.context("ada");
        context.proof = Proof::Token(Token::from_bytes([guess; 32]));
        let told = lab.upload("f", "x").with(headers::CULVERT_CONTEXT, &context.encode()).send().await;
        assert_eq!(told.status, StatusCode::UNAUTHORIZED);
    }
    let recorded = storaged::limits::STRANGER_RECORDS as usize;
    assert_eq!(lab.records().len(), before + recorded);
    lab.store.settle_strangers(true).await;
    let last = lab.records().pop().unwrap();
    assert_eq!(last.detail.as_deref(), Some("token: 30 more, not recorded one by one"));
    assert_eq!(last.origin.client_address, Some("192.0.2.9".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_stands_twice_is_refused_and_two_keys_must_be_one() {
    let lab = Lab::start().await;
    let mut asking = lab.upload("f", "x");
    let other = lab.context("vic").encode();
    asking.headers.append(headers::CULVERT_CONTEXT, other.parse().unwrap());
    refused(&lab, asking, 400, "bad-request", "context_malformed").await;
    let mut asking = lab.upload("f", "x");
    asking.headers.append(headers::X_INTERNAL_KEY, "another".parse().unwrap());
    refused(&lab, asking, 400, "bad-request", "keys_differ").await;
    let mut asking = lab.upload("f", "x");
    asking.headers.append("host", "another".parse().unwrap());
    refused(&lab, asking, 421, "wrong-store", "host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn climbing_paths_are_refused() {
    let lab = Lab::start().await;
    for path in [
        "../x",
        "a/../../x",
        "%2e%2e/x",
        "..%2fx",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "a//b",
        "a%00b",
        "%252e%252e/x",
        "%ff",
    ] {
        refused(&lab, lab.upload(path, "x"), 400, "invalid-path", "path").await;
    }
    refused(&lab, lab.upload("f", "x").without(headers::CULVERT_PATH), 400, "bad-request", "malformed").await;
    refused(&lab, lab.upload("f", "x").with(headers::REPR_DIGEST, "md5=x"), 400, "bad-request", "malformed")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn testing_says_so_in_every_answer() {
    let lab = Lab::start().await;
    let told = lab.request(Method::GET, routes::HEALTH).send().await;
    assert!(told.headers.contains_key("culvert-testing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusual_hour_is_told_once_and_refused_where_that_is_the_rule() {
    for enforced in [false, true] {
        let lab = Lab::start_edited(&|text| {
            let text = text.replace("[limits]\n", "");
            format!("{text}\n[limits]\nmax_hourly_access = 3\nenforce_hourly_access = {enforced}\n")
        })
        .await;
        let list = || lab.request(Method::GET, "/internal/v1/cohorts/c1/files").send();
        for _ in 0..3 {
            assert_eq!(list().await.status, 200);
        }
        for _ in 0..2 {
            let told = list().await;
            if enforced {
                assert_eq!(told.problem(), "rate-limited");
            } else {
                assert_eq!(told.status, 200);
            }
        }
        let vic = lab.request(Method::GET, "/internal/v1/cohorts/c1/files").of_user("vic").send().await;
        assert_eq!(vic.status, 200, "another user's hour is another");
        let unusual = lab.trail().into_iter().filter(|(action, _)| *action == Action::AccessUnusual).count();
        assert_eq!(unusual, 1);
    }
}
