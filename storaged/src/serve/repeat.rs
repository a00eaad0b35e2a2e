//! Requests that come again under their `Idempotency-Key`: answered as the first was, with nothing done twice.
//!
//! **Invariant:** a body is compared with the file by its hash before that file's receipt is the answer; nothing of it
//! is written.

use http::StatusCode;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, ProblemKind};

use crate::ledger::repeat::{self, Known, RepeatRow, Said, State};
use crate::ledger::{Action, Ending, FileRow, Note, Origin};
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::incoming::{Next, linger, next_frame};
use crate::serve::log;
use crate::serve::permissions::unreadable;
use crate::serve::upload::said_behind;
use crate::store::Store;

/// What a request under this key led to before, if one came.
pub(super) fn earlier(store: &Store, said: Option<&Said>) -> Result<Option<RepeatRow>, Refusal> {
    let Some(said) = said else { return Ok(None) };
    let snapshot = store.ledger.reader().snapshot().map_err(unreadable)?;
    let known = repeat::look(&snapshot, said, store.clock.unix_milliseconds()).map_err(unreadable)?;
    match known {
        Known::New => Ok(None),
        Known::Other => Err(other_request()),
        Known::Again(row) => Ok(Some(row)),
    }
}

/// The file that it made or found.
pub(super) struct Before {
    pub(super) created: bool,
    pub(super) file: FileRow,
}

/// The answer of then; none yet while it is under way.
pub(super) fn answered(store: &Store, row: &RepeatRow) -> Result<Before, Refusal> {
    let created = match row.state {
        State::Open => return Err(in_use()),
        State::Made => true,
        State::Found => false,
    };
    let file = store.ledger.reader().file(row.file_id).map_err(unreadable)?;
    let gone = || Refusal::because(ProblemKind::UnknownFile, "the file of this key was deleted since");
    Ok(Before { created, file: file.ok_or_else(gone)? })
}

/// Another request with the same key was faster, or runs still.
pub(super) fn in_use() -> Refusal {
    Refusal::because(ProblemKind::IdempotencyKeyInUse, "ask again when it is over")
}

/// A key is for one request.
pub(super) fn other_request() -> Refusal {
    Refusal::because(ProblemKind::IdempotencyKeyReused, "each request needs a key of its own")
}

/// What is known of a file before its bytes.
pub(super) struct Expected {
    pub(super) size: Option<u64>,
    pub(super) sha256: Option<ContentDigest>,
}

impl Expected {
    /// Whether it says something else than the file is.
    pub(super) fn differs(&self, file: &FileRow) -> bool {
        self.size.is_some_and(|size| size != file.size)
            || self.sha256.is_some_and(|sha256| sha256 != file.sha256)
    }
}

/// That a request came again is recorded as everything is.
pub(super) async fn record(store: &Store, origin: Origin, file: &FileRow) -> Result<(), Refusal> {
    let note = Note {
        cohort: Some(file.cohort.clone()),
        path: Some(file.path.clone()),
        file_id: Some(file.file_id),
        detail: Some("the same request again".to_owned()),
        ..Note::new(Action::FileUploadedViaStream, Ending::Succeeded, origin)
    };
    store.note(note).await?;
    Ok(())
}

/// Reads a body that came before, and gives the answer of then if it is the same.
pub(super) async fn compare(
    store: &Store,
    origin: Origin,
    before: Before,
    expected: Expected,
    mut body: Incoming,
    idle: std::time::Duration,
) -> Result<Answer, Refusal> {
    let Before { created, file } = before;
    let same =
        if expected.differs(&file) { Ok(false) } else { is_same(&mut body, &file, expected, idle).await };
    match same {
        Ok(true) => {}
        Ok(false) => {
            linger(body);
            return Err(other_request());
        }
        Err(refusal) => {
            linger(body);
            return Err(refusal);
        }
    }
    record(store, origin, &file).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer::json(status, &log::upload_receipt(store, &file)))
}

async fn is_same(
    body: &mut Incoming,
    file: &FileRow,
    expected: Expected,
    idle: std::time::Duration,
) -> Result<bool, Refusal> {
    let (mut hash, mut received, mut said) = (Sha256::new(), 0, expected.sha256);
    loop {
        match next_frame(body, idle).await.map_err(|error| error.refusal())? {
            Next::Frame(bytes) => {
                received += bytes.len() as u64;
                if received > file.size {
                    return Ok(false);
                }
                hash.update(&bytes);
            }
            Next::Trailers(trailers) => {
                said = said_behind(&trailers, said).map_err(|error| error.refusal())?;
            }
            Next::End => break,
        }
    }
    if expected.size.is_some_and(|size| received < size) {
        return Err(Refusal::of(ProblemKind::IncompleteBody));
    }
    let found = ContentDigest::from_bytes(hash.finalize().into());
    if said.is_some_and(|said| said != found) {
        return Err(Refusal::of(ProblemKind::DigestMismatch));
    }
    Ok(found == file.sha256)
}
