//! The keys of an identity provider, out of its JWKS (RFC 7517).
//!
//! **Invariant:** each key here is public, is for signatures, and knows which algorithms it may be used with. What
//! cannot be used is left out and counted; a shared secret, or a private key, refuses the whole file, for it should
//! never have come near an edge.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Algorithm;
use crate::limits::KEYS;

/// Why a file is no set of keys. Nothing of a key is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Not the JSON of RFC 7517.
    #[error("is no JWKS: {0}")]
    Json(String),
    /// A key that is not public.
    #[error(
        "key {0} holds a secret: a JWKS has public keys alone; take it out, and replace that key at the provider"
    )]
    Secret(usize),
    /// Too many.
    #[error("has more than {KEYS} keys")]
    TooMany,
    /// Nothing in it can verify a token.
    #[error("has no key that can be used: RSA from 2048 bits, P-256, P-384 or Ed25519, for signatures")]
    None,
}

/// The keys in use.
#[derive(Clone, Default)]
pub struct Keys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: Option<String>,
    fits: &'static [Algorithm],
    /// What the set says it is for, if it does.
    only: Option<Algorithm>,
    key: DecodingKey,
}

/// How many there are; what they are is in the file.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Map<String, Value>>,
}

/// Members that only private and shared keys have (RFC 7518 §6).
const SECRET_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];

const RSA: &[Algorithm] = &[
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];

impl Keys {
    /// Reads the text of a JWKS.
    pub fn parse(text: &str) -> Result<Keys, KeysError> {
        // The parser's own message may quote a value.
        let place = |error: serde_json::Error| {
            KeysError::Json(format!("line {} column {}", error.line(), error.column()))
        };
        let set: Set = serde_json::from_str(text).map_err(place)?;
        if set.keys.len() > KEYS {
            return Err(KeysError::TooMany);
        }
        for (number, key) in set.keys.iter().enumerate() {
            let secret = SECRET_MEMBERS.iter().any(|member| key.contains_key(*member));
            if secret || text_of(key, "kty") == Some("oct") {
                return Err(KeysError::Secret(number));
            }
        }
        let keys: Vec<Key> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() { Err(KeysError::None) } else { Ok(Keys(keys)) }
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none, which [`Keys::parse`] never gives.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that a token names, for the algorithm that it names. Without a name there must be one key alone that fits:
    /// nothing is tried out.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found<'_> {
        let mut named = self.0.iter().filter(|key| id.is_none() || key.id.as_deref() == id).peekable();
        if named.peek().is_none() {
            return Found::Unknown;
        }
        let mut fitting = named.filter(|key| key.takes(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Found::Key(&key.key),
            (Some(_), Some(_)) => Found::Unknown,
            (None, _) => Found::ForAnother,
        }
    }
}

/// What became of a search.
pub(crate) enum Found<'a> {
    /// This one.
    Key(&'a DecodingKey),
    /// There is none of this name, or more than one.
    Unknown,
    /// It is there, and is not for this algorithm.
    ForAnother,
}

impl Key {
    fn takes(&self, algorithm: Algorithm) -> bool {
        self.fits.contains(&algorithm) && self.only.is_none_or(|only| only == algorithm)
    }
}

fn text_of<'a>(key: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
    key.get(member).and_then(Value::as_str)
}

/// The key, if it is one that verifies tokens. Providers publish others beside them, for encryption or of newer kinds.
fn usable(key: &Map<String, Value>) -> Option<Key> {
    if text_of(key, "use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let only = match key.get("alg") {
        None => None,
        // An algorithm that is not spoken here.
        Some(named) => Some(Algorithm::parse(named.as_str()?)?),
    };
    let (fits, decoding): (&'static [Algorithm], _) = match (text_of(key, "kty")?, text_of(key, "crv")) {
        ("RSA", _) => {
            let (n, e) = (bytes(key, "n")?, bytes(key, "e")?);
            // 2048 bits and more, up to what is verified in reasonable time.
            if !(256..=1024).contains(&n.len()) {
                return None;
            }
            (RSA, DecodingKey::from_rsa_raw_components(&n, &e))
        }
        ("EC", Some("P-256")) => (&[Algorithm::Es256], point(key, 32)?),
        ("EC", Some("P-384")) => (&[Algorithm::Es384], point(key, 48)?),
        ("OKP", Some("Ed25519")) => {
            (&[Algorithm::EdDsa], DecodingKey::from_ed_der(&bytes(key, "x").filter(|x| x.len() == 32)?))
        }
        _ => return None,
    };
    let key = Key { id: text_of(key, "kid").map(str::to_owned), fits, only, key: decoding };
    // One that is named for an algorithm of another family fits none.
    key.fits.iter().any(|algorithm| key.takes(*algorithm)).then_some(key)
}

/// An uncompressed point (SEC 1 §2.3.3).
fn point(key: &Map<String, Value>, width: usize) -> Option<DecodingKey> {
    let (x, y) = (bytes(key, "x")?, bytes(key, "y")?);
    if x.len() != width || y.len() != width {
        return None;
    }
    Some(DecodingKey::from_ec_der(&[&[4][..], &x, &y].concat()))
}

fn bytes(key: &Map<String, Value>, member: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text_of(key, member)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &str) -> Result<Keys, KeysError> {
        Keys::parse(&format!("{{\"keys\": [{keys}]}}"))
    }

    fn ed(extra: &str) -> String {
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"x\":\"{x}\"{extra}}}")
    }

    #[test]
    fn what_cannot_verify_is_left_out() {
        let rsa_1024 =
            format!("{{\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"AQAB\"}}", URL_SAFE_NO_PAD.encode([9; 128]));
        for other in [
            ed(",\"use\":\"enc\""),
            ed(",\"alg\":\"RS256\""),
            ed(",\"alg\":\"ES512\""),
            "{\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"AA\",\"y\":\"AA\"}".into(),
            "{\"kty\":\"XYZ\"}".into(),
            "{}".into(),
            rsa_1024,
        ] {
            assert_eq!(set(&other).err(), Some(KeysError::None), "{other}");
            assert_eq!(set(&format!("{other},{}", ed(""))).unwrap().len(), 1, "{other}");
        }
        assert_eq!(set(&ed(",\"use\":\"sig\",\"alg\":\"EdDSA\"")).unwrap().len(), 1);
    }

    #[test]
    fn a_secret_refuses_the_file() {
        for secret in ["{\"kty\":\"oct\",\"k\":\"AAAA\"}".to_owned(), ed(",\"d\":\"AAAA\"")] {
            let error = set(&format!("{},{secret}", ed(""))).unwrap_err();
            assert_eq!(error, KeysError::Secret(1));
            assert!(!error.to_string().contains("AAAA"));
        }
    }

    #[test]
    fn what_is_no_set_says_where() {
        for text in ["", "[]", "{\"keys\":{}}", "{}"] {
            assert!(matches!(Keys::parse(text), Err(KeysError::Json(_))), "{text}");
        }
        let many = vec![ed(""); KEYS + 1].join(",");
        assert_eq!(set(&many).err(), Some(KeysError::TooMany));
    }

    #[test]
    fn a_key_is_found_by_its_name_and_never_tried_out() {
        let keys = set(&format!("{},{}", ed(""), ed("").replace("\"a\"", "\"b\""))).unwrap();
        assert!(matches!(keys.find(Some("b"), Algorithm::EdDsa), Found::Key(_)));
        assert!(matches!(keys.find(Some("c"), Algorithm::EdDsa), Found::Unknown));
        assert!(matches!(keys.find(Some("b"), Algorithm::Es256), Found::ForAnother));
        assert!(matches!(keys.find(None, Algorithm::EdDsa), Found::Unknown), "two could be meant");
        assert!(matches!(set(&ed("")).unwrap().find(None, Algorithm::EdDsa), Found::Key(_)));
    }
}
