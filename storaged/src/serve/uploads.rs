//! `/internal/v1/uploads…`: uploads that resume.
//!
//! **Invariant:** an upload is of use to the user who began it and to nobody else: to others it is not there. The
//! offset that is told is durable. A newer request ends one that stalls, and waits until its bytes are safe.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::{Body, Incoming};
use store_proto::{
    Action as Asked, ContentDigest, FileId, NewUpload, ProblemKind, RequestId, UploadReceipt, UploadState,
    Uploads, headers,
};

use crate::denial::Denial;
use crate::keys::KeyStore as _;
use crate::ledger::intents::Content;
use crate::ledger::partial::{Command, Outcome, PartialRow};
use crate::ledger::read::Resumable;
use crate::ledger::repeat::{Named, Said};
use crate::ledger::tables::rfc3339;
use crate::ledger::upload::Announced;
use crate::ledger::{Ending, FileRow};
use crate::limits::{PREEMPTION_WAIT, TRANSFER_WAIT, UPLOADS_PER_USER};
use crate::policy::CohortPolicy;
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, AnswerBody, Refusal};
use crate::serve::derived;
use crate::serve::incoming::{linger, new_id, over_quota};
use crate::serve::log;
use crate::serve::patience::Patience;
use crate::serve::permissions::{read_json, refuse_certain_conflict, unreadable};
use crate::serve::repeat;
use crate::serve::routes::{deny, no_place, watch};
use crate::serve::stretch::{Bringing, Reached, discard, expires_ms, resumable};
use crate::serve::upload::unexpected;
use crate::serve::writers::Turn;
use crate::store::Store;

/// `POST`: begin one. `GET`: one's own that have not ended.
pub async fn all(
    request: Request<Incoming>,
    admitted: Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    if request.method() == Method::POST {
        return create(request, admitted, store).await;
    }
    let mine = store.ledger.reader().partials_of(&admitted.user().name).map_err(unreadable)?;
    let mine = mine.iter().filter(|(_, row)| !row.condemned);
    let uploads = mine.map(|(upload, row)| state(*upload, row, None)).collect();
    Ok(answer::json(StatusCode::OK, &Uploads { uploads }))
}

/// `GET`, `HEAD`: how far is it? `PATCH`: more of it. `DELETE`: give it up.
pub async fn one(
    request: Request<Incoming>,
    upload: FileId,
    admitted: Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    let mine = mine(upload, &admitted, store).await?;
    match *request.method() {
        Method::PATCH => append(request, mine, store).await,
        Method::DELETE => terminate(mine, store).await,
        _ => look(mine, store).await,
    }
}

async fn create(
    request: Request<Incoming>,
    admitted: Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    let new: NewUpload = read_json(request, &admitted, store).await?;
    let refused = |denial| deny(store, denial, admitted.origin.clone(), Some(&new.cohort), Some(&new.path));
    let cohort = match admitted.authorize(&new.cohort, Asked::Upload) {
        Ok(cohort) => cohort,
        Err(denial) => return Err(refused(denial).await),
    };
    watch(store, &admitted, &new.cohort).await?;
    if new.length.is_some_and(|length| length > cohort.max_file_bytes) {
        return Err(refused(Denial::TooLarge).await);
    }
    if !cohort.takes(&new.path, new.file_type.as_ref()) {
        return Err(refused(Denial::FileType).await);
    }
    if !cohort.attributes.take(&new.attributes) {
        return Err(refused(Denial::Attribute).await);
    }
    if !derived::is_open(&new.attributes, &admitted, store)? {
        return Err(derived::refusal(refused(Denial::Attribute).await));
    }
    let said = said(&new, &admitted);
    if let Some(row) = repeat::earlier(store, said.as_ref())? {
        let upload = row.upload.ok_or(Refusal::of(ProblemKind::Internal))?;
        let mut answer = look(mine(upload, &admitted, store).await?, store).await?;
        *answer.status_mut() = StatusCode::CREATED;
        return Ok(located(answer, upload));
    }
    if new.replaces.is_none() {
        refuse_certain_conflict(store, &new.cohort, &new.path, new.length)?;
    }
    if let Err(error) = store.place(new.length) {
        return Err(no_place(store, error, admitted.origin.clone(), &new.cohort).await);
    }
    let user = admitted.origin.user.clone().ok_or(Refusal::of(ProblemKind::Internal))?;
    let (upload, file_id) = (new_id(store)?, new_id(store)?);
    let (_, record_key) = store.keys.new_file_key(&new.cohort, file_id, crate::keys::RECORD_SLOT)?;
    let length = new.length;
    let command = Command::Create {
        origin: admitted.origin.clone(),
        user,
        wanted: Announced {
            cohort: new.cohort,
            path: new.path,
            content: Content::brought(new.file_type.as_ref()),
            file_type: new.file_type,
            attributes: new.attributes,
            size: new.length,
            replaces: new.replaces,
            scan_required: cohort.scan_required,
        },
        sha256: new.sha256,
        upload,
        file_id,
        keys: vec![record_key],
        quota: cohort.quota(),
        expires_ms: expires_ms(store),
        metadata: new.metadata,
        said,
    };
    let row = match store.ledger.submit(command).await? {
        Outcome::Created(row) => row,
        Outcome::OverQuota => return Err(over_quota()),
        Outcome::KeyTaken => return Err(repeat::in_use()),
        Outcome::TooManyUploads => {
            let detail =
                format!("there are {UPLOADS_PER_USER} uploads under way: finish or end some of them");
            return Err(Refusal::because(ProblemKind::RateLimited, detail));
        }
        other @ (Outcome::Started { .. }
        | Outcome::WrongOffset(_)
        | Outcome::WrongLength
        | Outcome::Claimed(_)
        | Outcome::TooManyParts
        | Outcome::Saved(_)
        | Outcome::Stored(_)
        | Outcome::PathTaken(_)
        | Outcome::NotThere
        | Outcome::Incomplete(_)
        | Outcome::Abandoned(_)
        | Outcome::Forgotten
        | Outcome::Finished(_)
        | Outcome::Unknown) => return Err(unexpected(&other)),
    };
    let mut answer = answer::json(StatusCode::CREATED, &state(upload, &row, None));
    if length == Some(0) {
        // There is nothing to wait for.
        let mine = mine(upload, &admitted, store).await?;
        answer = look(mine, store).await?;
        *answer.status_mut() = StatusCode::CREATED;
    }
    Ok(located(answer, upload))
}

fn located(mut answer: Answer, upload: FileId) -> Answer {
    let location = store_proto::routes::upload(upload);
    let location = HeaderValue::try_from(location).expect("a path of digits and letters is a header value");
    answer.headers_mut().insert(http::header::LOCATION, location);
    answer
}

/// The request, if its sender calls it something.
fn said(new: &NewUpload, admitted: &Admitted) -> Option<Said> {
    let NewUpload { cohort, path, replaces, file_type, attributes, length, sha256, .. } = new;
    let named = Named { cohort, path, replaces: *replaces, file_type: file_type.as_ref(), attributes };
    let user = &admitted.user().name;
    let key = new.key.clone()?;
    Some(Said::in_stretches(user.clone(), key, &named, *length, *sha256))
}

/// An upload of the user who asks.
struct Mine {
    upload: FileId,
    found: Resumable,
    cohort: Option<CohortPolicy>,
    idle: std::time::Duration,
    request: Option<RequestId>,
}

async fn mine(upload: FileId, admitted: &Admitted, store: &Arc<Store>) -> Result<Mine, Refusal> {
    let found = resumable(store, upload)?;
    if found.row.condemned {
        return Err(Refusal::of(ProblemKind::UnknownUpload));
    }
    if Some(&found.row.user) != admitted.origin.user.as_ref() {
        let refusal = deny(store, Denial::NotYours, admitted.origin.clone(), None, None).await;
        return Err(refusal);
    }
    let cohort = match &found.intent {
        None => None,
        // The right to write is asked for again: it may have been taken away.
        Some(intent) => match admitted.authorize(&intent.cohort, Asked::Upload) {
            Ok(cohort) => Some(cohort),
            Err(denial) => {
                let (cohort, path) = (Some(&intent.cohort), Some(&intent.path));
                return Err(deny(store, denial, admitted.origin.clone(), cohort, path).await);
            }
        },
    };
    let (idle, request) = (admitted.policy().rules().body_idle, admitted.origin.request_id.clone());
    Ok(Mine { upload, found, cohort, idle, request })
}

impl Mine {
    async fn turn(&self, store: &Store) -> Result<Turn, Refusal> {
        let turn = store.writers.turn(self.upload, PREEMPTION_WAIT).await;
        turn.ok_or(Refusal::of(ProblemKind::UploadBusy))
    }

    async fn bring<B>(
        self,
        store: &Arc<Store>,
        turn: Turn,
        announced: Bringer,
        mut body: B,
        linger: fn(B),
    ) -> Result<Reached, Refusal>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let cohort = self.cohort.ok_or(Refusal::of(ProblemKind::UnknownUpload))?;
        let Some(slot) = store.buffers.slot(&self.found.row.user, TRANSFER_WAIT).await else {
            return Err(Refusal::of(ProblemKind::Overloaded));
        };
        let (patience, hung) = Patience::new(store.io_patience);
        let Bringer { offset, length, checksum, body_bytes } = announced;
        let (user, request) = (self.found.row.user.clone(), self.request);
        let bringing = Bringing {
            store: Arc::clone(store),
            upload: self.upload,
            cohort,
            turn,
            slot,
            patience,
            idle: self.idle,
            offset,
            length,
            user,
            request,
            at_least: body_bytes.filter(|_| checksum.is_some()).unwrap_or(0),
            checksum,
            rest: Bytes::new(),
        };
        // In a task of its own, as any upload: what arrived is made durable whether or not anybody waits.
        let running = tokio::spawn(async move {
            bringing.store.metrics.transfers.inc();
            let store = Arc::clone(&bringing.store);
            let ended = bringing.run(&mut body).await;
            store.metrics.transfers.dec();
            if ended.is_err() {
                linger(body);
            }
            ended
        });
        tokio::select! {
            ended = running => ended.unwrap_or_else(|_panicked| Err(Refusal::of(ProblemKind::Internal))),
            Ok(()) = hung => Err(Refusal::of(ProblemKind::BackendUnavailable)),
        }
    }
}

/// What the headers say of a body.
struct Bringer {
    offset: u64,
    length: Option<u64>,
    checksum: Option<ContentDigest>,
    body_bytes: Option<u64>,
}

async fn look(mine: Mine, store: &Arc<Store>) -> Result<Answer, Refusal> {
    // Whoever asks wants to go on: what a stalled request still holds is made durable first.
    let turn = mine.turn(store).await?;
    let upload = mine.upload;
    let row = resumable(store, upload)?.row;
    if row.finished {
        return finished(store, upload, &row);
    }
    if row.length == Some(row.offset) {
        let announced = Bringer { offset: row.offset, length: None, checksum: None, body_bytes: None };
        let progress = mine.bring(store, turn, announced, Empty::<Bytes>::new(), drop).await?;
        return Ok(progressed(store, upload, progress));
    }
    Ok(told(StatusCode::OK, &state(upload, &row, None)))
}

async fn append(request: Request<Incoming>, mine: Mine, store: &Arc<Store>) -> Result<Answer, Refusal> {
    let announced = match Bringer::read(request.headers()) {
        Ok(announced) => announced,
        Err(detail) => return Err(Refusal::because(ProblemKind::BadRequest, detail)),
    };
    let upload = mine.upload;
    if mine.found.row.finished {
        return finished(store, upload, &mine.found.row);
    }
    let end = announced.body_bytes.and_then(|bytes| announced.offset.checked_add(bytes));
    let length = mine.found.row.length.or(announced.length);
    if let (Some(end), Some(length)) = (end, length)
        && end > length
    {
        return Err(Refusal::of(ProblemKind::TooLarge));
    }
    let turn = mine.turn(store).await?;
    let progress = mine.bring(store, turn, announced, request.into_body(), linger).await?;
    Ok(progressed(store, upload, progress))
}

async fn terminate(mine: Mine, store: &Arc<Store>) -> Result<Answer, Refusal> {
    let _turn = mine.turn(store).await?;
    if !resumable(store, mine.upload)?.row.finished {
        let why = "given up by its sender".to_owned();
        discard(store, mine.upload, Ending::Aborted, why, None).await?;
    }
    let mut answer = Response::new(AnswerBody::Empty);
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}

fn progressed(store: &Store, upload: FileId, reached: Reached) -> Answer {
    match reached {
        Reached::At(row) => told(StatusCode::OK, &state(upload, &row, None)),
        Reached::Stored(file, row) => {
            told(StatusCode::OK, &state(upload, &row, Some(log::upload_receipt(store, &file))))
        }
    }
}

fn finished(store: &Store, upload: FileId, row: &PartialRow) -> Result<Answer, Refusal> {
    let file = store.ledger.reader().file(row.file_id).map_err(unreadable)?;
    let file = file.ok_or(Refusal::of(ProblemKind::UnknownUpload))?;
    let state = state(upload, row, Some(log::upload_receipt(store, &file)));
    Ok(told(StatusCode::OK, &UploadState { metadata: Some(metadata(&file)), ..state }))
}

/// What the file has kept of its `Upload-Metadata`, in that header's words: the header itself is gone.
fn metadata(file: &FileRow) -> String {
    let pair = |key: &str, value: &str| format!("{key} {}", STANDARD.encode(value));
    let file_type = file.file_type.as_ref().map(|kind| pair(headers::CULVERT_FILE_TYPE, kind.as_str()));
    let said =
        (!file.attributes.is_empty()).then(|| pair(headers::CULVERT_ATTRIBUTE, &file.attributes.to_list()));
    let pairs = [Some(pair("path", file.path.as_str())), file_type, said];
    pairs.into_iter().flatten().collect::<Vec<_>>().join(",")
}

fn state(upload: FileId, row: &PartialRow, receipt: Option<UploadReceipt>) -> UploadState {
    UploadState {
        upload_id: upload,
        offset: row.offset,
        length: row.length,
        expires_at: rfc3339(row.expires_ms),
        metadata: row.metadata.clone(),
        complete: row.finished,
        receipt,
    }
}

fn told(status: StatusCode, state: &UploadState) -> Answer {
    let mut answer = answer::json(status, state);
    let fields = answer.headers_mut();
    fields.insert(headers::UPLOAD_OFFSET, HeaderValue::from(state.offset));
    if let Some(length) = state.length {
        fields.insert(headers::UPLOAD_LENGTH, HeaderValue::from(length));
    }
    answer
}

impl Bringer {
    fn read(headers: &HeaderMap) -> Result<Bringer, String> {
        let number = |name: &'static str| match single(headers, name)? {
            None => Ok(None),
            Some(text) if text.bytes().all(|c| c.is_ascii_digit()) => {
                text.parse::<u64>().map(Some).map_err(|_| format!("{name} is too large"))
            }
            Some(_) => Err(format!("{name} is not a number")),
        };
        let offset = number(headers::UPLOAD_OFFSET)?;
        let checksum = single(headers, headers::UPLOAD_CHECKSUM)?
            .map(ContentDigest::from_upload_checksum)
            .transpose()
            .map_err(|error| error.to_string())?;
        Ok(Bringer {
            offset: offset.ok_or_else(|| format!("{} is missing", headers::UPLOAD_OFFSET))?,
            length: number(headers::UPLOAD_LENGTH)?,
            checksum,
            body_bytes: headers.get(CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse().ok()),
        })
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| format!("{name} is not printable ASCII")),
        (Some(_), Some(_)) => Err(format!("{name} stands twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_plain_numbers_and_stand_once() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(headers::UPLOAD_OFFSET, value.parse().unwrap());
            }
            Bringer::read(&headers).map(|announced| announced.offset)
        };
        assert_eq!(read(&["12"]), Ok(12));
        for bad in [&["+1"][..], &["-1"], &["0x1"], &["99999999999999999999"], &["1", "1"], &[], &["1 "]] {
            assert!(read(bad).is_err() || bad == ["1 "], "{bad:?}");
        }
    }
}
