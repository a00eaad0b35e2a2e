//! One request's worth of a resumable upload: stretches of a body become parts, and the last makes the file.
//!
//! **Invariant:** whatever ends a stretch (the body's end, a break, a newer request, so many bytes), what arrived
//! is durable before anybody is told the new offset. A request with a checksum is taken whole or not at all.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId, ProblemKind, RequestId, UserName};

use crate::keys::KeyStore as _;
use crate::ledger::files::FileRow;
use crate::ledger::intents::{Claim, Content, IntentRow};
use crate::ledger::partial::{Blob, Command, Outcome, PartialRow};
use crate::ledger::read::Resumable;
use crate::ledger::{Action, Ending};
use crate::limits::{RESERVE_STEP_BYTES, STRETCH_BYTES, STRETCH_SHARE};
use crate::objects::part::associated_data;
use crate::objects::{Part, Pipeline, TransferSlot};
use crate::policy::CohortPolicy;
use crate::serve::answer::Refusal;
use crate::serve::incoming::{self, Next, UploadError, in_time, next_frame, over_quota, publish, random_id};
use crate::serve::patience::Patience;
use crate::serve::permissions::unreadable;
use crate::serve::under_way::{About, Progress, WaitsFor};
use crate::serve::upload::unexpected;
use crate::serve::writers::Turn;
use crate::store::Store;
use crate::volumes::Promise;

/// A request that brings bytes.
pub(super) struct Bringing {
    pub(super) store: Arc<Store>,
    pub(super) upload: FileId,
    pub(super) cohort: CohortPolicy,
    pub(super) turn: Turn,
    pub(super) slot: TransferSlot,
    pub(super) patience: Patience,
    pub(super) idle: Duration,
    /// Where the sender goes on.
    pub(super) offset: u64,
    /// The whole length, if it is said.
    pub(super) length: Option<u64>,
    /// Whose it is.
    pub(super) user: UserName,
    /// The request that brings it.
    pub(super) request: Option<RequestId>,
    /// SHA-256 of this body.
    pub(super) checksum: Option<ContentDigest>,
    /// Its length, if it is taken as a whole or not at all.
    pub(super) at_least: u64,
    /// Bytes that came and had no room in what was reserved: the next stretch begins with them.
    pub(super) rest: Bytes,
}

/// How far the upload is after a request.
pub(super) enum Reached {
    /// More must come.
    At(Box<PartialRow>),
    /// It is a file, now or since before.
    Stored(Box<FileRow>, Box<PartialRow>),
}

/// What ended a stretch.
enum Ended {
    Body,
    Full,
    Preempted,
    Broke(UploadError),
}

/// A stretch whose claim stands.
struct Stretch {
    row: PartialRow,
    room: u64,
    claim: Claim,
    promise: Promise,
    pipeline: Pipeline,
}

impl Bringing {
    /// Takes the body, stretch by stretch.
    pub(super) async fn run<B>(mut self, body: &mut B) -> Result<Reached, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let store = Arc::clone(&self.store);
        let _guard = store.drain.guard();
        let mut checksum = self.checksum.map(|expected| (Sha256::new(), expected));
        let about = About {
            resumable: true,
            user: Some(self.user.clone()),
            request: self.request.take(),
            offset: self.offset,
            length: self.length,
        };
        let progress = store.under_way.begin(self.upload, about, store.clock);
        loop {
            let Resumable { row, intent, .. } = resumable(&store, self.upload)?;
            let Some(intent) = intent else { return self.finished(row) };
            if row.condemned {
                return Err(Refusal::of(ProblemKind::UnknownUpload));
            }
            if row.is_whole()
                && let Some(state) = &row.hash
            {
                // A crash came between its last byte and its end.
                let sha256 = ContentDigest::from_bytes(deserialize(state)?.finalize().into());
                return self.finish(row, sha256).await;
            }
            let mut stretch = match progress.waiting(WaitsFor::Ledger, self.start(row, &intent)).await? {
                Some(stretch) => stretch,
                None => continue,
            };
            let mut received = 0;
            let ended = self.receive(body, &mut stretch, &mut checksum, &mut received, &progress).await;
            store.metrics.received_bytes.inc_by(received);
            let broken = match (ended, &mut checksum) {
                (Ended::Body, Some((hash, expected))) => {
                    let found = ContentDigest::from_bytes(hash.clone().finalize().into());
                    (found != *expected).then_some(UploadError::Digest)
                }
                (Ended::Broke(error), Some(_)) => Some(error),
                (Ended::Preempted, Some(_)) => Some(UploadError::Incomplete),
                (
                    Ended::Broke(error @ (UploadError::Put(_) | UploadError::Hung | UploadError::TooLarge)),
                    None,
                ) => Some(error),
                (Ended::Broke(error), None) => {
                    // The line broke: what came before counts.
                    self.save(stretch, received).await?;
                    return Err(error.refusal());
                }
                (Ended::Preempted, None) => {
                    self.save(stretch, received).await?;
                    return Err(Refusal::of(ProblemKind::UploadBusy));
                }
                (Ended::Full, _) | (Ended::Body, None) => None,
            };
            if let Some(error) = broken {
                self.drop_stretch(stretch).await?;
                return Err(self.broke(error).await);
            }
            let more = checksum.is_none() && self.is_more(body, &stretch, received);
            let sha256 = stretch.pipeline.digest();
            let row = progress.waiting(WaitsFor::Volume, self.save(stretch, received)).await?;
            if row.is_whole() {
                return self.finish(row, sha256).await;
            }
            if !more {
                return Ok(Reached::At(Box::new(row)));
            }
            self.offset = row.offset;
        }
    }

    /// Whether a stretch ended before its body.
    fn is_more<B: Body>(&self, body: &B, stretch: &Stretch, received: u64) -> bool {
        let full = received >= stretch_bytes(stretch.row.offset);
        !self.rest.is_empty() || (full && !body.is_end_stream())
    }

    fn finished(&self, row: PartialRow) -> Result<Reached, Refusal> {
        let file = self.store.ledger.reader().file(row.file_id).map_err(unreadable)?;
        let file = file.ok_or(Refusal::of(ProblemKind::UnknownUpload))?;
        Ok(Reached::Stored(Box::new(file), Box::new(row)))
    }

    /// Makes the claim of the next stretch durable. `None`: something was in the way and is gone; try again.
    async fn start(&mut self, row: PartialRow, intent: &IntentRow) -> Result<Option<Stretch>, Refusal> {
        let store = &self.store;
        let length = row.length.or(self.length);
        let most = length.map_or(RESERVE_STEP_BYTES, |length| length.saturating_sub(row.offset));
        let promise = store.place(Some(most))?;
        let volume = Arc::clone(promise.volume());
        let claim = Claim { object: random_id()?, part: row.next_part, volume: volume.backend.id() };
        let (key, change) = store.keys.new_file_key(&intent.cohort, row.file_id, claim.part)?;
        let command = Command::Start {
            upload: self.upload,
            offset: self.offset,
            length: self.length,
            claim,
            keys: vec![change],
            quota: self.cohort.quota(),
            at_least: self.at_least,
        };
        let (row, room) = match store.ledger.submit(command).await? {
            Outcome::Started { row, room } => (*row, room),
            Outcome::Claimed(left) => {
                self.remove(left).await?;
                self.give_up().await?;
                return Ok(None);
            }
            Outcome::WrongOffset(at) => {
                let detail = format!("the upload is at {at}");
                return Err(Refusal::because(ProblemKind::OffsetMismatch, detail));
            }
            Outcome::WrongLength => return Err(Refusal::of(ProblemKind::LengthMismatch)),
            Outcome::TooManyParts => {
                let detail = "the upload came in too many pieces: send the rest in larger ones";
                return Err(Refusal::because(ProblemKind::TooLarge, detail));
            }
            Outcome::OverQuota => return Err(over_quota()),
            Outcome::Finished(_) => return Ok(None),
            Outcome::Unknown => return Err(Refusal::of(ProblemKind::UnknownUpload)),
            other @ (Outcome::Created(_)
            | Outcome::TooManyUploads
            | Outcome::KeyTaken
            | Outcome::Saved(_)
            | Outcome::Stored(_)
            | Outcome::PathTaken(_)
            | Outcome::NotThere
            | Outcome::Incomplete(_)
            | Outcome::Abandoned(_)
            | Outcome::Forgotten) => return Err(unexpected(&other)),
        };
        let hash = match &row.hash {
            None => Sha256::new(),
            Some(state) => deserialize(state)?,
        };
        let aad = associated_data(row.file_id, claim.part, &intent.cohort);
        let part = Part { object: claim.object, key, aad };
        let backend = Arc::clone(&volume.backend);
        let mut pipeline = Pipeline::new(volume.pool.clone(), self.slot.clone(), backend, part, hash).await;
        if row.parts == 0 {
            // What came before, if anything did, is the tail.
            pipeline = pipeline.expecting(self.cohort.opening(&intent.path));
        }
        pipeline.carry(&row.tail.0);
        Ok(Some(Stretch { row, room, claim, promise, pipeline }))
    }

    async fn receive<B>(
        &mut self,
        body: &mut B,
        stretch: &mut Stretch,
        checksum: &mut Option<(Sha256, ContentDigest)>,
        received: &mut u64,
        progress: &Progress,
    ) -> Ended
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let most = if checksum.is_some() { u64::MAX } else { stretch_bytes(stretch.row.offset) };
        while *received < most {
            let mut bytes = std::mem::take(&mut self.rest);
            if bytes.is_empty() {
                let next = tokio::select! {
                    next = progress.waiting(WaitsFor::Sender, next_frame(body, self.idle)) => next,
                    () = self.turn.preempted() => return Ended::Preempted,
                };
                bytes = match next {
                    Ok(Next::Frame(bytes)) => bytes,
                    // A stretch has its checksum in its head.
                    Ok(Next::Trailers(_)) => continue,
                    Ok(Next::End) => return Ended::Body,
                    Err(error) => return Ended::Broke(error),
                };
            }
            if stretch.row.length.is_none() && checksum.is_none() {
                // Nobody said how long it will be, so what is reserved is no bound: the next stretch has more.
                let fits = usize::try_from(stretch.room - *received).unwrap_or(usize::MAX);
                self.rest = bytes.split_off(fits.min(bytes.len()));
            }
            let count = bytes.len() as u64;
            let end = stretch.row.offset + *received + count;
            if *received + count > stretch.room || end > self.cohort.max_file_bytes {
                return Ended::Broke(UploadError::TooLarge);
            }
            if let Some((hash, _)) = checksum {
                hash.update(&bytes);
            }
            progress.received(count);
            let pushed = self.patience.with(stretch.pipeline.push(&bytes));
            if let Err(error) = in_time(progress.waiting(WaitsFor::Volume, pushed).await) {
                return Ended::Broke(error);
            }
            stretch.promise.spend(count);
            *received += count;
            if !self.rest.is_empty() {
                break;
            }
        }
        Ended::Full
    }

    /// Makes what arrived durable, and then the offset behind it.
    async fn save(&self, stretch: Stretch, received: u64) -> Result<PartialRow, Refusal> {
        let Stretch { row, claim, pipeline, .. } = stretch;
        let offset = row.offset + received;
        let complete = row.length == Some(offset);
        let hash = Blob(pipeline.hash().serialize().to_vec());
        let tail = pipeline.unwritten().filter(|_| !complete).map(|tail| Blob(tail.to_vec()));
        let (part, tail) = match tail {
            Some(tail) => (None, tail),
            None => match publish(&self.store, &self.patience, pipeline, claim).await {
                Ok(part) => (Some(part), Blob::default()),
                Err(error) => {
                    if let UploadError::Put(put) = &error
                        && !error.is_about_content()
                    {
                        tracing::error!(object = %claim.object, error = %put, "a stretch failed on the volume");
                    }
                    self.remove(claim).await?;
                    self.give_up().await?;
                    return Err(self.broke(error).await);
                }
            },
        };
        let expires_ms = self.expires_ms();
        let command = Command::Save { upload: self.upload, part, tail, hash, offset, expires_ms };
        let saved = changed(self.store.ledger.submit(command).await?)?;
        saved.map(|row| *row).ok_or(Refusal::of(ProblemKind::UnknownUpload))
    }

    async fn drop_stretch(&self, stretch: Stretch) -> Result<(), Refusal> {
        self.patience.with(stretch.pipeline.stop()).await;
        self.remove(stretch.claim).await?;
        self.give_up().await
    }

    async fn remove(&self, claim: Claim) -> Result<(), Refusal> {
        let volume = self.store.volume(claim.volume).ok_or(Refusal::of(ProblemKind::BackendUnavailable))?;
        incoming::remove(volume, &self.patience, claim.object).await
    }

    async fn give_up(&self) -> Result<(), Refusal> {
        changed(self.store.ledger.submit(Command::GiveUp { upload: self.upload }).await?).map(drop)
    }

    /// All bytes are there.
    async fn finish(&self, row: PartialRow, sha256: ContentDigest) -> Result<Reached, Refusal> {
        if row.sha256.is_some_and(|expected| expected != sha256) {
            return Err(self.end(UploadError::Digest).await);
        }
        let command = Command::Finish { upload: self.upload, sha256, expires_ms: self.expires_ms() };
        match self.store.ledger.submit(command).await? {
            Outcome::Stored(file) => {
                let created = Content::brought(file.file_type.as_ref()).created();
                self.store.metrics.operation(created, Ending::Succeeded, None);
                self.store.metrics.operation(Action::FileUploadedViaStream, Ending::Succeeded, None);
                let row = resumable(&self.store, self.upload)?.row;
                Ok(Reached::Stored(file, Box::new(row)))
            }
            Outcome::PathTaken(existing) if existing.sha256 == sha256 => {
                let why = "the path holds this content already".to_owned();
                discard(&self.store, self.upload, Ending::Succeeded, why, Some(existing.file_id)).await?;
                let row = resumable(&self.store, self.upload)?.row;
                Ok(Reached::Stored(existing, Box::new(row)))
            }
            Outcome::PathTaken(_) => Err(self.end(UploadError::Conflict).await),
            Outcome::NotThere => Err(self.end(UploadError::NotThere).await),
            other @ (Outcome::Created(_)
            | Outcome::Started { .. }
            | Outcome::WrongOffset(_)
            | Outcome::WrongLength
            | Outcome::Claimed(_)
            | Outcome::TooManyParts
            | Outcome::OverQuota
            | Outcome::TooManyUploads
            | Outcome::KeyTaken
            | Outcome::Saved(_)
            | Outcome::Incomplete(_)
            | Outcome::Abandoned(_)
            | Outcome::Forgotten
            | Outcome::Finished(_)
            | Outcome::Unknown) => Err(unexpected(&other)),
        }
    }

    /// What is wrong with the content will be wrong again: there is nothing to resume.
    async fn broke(&self, error: UploadError) -> Refusal {
        if error.is_about_content() { self.end(error).await } else { error.refusal() }
    }

    async fn end(&self, error: UploadError) -> Refusal {
        let ended = discard(&self.store, self.upload, error.ending(), error.to_string(), None).await;
        ended.err().unwrap_or_else(|| error.refusal())
    }

    fn expires_ms(&self) -> u64 {
        expires_ms(&self.store)
    }
}

/// When an upload that something arrives for now is given up.
pub(super) fn expires_ms(store: &Store) -> u64 {
    let kept = u64::try_from(store.upload_expiry.as_millis()).unwrap_or(u64::MAX);
    store.clock.unix_milliseconds().saturating_add(kept)
}

/// How long a stretch is that begins at `offset`.
fn stretch_bytes(offset: u64) -> u64 {
    STRETCH_BYTES.max(offset / STRETCH_SHARE)
}

/// The upload as it is now.
pub(crate) fn resumable(store: &Store, upload: FileId) -> Result<Resumable, Refusal> {
    let found = store.ledger.reader().partial(upload).map_err(unreadable)?;
    found.ok_or(Refusal::of(ProblemKind::UnknownUpload))
}

/// Condemns an upload, removes all that there is of it from the volumes, and then ends it. Whoever calls this has
/// the turn.
pub(crate) async fn discard(
    store: &Store,
    upload: FileId,
    ending: Ending,
    error: String,
    instead: Option<FileId>,
) -> Result<(), Refusal> {
    let found = resumable(store, upload)?;
    if !found.parts.is_empty() {
        // What is behind the offset goes: should this process end in the midst of it, nobody may go on there.
        changed(store.ledger.submit(Command::Condemn { upload }).await?)?;
    }
    let (patience, _) = Patience::new(store.io_patience);
    let claim = found.intent.and_then(|intent| intent.claim).map(|claim| (claim.object, claim.volume));
    let objects = found.parts.iter().map(|part| (part.object, part.volume)).chain(claim);
    for (object, volume) in objects {
        let volume = store.volume(volume).ok_or(Refusal::of(ProblemKind::BackendUnavailable))?;
        incoming::remove(volume, &patience, object).await?;
    }
    store.metrics.operation(Action::ScratchCleanup, Ending::Succeeded, None);
    store.metrics.operation(Action::FileUploadedViaStream, ending, None);
    changed(store.ledger.submit(Command::Abandon { upload, ending, error, instead }).await?).map(drop)
}

/// What a command answers that changes an upload and asks for nothing; `None`: it has ended.
fn changed(outcome: Outcome) -> Result<Option<Box<PartialRow>>, Refusal> {
    match outcome {
        Outcome::Saved(row) => Ok(Some(row)),
        Outcome::Abandoned(_) | Outcome::Unknown | Outcome::Finished(_) => Ok(None),
        other @ (Outcome::Created(_)
        | Outcome::Started { .. }
        | Outcome::WrongOffset(_)
        | Outcome::WrongLength
        | Outcome::Claimed(_)
        | Outcome::TooManyParts
        | Outcome::OverQuota
        | Outcome::TooManyUploads
        | Outcome::KeyTaken
        | Outcome::Stored(_)
        | Outcome::PathTaken(_)
        | Outcome::NotThere
        | Outcome::Incomplete(_)
        | Outcome::Forgotten) => Err(unexpected(&other)),
    }
}

fn deserialize(state: &Blob) -> Result<Sha256, Refusal> {
    let damaged = || {
        tracing::error!("the state of an upload's hash is not one");
        Refusal::of(ProblemKind::Internal)
    };
    let state = state.0.as_slice().try_into().map_err(|_| damaged())?;
    Sha256::deserialize(state).map_err(|_| damaged())
}
