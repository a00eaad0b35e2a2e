//! A token of an identity provider, as a user shows it: its form alone. Whether it stands for anybody is decided where
//! the providers' keys are.
//!
//! **Invariant:** a `Jwt` wipes itself, and has no printable form but `expose`.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::TokenDigest;
use crate::limits::MAX_JWT_BYTES;

/// The text is no JWS in its compact form, or a longer one than is taken. Says nothing about the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a JWT must be three parts of base64url with dots between them, of {MAX_JWT_BYTES} bytes at most")]
pub struct JwtFormError;

/// A JSON Web Signature in its compact form (RFC 7515 §7.1), not verified.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Jwt(Zeroizing<String>);

impl Jwt {
    /// Takes three parts of base64url, none of them empty.
    pub fn parse(text: &str) -> Result<Self, JwtFormError> {
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        };
        let mut parts = text.split('.');
        let three = parts.by_ref().take(3).filter(|part| is_part(part)).count() == 3;
        if text.len() > MAX_JWT_BYTES || !three || parts.next().is_some() {
            return Err(JwtFormError);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// SHA-256 over the text: tells one from others without being of use to anybody.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::from_bytes(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The secret text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jwt(…)")
    }
}

impl TryFrom<String> for Jwt {
    type Error = JwtFormError;
    fn try_from(text: String) -> Result<Self, JwtFormError> {
        let text = Zeroizing::new(text);
        Self::parse(&text)
    }
}

impl From<Jwt> for String {
    fn from(jwt: Jwt) -> String {
        jwt.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts_and_nothing_else() {
        let jwt = Jwt::parse("aA0-_.b.c").unwrap();
        assert_eq!(format!("{jwt:?}"), "Jwt(…)");
        let long = format!("a.b.{}", "c".repeat(MAX_JWT_BYTES));
        for bad in [
            "",
            "a",
            "a.b",
            "a.b.",
            ".b.c",
            "a..c",
            "a.b.c.d",
            "a.b.c.d.e",
            "a.b.c=",
            "a.b.c ",
            "a.b.ü",
            &long,
        ] {
            assert!(Jwt::parse(bad).is_err(), "{bad}");
        }
    }
}
