//! Tokens that are taken, and the many that are not.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use store_proto::Jwt;

use super::*;
use crate::issuer::{IssuerRules, Issuers};
use crate::provider::Provider;

const URL: &str = "https://idp.example.org/realms/clinic";
const NOW: u64 = 1_790_000_000;

fn rules() -> IssuerRules {
    IssuerRules {
        name: "clinic".into(),
        url: URL.into(),
        audiences: vec!["culvert".into()],
        algorithms: vec![Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256, Algorithm::Ps256],
        jwks_file: "x".into(),
    }
}

fn issuers(jwks: &str) -> Issuers {
    Issuers::new(vec![rules().with_keys(jwks).unwrap()])
}

fn claims() -> Value {
    json!({"iss": URL, "sub": "ada", "aud": "culvert", "exp": NOW + 300, "iat": NOW - 5, "groups": ["a"]})
}

fn with(change: &[(&str, Value)]) -> Value {
    let mut claims = claims();
    for (name, value) in change {
        claims[*name] = value.clone();
    }
    claims
}

fn ask(issuers: &Issuers, token: &str) -> Result<Verified, JwtError> {
    issuers.verify(&Jwt::parse(token).unwrap(), NOW)
}

#[test]
fn a_good_token_names_its_principal() {
    for provider in [Provider::ed25519("k1"), Provider::p256("k1")] {
        let issuers = issuers(&provider.jwks());
        let verified = ask(&issuers, &provider.sign(&claims())).unwrap();
        assert_eq!(verified.principal.as_str(), "clinic:ada");
        assert_eq!((verified.issuer.as_str(), verified.expires_s), ("clinic", NOW + 300));
        let several = with(&[("aud", json!(["other", "culvert"])), ("exp", json!(1_790_000_000.5))]);
        assert!(ask(&issuers, &provider.sign(&several)).is_ok());
        let access = json!({"typ": "at+jwt", "alg": provider.algorithm(), "kid": "k1"});
        assert!(ask(&issuers, &provider.sign_with(&access, &claims())).is_ok());
    }
}

#[test]
fn each_claim_is_looked_at() {
    let provider = Provider::ed25519("k1");
    let issuers = issuers(&provider.jwks());
    let table = [
        (with(&[("iss", json!("https://evil.example"))]), JwtError::Issuer),
        (with(&[("iss", json!(format!("{URL}/")))]), JwtError::Issuer),
        (with(&[("aud", json!("another"))]), JwtError::Audience),
        (with(&[("aud", json!([]))]), JwtError::Audience),
        (with(&[("aud", Value::Null)]), JwtError::Audience),
        (with(&[("cnf", json!({"x5t#S256": "AA"}))]), JwtError::Malformed),
        (with(&[("sub", json!(""))]), JwtError::Subject),
        (with(&[("sub", json!(7))]), JwtError::Subject),
        (with(&[("sub", json!("x".repeat(256)))]), JwtError::Subject),
        (with(&[("exp", Value::Null)]), JwtError::Malformed),
        (with(&[("exp", json!("never"))]), JwtError::Malformed),
        (with(&[("exp", json!(-5))]), JwtError::Malformed),
        (with(&[("exp", json!(NOW - 60))]), JwtError::Expired),
        (with(&[("nbf", json!(NOW + 61))]), JwtError::NotYet),
        (with(&[("iat", json!(NOW + 61))]), JwtError::NotYet),
    ];
    for (claims, expected) in table {
        assert_eq!(ask(&issuers, &provider.sign(&claims)).err(), Some(expected), "{claims}");
    }
    let mut endless = claims();
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(ask(&issuers, &provider.sign(&endless)).err(), Some(JwtError::Expired));
    for within in [("exp", NOW - 59), ("nbf", NOW + 60), ("iat", NOW + 60)] {
        let claims = with(&[(within.0, json!(within.1))]);
        assert!(ask(&issuers, &provider.sign(&claims)).is_ok(), "a minute between the clocks: {claims}");
    }
}

#[test]
fn whoever_has_not_the_key_cannot_sign() {
    let (provider, other) = (Provider::ed25519("k1"), Provider::ed25519("k1"));
    let issuers = issuers(&provider.jwks());
    assert_eq!(ask(&issuers, &other.sign(&claims())).err(), Some(JwtError::Signature));
    let token = provider.sign(&claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (head, _) = message.split_once('.').unwrap();
    let altered = URL_SAFE_NO_PAD.encode(with(&[("sub", json!("eve"))]).to_string());
    assert_eq!(ask(&issuers, &format!("{head}.{altered}.{signature}")).err(), Some(JwtError::Signature));
    assert_eq!(ask(&issuers, &format!("{message}.AAAA")).err(), Some(JwtError::Signature));
    // A key that the token brings along is not looked at.
    let bringing =
        json!({"alg": "EdDSA", "kid": "k1", "jwk": other.jwk(), "jku": "https://evil.example/jwks"});
    assert!(ask(&issuers, &other.sign_with(&bringing, &claims())).is_err());
}

#[test]
fn the_algorithm_is_the_keys_and_the_providers_never_the_tokens() {
    let provider = Provider::ed25519("k1");
    let issuers = issuers(&provider.jwks());
    for algorithm in ["none", "None", "HS256", "HS512", "ES256", "RS256", "PS256", "ES384"] {
        let head = json!({"alg": algorithm, "kid": "k1"});
        let refused = ask(&issuers, &provider.sign_with(&head, &claims())).err();
        assert!(
            matches!(refused, Some(JwtError::Malformed | JwtError::Algorithm)),
            "{algorithm}: {refused:?}"
        );
    }
    // The oldest trick: the public key, which everybody has, taken for a shared secret.
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, provider.jwks().as_bytes());
    let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", text(&json!({"alg": "HS256", "kid": "k1"})), text(&claims()));
    let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&secret, message.as_bytes()));
    assert_eq!(ask(&issuers, &format!("{message}.{tag}")).err(), Some(JwtError::Algorithm));
    // A key that is fit for it, from a provider that does not use it.
    let narrow = IssuerRules { algorithms: vec![Algorithm::Rs256], ..rules() };
    let narrow = Issuers::new(vec![narrow.with_keys(&provider.jwks()).unwrap()]);
    assert_eq!(ask(&narrow, &provider.sign(&claims())).err(), Some(JwtError::Algorithm));
}

#[test]
fn tokens_of_other_kinds_are_refused() {
    let provider = Provider::ed25519("k1");
    let issuers = issuers(&provider.jwks());
    for head in [
        json!({"alg": "EdDSA", "kid": "k1", "typ": "logout+jwt"}),
        json!({"alg": "EdDSA", "kid": "k1", "typ": "dpop+jwt"}),
        json!({"alg": "EdDSA", "kid": "k1", "crit": ["exp"], "exp": 1}),
        json!({"alg": "EdDSA", "kid": "k1", "crit": []}),
        json!({"kid": "k1"}),
    ] {
        assert_eq!(
            ask(&issuers, &provider.sign_with(&head, &claims())).err(),
            Some(JwtError::Malformed),
            "{head}"
        );
    }
    for claims in [json!([]), json!("x"), json!({}), json!({"iss": 5})] {
        assert_eq!(ask(&issuers, &provider.sign(&claims)).err(), Some(JwtError::Malformed), "{claims}");
    }
}

#[test]
fn keys_change_while_both_are_there_and_the_old_one_ends_with_its_removal() {
    let (old, new) = (Provider::ed25519("old"), Provider::p256("new"));
    let both = issuers(&json!({"keys": [old.jwk(), new.jwk()]}).to_string());
    assert!(ask(&both, &old.sign(&claims())).is_ok() && ask(&both, &new.sign(&claims())).is_ok());
    let after = issuers(&new.jwks());
    assert_eq!(ask(&after, &old.sign(&claims())).err(), Some(JwtError::Key));
    assert!(!JwtError::Key.is_suspicious(), "a provider that has new keys is no attack");
    let before = issuers(&old.jwks());
    assert_eq!(ask(&before, &new.sign(&claims())).err(), Some(JwtError::Key));
}

#[test]
fn providers_do_not_speak_for_each_other() {
    let (clinic, lab) = (Provider::ed25519("k"), Provider::ed25519("k"));
    let other = IssuerRules { name: "lab".into(), url: "https://lab.example".into(), ..rules() };
    let both =
        Issuers::new(vec![rules().with_keys(&clinic.jwks()).unwrap(), other.with_keys(&lab.jwks()).unwrap()]);
    assert_eq!(ask(&both, &lab.sign(&claims())).err(), Some(JwtError::Signature));
    let of_lab = lab.sign(&with(&[("iss", json!("https://lab.example"))]));
    assert_eq!(ask(&both, &of_lab).unwrap().principal.as_str(), "lab:ada");
}

/// Keys and tokens that others published: RFC 7515 A.2 and A.3, RFC 8037 A.4.
#[test]
fn signatures_that_others_made_are_verified() {
    let table = [
        (
            r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#,
            "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ];
    for (jwk, token) in table {
        let joe = IssuerRules { url: "joe".into(), ..rules() };
        let issuer = joe.with_keys(&format!("{{\"keys\":[{jwk}]}}")).unwrap();
        let jwt = Jwt::parse(token).unwrap();
        let claims = signed(&issuer, &jwt, &decode_header(token).unwrap()).unwrap();
        assert_eq!(claims["http://example.com/is_root"], true);
        let mut broken = token.to_owned();
        broken.truncate(token.len() - 8);
        broken.push_str("AAAAAAAA");
        let broken = Jwt::parse(&broken).unwrap();
        let refused = signed(&issuer, &broken, &decode_header(token).unwrap());
        assert_eq!(refused.err(), Some(JwtError::Signature));
        assert_eq!(ask(&Issuers::new(vec![issuer]), token).err(), Some(JwtError::Subject), "it names nobody");
    }
}
