//! `POST /internal/v1/files/{id}/verdict`: a scanner has looked at a held file.
//!
//! **Invariant:** only a scanner gives a verdict, only about what is held, and once.

use std::sync::Arc;

use http::StatusCode;
use hyper::Request;
use hyper::body::Incoming;
use store_proto::{Action as Asked, FileId, ProblemKind, Verdict};

use crate::denial::Denial;
use crate::ledger::files::{Command, Outcome};
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::permissions::{read_json, unreadable};
use crate::serve::routes::deny_file;
use crate::store::Store;

/// Takes a verdict.
pub async fn verdict(
    request: Request<Incoming>,
    file_id: FileId,
    admitted: &Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    let row = store.ledger.reader().file(file_id).map_err(unreadable)?;
    let row = row.ok_or(Refusal::of(ProblemKind::UnknownFile))?;
    let right = admitted.authorize(&row.cohort, Asked::Download).map(drop);
    let right = right.and(if admitted.is_scanner() { Ok(()) } else { Err(Denial::Role) });
    if let Err(denial) = right {
        return Err(deny_file(store, denial, admitted.origin.clone(), &row).await);
    }
    let Verdict { clean, finding } = read_json(request, admitted, store).await?;
    let detail = finding.map(|finding| finding.to_string());
    let command = Command::Judge { origin: admitted.origin.clone(), file_id, clean, detail };
    match store.ledger.submit(command).await? {
        Outcome::Judged(file) => Ok(answer::json(StatusCode::OK, &file.to_meta())),
        Outcome::NotHeld(state) => {
            Err(Refusal::because(ProblemKind::Conflict, format!("the file is {}", state.name())))
        }
        Outcome::UnknownFile => Err(Refusal::of(ProblemKind::UnknownFile)),
    }
}
