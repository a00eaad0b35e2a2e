//! What a user shows in `Authorization`: an API token, or the token of an identity provider.
//!
//! **Invariant:** what edge finds out about a provider's token saves storaged a question and nothing more: the token
//! goes along as it came, and storaged verifies it with keys of its own.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use identity::Issuers;
use store_proto::{Jwt, PrincipalId, Proof, Token};

use crate::plan::single;
use crate::refusal::Refusal;

/// The proof in the header.
pub(crate) fn proof(headers: &HeaderMap) -> Result<Proof, Refusal> {
    let value = single(headers, &AUTHORIZATION, "Authorization")?;
    let value = value.ok_or(Refusal::Unauthenticated("there is none"))?;
    let (scheme, credentials) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::Unauthenticated("the scheme is another"));
    }
    let credentials = credentials.trim();
    // The two cannot be taken for one another: a token of ours has no dot.
    match credentials.contains('.') {
        true => Jwt::parse(credentials)
            .map(Proof::Jwt)
            .map_err(|_| Refusal::Unauthenticated("the JWT is malformed")),
        false => Token::parse(credentials)
            .map(Proof::Token)
            .map_err(|_| Refusal::Unauthenticated("the token is malformed")),
    }
}

/// Tells whoever shows it from others, and is of use to nobody.
pub(crate) fn principal(proof: &Proof) -> Option<PrincipalId> {
    match proof {
        Proof::Token(token) => Some(PrincipalId::of(&token.digest())),
        Proof::Jwt(jwt) => Some(PrincipalId::of(&jwt.digest())),
        Proof::Capability(_) => None,
    }
}

/// Refuses a provider's token that storaged could not take either. Nothing, or a token of ours, passes: whether it is
/// needed is not known here, and whom it stands for storaged alone knows.
pub(crate) fn refuse_early(headers: &HeaderMap, issuers: &Issuers, now_s: u64) -> Result<(), Refusal> {
    match proof(headers) {
        Ok(Proof::Jwt(jwt)) => issuers.verify(&jwt, now_s).map(drop).map_err(Refusal::Provider),
        Ok(Proof::Token(_) | Proof::Capability(_)) | Err(_) => Ok(()),
    }
}
