//! Users whom an identity provider vouches for: what they may, what is recorded of them, and how they are shut out.
//! Whoever sends these requests is an edge that has looked at nothing.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod support;

#[path = "../../crates/identity/testing/provider.rs"]
mod provider;

use http::{Method, StatusCode};
use provider::Provider;
use serde_json::{Value, json};
use storaged::ledger::access::Wish;
use storaged::ledger::{Action, Origin};
use store_proto::{FileId, Jwt, Proof, UploadReceipt, UserName, routes};
use support::{Asking, Lab};

const URL: &str = "https://idp.example.org/realms/clinic";

fn config(text: &str, folder: &std::path::Path, provider: &Provider) -> String {
    let keys = folder.join("clinic.jwks");
    std::fs::write(&keys, provider.jwks()).unwrap();
    let map = |value: &str, rest: &str| {
        format!("[[group_map]]\nissuer = \"clinic\"\nclaim = \"groups\"\nvalue = \"{value}\"\n{rest}\n")
    };
    format!(
        "{text}\n[[issuer]]\nname = \"clinic\"\nurl = \"{URL}\"\naudiences = [\"culvert\"]\njwks_file = {keys:?}\n{}{}{}",
        map("readers", "cohort = \"c1\"\nrole = \"viewer\""),
        map("writers", "cohort = \"c1\"\nrole = \"user\""),
        map("audit", "role = \"auditor\""),
    )
}

async fn start() -> (Lab, Provider) {
    let provider = Provider::ed25519("k1");
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let path = folder.path().to_owned();
    let lab = Lab::start_in(folder, None, &|text| config(&text, &path, &provider)).await;
    (lab, provider)
}

fn claims(groups: Value) -> Value {
    let now_s = daemon::Clock.unix_milliseconds() / 1000;
    json!({"iss": URL, "sub": "ada", "aud": "culvert", "iat": now_s, "exp": now_s + 300, "groups": groups})
}

fn proof(token: &str) -> Proof {
    Proof::Jwt(Jwt::parse(token).unwrap())
}

trait Vouched<'a> {
    fn vouched(self, provider: &Provider, claims: &Value) -> Asking<'a>;
}

impl<'a> Vouched<'a> for Asking<'a> {
    fn vouched(self, provider: &Provider, claims: &Value) -> Asking<'a> {
        self.with_proof(proof(&provider.sign(claims)))
    }
}

fn listing(lab: &Lab) -> Asking<'_> {
    lab.request(Method::GET, "/internal/v1/cohorts/c1/files")
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_open_cohorts_and_the_record_names_provider_and_subject() {
    let (lab, provider) = start().await;
    let told = lab.upload("a", "x").vouched(&provider, &claims(json!(["writers"]))).send().await;
    assert_eq!(told.status, StatusCode::CREATED, "{told:?}");
    let record = lab.records().into_iter().rfind(|record| record.action == Action::NasRawCreated);
    assert_eq!(record.unwrap().origin.user.unwrap().as_str(), "clinic:ada");
    let told = lab.upload("b", "x").vouched(&provider, &claims(json!(["readers"]))).send().await;
    assert_eq!(told.problem(), "cohort-forbidden", "a reader writes nothing");
    assert_eq!(
        listing(&lab).vouched(&provider, &claims(json!(["readers"]))).send().await.status,
        StatusCode::OK
    );
    for none in [json!([]), json!(["writers-not"]), json!("write")] {
        let told = listing(&lab).vouched(&provider, &claims(none)).send().await;
        assert_eq!(told.problem(), "cohort-forbidden");
    }
    let told =
        lab.request(Method::GET, routes::POLICY).vouched(&provider, &claims(json!(["readers"]))).send().await;
    assert_eq!(told.json()["user"], "clinic:ada");
    assert_eq!(told.json()["cohorts"][0]["actions"], json!(["download", "list"]));
    // An auditor reads no file, whatever else they are.
    let told = listing(&lab).vouched(&provider, &claims(json!(["audit", "writers"]))).send().await;
    assert_eq!(told.problem(), "cohort-forbidden");
    let checkpoint = lab.request(Method::GET, "/internal/v1/ledger/tile/0/0");
    let told = checkpoint.vouched(&provider, &claims(json!(["audit"]))).send().await;
    assert_ne!(told.status, StatusCode::FORBIDDEN, "but the ledger: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_lets_through_is_verified_again() {
    let (lab, provider) = start().await;
    let forger = Provider::ed25519("k1");
    let good = claims(json!(["writers"]));
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for (token, reason) in [
        (forger.sign(&good), "jwt"),
        (provider.sign_with(&json!({"alg": "none", "kid": "k1"}), &good), "jwt"),
        (provider.sign_with(&json!({"alg": "HS256", "kid": "k1"}), &good), "jwt"),
        (provider.sign_with(&json!({"alg": "EdDSA", "kid": "k2"}), &good), "jwt_key"),
        (provider.sign(&with("iss", json!("https://evil.example"))), "jwt_issuer"),
        (provider.sign(&with("aud", json!("another"))), "jwt_issuer"),
        (provider.sign(&with("exp", json!(1_000_000))), "jwt_expired"),
    ] {
        let told = listing(&lab).with_proof(proof(&token)).send().await;
        assert_eq!(told.problem(), "unauthenticated", "{reason}");
        let record = lab.records().pop().unwrap();
        assert_eq!((record.action, record.detail.as_deref()), (Action::AccessDenied, Some(reason)));
        assert!(record.origin.user.is_none(), "nobody is named who was not proven");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_were_left_out_are_a_refusal_that_names_the_fix() {
    let (lab, provider) = start().await;
    let mut left_out = claims(json!([]));
    left_out.as_object_mut().unwrap().remove("groups");
    left_out["_claim_names"] = json!({"groups": "src1"});
    left_out["_claim_sources"] = json!({"src1": {"endpoint": "https://graph.example/x"}});
    let told = listing(&lab).vouched(&provider, &left_out).send().await;
    assert_eq!(told.problem(), "cohort-forbidden");
    let detail = told.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("only the groups that are assigned to this application"), "{detail}");
    assert_eq!(lab.records().pop().unwrap().detail.as_deref(), Some("groups_overage"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_shut_out_here_stays_out_whatever_the_provider_signs() {
    let (lab, provider) = start().await;
    let writers = claims(json!(["writers"]));
    let told = lab.upload("a", "x").vouched(&provider, &writers).send().await;
    let file_id = serde_json::from_slice::<UploadReceipt>(&told.body).unwrap().file_id;
    let ask = |expires_in: u64| {
        let body = json!({"file_id": file_id, "expires_in": expires_in}).to_string();
        lab.request(Method::POST, routes::CAPABILITIES).vouched(&provider, &writers).body(body)
    };
    let told = ask(25 * 3600).send().await;
    assert!(told.json()["detail"].as_str().unwrap().contains("86400 at most"), "{told:?}");
    let made = ask(60).send().await.json();
    let link = store_proto::Capability::parse(made["capability"].as_str().unwrap()).unwrap();
    let open = || {
        lab.request(Method::GET, &routes::file(file_id)).with_proof(Proof::Capability(Box::new(link.clone())))
    };
    assert_eq!(open().send().await.status, StatusCode::OK);

    let ada = UserName::parse("clinic:ada").unwrap();
    lab.change(Wish::ShutOut { user: ada.clone() }).await;
    assert_eq!(listing(&lab).vouched(&provider, &writers).send().await.problem(), "unauthenticated");
    assert_eq!(open().send().await.problem(), "unauthenticated", "their links too");
    let closed = lab.store.end_what_is_open(Origin::default(), &ada).await.unwrap();
    assert_eq!(closed.links, 1);
    lab.change(Wish::EnableUser { user: ada }).await;
    assert_eq!(listing(&lab).vouched(&provider, &writers).send().await.status, StatusCode::OK);
    assert_eq!(open().send().await.problem(), "expired-capability", "a link that was ended stays so");
    let unknown = routes::file(FileId::from_bytes([9; 16]));
    let told = lab.request(Method::GET, &unknown).vouched(&provider, &writers).send().await;
    assert_eq!(told.problem(), "unknown-file");
}
