//! API tokens: what a user shows, and the digest that storaged keeps instead.
//!
//! **Invariant:** a `Token` wipes itself, has no printable form but `expose`, and is never stored;
//! a `TokenDigest` is compared in constant time.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::hex;

/// Makes a leaked token easy to find with a search, and to tell from other secrets.
const PREFIX: &str = "cvt_";
/// 32 bytes in base64url without padding.
const BODY_CHARACTERS: usize = 43;

/// Why a text is not a token. Says nothing about the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not `cvt_` and 43 base64url characters.
    #[error("a token must be `cvt_` and 43 base64url characters")]
    Format,
    /// Not 64 lower-case hexadecimal digits.
    #[error("a token's SHA-256 must be 64 lower-case hexadecimal digits")]
    Digest,
}

/// A bearer token, well-formed. Whether it stands for anybody is storaged's to say.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes `cvt_` and 43 base64url characters.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::Format)?;
        if body.len() != BODY_CHARACTERS {
            return Err(TokenError::Format);
        }
        // The engine also refuses set trailing bits, so a token has one spelling.
        let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Format)?);
        if decoded.len() != 32 {
            return Err(TokenError::Format);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Makes a token of 32 bytes, which the caller drew at random. The argument is wiped.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        bytes.zeroize();
        Self(Zeroizing::new(text))
    }

    /// What storaged keeps: SHA-256 over the token's text, so that
    /// `printf %s "$TOKEN" | sha256sum` gives the same.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The secret text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl TryFrom<String> for Token {
    type Error = TokenError;
    fn try_from(text: String) -> Result<Self, TokenError> {
        let text = Zeroizing::new(text);
        Self::parse(&text)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> String {
        token.0.to_string()
    }
}

/// SHA-256 of a token's text.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Takes 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        hex::decode(text).map(Self).ok_or(TokenError::Digest)
    }

    /// The digest of another secret that is shown like a token.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
    pub fn matches(&self, other: &TokenDigest) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl FromStr for TokenDigest {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for TokenDigest {
    type Error = TokenError;
    fn try_from(text: String) -> Result<Self, TokenError> {
        Self::parse(&text)
    }
}

impl From<TokenDigest> for String {
    fn from(digest: TokenDigest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_token_parses_and_digests_alike() {
        let made = Token::from_bytes([9; 32]);
        let parsed = Token::parse(made.expose()).unwrap();
        assert!(made.digest().matches(&parsed.digest()));
        assert!(!made.digest().matches(&Token::from_bytes([8; 32]).digest()));
        assert_eq!(
            TokenDigest::parse(&made.digest().to_string()).unwrap().to_string(),
            made.digest().to_string()
        );
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let good = Token::from_bytes([0xff; 32]);
        let good = good.expose();
        for bad in [
            String::new(),
            "cvt_".into(),
            good[4..].into(),
            good[..good.len() - 1].into(),
            format!("{good}A"),
            format!(" {good}"),
            good.to_uppercase(),
            // Trailing bits set: decodes to the same bytes in a lax decoder.
            format!("{}9", &good[..good.len() - 1]),
            good.replace('_', "/"),
        ] {
            assert!(Token::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_does_not_print_itself() {
        let token = Token::from_bytes([9; 32]);
        assert!(!format!("{token:?}").contains(&token.expose()[4..]));
    }
}
