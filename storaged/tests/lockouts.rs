//! What edges tell of lock-outs: recorded, told back to the same edge while it holds, and taken from nobody else.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::{Method, StatusCode};
use storaged::ledger::{Action, Ending, Metadata, Note, Origin};
use store_proto::{EdgeName, Lockout, LockoutReason, Lockouts, PrincipalId, UserName, headers, routes};
use support::Lab;

fn in_a_minute(principal: Option<PrincipalId>) -> Lockout {
    let until_ms = daemon::Clock.unix_milliseconds() + 60_000;
    let reason = LockoutReason::Failures;
    Lockout { client_address: [192, 0, 2, 7].into(), principal, until_ms, reason }
}

async fn tell(lab: &Lab, lockout: Lockout) -> StatusCode {
    let body = serde_json::to_vec(&lockout).unwrap();
    lab.request(Method::POST, routes::LOCKOUTS).body(body).send().await.status
}

async fn told(lab: &Lab) -> Vec<Lockout> {
    let answer = lab.request(Method::GET, routes::LOCKOUTS).send().await;
    assert_eq!(answer.status, StatusCode::OK);
    serde_json::from_slice::<Lockouts>(&answer.body).unwrap().lockouts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_out_is_recorded_and_told_to_its_own_edge_while_it_holds() {
    let lab = Lab::start().await;
    let (address, principal) = (in_a_minute(None), in_a_minute(Some(PrincipalId(7))));
    let metadata = BTreeMap::from([("until_ms".to_owned(), address.until_ms.to_string())]);
    let origin = Origin { edge: Some(EdgeName::parse("web2").unwrap()), ..Origin::default() };
    let origin = Origin { client_address: Some([192, 0, 2, 9].into()), ..origin };
    let elsewhere = Note {
        metadata: Metadata::parse(metadata).unwrap(),
        ..Note::new(Action::AccessLockedOut, Ending::Denied, origin)
    };
    lab.store.note(elsewhere).await.unwrap();
    let over = Lockout { until_ms: daemon::Clock.unix_milliseconds(), ..address };
    for lockout in [address, over, principal] {
        assert_eq!(tell(&lab, lockout).await, StatusCode::CREATED);
    }
    assert_eq!(told(&lab).await, [address, principal]);
    let records = lab.records();
    let locked: Vec<_> = records.iter().filter(|it| it.action == Action::AccessLockedOut).collect();
    assert_eq!(locked.len(), 4);
    assert!(locked.iter().all(|it| it.ending == Some(Ending::Denied)));
    assert_eq!(locked[1].origin.client_address, Some(IpAddr::from([192, 0, 2, 7])));
    assert_eq!(locked[1].origin.edge.as_ref().unwrap().as_str(), "web1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_fast_is_recorded_and_not_locked_out_by_a_restart() {
    let lab = Lab::start().await;
    let slowed = Lockout { reason: LockoutReason::Rate, ..in_a_minute(Some(PrincipalId(7))) };
    assert_eq!(tell(&lab, slowed).await, StatusCode::CREATED);
    assert_eq!(told(&lab).await, []);
    let records = lab.records();
    let record = records.iter().find(|it| it.action == Action::AccessRateLimited).unwrap();
    assert_eq!((record.detail.as_deref(), record.ending), (Some("principal"), Some(Ending::Denied)));
    assert_eq!(record.origin.client_address, Some(IpAddr::from([192, 0, 2, 7])));
    assert_eq!(record.origin.user.as_ref().map(UserName::as_str), Some("internal:web1"), "no user asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_edge_with_the_key_is_heard_and_only_within_bounds() {
    let lab = Lab::start().await;
    let body = serde_json::to_vec(&in_a_minute(None)).unwrap();
    let asking = lab.request(Method::POST, routes::LOCKOUTS).body(body).without(headers::X_INTERNAL_KEY);
    assert_eq!(asking.send().await.status, StatusCode::FORBIDDEN);
    let for_ever = Lockout { until_ms: u64::MAX, ..in_a_minute(None) };
    assert_eq!(tell(&lab, for_ever).await, StatusCode::BAD_REQUEST);
    let huge = lab.request(Method::POST, routes::LOCKOUTS).body(vec![b' '; 10_000]).send().await;
    assert_eq!(huge.status, StatusCode::BAD_REQUEST);
    assert_eq!(told(&lab).await, []);
}
