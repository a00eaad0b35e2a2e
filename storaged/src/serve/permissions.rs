//! The round trip before a body: may this user do this?

use std::sync::Arc;

use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use hyper::Request;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use store_proto::limits::MAX_PERMISSION_REQUEST_BYTES;
use store_proto::{
    Action as Asked, Cohort, ContentDigest, FileSelector, LogicalPath, Permission, PermissionRequest,
    ProblemKind, StoredBefore, UploadPermission,
};

use crate::denial::Denial;
use crate::ledger::Note;
use crate::ledger::repeat::{Named, Said};
use crate::ledger::{Action, Ending, FileRow};
use crate::policy::CohortPolicy;
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::derived;
use crate::serve::log;
use crate::serve::repeat::{self, Expected};
use crate::serve::routes::{deny, deny_file, no_place};
use crate::store::Store;

/// `POST /internal/v1/permissions`.
pub async fn permissions(
    request: Request<Incoming>,
    admitted: &Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    let asked: PermissionRequest = read_json(request, admitted, store).await?;
    let permission = match &asked {
        PermissionRequest::Upload { cohort, path, size, replaces, file_type, attributes, sha256, key } => {
            let rules = authorized(store, admitted, cohort, asked.action()).await?;
            let named =
                Named { cohort, path, replaces: *replaces, file_type: file_type.as_ref(), attributes };
            let user = &admitted.user().name;
            let said = key.clone().map(|key| Said::whole(user.clone(), key, &named));
            let expected = Expected { size: *size, sha256: *sha256 };
            match came_before(store, admitted, said, expected).await? {
                Some(Answered::InFull(before)) => Permission::Stored(before),
                Some(Answered::WithItsBytes) => {
                    Permission::Upload(UploadPermission { max_bytes: rules.max_file_bytes })
                }
                None => {
                    if !rules.attributes.take(attributes) {
                        let (origin, at) = (admitted.origin.clone(), (Some(cohort), Some(path)));
                        return Err(deny(store, Denial::Attribute, origin, at.0, at.1).await);
                    }
                    if !derived::is_open(attributes, admitted, store)? {
                        let (origin, at) = (admitted.origin.clone(), (Some(cohort), Some(path)));
                        let refused = deny(store, Denial::Attribute, origin, at.0, at.1).await;
                        return Err(derived::refusal(refused));
                    }
                    let wanted = Wanted { cohort, path, size: *size, replaces: *replaces };
                    may_upload(store, admitted, wanted, rules.max_file_bytes).await?
                }
            }
        }
        PermissionRequest::Download { cohort, file } => {
            authorized(store, admitted, cohort, asked.action()).await?;
            describe(store, admitted, find(store, cohort, file)?).await?
        }
        PermissionRequest::DownloadFile { file_id } => {
            let row = store.ledger.reader().file(*file_id).map_err(unreadable)?;
            let row = row.ok_or(Refusal::of(ProblemKind::UnknownFile))?;
            if let Err(denial) = admitted.authorize(&row.cohort, asked.action()) {
                return Err(deny_file(store, denial, admitted.origin.clone(), &row).await);
            }
            describe(store, admitted, row).await?
        }
        PermissionRequest::List { cohort } => {
            authorized(store, admitted, cohort, asked.action()).await?;
            Permission::List {}
        }
    };
    Ok(answer::json(StatusCode::OK, &permission))
}

/// How a request that came before is answered.
enum Answered {
    /// At once: its digest says that its bytes are the same.
    InFull(Box<StoredBefore>),
    /// When its bytes have been compared.
    WithItsBytes,
}

/// Whether a request came before under its key.
async fn came_before(
    store: &Store,
    admitted: &Admitted,
    said: Option<Said>,
    expected: Expected,
) -> Result<Option<Answered>, Refusal> {
    let Some(row) = repeat::earlier(store, said.as_ref())? else { return Ok(None) };
    let before = repeat::answered(store, &row)?;
    if expected.differs(&before.file) {
        return Err(repeat::other_request());
    }
    if expected.sha256.is_none() {
        return Ok(Some(Answered::WithItsBytes));
    }
    repeat::record(store, admitted.origin.clone(), &before.file).await?;
    let receipt = log::upload_receipt(store, &before.file);
    Ok(Some(Answered::InFull(Box::new(StoredBefore { created: before.created, receipt }))))
}

async fn authorized(
    store: &Store,
    admitted: &Admitted,
    cohort: &Cohort,
    action: Asked,
) -> Result<CohortPolicy, Refusal> {
    match admitted.authorize(cohort, action) {
        Ok(rules) => Ok(rules),
        Err(denial) => Err(deny(store, denial, admitted.origin.clone(), Some(cohort), None).await),
    }
}

/// What is known of a file is data too: telling it is recorded first.
async fn describe(store: &Store, admitted: &Admitted, row: FileRow) -> Result<Permission, Refusal> {
    let note = Note {
        cohort: Some(row.cohort.clone()),
        path: Some(row.path.clone()),
        file_id: Some(row.file_id),
        ..Note::new(Action::AccessMetadata, Ending::Succeeded, admitted.origin.clone())
    };
    store.note(note).await?;
    Ok(Permission::Download(row.to_meta()))
}

/// A small body that is JSON of the protocol.
pub(super) async fn read_json<T: DeserializeOwned>(
    request: Request<Incoming>,
    admitted: &Admitted,
    store: &Arc<Store>,
) -> Result<T, Refusal> {
    let idle = admitted.policy().rules().body_idle;
    let body = Limited::new(request.into_body(), MAX_PERMISSION_REQUEST_BYTES).collect();
    let body = match tokio::time::timeout(idle, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err(deny(store, Denial::Malformed, admitted.origin.clone(), None, None).await),
        Err(_) => return Err(Refusal::of(ProblemKind::BodyTimeout)),
    };
    match serde_json::from_slice(&body) {
        Ok(read) => Ok(read),
        Err(error) => {
            let refusal = deny(store, Denial::Malformed, admitted.origin.clone(), None, None).await;
            // The parser's message may quote a value; its place in the text says enough.
            let detail = format!("line {} column {} of the JSON", error.line(), error.column());
            Err(Refusal { detail: Some(detail), ..refusal })
        }
    }
}

/// What is to be uploaded.
struct Wanted<'a> {
    cohort: &'a Cohort,
    path: &'a LogicalPath,
    size: Option<u64>,
    replaces: Option<ContentDigest>,
}

async fn may_upload(
    store: &Store,
    admitted: &Admitted,
    wanted: Wanted<'_>,
    max_bytes: u64,
) -> Result<Permission, Refusal> {
    let Wanted { cohort, path, size, replaces } = wanted;
    if size.is_some_and(|size| size > max_bytes) {
        return Err(deny(store, Denial::TooLarge, admitted.origin.clone(), Some(cohort), Some(path)).await);
    }
    // Only looked at: the room is held when the body comes.
    if let Err(error) = store.place(size) {
        return Err(no_place(store, error, admitted.origin.clone(), cohort).await);
    }
    if !store.ledger.is_usable() {
        return Err(Refusal::of(ProblemKind::LedgerUnavailable));
    }
    match replaces {
        None => refuse_certain_conflict(store, cohort, path, size).map(drop)?,
        Some(expected) => {
            let existing = store.ledger.reader().file_at(cohort, path).map_err(unreadable)?;
            if existing.is_none_or(|existing| existing.sha256 != expected) {
                return Err(Refusal::of(ProblemKind::PreconditionFailed));
            }
        }
    }
    Ok(Permission::Upload(UploadPermission { max_bytes }))
}

/// Another length is other content: no need to read the body for that.
pub(super) fn refuse_certain_conflict(
    store: &Store,
    cohort: &Cohort,
    path: &LogicalPath,
    size: Option<u64>,
) -> Result<Option<FileRow>, Refusal> {
    let existing = store.ledger.reader().file_at(cohort, path).map_err(unreadable)?;
    match (&existing, size) {
        (Some(existing), Some(size)) if existing.size != size => Err(Refusal::of(ProblemKind::Conflict)),
        _ => Ok(existing),
    }
}

fn find(store: &Store, cohort: &Cohort, file: &FileSelector) -> Result<FileRow, Refusal> {
    let reader = store.ledger.reader();
    let row = match file {
        FileSelector::Path(path) => reader.file_at(cohort, path),
        FileSelector::Version { path, number } => reader
            .versions(cohort, path)
            .map(|versions| versions.into_iter().find(|row| row.version == *number)),
        FileSelector::FileId(id) => reader.file(*id),
    };
    let row = row.map_err(unreadable)?.filter(|row| row.cohort == *cohort);
    row.ok_or(Refusal::of(ProblemKind::UnknownFile))
}

/// A ledger that cannot be read cannot be trusted to record either.
pub(super) fn unreadable(error: crate::ledger::tables::CorruptError) -> Refusal {
    tracing::error!(%error, "read the ledger");
    Refusal::of(ProblemKind::LedgerUnavailable)
}
