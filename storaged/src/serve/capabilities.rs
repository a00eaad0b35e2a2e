//! Links: made, revoked and listed by users, and used by whoever holds one.
//!
//! **Invariant:** a link opens its own file, within its own range, and nothing else; its use is counted before the
//! request goes on, and taken back if the answer is a refusal.

use std::sync::Arc;

use http::header::{HeaderValue, RANGE};
use http::{HeaderMap, Method, StatusCode};
use hyper::Request;
use hyper::body::Incoming;
use store_proto::{
    Action as Asked, Capability, CapabilityClaims, CapabilityMethod, FileId, NewCapability, ProblemKind,
    RequestContext,
};

use crate::denial::Denial;
use crate::ledger::capability::{self, Command, Link, Outcome};
use crate::ledger::tables;
use crate::limits::VOUCHED_LINK_SECONDS;
use crate::policy::{Policy, Rights, User};
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::incoming::new_id;
use crate::serve::permissions::{read_json, unreadable};
use crate::serve::routes::{deny, deny_file};
use crate::store::Store;

/// `POST /internal/v1/capabilities`: makes a link to a file that the user may read.
pub async fn create(
    request: Request<Incoming>,
    admitted: &Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    let asked: NewCapability = read_json(request, admitted, store).await?;
    if let Err(detail) = asked.check() {
        let refusal = deny(store, Denial::Malformed, admitted.origin.clone(), None, None).await;
        return Err(Refusal { detail: Some(detail), ..refusal });
    }
    let row = store.ledger.reader().file(asked.file_id).map_err(unreadable)?;
    let row = row.ok_or(Refusal::of(ProblemKind::UnknownFile))?;
    if let Err(denial) = admitted.authorize(&row.cohort, Asked::Download) {
        return Err(deny_file(store, denial, admitted.origin.clone(), &row).await);
    }
    if asked.range.is_some_and(|(_, last)| last >= row.size) {
        return Err(Refusal::of(ProblemKind::RangeNotSatisfiable));
    }
    let vouched = admitted.user().rights != Rights::Book;
    if vouched && asked.expires_in > VOUCHED_LINK_SECONDS {
        let detail = format!(
            "expires_in may be {VOUCHED_LINK_SECONDS} at most for whom an identity provider vouches: what they may \
             is known only while they are here"
        );
        let refusal = deny(store, Denial::Malformed, admitted.origin.clone(), None, None).await;
        return Err(Refusal { detail: Some(detail), ..refusal });
    }
    let id = new_id(store)?;
    let now_ms = store.clock.unix_milliseconds();
    let expires_s = now_ms / 1000 + asked.expires_in;
    let link = Link {
        cohort: row.cohort,
        created_ms: now_ms,
        expires_ms: expires_s * 1000,
        file_id: asked.file_id,
        id,
        max_uses: asked.max_uses,
        recent: Vec::new(),
        revoked: false,
        used: 0,
        user: admitted.user().name.clone(),
        v: 1,
        vouched,
    };
    let command = Command::Create { origin: admitted.origin.clone(), link: Box::new(link) };
    match store.ledger.submit(command).await? {
        Outcome::Created => {}
        Outcome::Refused(refusal) => return Err(Refusal::because(ProblemKind::RateLimited, refusal)),
        other @ (Outcome::Revoked(_) | Outcome::Counted | Outcome::Resumed | Outcome::Returned) => {
            return Err(unexpected(&other));
        }
    }
    let claims = CapabilityClaims {
        id,
        method: CapabilityMethod::Get,
        file_id: asked.file_id,
        expires_s,
        range: asked.range.map(|(first, last)| first..last + 1),
        network: asked.network,
        certificate: asked.certificate,
    };
    let made = serde_json::json!({
        "capability_id": id,
        "capability": store.signer.sign(claims).expose(),
        "expires": tables::rfc3339(expires_s * 1000),
    });
    Ok(answer::json(StatusCode::CREATED, &made))
}

/// `GET /internal/v1/capabilities`: the user's own links, without what opens them.
pub fn list(admitted: &Admitted, store: &Store) -> Result<Answer, Refusal> {
    let snapshot = store.ledger.reader().snapshot().map_err(unreadable)?;
    let links = capability::list(&snapshot, Some(&admitted.user().name)).map_err(unreadable)?;
    let now_ms = store.clock.unix_milliseconds();
    let links: Vec<serde_json::Value> = links.iter().map(|link| describe(link, now_ms)).collect();
    Ok(answer::json(StatusCode::OK, &serde_json::json!({ "capabilities": links })))
}

/// What may be told of a link.
pub fn describe(link: &Link, now_ms: u64) -> serde_json::Value {
    serde_json::json!({
        "capability_id": link.id,
        "user": link.user,
        "cohort": link.cohort,
        "file_id": link.file_id,
        "created": tables::rfc3339(link.created_ms),
        "expires": tables::rfc3339(link.expires_ms),
        "max_uses": link.max_uses,
        "used": link.used,
        "ended": link.has_ended(now_ms) || link.used >= link.max_uses,
    })
}

/// `DELETE /internal/v1/capabilities/{id}`: ends one of the user's own links, and what runs through it.
pub async fn revoke(id: FileId, admitted: &Admitted, store: &Arc<Store>) -> Result<Answer, Refusal> {
    let of = Some(admitted.user().name.clone());
    let command = Command::Revoke { origin: admitted.origin.clone(), id, of };
    match store.ledger.submit(command).await? {
        Outcome::Revoked(_) => {
            store.live.end_link(id);
            Ok(answer::json(StatusCode::OK, &serde_json::json!({ "revoked": id })))
        }
        Outcome::Refused(_) => Err(Refusal::of(ProblemKind::NotFound)),
        other @ (Outcome::Created | Outcome::Counted | Outcome::Resumed | Outcome::Returned) => {
            Err(unexpected(&other))
        }
    }
}

/// For whom a link speaks, if it is ours, has not ended and may be used from here and by this client.
pub fn holder(
    store: &Store,
    policy: &Policy,
    shown: &Capability,
    context: &RequestContext,
    now_ms: u64,
) -> Result<(User, CapabilityClaims), Denial> {
    let claims = shown.verify(&store.signer.key()).map_err(|_| Denial::Capability)?;
    let snapshot = store.ledger.reader().snapshot().map_err(|_| Denial::Capability)?;
    let link = capability::find(&snapshot, claims.id).ok().flatten().ok_or(Denial::Capability)?;
    if claims.is_expired(now_ms) || link.has_ended(now_ms) {
        return Err(Denial::CapabilityEnded);
    }
    if !claims.is_open_to(context.client_address, context.certificate) || claims.file_id != link.file_id {
        return Err(Denial::CapabilityScope);
    }
    let user = match link.vouched {
        false => policy.named(&link.user)?,
        true => policy.vouched_before(&link.user, &link.cohort)?,
    };
    Ok((user, claims.clone()))
}

/// Checks what a link is used for, narrows the request to its range, and counts the use.
pub async fn begin_use(
    claims: &CapabilityClaims,
    file: Option<FileId>,
    method: &Method,
    headers: &mut HeaderMap,
    admitted: &Admitted,
    store: &Store,
) -> Result<Option<FileId>, Refusal> {
    let reads = claims.method == CapabilityMethod::Get && (method == Method::GET || method == Method::HEAD);
    let narrowed = narrow(headers, claims.range.as_ref().map(|range| (range.start, range.end)));
    let (Some(later_stretch), true, true) = (narrowed, reads, file == Some(claims.file_id)) else {
        return Err(deny(store, Denial::CapabilityScope, admitted.origin.clone(), None, None).await);
    };
    if method == Method::HEAD {
        return Ok(None);
    }
    let command = Command::Use { origin: admitted.origin.clone(), id: claims.id, later_stretch };
    let denial = match store.ledger.submit(command).await? {
        Outcome::Counted => return Ok(Some(claims.id)),
        Outcome::Resumed => return Ok(None),
        Outcome::Refused(capability::Refusal::UsedUp) => Denial::CapabilityUsed,
        Outcome::Refused(capability::Refusal::Ended) => Denial::CapabilityEnded,
        Outcome::Refused(capability::Refusal::Unknown | capability::Refusal::TooMany) => Denial::Capability,
        other @ (Outcome::Created | Outcome::Revoked(_) | Outcome::Returned) => {
            return Err(unexpected(&other));
        }
    };
    Err(deny(store, denial, admitted.origin.clone(), None, None).await)
}

/// The answer was a refusal, so the use does not count.
pub async fn take_back(id: FileId, client: Option<std::net::IpAddr>, store: &Store) {
    if store.ledger.submit(Command::Return { id, client }).await.is_err() {
        tracing::warn!("a use of a link could not be taken back");
    }
}

/// Puts the link's own range into a request without one; `None` for a range outside it. Says whether a later stretch is
/// asked for.
fn narrow(headers: &mut HeaderMap, open: Option<(u64, u64)>) -> Option<bool> {
    let mut fields = headers.get_all(RANGE).iter();
    let asked = match (fields.next(), fields.next()) {
        (None, _) => None,
        (Some(field), None) => Some(first_and_last(field.to_str().ok()?)?),
        (Some(_), Some(_)) => return None,
    };
    let Some((start, end)) = open else { return Some(asked.is_some_and(|(first, _)| first > 0)) };
    let (first, last) = asked.unwrap_or((start, None));
    let last = last.unwrap_or(end - 1);
    if first < start || last >= end || first > last {
        return None;
    }
    headers.insert(RANGE, HeaderValue::try_from(format!("bytes={first}-{last}")).ok()?);
    Some(first > start)
}

/// One range from its first byte; the last `n` bytes and several ranges are not for links.
fn first_and_last(field: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = field.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    Some((number(first)?, if last.is_empty() { None } else { Some(number(last)?) }))
}

fn unexpected(outcome: &Outcome) -> Refusal {
    tracing::error!(?outcome, "the ledger answered with what the command cannot lead to");
    Refusal::of(ProblemKind::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_narrowed_to_the_links_range() {
        type Row<'a> = (Option<&'a str>, Option<(u64, u64)>, Option<bool>, Option<&'a str>);
        let table: &[Row<'_>] = &[
            (None, None, Some(false), None),
            (Some("bytes=0-"), None, Some(false), Some("bytes=0-")),
            (Some("bytes=5-"), None, Some(true), Some("bytes=5-")),
            (Some("bytes=-5"), None, None, Some("bytes=-5")),
            (Some("bytes=0-1,4-5"), None, None, Some("bytes=0-1,4-5")),
            (None, Some((10, 20)), Some(false), Some("bytes=10-19")),
            (Some("bytes=10-"), Some((10, 20)), Some(false), Some("bytes=10-19")),
            (Some("bytes=12-15"), Some((10, 20)), Some(true), Some("bytes=12-15")),
            (Some("bytes=9-15"), Some((10, 20)), None, Some("bytes=9-15")),
            (Some("bytes=12-20"), Some((10, 20)), None, Some("bytes=12-20")),
            (Some("bytes=19-12"), Some((10, 20)), None, Some("bytes=19-12")),
        ];
        for (asked, open, expected, after) in table {
            let mut headers = HeaderMap::new();
            if let Some(asked) = asked {
                headers.insert(RANGE, HeaderValue::from_static(asked));
            }
            assert_eq!(narrow(&mut headers, *open), *expected, "{asked:?} in {open:?}");
            let told = headers.get(RANGE).map(|field| field.to_str().unwrap());
            assert_eq!(told, *after, "{asked:?} in {open:?}");
        }
    }
}
