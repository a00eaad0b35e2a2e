//! What a user shows: an API token or the token of an identity provider in `Authorization`, or else a certificate in the
//! handshake.
//!
//! **Invariant:** what edge finds out about a provider's token saves storaged a question and nothing more: the token
//! goes along as it came, and storaged verifies it with keys of its own.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use identity::Issuers;
use store_proto::{ClientChain, Jwt, PrincipalId, Proof, Token};

use crate::plan::single;
use crate::refusal::Refusal;

/// The proof; a token goes before a certificate.
pub(crate) fn proof(head: &Parts) -> Result<Proof, Refusal> {
    let Some(value) = single(&head.headers, &AUTHORIZATION, "Authorization")? else {
        let shown = head.extensions.get::<Arc<ClientChain>>();
        let shown = shown.ok_or(Refusal::Unauthenticated("there is none"))?;
        if is_from_another_site(head) {
            return Err(Refusal::Unauthenticated(
                "a page of another site has no use of the browser's certificate",
            ));
        }
        return Ok(Proof::Certificate(ClientChain::clone(shown)));
    };
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

/// Whether a page that is not ours led a browser here: it shows its certificate to whomever it is led to, without having
/// been asked. What it says of its own accord (Fetch Metadata, and `Origin` of RFC 6454) decides; other programs say
/// neither.
fn is_from_another_site(head: &Parts) -> bool {
    let led =
        head.headers.get_all("sec-fetch-site").iter().any(|site| site != "same-origin" && site != "none");
    let host = head.uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| head.headers.get(HOST)?.to_str().ok());
    let ours = host.map(|host| format!("https://{host}"));
    led || head.headers.get_all(ORIGIN).iter().any(|origin| ours.as_deref().is_none_or(|ours| origin != ours))
}

/// Tells whoever shows it from others, and is of use to nobody.
pub(crate) fn principal(proof: &Proof) -> Option<PrincipalId> {
    match proof {
        Proof::Token(token) => Some(PrincipalId::of(&token.digest())),
        Proof::Jwt(jwt) => Some(PrincipalId::of(&jwt.digest())),
        Proof::Certificate(chain) => Some(PrincipalId::of(&chain.digest())),
        Proof::Capability(_) => None,
    }
}

/// Refuses a provider's token that storaged could not take either. Nothing, or a token of ours, passes: whether it is
/// needed is not known here, and whom it stands for storaged alone knows.
pub(crate) fn refuse_early(head: &Parts, issuers: &Issuers, now_s: u64) -> Result<(), Refusal> {
    match proof(head) {
        Ok(Proof::Jwt(jwt)) => issuers.verify(&jwt, now_s).map(drop).map_err(Refusal::Provider),
        Ok(Proof::Token(_) | Proof::Certificate(_) | Proof::Capability(_)) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(headers: &[(&str, &str)], uri: &str) -> Result<Proof, Refusal> {
        let mut request = http::Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        head.extensions.insert(Arc::new(ClientChain::new(vec![vec![1]]).unwrap()));
        proof(&head)
    }

    #[test]
    fn a_page_of_another_site_cannot_use_a_browsers_certificate() {
        let host = ("host", "web1:8443");
        for ours in [
            vec![],
            vec![host],
            vec![host, ("sec-fetch-site", "same-origin"), ("origin", "https://web1:8443")],
            vec![host, ("sec-fetch-site", "none")],
        ] {
            assert!(matches!(shown(&ours, "/v1/policy"), Ok(Proof::Certificate(_))), "{ours:?}");
        }
        assert!(shown(&[("origin", "https://web1:8443")], "https://web1:8443/v1/policy").is_ok(), "HTTP/2");
        for theirs in [
            vec![host, ("sec-fetch-site", "cross-site")],
            vec![host, ("sec-fetch-site", "same-site")],
            vec![host, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            vec![host, ("origin", "https://elsewhere.example")],
            vec![host, ("origin", "https://web1")],
            vec![host, ("origin", "http://web1:8443")],
            vec![host, ("origin", "null")],
            vec![("origin", "https://web1:8443")],
        ] {
            assert!(matches!(shown(&theirs, "/v1/policy"), Err(Refusal::Unauthenticated(_))), "{theirs:?}");
        }
    }
}
