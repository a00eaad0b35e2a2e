//! Tokens of identity providers: refused at edge where they cannot be good, and passed on as they came where they may.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

#[path = "../../crates/identity/testing/provider.rs"]
mod provider;

use std::sync::atomic::Ordering::SeqCst;

use common::{Fake, TestEdge};
use provider::Provider;
use serde_json::{Value, json};
use store_proto::Proof;

const URL: &str = "https://idp.example.org";

fn claims() -> Value {
    let now_s = daemon::Clock.unix_milliseconds() / 1000;
    json!({"iss": URL, "sub": "ada", "aud": "culvert", "exp": now_s + 300})
}

async fn start(fake: &Fake, provider: &Provider, limits: &str) -> (TestEdge, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, provider.jwks()).unwrap();
    let issuer = format!(
        "{limits}\n[[issuer]]\nname = \"clinic\"\nurl = \"{URL}\"\naudiences = [\"culvert\"]\njwks_file = {path:?}"
    );
    (TestEdge::start(fake, &issuer).await, folder)
}

fn put(token: &str) -> String {
    format!(
        "PUT /v1/cohorts/c1/files/a HTTP/1.1\r\nHost: e\r\nAuthorization: Bearer {token}\r\nContent-Length: 1\r\n\r\nx"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_token_travels_to_storaged_as_it_came() {
    let (fake, provider) = (Fake::start().await, Provider::p256("k1"));
    let (edge, _folder) = start(&fake, &provider, "").await;
    let token = provider.sign(&claims());
    let told = edge.connect().await.ask(put(&token)).await;
    assert_eq!(told.status, 201);
    let context = fake.state.last_context.lock().unwrap().clone().unwrap();
    assert!(matches!(context.proof, Proof::Jwt(jwt) if jwt.expose() == token), "not edge's word for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_token_costs_storaged_nothing() {
    let (fake, provider) = (Fake::start().await, Provider::ed25519("k1"));
    let (edge, _folder) = start(&fake, &provider, "").await;
    let asked = || fake.state.last_context.lock().unwrap().is_some();
    let mut old = claims();
    old["exp"] = json!(1_000_000);
    for (token, detail) in [
        (Provider::ed25519("k1").sign(&claims()), "signature is wrong"),
        (provider.sign(&old), "has expired"),
        (provider.sign_with(&json!({"alg": "HS256", "kid": "k1"}), &claims()), "algorithm"),
        (provider.sign_with(&json!({"alg": "EdDSA", "kid": "k9"}), &claims()), "JWKS must be brought"),
        ("a.b.c".into(), "no signed token"),
        ("a.b".into(), "the JWT is malformed"),
    ] {
        let told = edge.connect().await.ask(put(&token)).await;
        assert_eq!((told.status, told.kind().as_str()), (401, "unauthenticated"), "{detail}");
        let text = String::from_utf8(told.body).unwrap();
        assert!(text.contains(detail), "{detail} in {text}");
    }
    assert!(!asked(), "storaged was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_lock_their_address_out_and_old_ones_do_not() {
    let (fake, provider) = (Fake::start().await, Provider::ed25519("k1"));
    let (edge, _folder) = start(&fake, &provider, "auth_failure_limit = 3").await;
    let mut old = claims();
    old["exp"] = json!(1_000_000);
    for _ in 0..5 {
        assert_eq!(edge.connect().await.ask(put(&provider.sign(&old))).await.status, 401);
    }
    for number in 0..3 {
        let forger = Provider::ed25519("k1");
        let told = edge.connect().await.ask(put(&forger.sign(&claims()))).await;
        assert_eq!(told.status, 401, "{number}");
    }
    let told = edge.connect().await.ask(put(&provider.sign(&claims()))).await;
    assert_eq!((told.status, told.kind().as_str()), (429, "locked-out"));
    assert_eq!(fake.state.file_size.load(SeqCst), 0, "nothing went through");
}
