//! An identity provider, as an operator describes it.

use std::fmt;

use jsonwebtoken::Algorithm as Theirs;
use serde::Deserialize;
use store_proto::Jwt;

use crate::limits::{AUDIENCES, ISSUER_NAME_BYTES, ISSUERS, TEXT_BYTES};
use crate::verify::{self, JwtError, Verified};
use crate::{Keys, KeysError};

/// `[[issuer]]`, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIssuer {
    name: Option<String>,
    url: Option<String>,
    audiences: Option<Vec<String>>,
    algorithms: Option<Vec<String>>,
    jwks_file: Option<String>,
}

/// A way to sign. The closed list has no `none`, and nothing that works with a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// With SHA-384.
    Rs384,
    /// With SHA-512.
    Rs512,
    /// RSA-PSS with SHA-256.
    Ps256,
    /// With SHA-384.
    Ps384,
    /// With SHA-512.
    Ps512,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// ECDSA with P-384 and SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// The word of RFC 7518 and RFC 8037.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// Finds one by its word.
    pub fn parse(name: &str) -> Option<Algorithm> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub(crate) fn of(theirs: Theirs) -> Option<Algorithm> {
        match theirs {
            Theirs::RS256 => Some(Algorithm::Rs256),
            Theirs::RS384 => Some(Algorithm::Rs384),
            Theirs::RS512 => Some(Algorithm::Rs512),
            Theirs::PS256 => Some(Algorithm::Ps256),
            Theirs::PS384 => Some(Algorithm::Ps384),
            Theirs::PS512 => Some(Algorithm::Ps512),
            Theirs::ES256 => Some(Algorithm::Es256),
            Theirs::ES384 => Some(Algorithm::Es384),
            Theirs::EdDSA => Some(Algorithm::EdDsa),
            Theirs::HS256 | Theirs::HS384 | Theirs::HS512 => None,
            // One that the crate learns later is refused until it is looked at here.
            _ => None,
        }
    }
}

/// An identity provider, before its keys are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerRules {
    /// Its short name, which stands before the subject in records.
    pub name: String,
    /// Its `iss`, to the letter.
    pub url: String,
    /// One of these must be in a token's `aud`.
    pub audiences: Vec<String>,
    /// The algorithms that are taken from it.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are: a path, or `credential:NAME`.
    pub jwks_file: String,
}

/// The lines of a file that would give the same.
impl fmt::Display for IssuerRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<&str> = self.algorithms.iter().map(|algorithm| algorithm.name()).collect();
        writeln!(f, "[[issuer]]\nname = {:?}\nurl = {:?}", self.name, self.url)?;
        writeln!(f, "audiences = {:?}\nalgorithms = {algorithms:?}", self.audiences)?;
        writeln!(f, "jwks_file = {:?}", self.jwks_file)
    }
}

/// What most providers sign with.
const USUAL: [Algorithm; 4] = [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa];

impl IssuerRules {
    /// Understands what is written; `wrong` is told the key and what is the matter with it.
    pub fn understand(raw: &[RawIssuer], wrong: &mut dyn FnMut(&str, String)) -> Vec<IssuerRules> {
        if raw.len() > ISSUERS {
            wrong("issuer", format!("there are {}, and {ISSUERS} at most", raw.len()));
        }
        let mut rules: Vec<IssuerRules> = Vec::new();
        for (at, raw) in raw.iter().enumerate() {
            let mut add = |key: &str, what: String| wrong(&format!("issuer[{at}].{key}"), what);
            let Some(one) = understand(raw, &mut add) else { continue };
            if rules.iter().any(|other| other.name == one.name) {
                add("name", format!("{:?} stands twice", one.name));
            } else if rules.iter().any(|other| other.url == one.url) {
                add("url", format!("{:?} stands twice", one.url));
            } else {
                rules.push(one);
            }
        }
        rules
    }

    /// With its keys.
    pub fn with_keys(self, jwks: &str) -> Result<Issuer, KeysError> {
        Ok(Issuer { rules: self, keys: Keys::parse(jwks)? })
    }
}

fn understand(raw: &RawIssuer, wrong: &mut dyn FnMut(&str, String)) -> Option<IssuerRules> {
    let mut text = |key: &str, value: &Option<String>, hint: &str, rule: fn(&str) -> bool| match value {
        Some(value) if rule(value) => Some(value.clone()),
        Some(value) => {
            wrong(key, format!("{value:?} is not {hint}"));
            None
        }
        None => {
            wrong(key, format!("is missing: {hint}"));
            None
        }
    };
    let name_hint = "a short name for records: 1 to 32 characters of a-z, 0-9 and -, beginning with a letter, and not `internal`";
    let name = text("name", &raw.name, name_hint, is_name);
    let url_hint = "the provider's iss, to the letter: https://…";
    let url = text("url", &raw.url, url_hint, |url| url.starts_with("https://") && fits(url));
    let file_hint = "the file of its keys (JWKS): a path, or credential:NAME";
    let jwks_file = text("jwks_file", &raw.jwks_file, file_hint, fits);
    let audiences = raw.audiences.clone().unwrap_or_default();
    let audiences_fit = (1..=AUDIENCES).contains(&audiences.len()) && audiences.iter().all(|one| fits(one));
    if !audiences_fit {
        let hint = "must name 1 to 16: the client ids or API identifiers that tokens for us are made for";
        wrong("audiences", hint.to_owned());
    }
    let mut algorithms = Vec::new();
    match &raw.algorithms {
        None => algorithms.extend(USUAL),
        Some(names) => {
            for name in names {
                match Algorithm::parse(name) {
                    Some(algorithm) => algorithms.push(algorithm),
                    None => {
                        let known: Vec<&str> = Algorithm::ALL.iter().map(|one| one.name()).collect();
                        wrong("algorithms", format!("{name:?} is none of {}", known.join(", ")));
                    }
                }
            }
            if names.is_empty() {
                wrong("algorithms", "is empty: leave it out, or name one".to_owned());
            }
        }
    }
    let (name, url, jwks_file) = (name?, url?, jwks_file?);
    (audiences_fit && !algorithms.is_empty()).then_some(IssuerRules {
        name,
        url,
        audiences,
        algorithms,
        jwks_file,
    })
}

fn is_name(text: &str) -> bool {
    // Before a subject it would make a daemon's name of it.
    text != "internal"
        && (1..=ISSUER_NAME_BYTES).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

pub(crate) fn fits(text: &str) -> bool {
    (1..=TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// An identity provider that tokens are taken from.
#[derive(Debug, Clone)]
pub struct Issuer {
    pub(crate) rules: IssuerRules,
    pub(crate) keys: Keys,
}

impl Issuer {
    /// What the operator says of it.
    pub fn rules(&self) -> &IssuerRules {
        &self.rules
    }

    /// How many keys it has.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Issuers(Vec<Issuer>);

impl Issuers {
    /// Puts them together.
    pub fn new(issuers: Vec<Issuer>) -> Issuers {
        Issuers(issuers)
    }

    /// Whether tokens of providers are taken at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Issuer> {
        self.0.iter()
    }

    /// Verifies a token at the time `now_s`, in seconds since 1970.
    pub fn verify(&self, jwt: &Jwt, now_s: u64) -> Result<Verified, JwtError> {
        verify::verify(&self.0, jwt, now_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(change: impl Fn(&mut RawIssuer)) -> Vec<String> {
        let mut raw = RawIssuer {
            name: Some("clinic".into()),
            url: Some("https://idp.example.org/realms/clinic".into()),
            audiences: Some(vec!["culvert".into()]),
            algorithms: None,
            jwks_file: Some("/etc/culvert/clinic.jwks".into()),
        };
        change(&mut raw);
        let mut found = Vec::new();
        let rules = IssuerRules::understand(&[raw], &mut |key, what| found.push(format!("{key}: {what}")));
        assert_eq!(rules.is_empty(), !found.is_empty());
        found
    }

    #[test]
    fn a_provider_has_usual_algorithms_and_every_mistake_names_its_key() {
        assert_eq!(mistakes(|_| {}), Vec::<String>::new());
        type Row = (&'static str, fn(&mut RawIssuer));
        let table: [Row; 8] = [
            ("issuer[0].name: is missing", |raw| raw.name = None),
            ("issuer[0].name: \"a:b\"", |raw| raw.name = Some("a:b".into())),
            ("issuer[0].url: \"http://x\"", |raw| raw.url = Some("http://x".into())),
            ("issuer[0].audiences: must", |raw| raw.audiences = None),
            ("issuer[0].algorithms: \"HS256\"", |raw| raw.algorithms = Some(vec!["HS256".into()])),
            ("issuer[0].algorithms: \"none\"", |raw| raw.algorithms = Some(vec!["none".into()])),
            ("issuer[0].algorithms: is empty", |raw| raw.algorithms = Some(Vec::new())),
            ("issuer[0].jwks_file: is missing", |raw| raw.jwks_file = None),
        ];
        for (expected, change) in table {
            let found = mistakes(change);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn every_algorithm_has_its_word_and_no_other_does() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
        }
        for none in ["none", "NONE", "HS256", "HS512", "ES256K", "rs256", ""] {
            assert_eq!(Algorithm::parse(none), None, "{none}");
        }
    }
}
