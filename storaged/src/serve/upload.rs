//! `POST /internal/storage/upload`: a body becomes a file. What storaged makes itself becomes one in the same way.
//!
//! **Invariant:** the intent is durable before the first byte is written; the object is durable before the
//! outcome is recorded; the outcome is durable before the answer. An upload that ends in any other way
//! leaves its records and nothing else: if what it wrote cannot be removed now, a cleanup stands for it from the
//! record of its end on, until it is gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, IF_MATCH};
use http::{HeaderMap, StatusCode};
use hyper::Request;
use hyper::body::{Body, Incoming};
use sha2::{Digest as _, Sha256};
use store_proto::{
    Action as Asked, Attributes, Cohort, ContentDigest, FileId, FileType, IdempotencyKey, LogicalPath,
    ProblemKind, UserName, headers,
};
use vault::Key256;

use crate::denial::Denial;
use crate::keys::KeyStore as _;
use crate::ledger::files::PartRow;
use crate::ledger::intents::{Claim, Content};
use crate::ledger::repeat::{Named, Said};
use crate::ledger::upload::{self, Command, Outcome};
use crate::ledger::{Action, Ending, FileRow, Origin};
use crate::limits::TRANSFER_WAIT;
use crate::objects::part::associated_data;
use crate::objects::{Part, Pipeline, TransferSlot};
use crate::policy::CohortPolicy;
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::derived;
use crate::serve::incoming::{
    self, Next, UploadError, in_time, linger, new_id, next_frame, over_quota, parse_etag, publish, random_id,
};
use crate::serve::log;
use crate::serve::patience::Patience;
use crate::serve::permissions::refuse_certain_conflict;
use crate::serve::repeat::{self, Expected};
use crate::serve::routes::{deny, no_place, watch};
use crate::serve::under_way::{About, Progress, WaitsFor};
use crate::store::Store;
use crate::volumes::Promise;

/// The only part of a file that came in one stretch.
const ONLY_PART: u32 = 1;

/// What is said of the file before its bytes.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) cohort: Cohort,
    pub(crate) path: LogicalPath,
    pub(crate) file_type: Option<FileType>,
    pub(crate) attributes: Attributes,
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<ContentDigest>,
    pub(crate) replaces: Option<ContentDigest>,
}

/// What is to be stored, and by whom.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) origin: Origin,
    pub(crate) announced: Announced,
    pub(crate) content: Content,
    pub(crate) cohort: CohortPolicy,
    /// How long nothing may come.
    pub(crate) idle: Duration,
    /// What its sender calls the request.
    pub(crate) said: Option<Said>,
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
    let cohort = match admitted.authorize(&announced.cohort, Asked::Upload) {
        Ok(cohort) => cohort,
        Err(denial) => return Err(refused(denial).await),
    };
    watch(store, &admitted, &announced.cohort).await?;
    if announced.size.is_some_and(|size| size > cohort.max_file_bytes) {
        return Err(refused(Denial::TooLarge).await);
    }
    if !cohort.takes(&announced.path, announced.file_type.as_ref()) {
        return Err(refused(Denial::FileType).await);
    }
    if !cohort.attributes.take(&announced.attributes) {
        return Err(refused(Denial::Attribute).await);
    }
    if !derived::is_open(&announced.attributes, &admitted, store)? {
        return Err(derived::refusal(refused(Denial::Attribute).await));
    }
    let said = announced.said(&admitted.user().name);
    if let Some(row) = repeat::earlier(store, said.as_ref())? {
        let before = repeat::answered(store, &row)?;
        let expected = Expected { size: announced.size, sha256: announced.sha256 };
        let (origin, idle) = (admitted.origin.clone(), admitted.policy().rules().body_idle);
        return repeat::compare(store, origin, before, expected, request.into_body(), idle).await;
    }
    if announced.replaces.is_none() {
        let existing = refuse_certain_conflict(store, &announced.cohort, &announced.path, announced.size)?;
        if let (Some(existing), Some(sha256)) = (&existing, announced.sha256)
            && existing.sha256 != sha256
        {
            return Err(Refusal::of(ProblemKind::Conflict));
        }
    }
    let promise = match store.place(announced.size) {
        Ok(promise) => promise,
        Err(error) => {
            let origin = admitted.origin.clone();
            return Err(no_place(store, error, origin, &announced.cohort).await);
        }
    };
    let Some(slot) = store.buffers.slot(&admitted.user().name, TRANSFER_WAIT).await else {
        return Err(Refusal::of(ProblemKind::Overloaded));
    };
    // In a task of its own: when the connection dies its handler is dropped, and the records must be
    // written all the same. The body then ends with an error, which ends the task.
    let (patience, hung) = Patience::new(store.io_patience);
    let (idle, origin) = (admitted.policy().rules().body_idle, admitted.origin.clone());
    let content = Content::brought(announced.file_type.as_ref());
    let wanted = Wanted { origin, announced, content, cohort, idle, said };
    let upload = Upload { store: Arc::clone(store), wanted, promise, slot, patience };
    let mut running = tokio::spawn(upload.run(request.into_body()));
    let ended = tokio::select! {
        ended = &mut running => ended,
        Ok(()) = hung => return Err(Refusal::of(ProblemKind::BackendUnavailable)),
    };
    ended.unwrap_or_else(|_panicked| Err(Refusal::of(ProblemKind::Internal)))
}

/// Stores what storaged made itself. An error in the midst of the body leaves nothing of it.
pub(crate) async fn keep<B>(store: &Arc<Store>, wanted: Wanted, body: &mut B) -> Result<FileRow, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let promise = store.place(wanted.announced.size)?;
    let slot = store.buffers.own_slot(TRANSFER_WAIT).await.ok_or(Refusal::of(ProblemKind::Overloaded))?;
    let (patience, _nobody_is_told) = Patience::new(store.io_patience);
    let upload = Upload { store: Arc::clone(store), wanted, promise, slot, patience };
    match upload.take(body).await? {
        Finished::New(file) | Finished::Same(file) => Ok(*file),
    }
}

struct Upload {
    store: Arc<Store>,
    wanted: Wanted,
    promise: Promise,
    slot: TransferSlot,
    patience: Patience,
}

impl Upload {
    async fn run(self, mut body: Incoming) -> Result<Answer, Refusal> {
        let store = Arc::clone(&self.store);
        match self.take(&mut body).await {
            Ok(Finished::New(file)) => {
                Ok(answer::json(StatusCode::CREATED, &log::upload_receipt(&store, &file)))
            }
            Ok(Finished::Same(file)) => Ok(answer::json(StatusCode::OK, &log::upload_receipt(&store, &file))),
            Err(refusal) => {
                linger(body);
                Err(refusal)
            }
        }
    }

    async fn take<B>(self, body: &mut B) -> Result<Finished, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let store = Arc::clone(&self.store);
        let _guard = store.drain.guard();
        let begun = store.clock.now();
        let (standing, key) = self.begin().await?;
        store.metrics.transfers.inc();
        let mut received = 0;
        let Upload { wanted, mut promise, slot, patience, .. } = self;
        let Wanted { origin, announced, content, cohort, idle, said: _ } = wanted;
        let about = About {
            resumable: false,
            user: origin.user,
            request: origin.request_id,
            offset: 0,
            length: announced.size,
        };
        let progress = store.under_way.begin(standing.file_id, about, store.clock);
        let volume = Arc::clone(promise.volume());
        let part = Part {
            object: standing.claim.object,
            key,
            aad: associated_data(standing.file_id, ONLY_PART, &announced.cohort),
        };
        let pool = volume.pool.clone();
        let mut pipeline = Pipeline::new(pool, slot, Arc::clone(&volume.backend), part, Sha256::new()).await;
        pipeline = pipeline.expecting(cohort.opening(&announced.path));
        let ongoing =
            Ongoing { store: &store, standing, patience: &patience, volume: &volume, progress: &progress };
        let bounds = Bounds { announced: &announced, cohort: &cohort, idle };
        let arrived = ongoing.receive(body, &mut pipeline, &mut promise, &bounds, &mut received).await;
        let result = match arrived {
            Ok(sha256) => {
                let published = publish(&store, &patience, pipeline, ongoing.standing.claim);
                match progress.waiting(WaitsFor::Volume, published).await {
                    Ok(part) => progress.waiting(WaitsFor::Ledger, ongoing.finish(part, sha256)).await,
                    Err(error) => Err(ongoing.abandon(error, received).await),
                }
            }
            Err(error) => {
                patience.with(pipeline.stop()).await;
                Err(ongoing.abandon(error, received).await)
            }
        };
        store.metrics.transfers.dec();
        store.metrics.received_bytes.inc_by(received);
        let ending = match &result {
            Ok(Finished::New(_) | Finished::Same(_)) => Ending::Succeeded,
            Err(ended) => ended.ending,
        };
        store.ended(content.arriving(), ending, begun);
        if matches!(result, Ok(Finished::New(_))) && content.created() != content.arriving() {
            store.metrics.operation(content.created(), Ending::Succeeded, None);
        }
        result.map_err(|ended| ended.refusal)
    }

    /// Draws ids and keys, and makes the intent durable.
    async fn begin(&self) -> Result<(Standing, Key256), Refusal> {
        let (file_id, object) = (new_id(&self.store)?, random_id()?);
        let Wanted { origin, announced, content, cohort: rules, said, .. } = &self.wanted;
        let cohort = &announced.cohort;
        let (_, record_key) = self.store.keys.new_file_key(cohort, file_id, crate::keys::RECORD_SLOT)?;
        let (key, part_key) = self.store.keys.new_file_key(cohort, file_id, ONLY_PART)?;
        let claim = Claim { object, part: ONLY_PART, volume: self.promise.volume().backend.id() };
        let command = Command::Begin {
            origin: origin.clone(),
            wanted: upload::Announced {
                cohort: cohort.clone(),
                path: announced.path.clone(),
                content: *content,
                file_type: announced.file_type.clone(),
                attributes: announced.attributes.clone(),
                size: announced.size,
                replaces: announced.replaces,
                scan_required: rules.scan_required,
            },
            file_id,
            claim,
            keys: vec![record_key, part_key],
            quota: rules.quota(),
            said: said.clone(),
        };
        match self.store.ledger.submit(command).await? {
            Outcome::Begun { intent, reserved } => Ok((Standing { file_id, intent, claim, reserved }, key)),
            Outcome::OverQuota => Err(over_quota()),
            Outcome::KeyTaken => Err(repeat::in_use()),
            other @ (Outcome::Extended { .. }
            | Outcome::Stored(_)
            | Outcome::PathTaken(_)
            | Outcome::NotThere
            | Outcome::Abandoned(_)
            | Outcome::UnknownIntent) => Err(unexpected(&other)),
        }
    }
}

/// An upload whose intent stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    file_id: FileId,
    intent: u64,
    claim: Claim,
    reserved: u64,
}

/// What a body may be.
struct Bounds<'a> {
    announced: &'a Announced,
    cohort: &'a CohortPolicy,
    idle: Duration,
}

struct Ongoing<'a> {
    store: &'a Store,
    standing: Standing,
    patience: &'a Patience,
    volume: &'a crate::volumes::VolumeState,
    progress: &'a Progress,
}

enum Finished {
    New(Box<FileRow>),
    Same(Box<FileRow>),
}

struct Ended {
    ending: Ending,
    refusal: Refusal,
}

impl Ongoing<'_> {
    /// Reads the whole body into the pipeline and compares it with what was announced.
    async fn receive<B>(
        &self,
        body: &mut B,
        pipeline: &mut Pipeline,
        promise: &mut Promise,
        bounds: &Bounds<'_>,
        received: &mut u64,
    ) -> Result<ContentDigest, UploadError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (announced, max_bytes) = (bounds.announced, bounds.cohort.max_file_bytes);
        let mut reserved = self.standing.reserved;
        let mut expected = announced.sha256;
        loop {
            let next = tokio::select! {
                next = self.progress.waiting(WaitsFor::Sender, next_frame(body, bounds.idle)) => next?,
                () = self.progress.given_up() => return Err(UploadError::GivenUp),
            };
            let bytes = match next {
                Next::Frame(bytes) => bytes,
                Next::Trailers(trailers) => {
                    expected = said_behind(&trailers, expected)?;
                    continue;
                }
                Next::End => break,
            };
            *received += bytes.len() as u64;
            if *received > max_bytes || announced.size.is_some_and(|size| *received > size) {
                return Err(UploadError::TooLarge);
            }
            while *received > reserved {
                reserved = self.extend(bounds.cohort).await?;
            }
            self.progress.received(bytes.len() as u64);
            let pushed = self.patience.with(pipeline.push(&bytes));
            in_time(self.progress.waiting(WaitsFor::Volume, pushed).await)?;
            promise.spend(bytes.len() as u64);
        }
        if announced.size.is_some_and(|size| *received < size) {
            return Err(UploadError::Incomplete);
        }
        // Before anything has the name of an object: what was hashed is what was received.
        assert_eq!(pipeline.size(), *received, "every byte that was received is sealed once");
        let sha256 = pipeline.digest();
        if expected.is_some_and(|expected| expected != sha256) {
            return Err(UploadError::Digest);
        }
        Ok(sha256)
    }

    /// Of an upload that did not say how long it is: more of the cohort's quota.
    async fn extend(&self, cohort: &CohortPolicy) -> Result<u64, UploadError> {
        let command = Command::Extend { intent: self.standing.intent, quota: cohort.quota() };
        match self.store.ledger.submit(command).await {
            Ok(Outcome::Extended { reserved }) => Ok(reserved),
            Ok(Outcome::OverQuota) => Err(UploadError::OverQuota),
            Ok(other) => {
                unexpected(&other);
                Err(UploadError::Ledger)
            }
            Err(_unavailable) => Err(UploadError::Ledger),
        }
    }

    async fn finish(&self, part: PartRow, sha256: ContentDigest) -> Result<Finished, Ended> {
        let failed = |refusal| Ended { ending: Ending::Failed, refusal };
        let size = part.size;
        let command = Command::Finish { intent: self.standing.intent, part, sha256 };
        // Without an answer the file may or may not be recorded: the object stays, and the next start knows.
        let outcome = self.store.ledger.submit(command).await.map_err(|error| failed(error.into()))?;
        let existing = match outcome {
            Outcome::Stored(file) => return Ok(Finished::New(file)),
            Outcome::PathTaken(existing) => existing,
            Outcome::NotThere => return Err(self.abandon(UploadError::NotThere, size).await),
            other @ (Outcome::Begun { .. }
            | Outcome::Extended { .. }
            | Outcome::OverQuota
            | Outcome::KeyTaken
            | Outcome::Abandoned(_)
            | Outcome::UnknownIntent) => return Err(failed(unexpected(&other))),
        };
        if existing.sha256 != sha256 {
            return Err(self.abandon(UploadError::Conflict, size).await);
        }
        let error = "the path holds this content already".to_owned();
        self.close(Ending::Succeeded, error, size, Some(existing.file_id)).await.map_err(failed)?;
        Ok(Finished::Same(existing))
    }

    async fn abandon(&self, error: UploadError, received: u64) -> Ended {
        let ending = error.ending();
        if let UploadError::Put(put) = &error
            && !error.is_about_content()
        {
            tracing::error!(object = %self.standing.claim.object, error = %put, "an upload failed on the volume");
        }
        let closed = self.close(ending, error.to_string(), received, None).await;
        // What was wrong first is what the client should know; that it could not be tidied is in the log, and
        // the open intent keeps it for the next start.
        let _ = closed;
        Ended { ending, refusal: error.refusal() }
    }

    /// Removes what the upload wrote, and closes its intent. What cannot be removed is a cleanup's from there on.
    async fn close(
        &self,
        ending: Ending,
        error: String,
        received: u64,
        instead: Option<FileId>,
    ) -> Result<(), Refusal> {
        let removed = incoming::remove(self.volume, self.patience, self.standing.claim.object).await;
        let left = removed.is_err();
        if !left {
            self.store.metrics.operation(Action::ScratchCleanup, Ending::Succeeded, None);
        }
        let command =
            Command::Abandon { intent: self.standing.intent, ending, error, received, left, instead };
        match self.store.ledger.submit(command).await? {
            Outcome::Abandoned(_) => Ok(()),
            other @ (Outcome::Begun { .. }
            | Outcome::Extended { .. }
            | Outcome::OverQuota
            | Outcome::KeyTaken
            | Outcome::Stored(_)
            | Outcome::PathTaken(_)
            | Outcome::NotThere
            | Outcome::UnknownIntent) => Err(unexpected(&other)),
        }
    }
}

/// The digest that a sender learned while it sent (RFC 9530 §2). One that cannot be read does not match.
pub(super) fn said_behind(
    trailers: &HeaderMap,
    before: Option<ContentDigest>,
) -> Result<Option<ContentDigest>, UploadError> {
    let Some(value) = trailers.get(headers::REPR_DIGEST) else { return Ok(before) };
    let read = value.to_str().ok().and_then(|text| ContentDigest::from_repr_digest(text).ok());
    match (read, before) {
        (None, _) => Err(UploadError::Digest),
        (Some(read), Some(before)) if read != before => Err(UploadError::Digest),
        (read, _) => Ok(read),
    }
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
        // What is no text is no attribute either.
        let lists =
            headers.get_all(headers::CULVERT_ATTRIBUTE).iter().map(|list| list.to_str().unwrap_or("?"));
        let attributes = Attributes::parse_lists(lists);
        let attributes = attributes.map_err(|error| malformed(headers::CULVERT_ATTRIBUTE, &error))?;
        let key = text(headers, headers::IDEMPOTENCY_KEY)?.map(IdempotencyKey::from_field).transpose();
        let key = key.map_err(|error| malformed(headers::IDEMPOTENCY_KEY, &error))?;
        let sha256 = text(headers, headers::REPR_DIGEST)?.map(ContentDigest::from_repr_digest).transpose();
        let sha256 = sha256.map_err(|error| malformed(headers::REPR_DIGEST, &error))?;
        let size = text(headers, CONTENT_LENGTH.as_str())?.map(str::parse::<u64>).transpose();
        let size = size.map_err(|error| malformed("content-length", &error))?;
        let replaces = match text(headers, IF_MATCH.as_str())? {
            None => None,
            Some(etag) => {
                let parsed =
                    parse_etag(etag).ok_or_else(|| malformed("if-match", &"not one strong etag of a file"));
                Some(parsed?)
            }
        };
        Ok(Announced { cohort, path, file_type, attributes, key, size, sha256, replaces })
    }

    /// The request, if its sender calls it something.
    fn said(&self, user: &UserName) -> Option<Said> {
        let named = Named {
            cohort: &self.cohort,
            path: &self.path,
            replaces: self.replaces,
            file_type: self.file_type.as_ref(),
            attributes: &self.attributes,
        };
        self.key.clone().map(|key| Said::whole(user.clone(), key, &named))
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
