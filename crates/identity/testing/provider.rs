//! An identity provider for tests: an Ed25519 or a P-256 key, its JWKS, and tokens signed with it by ring, which is not
//! what `jsonwebtoken` would make.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

/// A provider with one key.
pub(crate) struct Provider {
    pub(crate) kid: String,
    key: SigningKey,
}

enum SigningKey {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
}

#[allow(dead_code, reason = "each test takes what it needs")]
impl Provider {
    pub(crate) fn ed25519(kid: &str) -> Provider {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = SigningKey::Ed(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap());
        Provider { kid: kid.to_owned(), key }
    }

    pub(crate) fn p256(kid: &str) -> Provider {
        let (random, way) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(way, &random).unwrap();
        let key = SigningKey::Ec(EcdsaKeyPair::from_pkcs8(way, document.as_ref(), &random).unwrap());
        Provider { kid: kid.to_owned(), key }
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self.key {
            SigningKey::Ed(_) => "EdDSA",
            SigningKey::Ec(_) => "ES256",
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.key {
            SigningKey::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.kid, "x": text(key.public_key().as_ref())})
            }
            SigningKey::Ec(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (text(&point[1..33]), text(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid, "x": x, "y": y})
            }
        }
    }

    pub(crate) fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"typ": "JWT", "alg": self.algorithm(), "kid": self.kid}), claims)
    }

    /// A token with this head and these claims.
    pub(crate) fn sign_with(&self, head: &Value, claims: &Value) -> String {
        let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", text(head), text(claims));
        let signature = match &self.key {
            SigningKey::Ed(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
            SigningKey::Ec(key) => {
                key.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
