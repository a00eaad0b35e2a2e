//! `POST /internal/storage/upload`: a body becomes a file.
//!
//! **Invariant:** the intent is durable before the first byte is written; the object is durable before the
//! outcome is recorded; the outcome is durable before the answer. An upload that ends in any other way
//! leaves its records and nothing else: if what it wrote cannot be removed now, its intent stays open, and
//! the next start removes it.

use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Incoming;
use store_proto::{
    Action as Asked, Cohort, ContentDigest, FileId, FileType, LogicalPath, ProblemKind, headers,
};

use crate::denial::Denial;
use crate::keys::{KeyStore as _, RECORD_SLOT};
use crate::ledger::upload::{Command, Outcome};
use crate::ledger::{Action, Ending, FileRow, tables};
use crate::limits::{LINGER, LINGER_BYTES, TRANSFER_WAIT};
use crate::objects::{Backend, PutError, TransferSlot};
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::patience::{Patience, Waited};
use crate::serve::permissions::refuse_certain_conflict;
use crate::serve::routes::deny;
use crate::serve::sink::{Sink, Written};
use crate::store::Store;

/// What the headers say of the file.
#[derive(Debug)]
struct Announced {
    cohort: Cohort,
    path: LogicalPath,
    file_type: Option<FileType>,
    size: Option<u64>,
    sha256: Option<ContentDigest>,
}

/// Takes a body.
pub async fn upload(
    request: Request<Incoming>,
    admitted: Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    let announced = match Announced::read(request.headers()) {
        Ok(announced) => announced,
        Err((denial, detail)) => {
            let refusal = deny(store, denial, admitted.origin.clone(), None, None).await;
            return Err(Refusal { detail: Some(detail), ..refusal });
        }
    };
    let refused =
        |denial| deny(store, denial, admitted.origin.clone(), Some(&announced.cohort), Some(&announced.path));
    let max_bytes = match admitted.authorize(&announced.cohort, Asked::Upload) {
        Ok(cohort) => cohort.max_file_bytes,
        Err(denial) => return Err(refused(denial).await),
    };
    if announced.size.is_some_and(|size| size > max_bytes) {
        return Err(refused(Denial::TooLarge).await);
    }
    let existing = refuse_certain_conflict(store, &announced.cohort, &announced.path, announced.size)?;
    if let (Some(existing), Some(sha256)) = (&existing, announced.sha256)
        && existing.sha256 != sha256
    {
        return Err(Refusal::of(ProblemKind::Conflict));
    }
    let Some(disk) = store.volume_for_writing().cloned() else {
        return Err(Refusal::of(ProblemKind::BackendUnavailable));
    };
    let Some(slot) = store.buffers.slot(TRANSFER_WAIT).await else {
        return Err(Refusal::of(ProblemKind::Overloaded));
    };
    // In a task of its own: when the connection dies its handler is dropped, and the records must be
    // written all the same. The body then ends with an error, which ends the task.
    let (patience, hung) = Patience::new(store.io_patience);
    let upload = Upload { store: Arc::clone(store), admitted, announced, max_bytes, disk, slot, patience };
    let mut running = tokio::spawn(upload.run(request.into_body()));
    let ended = tokio::select! {
        ended = &mut running => ended,
        Ok(()) = hung => return Err(Refusal::of(ProblemKind::BackendUnavailable)),
    };
    ended.unwrap_or_else(|_panicked| Err(Refusal::of(ProblemKind::Internal)))
}

struct Upload {
    store: Arc<Store>,
    admitted: Admitted,
    announced: Announced,
    max_bytes: u64,
    disk: Arc<dyn Backend>,
    slot: TransferSlot,
    patience: Patience,
}

/// Why a body did not become a file.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("the body ended early or its sender went away")]
    Incomplete,
    #[error("the body made no progress")]
    Idle,
    #[error("the body is longer than announced or allowed")]
    TooLarge,
    #[error("the body has another digest than announced")]
    Digest,
    #[error("the volume hung")]
    Hung,
    #[error(transparent)]
    Put(#[from] PutError),
    #[error("the path holds other content")]
    Conflict,
}

impl UploadError {
    fn ending(&self) -> Ending {
        match self {
            UploadError::Incomplete | UploadError::Idle => Ending::Aborted,
            UploadError::TooLarge
            | UploadError::Digest
            | UploadError::Hung
            | UploadError::Put(_)
            | UploadError::Conflict => Ending::Failed,
        }
    }

    fn refusal(&self) -> Refusal {
        Refusal::of(match self {
            UploadError::Incomplete => ProblemKind::IncompleteBody,
            UploadError::Idle => ProblemKind::BodyTimeout,
            UploadError::TooLarge => ProblemKind::TooLarge,
            UploadError::Digest => ProblemKind::DigestMismatch,
            UploadError::Put(PutError::Full { .. }) => ProblemKind::Quota,
            UploadError::Hung | UploadError::Put(PutError::Io { .. }) => ProblemKind::BackendUnavailable,
            UploadError::Conflict => ProblemKind::Conflict,
        })
    }
}

impl Upload {
    async fn run(self, mut body: Incoming) -> Result<Answer, Refusal> {
        let store = Arc::clone(&self.store);
        let _guard = store.drain.guard();
        let begun = store.clock.now();
        let file_id = tables::random_id().map_err(|error| Refusal::because(ProblemKind::Internal, error))?;
        let intent = self.begin(file_id).await?;
        store.metrics.transfers.inc();
        let mut received = 0;
        let (policy_idle, announced, disk, max_bytes) =
            (self.admitted.policy().rules().body_idle, self.announced, self.disk, self.max_bytes);
        let begun_object =
            Begun { store: &store, disk: &disk, patience: &self.patience, id: file_id, intent };
        let store_body =
            StoreBody { begun: &begun_object, announced: &announced, max_bytes, idle: policy_idle };
        let stored = store_body.store(&mut body, self.slot, &mut received).await;
        let result = match stored {
            Ok(written) => begun_object.finish(written).await,
            Err(error) => Err(begun_object.abandon(error, received).await),
        };
        store.metrics.transfers.dec();
        store.metrics.received_bytes.inc_by(received);
        let ending = match &result {
            Ok(Finished::New(_) | Finished::Same(_)) => Ending::Succeeded,
            Err(ended) => ended.ending,
        };
        store.ended(Action::FileUploadedViaStream, ending, begun);
        match result {
            Ok(Finished::New(file)) => {
                store.metrics.operation(Action::NasRawCreated, Ending::Succeeded, None);
                Ok(answer::json(StatusCode::CREATED, &file.to_receipt()))
            }
            Ok(Finished::Same(file)) => Ok(answer::json(StatusCode::OK, &file.to_receipt())),
            Err(ended) => {
                linger(body);
                Err(ended.refusal)
            }
        }
    }

    async fn begin(&self, file_id: FileId) -> Result<u64, Refusal> {
        let (_, record_key) = self.store.keys.new_file_key(&self.announced.cohort, file_id, RECORD_SLOT)?;
        let command = Command::Begin {
            origin: self.admitted.origin.clone(),
            cohort: self.announced.cohort.clone(),
            path: self.announced.path.clone(),
            file_type: self.announced.file_type.clone(),
            file_id,
            volume: self.disk.id(),
            keys: vec![record_key],
        };
        let outcome = self.store.ledger.submit(command).await?;
        let Outcome::Begun { intent } = outcome else { return Err(unexpected(&outcome)) };
        Ok(intent)
    }
}

/// An object whose intent stands.
struct Begun<'a> {
    store: &'a Store,
    disk: &'a Arc<dyn Backend>,
    patience: &'a Patience,
    id: FileId,
    intent: u64,
}

struct StoreBody<'a> {
    begun: &'a Begun<'a>,
    announced: &'a Announced,
    max_bytes: u64,
    idle: std::time::Duration,
}

impl StoreBody<'_> {
    /// Reads the whole body into a temporary file, checks it, and publishes it.
    async fn store(
        &self,
        body: &mut Incoming,
        slot: TransferSlot,
        received: &mut u64,
    ) -> Result<(u64, ContentDigest), UploadError> {
        let Begun { store, disk, patience, id, .. } = *self.begun;
        let opening = Sink::open(store.pool.clone(), slot, Arc::clone(disk), id);
        let mut sink = in_time(patience.with(opening).await)?;
        loop {
            let frame = match tokio::time::timeout(self.idle, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(UploadError::Incomplete),
                Ok(None) => break,
                Err(_) => return Err(UploadError::Idle),
            };
            let Some(bytes) = frame.data_ref() else { continue };
            *received += bytes.len() as u64;
            if *received > self.max_bytes || self.announced.size.is_some_and(|size| *received > size) {
                return Err(UploadError::TooLarge);
            }
            in_time(patience.with(sink.push(bytes)).await)?;
        }
        if self.announced.size.is_some_and(|size| *received < size) {
            return Err(UploadError::Incomplete);
        }
        let written: Written = in_time(patience.with(sink.finish()).await)?;
        // Before anything has the name of an object: what was hashed is what was received.
        assert_eq!(written.size, *received, "every byte that was received is written once");
        if self.announced.sha256.is_some_and(|sha256| sha256 != written.sha256) {
            return Err(UploadError::Digest);
        }
        let (size, sha256) = (written.size, written.sha256);
        let begun = store.clock.now();
        in_time(patience.with(written.publish()).await)?;
        store.metrics.fsync_seconds.observe(store.clock.now().duration_since(begun).as_secs_f64());
        Ok((size, sha256))
    }
}

/// What came too late is a failure, though it was done: the sender has been told so.
fn in_time<T>((done, hung): Waited<Result<T, PutError>>) -> Result<T, UploadError> {
    match done {
        Ok(_) if hung => Err(UploadError::Hung),
        done => Ok(done?),
    }
}

enum Finished {
    New(Box<FileRow>),
    Same(Box<FileRow>),
}

struct Ended {
    ending: Ending,
    refusal: Refusal,
}

impl Begun<'_> {
    async fn finish(&self, (size, sha256): (u64, ContentDigest)) -> Result<Finished, Ended> {
        let failed = |refusal| Ended { ending: Ending::Failed, refusal };
        let command = Command::Finish { intent: self.intent, size, sha256 };
        // Without an answer the file may or may not be recorded: the object stays, and the next start knows.
        let outcome = self.store.ledger.submit(command).await.map_err(|error| failed(error.into()))?;
        if let Outcome::Stored(file) = outcome {
            return Ok(Finished::New(file));
        }
        let Outcome::PathTaken(existing) = outcome else { return Err(failed(unexpected(&outcome))) };
        if existing.sha256 != sha256 {
            return Err(self.abandon(UploadError::Conflict, size).await);
        }
        let error = "the path holds this content already".to_owned();
        self.close(Ending::Succeeded, error, size).await.map_err(failed)?;
        Ok(Finished::Same(existing))
    }

    async fn abandon(&self, error: UploadError, received: u64) -> Ended {
        let ending = error.ending();
        if let UploadError::Put(put) = &error {
            tracing::error!(object = %self.id, error = %put, "an upload failed on the volume");
        }
        let closed = self.close(ending, error.to_string(), received).await;
        // What was wrong first is what the client should know; that it could not be tidied is in the log, and
        // the open intent keeps it for the next start.
        let _ = closed;
        Ended { ending, refusal: error.refusal() }
    }

    /// Removes what the upload wrote; only then closes its intent.
    async fn close(&self, ending: Ending, error: String, received: u64) -> Result<(), Refusal> {
        let (removing, id) = (Arc::clone(self.disk), self.id);
        let removal = self.store.pool.run(move || removing.remove(id));
        let (removed, _) = self.patience.with(removal).await;
        if let Err(error) = removed.map_err(Into::into).and_then(|removed| removed) {
            tracing::error!(object = %id, %error, "an unfinished object cannot be removed; the next start will try");
            return Err(Refusal::of(ProblemKind::BackendUnavailable));
        }
        self.store.metrics.operation(Action::ScratchCleanup, Ending::Succeeded, None);
        let command = Command::Abandon { intent: self.intent, ending, error, received };
        match self.store.ledger.submit(command).await? {
            Outcome::Abandoned(_) => Ok(()),
            other @ (Outcome::Begun { .. }
            | Outcome::Stored(_)
            | Outcome::PathTaken(_)
            | Outcome::UnknownIntent) => Err(unexpected(&other)),
        }
    }
}

/// Reads on for a moment after a refusal, so that a client that still sends can read the answer instead
/// of a reset.
fn linger(mut body: Incoming) {
    tokio::spawn(async move {
        let mut left = LINGER_BYTES;
        let discard = async {
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                match left.checked_sub(length) {
                    Some(less) => left = less,
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, discard).await;
    });
}

pub(super) fn unexpected(outcome: &impl std::fmt::Debug) -> Refusal {
    tracing::error!(?outcome, "the ledger answered with what the command cannot lead to");
    Refusal::of(ProblemKind::Internal)
}

impl Announced {
    fn read(headers: &HeaderMap) -> Result<Announced, (Denial, String)> {
        let malformed =
            |name: &str, error: &dyn std::fmt::Display| (Denial::Malformed, format!("{name}: {error}"));
        let required = |name: &'static str| {
            text(headers, name)?.ok_or_else(|| (Denial::Malformed, format!("{name} is missing")))
        };
        let cohort = Cohort::parse(required(headers::CULVERT_COHORT)?)
            .map_err(|error| malformed(headers::CULVERT_COHORT, &error))?;
        let path = LogicalPath::from_percent_encoded(required(headers::CULVERT_PATH)?)
            .map_err(|error| (Denial::Path, error.to_string()))?;
        let file_type = text(headers, headers::CULVERT_FILE_TYPE)?.map(FileType::parse).transpose();
        let file_type = file_type.map_err(|error| malformed(headers::CULVERT_FILE_TYPE, &error))?;
        let sha256 = text(headers, headers::REPR_DIGEST)?.map(ContentDigest::from_repr_digest).transpose();
        let sha256 = sha256.map_err(|error| malformed(headers::REPR_DIGEST, &error))?;
        let size = text(headers, CONTENT_LENGTH.as_str())?.map(str::parse::<u64>).transpose();
        let size = size.map_err(|error| malformed("content-length", &error))?;
        Ok(Announced { cohort, path, file_type, size, sha256 })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, (Denial, String)> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err((Denial::Malformed, format!("{name} stands twice")));
    }
    value.to_str().map(Some).map_err(|_| (Denial::Malformed, format!("{name} is not printable ASCII")))
}
