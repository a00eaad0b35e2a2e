//! `/internal/v1/lockouts`: an edge has locked somebody out, or makes them wait (`POST`), and asks after a restart whom it
//! had locked out (`GET`).
//!
//! **Invariant:** an edge is told only of what it reported itself, and what it reports is in the ledger before it is
//! answered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::Request;
use hyper::body::Incoming;
use store_proto::{Lockout, LockoutReason, Lockouts, PrincipalId, ProblemKind};

use crate::ledger::audit::Question;
use crate::ledger::tables::CorruptError;
use crate::ledger::{Action, Ending, Metadata, Note, Origin, Reader, Record};
use crate::limits::{LOCKOUT_BYTES, LOCKOUT_LONGEST_MS, LOCKOUTS_SINCE_MS, LOCKOUTS_TOLD};
use crate::serve::admission::{self, Refused};
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::permissions::unreadable;
use crate::store::Store;

const UNTIL: &str = "until_ms";
const PRINCIPAL: &str = "principal";

/// Needs the locks of an edge; no user asks here.
pub(super) async fn answer(
    store: &Arc<Store>,
    source: IpAddr,
    request: Request<Incoming>,
) -> Result<Answer, Refused> {
    let origin = admission::admit_daemon(store, source, request.headers()).await?;
    let answered = match *request.method() {
        Method::POST => take(store, origin, request).await,
        _ => tell(store, origin).await,
    };
    Ok(answered.unwrap_or_else(answer::problem))
}

async fn take(store: &Arc<Store>, origin: Origin, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let idle = store.policy.load().rules().body_idle;
    let body = Limited::new(request.into_body(), LOCKOUT_BYTES).collect();
    let body = tokio::time::timeout(idle, body).await.map_err(|_| Refusal::of(ProblemKind::BodyTimeout))?;
    let body = body.map_err(|_| Refusal::of(ProblemKind::BadRequest))?.to_bytes();
    let lockout: Lockout = serde_json::from_slice(&body).map_err(|_| Refusal::of(ProblemKind::BadRequest))?;
    let now_ms = store.clock.unix_milliseconds();
    if lockout.until_ms > now_ms.saturating_add(LOCKOUT_LONGEST_MS) {
        return Err(Refusal::because(ProblemKind::BadRequest, "a lock-out lasts a day at most"));
    }
    let mut metadata = BTreeMap::from([(UNTIL.to_owned(), lockout.until_ms.to_string())]);
    if let Some(principal) = lockout.principal {
        metadata.insert(PRINCIPAL.to_owned(), principal.to_string());
    }
    let by = if lockout.principal.is_some() { "principal" } else { "address" };
    let metadata = Metadata::parse(metadata).map_err(|_| Refusal::of(ProblemKind::Internal))?;
    let origin = Origin { client_address: Some(lockout.client_address), ..origin };
    let action = match lockout.reason {
        LockoutReason::Failures => Action::AccessLockedOut,
        LockoutReason::Rate => Action::AccessRateLimited,
    };
    let note = Note { detail: Some(by.to_owned()), metadata, ..Note::new(action, Ending::Denied, origin) };
    store.note(note).await.map_err(|_| Refusal::of(ProblemKind::LedgerUnavailable))?;
    Ok(answer::json(StatusCode::CREATED, &lockout))
}

async fn tell(store: &Arc<Store>, origin: Origin) -> Result<Answer, Refusal> {
    let now_ms = store.clock.unix_milliseconds();
    let reader = store.ledger.reader().clone();
    let asking = tokio::task::spawn_blocking(move || standing(&reader, &origin, now_ms));
    let lockouts = asking.await.map_err(|_| Refusal::of(ProblemKind::Internal))?.map_err(unreadable)?;
    Ok(answer::json(StatusCode::OK, &Lockouts { lockouts }))
}

/// What this edge reported lately and what is not over.
fn standing(reader: &Reader, origin: &Origin, now_ms: u64) -> Result<Vec<Lockout>, CorruptError> {
    let question = Question {
        action: Some(Action::AccessLockedOut),
        since_ms: Some(now_ms.saturating_sub(LOCKOUTS_SINCE_MS)),
        limit: Some(LOCKOUTS_TOLD),
        ..Question::default()
    };
    let mut standing = Vec::new();
    question.ask(reader, |record| {
        if record.origin.edge == origin.edge {
            standing.extend(lockout(&record).filter(|lockout| lockout.until_ms > now_ms));
        }
        ControlFlow::Continue(())
    })?;
    Ok(standing)
}

fn lockout(record: &Record) -> Option<Lockout> {
    let value = |name| record.metadata.get(name);
    Some(Lockout {
        client_address: record.origin.client_address?,
        principal: value(PRINCIPAL).and_then(|text| PrincipalId::try_from(text.to_owned()).ok()),
        until_ms: value(UNTIL)?.parse().ok()?,
        reason: LockoutReason::Failures,
    })
}
