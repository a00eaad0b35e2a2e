//! What an upload and a stretch of one have in common: reading a body into a pipeline, and taking away what is
//! left of one.
//!
//! **Invariant:** what was written is removed only when nothing writes it any more, and its intent is closed only
//! when it is removed.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use store_proto::{ContentDigest, FileId, ProblemKind};

use crate::ledger::files::{PartRow, SealedDigest};
use crate::ledger::intents::Claim;
use crate::ledger::{Ending, tables};
use crate::limits::{LINGER, LINGER_BYTES};
use crate::objects::{Pipeline, Published, PutError};
use crate::serve::answer::Refusal;
use crate::serve::patience::{Patience, Waited};
use crate::store::Store;
use crate::volumes::{NoPlace, VolumeState};

/// Why a body did not become a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the body ended early or its sender went away")]
    Incomplete,
    #[error("the body made no progress")]
    Idle,
    #[error("the body is longer than announced or allowed")]
    TooLarge,
    #[error("the body has another digest than announced")]
    Digest,
    #[error("given up by an operator")]
    GivenUp,
    #[error("the volume hung")]
    Hung,
    #[error(transparent)]
    Put(#[from] PutError),
    #[error("the path holds other content")]
    Conflict,
    #[error("the content that it replaces is not there")]
    NotThere,
    #[error("the cohort's quota is used up")]
    OverQuota,
    #[error("the ledger cannot record")]
    Ledger,
}

impl UploadError {
    pub(super) fn ending(&self) -> Ending {
        match self {
            UploadError::Incomplete | UploadError::Idle | UploadError::GivenUp => Ending::Aborted,
            UploadError::TooLarge
            | UploadError::Digest
            | UploadError::Hung
            | UploadError::Put(_)
            | UploadError::Conflict
            | UploadError::NotThere
            | UploadError::OverQuota
            | UploadError::Ledger => Ending::Failed,
        }
    }

    /// Whether sending it again would end in the same way.
    pub(super) fn is_about_content(&self) -> bool {
        matches!(self, UploadError::Put(PutError::Content(_)))
    }

    pub(super) fn refusal(&self) -> Refusal {
        Refusal::of(match self {
            UploadError::Incomplete => ProblemKind::IncompleteBody,
            UploadError::GivenUp => {
                return Refusal::because(
                    ProblemKind::IncompleteBody,
                    "the upload was given up by an operator",
                );
            }
            UploadError::Idle => ProblemKind::BodyTimeout,
            UploadError::TooLarge => ProblemKind::TooLarge,
            UploadError::Digest => ProblemKind::DigestMismatch,
            UploadError::OverQuota => return over_quota(),
            UploadError::Put(PutError::Full { .. }) => ProblemKind::Quota,
            UploadError::Put(PutError::Content(other)) => {
                return Refusal::because(ProblemKind::TypeNotAllowed, other);
            }
            UploadError::Hung | UploadError::Put(PutError::Io { .. }) => ProblemKind::BackendUnavailable,
            UploadError::Conflict => ProblemKind::Conflict,
            UploadError::NotThere => ProblemKind::PreconditionFailed,
            UploadError::Ledger => ProblemKind::LedgerUnavailable,
        })
    }
}

/// The cohort's own bound, which more room on the volumes would not lift.
pub(super) fn over_quota() -> Refusal {
    Refusal::because(ProblemKind::Quota, "the cohort's quota is used up")
}

impl From<NoPlace> for Refusal {
    fn from(error: NoPlace) -> Refusal {
        match error {
            NoPlace::Unusable => Refusal::of(ProblemKind::BackendUnavailable),
            NoPlace::Full => {
                Refusal::because(ProblemKind::Quota, "the store's disks are down to their reserve")
            }
        }
    }
}

/// 128 random bits, for an object.
pub(super) fn random_id() -> Result<FileId, Refusal> {
    tables::random_id().map_err(|error| Refusal::because(ProblemKind::Internal, error))
}

/// For what users name by it, a file, an upload or a link: begins as the store's own id does, so that an edge with
/// several stores finds the one that made it.
pub(super) fn new_id(store: &Store) -> Result<FileId, Refusal> {
    random_id().map(|id| id.made_by(store.keys.store().0))
}

/// How a body's next bytes came.
pub(super) enum Next<B> {
    Frame(B),
    /// What was said behind the bytes; the end follows.
    Trailers(HeaderMap),
    End,
}

/// The next bytes of a body, or why there are none.
pub(super) async fn next_frame<B: Body + Unpin>(
    body: &mut B,
    idle: Duration,
) -> Result<Next<B::Data>, UploadError> {
    loop {
        return match tokio::time::timeout(idle, body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => Ok(Next::Frame(bytes)),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Ok(Next::Trailers(trailers)),
                    Err(_neither) => continue,
                },
            },
            Ok(Some(Err(_))) => Err(UploadError::Incomplete),
            Ok(None) => Ok(Next::End),
            Err(_) => Err(UploadError::Idle),
        };
    }
}

/// What came too late is a failure, though it was done: the sender has been told so.
pub(super) fn in_time<T>((done, hung): Waited<Result<T, PutError>>) -> Result<T, UploadError> {
    match done {
        Ok(_) if hung => Err(UploadError::Hung),
        done => Ok(done?),
    }
}

/// Makes what is in the pipeline an object.
pub(super) async fn publish(
    store: &Store,
    patience: &Patience,
    pipeline: Pipeline,
    claim: Claim,
) -> Result<PartRow, UploadError> {
    let begun = store.clock.now();
    let Published { object, size, sealed_size, blake3 } = in_time(patience.with(pipeline.finish()).await)?;
    store.metrics.fsync_seconds.observe(store.clock.now().duration_since(begun).as_secs_f64());
    let (part, volume) = (claim.part, claim.volume);
    Ok(PartRow { blake3: SealedDigest(blake3), object, part, sealed_size, size, volume })
}

/// Removes an object and its temporary, whichever is there.
pub(super) async fn remove(volume: &VolumeState, patience: &Patience, object: FileId) -> Result<(), Refusal> {
    let backend = Arc::clone(&volume.backend);
    let removal = volume.pool.run(move || backend.remove(object));
    let (removed, _) = patience.with(removal).await;
    if let Err(error) = removed.map_err(Into::into).and_then(|removed| removed) {
        tracing::error!(%object, %error, "an unfinished object cannot be removed; it is tried again");
        return Err(Refusal::of(ProblemKind::BackendUnavailable));
    }
    Ok(())
}

/// A strong ETag of ours, as it stands in `If-Match`.
pub(super) fn parse_etag(text: &str) -> Option<ContentDigest> {
    ContentDigest::parse(text.strip_prefix('"')?.strip_suffix('"')?).ok()
}

/// Reads on for a moment after a refusal, so that a client that still sends can read the answer instead
/// of a reset.
pub(super) fn linger(mut body: Incoming) {
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
