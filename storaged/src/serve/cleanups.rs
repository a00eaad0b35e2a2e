//! `/internal/v1/cleanups`: what must go, and the word of somebody that it is gone.
//!
//! **Invariant:** only admins of the cohort it belongs to see a cleanup or mark it, and it is marked as done only after a
//! look at the volume found nothing, whoever says so.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;
use store_proto::{Action as Asked, ProblemKind};

use crate::denial::Denial;
use crate::ledger::cleanup::{self, CleanupRow, Verifier};
use crate::ledger::{Action, Ending, Note};
use crate::reaper::{self, Before, Look};
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::permissions::unreadable;
use crate::serve::routes::deny;
use crate::store::Store;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// All that are not done.
    Pending,
    /// Those that should be.
    Overdue,
    /// The query is none.
    Unknown,
}

impl Which {
    /// `state=pending` or `state=overdue`; without a query all that are not done.
    pub(super) fn parse(query: Option<&str>) -> Which {
        match query {
            None | Some("state=pending") => Which::Pending,
            Some("state=overdue") => Which::Overdue,
            Some(_) => Which::Unknown,
        }
    }
}

/// `GET ?state=overdue`.
pub(super) async fn list(which: Which, admitted: &Admitted, store: &Store) -> Result<Answer, Refusal> {
    may_clean_up(admitted, store).await?;
    if which == Which::Unknown {
        return Err(Refusal::because(ProblemKind::BadRequest, "state: pending or overdue"));
    }
    let pending = reaper::pending(store).map_err(|error| {
        tracing::error!(error, "the ledger could not be read");
        Refusal::of(ProblemKind::LedgerUnavailable)
    })?;
    let now_ms = store.clock.unix_milliseconds();
    let wanted = |row: &CleanupRow| which == Which::Pending || row.is_overdue(now_ms);
    let shown: Vec<_> = pending
        .iter()
        .filter(|(_, row)| wanted(row) && is_theirs(row, admitted))
        .map(|(id, row)| row.told(*id, now_ms))
        .collect();
    let note = Note {
        detail: Some(format!("{} cleanups", shown.len())),
        ..Note::new(Action::AdminCleanupList, Ending::Succeeded, admitted.origin.clone())
    };
    store.note(note).await?;
    Ok(answer::json(StatusCode::OK, &json!({ "cleanups": shown })))
}

/// `POST {id}/verify`.
pub(super) async fn verify(id: u64, admitted: &Admitted, store: &Arc<Store>) -> Result<Answer, Refusal> {
    may_clean_up(admitted, store).await?;
    let snapshot = store.ledger.reader().snapshot().map_err(unreadable)?;
    let found = cleanup::find(&snapshot, id).map_err(unreadable)?;
    let Some(row) = found.filter(|row| is_theirs(row, admitted)) else {
        return Err(Refusal::of(ProblemKind::NotFound));
    };
    let now_ms = store.clock.unix_milliseconds();
    if row.cleaned_up.is_none() {
        let verifier = Verifier::User(admitted.user().name.clone());
        let origin = admitted.origin.clone();
        if let Look::Still(why) = reaper::look(store, id, &row, Before::OnlyLook, origin, verifier).await? {
            return Err(Refusal::because(ProblemKind::Conflict, why));
        }
    }
    let snapshot = store.ledger.reader().snapshot().map_err(unreadable)?;
    let row = cleanup::find(&snapshot, id).map_err(unreadable)?.unwrap_or(row);
    Ok(answer::json(StatusCode::OK, &row.told(id, now_ms)))
}

/// Admins clean up (requirement A-132); a link stands for a file.
async fn may_clean_up(admitted: &Admitted, store: &Store) -> Result<(), Refusal> {
    let mut cohorts = admitted.policy().book().cohorts.keys();
    let may =
        admitted.link().is_none() && cohorts.any(|cohort| admitted.authorize(cohort, Asked::Delete).is_ok());
    if may {
        return Ok(());
    }
    Err(deny(store, Denial::Role, admitted.origin.clone(), None, None).await)
}

fn is_theirs(row: &CleanupRow, admitted: &Admitted) -> bool {
    row.cohort.as_ref().is_some_and(|cohort| admitted.authorize(cohort, Asked::Delete).is_ok())
}
