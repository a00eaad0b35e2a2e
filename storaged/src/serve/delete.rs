//! `DELETE /internal/storage/files/{id}`: a file leaves the store.
//!
//! **Invariant:** answered when the decision is durable and the file's keys are destroyed; what is left of its
//! objects is looked after (`deletion`). A hold and retention stand above every role.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde_json::json;
use store_proto::{Action as Asked, FileId, ProblemKind, headers};

use crate::deletion::{self, DeleteError};
use crate::ledger::tables::rfc3339;
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::permissions::unreadable;
use crate::serve::routes::deny_file;
use crate::store::Store;

/// Deletes a file. `Culvert-Reason` says why, for the record.
pub async fn delete(
    request_headers: &HeaderMap,
    file_id: FileId,
    admitted: &Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    let row = store.ledger.reader().file(file_id).map_err(unreadable)?;
    let row = row.ok_or(Refusal::of(ProblemKind::UnknownFile))?;
    if let Err(denial) = admitted.authorize(&row.cohort, Asked::Delete) {
        return Err(deny_file(store, denial, admitted.origin.clone(), &row).await);
    }
    let reason = request_headers.get(headers::CULVERT_REASON).map(|reason| reason.to_str());
    let reason = reason.transpose().map_err(|_| {
        Refusal::because(
            ProblemKind::BadRequest,
            format!("{} is not printable ASCII", headers::CULVERT_REASON),
        )
    })?;
    // In a task of its own: whoever goes away in the midst of it stops nothing.
    let (deleting, origin) = (Arc::clone(store), admitted.origin.clone());
    let reason = reason.unwrap_or("asked for over HTTP").to_owned();
    let deleted =
        tokio::spawn(async move { deletion::delete(&deleting, origin, file_id, reason).await }).await;
    let deleted = deleted.map_err(|_panicked| Refusal::of(ProblemKind::Internal))?;
    match deleted {
        Ok(row) => Ok(answer::json(
            StatusCode::OK,
            &json!({ "file_id": file_id, "deleted_at": rfc3339(row.decided_ms), "ledger_index": row.intent }),
        )),
        Err(DeleteError::UnknownFile) => Err(Refusal::of(ProblemKind::UnknownFile)),
        Err(DeleteError::Ledger(error)) => Err(error.into()),
        Err(error @ (DeleteError::Held(_) | DeleteError::Retained { .. })) => {
            Err(Refusal::because(ProblemKind::RetentionLocked, error))
        }
        Err(error @ DeleteError::Storage(_)) => {
            tracing::error!(%error, file = %file_id, "a deletion failed");
            Err(Refusal::of(ProblemKind::Internal))
        }
    }
}
