//! Lock-outs and rates: whom edge does not listen to for a while, told to storaged for the record. Lock-outs are read back
//! when edge starts; a rate begins anew.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::TokenDigest;

/// Somebody is listened to no more until a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lockout {
    /// Where the last failed attempt came from; who is locked out, if no principal is named.
    pub client_address: IpAddr,
    /// Who is locked out, wherever it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<PrincipalId>,
    /// Until when, by edge's clock, in milliseconds since 1970.
    pub until_ms: u64,
    /// Why.
    #[serde(default, skip_serializing_if = "LockoutReason::is_failures")]
    pub reason: LockoutReason,
}

/// Why somebody is not listened to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockoutReason {
    /// They failed to show who they are, too often.
    #[default]
    Failures,
    /// They asked faster than they may.
    Rate,
}

impl LockoutReason {
    fn is_failures(&self) -> bool {
        *self == LockoutReason::Failures
    }
}

/// Those of one edge that still hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lockouts {
    /// Oldest first.
    pub lockouts: Vec<Lockout>,
}

/// Tells one shown token from others without being of use to anybody: the first 128 bits of its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PrincipalId(pub u128);

/// The text is no [`PrincipalId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a principal is 32 lower-case hexadecimal digits")]
pub struct PrincipalError;

impl PrincipalId {
    /// Of a token's digest.
    pub fn of(digest: &TokenDigest) -> PrincipalId {
        let bytes = digest.as_bytes().first_chunk().copied().unwrap_or_default();
        PrincipalId(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<PrincipalId> for String {
    fn from(id: PrincipalId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for PrincipalId {
    type Error = PrincipalError;

    fn try_from(text: String) -> Result<Self, PrincipalError> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(PrincipalError);
        }
        u128::from_str_radix(&text, 16).map(PrincipalId).map_err(|_| PrincipalError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Token;

    #[test]
    fn a_lockout_has_one_spelling() {
        let principal = Some(PrincipalId::of(&Token::from_bytes([1; 32]).digest()));
        let reason = LockoutReason::Rate;
        let lockout = Lockout { client_address: [192, 0, 2, 7].into(), principal, until_ms: 5, reason };
        let json = serde_json::to_string(&lockout).unwrap();
        assert_eq!(serde_json::from_str::<Lockout>(&json).unwrap(), lockout);
        let unsaid = json.replace(",\"reason\":\"rate\"", "");
        assert_eq!(serde_json::from_str::<Lockout>(&unsaid).unwrap().reason, LockoutReason::Failures);
        for wrong in [json.replace("principal\":\"", "principal\":\"A"), json.replace("until", "til")] {
            assert!(serde_json::from_str::<Lockout>(&wrong).is_err(), "{wrong}");
        }
    }
}
