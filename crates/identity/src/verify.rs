//! From a token to somebody, or to the reason why not.
//!
//! The order is: form, provider, key, algorithm, signature, and only then what the claims say. RFC 8725 is followed
//! throughout; its sections stand where they are met.

use jsonwebtoken::{Header, Validation, dangerous, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};
use store_proto::{Jwt, UserName};

use crate::issuer::{Algorithm, Issuer};
use crate::keys::Found;
use crate::limits::{LEEWAY_SECONDS, SUBJECT_BYTES};
use crate::{crypto, principal};

/// Somebody whom a provider vouches for at this moment.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The name in records: provider and subject.
    pub principal: UserName,
    /// The provider's short name.
    pub issuer: String,
    /// When the token runs out, in seconds since 1970.
    pub expires_s: u64,
    /// All that the token says.
    pub(crate) claims: Map<String, Value>,
}

/// Why a token is not taken. Nothing of the token is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// No JWS with a JSON object in it, or one that asks for what is not understood here.
    #[error("it is no signed token that is understood here")]
    Malformed,
    /// `none`, a shared secret, or an algorithm that the provider or the key is not for.
    #[error("its algorithm is not one that is taken from this provider with this key")]
    Algorithm,
    /// Nobody we know made it.
    #[error("its issuer is not one of those that are known here")]
    Issuer,
    /// The provider has no such key, as far as is known here.
    #[error(
        "it is signed with a key that is not known here; if the provider has changed its keys, its JWKS must be brought"
    )]
    Key,
    /// It was altered, or signed by somebody else.
    #[error("its signature is wrong")]
    Signature,
    /// It was made for somebody else.
    #[error("it was made for another audience")]
    Audience,
    /// It says nobody.
    #[error("it names no subject")]
    Subject,
    /// It has run out, or does not say when it does.
    #[error("it has expired")]
    Expired,
    /// It is from the future.
    #[error("it is not valid yet")]
    NotYet,
}

impl JwtError {
    /// Whether whoever shows it may be guessing. A token that was good until lately is no attack, and neither is a key
    /// that has not been brought yet.
    pub fn is_suspicious(self) -> bool {
        match self {
            JwtError::Malformed
            | JwtError::Algorithm
            | JwtError::Issuer
            | JwtError::Signature
            | JwtError::Audience
            | JwtError::Subject => true,
            JwtError::Key | JwtError::Expired | JwtError::NotYet => false,
        }
    }
}

/// Which provider to ask: the one thing that is read before the signature is verified.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

pub(crate) fn verify(issuers: &[Issuer], jwt: &Jwt, now_s: u64) -> Result<Verified, JwtError> {
    let header = head(jwt)?;
    let claimed = dangerous::insecure_decode::<Claimed>(jwt.expose()).map_err(|_| JwtError::Malformed)?;
    let issuer = issuers.iter().find(|issuer| issuer.rules.url == claimed.claims.iss);
    let issuer = issuer.ok_or(JwtError::Issuer)?;
    let claims = signed(issuer, jwt, &header)?;
    let Some(subject) = claims.get("sub").and_then(Value::as_str).filter(|subject| is_subject(subject))
    else {
        return Err(JwtError::Subject);
    };
    // §3.8: what is verified is what was chosen by.
    if claims.get("iss").and_then(Value::as_str) != Some(&issuer.rules.url) {
        return Err(JwtError::Issuer);
    }
    audience(issuer, &claims)?;
    // RFC 7800: good only for who proves to have a key, which nobody is asked for here; as a bearer's it would be less.
    if claims.contains_key("cnf") {
        return Err(JwtError::Malformed);
    }
    let expires_s = time(&claims, now_s)?;
    let principal = principal::name(&issuer.rules.name, subject).ok_or(JwtError::Subject)?;
    Ok(Verified { principal, issuer: issuer.rules.name.clone(), expires_s, claims })
}

fn head(jwt: &Jwt) -> Result<Header, JwtError> {
    let header = decode_header(jwt.expose()).map_err(|_| JwtError::Malformed)?;
    // RFC 7515 §4.1.11: what is critical and not understood refuses the token.
    if header.crit.is_some() {
        return Err(JwtError::Malformed);
    }
    // §3.11: tokens of other kinds are signed with the same keys.
    let kind = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    match kind.strip_prefix("application/").unwrap_or(&kind) {
        "jwt" | "at+jwt" => Ok(header),
        _ => Err(JwtError::Malformed),
    }
}

/// The claims, after the signature. Keys and addresses of keys that stand in the token itself are not looked at.
fn signed(issuer: &Issuer, jwt: &Jwt, header: &Header) -> Result<Map<String, Value>, JwtError> {
    let algorithm = Algorithm::of(header.alg).filter(|algorithm| issuer.rules.algorithms.contains(algorithm));
    let algorithm = algorithm.ok_or(JwtError::Algorithm)?;
    let key = match issuer.keys.find(header.kid.as_deref(), algorithm) {
        Found::Key(key) => key,
        Found::Unknown => return Err(JwtError::Key),
        Found::ForAnother => return Err(JwtError::Algorithm),
    };
    crypto::install();
    let mut rules = Validation::new(header.alg);
    // The claims are judged below, by a time that is given.
    rules.required_spec_claims.clear();
    (rules.validate_exp, rules.validate_nbf, rules.validate_aud) = (false, false, false);
    decode::<Map<String, Value>>(jwt.expose(), key, &rules)
        .map(|token| token.claims)
        .map_err(|_| JwtError::Signature)
}

fn is_subject(subject: &str) -> bool {
    (1..=SUBJECT_BYTES).contains(&subject.len())
}

/// §3.9.
fn audience(issuer: &Issuer, claims: &Map<String, Value>) -> Result<(), JwtError> {
    let ours =
        |one: &Value| one.as_str().is_some_and(|one| issuer.rules.audiences.iter().any(|our| our == one));
    let holds = match claims.get("aud") {
        Some(Value::Array(several)) => several.iter().any(ours),
        Some(one) => ours(one),
        None => false,
    };
    if holds { Ok(()) } else { Err(JwtError::Audience) }
}

/// `exp` must be there; `nbf` and `iat` hold if they are.
fn time(claims: &Map<String, Value>, now_s: u64) -> Result<u64, JwtError> {
    let expires_s = seconds(claims, "exp")?.ok_or(JwtError::Expired)?;
    if expires_s.saturating_add(LEEWAY_SECONDS) <= now_s {
        return Err(JwtError::Expired);
    }
    for begin in ["nbf", "iat"] {
        if seconds(claims, begin)?.is_some_and(|begin| begin > now_s.saturating_add(LEEWAY_SECONDS)) {
            return Err(JwtError::NotYet);
        }
    }
    Ok(expires_s)
}

/// A NumericDate (RFC 7519 §2), which may have a fraction.
fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, JwtError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(whole) = value.as_u64() {
        return Ok(Some(whole));
    }
    let fraction =
        value.as_f64().filter(|seconds| (0.0..1e12).contains(seconds)).ok_or(JwtError::Malformed)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 10^12, as just seen"
    )]
    Ok(Some(fraction as u64))
}

#[cfg(test)]
mod tests;
