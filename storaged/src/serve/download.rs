//! `GET|HEAD /internal/storage/files/{id}`: a file, or one range of it.
//!
//! **Invariant:** the intent is durable before the first byte leaves; the outcome says how many bytes were
//! handed to the connection. The disk is read as fast as the connection takes, two buffers ahead at most.
//! A segment leaves only after it was opened as a whole: no byte that was not authenticated. A volume that
//! hangs ends the download, before its head or in its midst.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, RANGE,
};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::Request;
use store_proto::{Action as Asked, FileId, ProblemKind, headers};
use tokio::sync::mpsc;

use crate::denial::Denial;
use crate::keys::KeyStore as _;
use crate::ledger::Note;
use crate::ledger::download::{Command, Outcome};
use crate::ledger::{Action, Ending, FileRow, Origin};
use crate::limits::{SEND_IDLE, TRANSFER_WAIT};
use crate::objects::get::{self, Get, Recorded};
use crate::objects::part::associated_data;
use crate::objects::{Part, Pool, TransferSlot};
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, AnswerBody, Refusal};
use crate::serve::permissions::unreadable;
use crate::serve::routes::{deny_file, watch};
use crate::serve::upload::unexpected;
use crate::store::Store;

/// Serves a file.
pub async fn download<B>(
    request: &Request<B>,
    id: FileId,
    admitted: &Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    let row = store.ledger.reader().file(id).map_err(unreadable)?;
    let row = row.ok_or(Refusal::of(ProblemKind::UnknownFile))?;
    if let Err(denial) = admitted.authorize(&row.cohort, Asked::Download) {
        return Err(deny_file(store, denial, admitted.origin.clone(), &row).await);
    }
    watch(store, admitted, &row.cohort).await?;
    let scanner = admitted.is_scanner();
    if !row.state.may_be_read(scanner) {
        return Err(deny_file(store, Denial::Withheld, admitted.origin.clone(), &row).await);
    }
    let asked = match asked_range(request.headers(), row.size) {
        Asking::Whole => None,
        Asking::Part(range) => Some(range),
        Asking::Outside => return Ok(outside(&row)),
    };
    if request.method() == Method::HEAD {
        let note = Note {
            cohort: Some(row.cohort.clone()),
            path: Some(row.path.clone()),
            file_id: Some(id),
            ..Note::new(Action::AccessMetadata, Ending::Succeeded, admitted.origin.clone())
        };
        store.note(note).await?;
        return Ok(head(&row, asked.as_ref(), AnswerBody::Empty));
    }
    let Some(slot) = store.buffers.slot(&admitted.user().name, TRANSFER_WAIT).await else {
        return Err(Refusal::of(ProblemKind::Overloaded));
    };
    // In a task of its own: when the connection dies its handler is dropped, and an intent that stands must
    // get its outcome all the same. The answer's body then has no receiver, which ends the download.
    let wanted = Wanted { origin: admitted.origin.clone(), file_id: id, asked, scanner };
    let begun = begin(Arc::clone(store), slot, wanted);
    match tokio::spawn(begun).await {
        Ok(result) => result,
        Err(_panicked) => Err(Refusal::of(ProblemKind::Internal)),
    }
}

/// What is to be served, and to whom.
struct Wanted {
    origin: Origin,
    file_id: FileId,
    asked: Option<Range<u64>>,
    scanner: bool,
}

async fn begin(store: Arc<Store>, slot: TransferSlot, wanted: Wanted) -> Result<Answer, Refusal> {
    let Wanted { origin, file_id, asked, scanner } = wanted;
    let detail = asked.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
    let command = Command::Begin { origin, file_id, detail, scanner };
    let (intent, row) = match store.ledger.submit(command).await? {
        Outcome::Opened { intent, file } => (intent, file),
        Outcome::UnknownFile => return Err(Refusal::of(ProblemKind::UnknownFile)),
        Outcome::Withheld(_) => return Err(Refusal::of(ProblemKind::FileWithheld)),
        other @ (Outcome::Ended(_) | Outcome::UnknownIntent) => return Err(unexpected(&other)),
    };
    let (frames, body) = mpsc::channel(1);
    let range = asked.clone().unwrap_or(0..row.size);
    Feeding { store, slot, intent, frames }.open(&row, range).await?;
    Ok(head(&row, asked.as_ref(), AnswerBody::Stream(body)))
}

struct Feeding {
    store: Arc<Store>,
    slot: TransferSlot,
    intent: u64,
    frames: mpsc::Sender<Result<Bytes, io::Error>>,
}

/// The stretches of a file's parts that hold a range, and the threads that read them.
fn stretches(store: &Store, row: &FileRow, range: &Range<u64>) -> io::Result<(Pool, Vec<Stretch>)> {
    let mut found = Vec::new();
    let mut pool = None;
    for (number, within) in get::stretches(row.parts.iter().map(|part| part.size), range) {
        let part = &row.parts[number];
        let volume = store.volume(part.volume);
        let volume = volume.ok_or_else(|| io::Error::other("the file's volume is not configured"))?;
        if !volume.is_usable() {
            return Err(io::Error::other("the file's volume cannot be used"));
        }
        let key = store.keys.file_key(row.file_id, part.part).map_err(io::Error::other)?;
        let key = key.ok_or_else(|| io::Error::other("the file's key is destroyed"))?;
        let aad = associated_data(row.file_id, part.part, &row.cohort);
        let recorded = Recorded {
            backend: Arc::clone(&volume.backend),
            part: Part { object: part.object, key, aad },
            size: part.size,
            sealed_size: part.sealed_size,
        };
        pool.get_or_insert_with(|| volume.pool.clone());
        found.push((recorded, within));
    }
    let pool = pool.ok_or_else(|| io::Error::other("the file has no parts"))?;
    Ok((pool, found))
}

type Stretch = (Recorded, Range<u64>);

impl Feeding {
    /// Opens the first object and starts the task that feeds the answer's body.
    async fn open(self, row: &FileRow, range: Range<u64>) -> Result<(), Refusal> {
        let begun = self.store.clock.now();
        let opened = match stretches(&self.store, row, &range) {
            Ok((pool, stretches)) => {
                let opening = pool.run(move || Get::open(stretches));
                let opened = match tokio::time::timeout(self.store.io_patience, opening).await {
                    Ok(opened) => opened.map_err(Into::into).and_then(|opened| opened),
                    Err(_hung) => Err(io::ErrorKind::TimedOut.into()),
                };
                opened.map(|get| (pool, get))
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok((pool, get)) => {
                let guard = self.store.drain.guard();
                tokio::spawn(async move {
                    self.feed(pool, get, begun).await;
                    drop(guard);
                });
                Ok(())
            }
            Err(error) => {
                tracing::error!(file = %row.file_id, %error, "an object cannot be opened");
                self.store.metrics.damaged(&error);
                self.store.ended(Action::FileDownloadedViaStream, Ending::Failed, begun);
                self.finish(Ending::Failed, Some(error.to_string()), 0).await?;
                Err(Refusal::of(ProblemKind::BackendUnavailable))
            }
        }
    }

    async fn feed(self, pool: Pool, get: Get, begun: std::time::Instant) {
        self.store.metrics.transfers.inc();
        let mut sent = 0;
        let (ending, error) = match self.pump(&pool, get, &mut sent).await {
            Ok(()) => (Ending::Succeeded, None),
            Err((ending, error)) => (ending, Some(error)),
        };
        self.store.metrics.transfers.dec();
        self.store.metrics.sent_bytes.inc_by(sent);
        self.store.ended(Action::FileDownloadedViaStream, ending, begun);
        if self.finish(ending, error, sent).await.is_err() {
            tracing::error!("the end of a download could not be recorded; its intent stays open");
        }
    }

    async fn pump(&self, pool: &Pool, mut get: Get, sent: &mut u64) -> Result<(), (Ending, String)> {
        loop {
            let taking = tokio::time::timeout(SEND_IDLE, self.slot.take()).await;
            let mut buffer = taking.map_err(|_| aborted("the receiver takes nothing"))?;
            let reading = pool.run(move || {
                let read = get.read(&mut buffer);
                (get, buffer, read)
            });
            let (back, buffer, read) = match tokio::time::timeout(self.store.io_patience, reading).await {
                Ok(read) => read.map_err(|lost| (Ending::Failed, lost.to_string()))?,
                Err(_hung) => {
                    tracing::error!(intent = self.intent, "a volume hangs in the midst of a download");
                    let _ = self.frames.send(Err(io::ErrorKind::TimedOut.into())).await;
                    return Err((Ending::Failed, "the volume hung".to_owned()));
                }
            };
            get = back;
            if let Err(error) = read {
                tracing::error!(intent = self.intent, %error, "an object cannot be read");
                self.store.metrics.damaged(&error);
                let text = error.to_string();
                // The connection breaks off: a short answer must not look whole.
                let _ = self.frames.send(Err(error)).await;
                return Err((Ending::Failed, text));
            }
            if buffer.is_empty() {
                return Ok(());
            }
            let length = buffer.filled().len() as u64;
            let handing = self.frames.send(Ok(Bytes::from_owner(buffer)));
            match tokio::time::timeout(SEND_IDLE, handing).await {
                Ok(Ok(())) => *sent += length,
                Ok(Err(_)) => return Err(aborted("the receiver went away")),
                Err(_) => return Err(aborted("the receiver takes nothing")),
            }
        }
    }

    async fn finish(&self, ending: Ending, error: Option<String>, sent: u64) -> Result<(), Refusal> {
        let command = Command::Finish { intent: self.intent, ending, error, sent };
        match self.store.ledger.submit(command).await? {
            Outcome::Ended(_) => Ok(()),
            other @ (Outcome::Opened { .. }
            | Outcome::Withheld(_)
            | Outcome::UnknownFile
            | Outcome::UnknownIntent) => Err(unexpected(&other)),
        }
    }
}

fn aborted(why: &str) -> (Ending, String) {
    (Ending::Aborted, why.to_owned())
}

fn head(row: &FileRow, range: Option<&Range<u64>>, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    let length = range.map_or(row.size, |range| range.end - range.start);
    let fields = answer.headers_mut();
    fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(ETAG, ascii(row.sha256.to_etag()));
    fields.insert(headers::REPR_DIGEST, ascii(row.sha256.to_repr_digest()));
    if let Some(range) = range {
        fields.insert(CONTENT_RANGE, ascii(format!("bytes {}-{}/{}", range.start, range.end - 1, row.size)));
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    answer
}

fn outside(row: &FileRow) -> Answer {
    let mut answer = answer::problem(Refusal::of(ProblemKind::RangeNotSatisfiable));
    answer.headers_mut().insert(CONTENT_RANGE, ascii(format!("bytes */{}", row.size)));
    answer
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits, letters and quotes are a header value")
}

#[derive(Debug, PartialEq, Eq)]
enum Asking {
    Whole,
    Part(Range<u64>),
    Outside,
}

/// One range (RFC 9110 §14.2). Several, or what is malformed, is answered with the whole, as §14.2 allows.
fn asked_range(headers: &HeaderMap, size: u64) -> Asking {
    let mut fields = headers.get_all(RANGE).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return Asking::Whole };
    let Some(spec) = field.to_str().ok().and_then(|text| text.strip_prefix("bytes=")) else {
        return Asking::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else { return Asking::Whole };
    let number =
        |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(0) => Asking::Outside,
            Some(_) if size == 0 => Asking::Outside,
            Some(length) => Asking::Part(size.saturating_sub(length)..size),
            None => Asking::Whole,
        },
        (first, last) => {
            let Some(first) = number(first) else { return Asking::Whole };
            let last = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match last {
                Some(last) if last < first => Asking::Whole,
                Some(_) if first >= size => Asking::Outside,
                Some(last) => Asking::Part(first..last.saturating_add(1).min(size)),
                None => Asking::Whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let table = [
            ("bytes=0-9", Asking::Part(0..10)),
            ("bytes=90-200", Asking::Part(90..100)),
            ("bytes=50-", Asking::Part(50..100)),
            ("bytes=-10", Asking::Part(90..100)),
            ("bytes=-1000", Asking::Part(0..100)),
            ("bytes=99-99", Asking::Part(99..100)),
            ("bytes=0-18446744073709551615", Asking::Part(0..100)),
            ("bytes=100-", Asking::Outside),
            ("bytes=-0", Asking::Outside),
            ("bytes=5-4", Asking::Whole),
            ("bytes=0-1,5-6", Asking::Whole),
            ("bytes=x-y", Asking::Whole),
            ("bytes=+1-2", Asking::Whole),
            ("bytes=99999999999999999999-", Asking::Whole),
            ("lines=0-9", Asking::Whole),
        ];
        for (field, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_static(field));
            assert_eq!(asked_range(&headers, 100), expected, "{field}");
        }
        assert_eq!(asked_range(&HeaderMap::new(), 100), Asking::Whole);
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-"));
        assert_eq!(asked_range(&headers, 0), Asking::Outside);
    }
}
