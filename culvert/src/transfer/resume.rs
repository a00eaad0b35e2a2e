//! A large file goes up in as many stretches as the line makes of it (the IETF's resumable uploads).
//!
//! Invariant: each stretch begins where the server says that its durable bytes end, and every byte of the file is read
//! and hashed here, those too that an earlier process sent: the receipt is compared with what this side read.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use store_proto::headers::{CULVERT_ATTRIBUTE, CULVERT_FILE_TYPE, REPR_DIGEST, UPLOAD_LENGTH, UPLOAD_OFFSET};
use store_proto::{Attributes, ContentDigest, FileId, FileType, UploadReceipt, UploadState};

use super::unfinished::Note;
use super::upload_body::{self, Before, Sent};
use crate::console::Console;
use crate::failure::Failure;
use crate::http_client::{self, Credential, Moved, expect_success, watched};
use crate::limits::{READER_TIMEOUT, RECEIPT_BYTES_AT_MOST, RESUME_PAUSE, RESUME_PAUSE_AT_MOST};
use crate::target::{RemoteFile, Server};

/// The wire format that we speak: draft -05.
const INTEROP_VERSION: (&str, &str) = ("upload-draft-interop-version", "6");
const UPLOAD_COMPLETE: &str = "upload-complete";

/// A file on its way.
pub(super) struct Resumable<'a> {
    pub(super) server: &'a Server,
    pub(super) credential: &'a Credential,
    pub(super) target: &'a RemoteFile,
    pub(super) file_type: Option<&'a FileType>,
    pub(super) attributes: &'a Attributes,
    /// What it hashes to, if that was found out before.
    pub(super) digest: Option<ContentDigest>,
    pub(super) source: &'a Path,
    pub(super) length: u64,
    pub(super) patience: Duration,
    pub(super) console: Console,
    /// How often a connection may break without any progress.
    pub(super) retries: u32,
    /// Where to note which upload it is.
    pub(super) note: Note,
}

impl Resumable<'_> {
    /// Whether an earlier process began to send it.
    pub(super) fn is_begun(&self) -> bool {
        self.note.known().is_some()
    }

    /// Whether the name is free for certain. One that is taken is not sent in stretches, for the server compares a whole
    /// body; and whatever stands in the way now, a plain upload is told the reason.
    pub(super) async fn is_new(&self) -> bool {
        let answer = self.ask(Method::HEAD, &self.target.resource(self.server), &[]).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::NOT_FOUND)
    }

    /// Sends all of it, however often the line breaks.
    pub(super) async fn send(
        &self,
        moved: &Moved,
        mut tick: impl FnMut(u64),
    ) -> Result<(UploadReceipt, Sent), Failure> {
        let mut before = Before::default();
        let (resource, mut offset) = self.find_or_begin().await?;
        moved.store(offset, Ordering::Relaxed);
        let (mut vain, mut pause) = (0, RESUME_PAUSE);
        loop {
            before = self.read_before(before, offset).await?;
            let broken = match self.stretch(&resource, before.clone(), moved, &mut tick).await {
                Ok(done) => {
                    self.note.forget();
                    return Ok(done);
                }
                Err(failure) if !is_worth_another_try(&failure) => return Err(failure),
                Err(failure) => failure,
            };
            vain += 1;
            if vain > self.retries {
                return Err(broken);
            }
            self.console.say(&format!("the connection broke: {}; going on in a moment", broken.message()));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESUME_PAUSE_AT_MOST);
            match self.offset(&resource).await {
                Ok(at) => {
                    if at > offset {
                        (vain, pause) = (0, RESUME_PAUSE);
                    }
                    offset = at;
                    moved.store(offset, Ordering::Relaxed);
                }
                Err(failure) if is_worth_another_try(&failure) => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The upload that an earlier process began with this file, or a new one; and where it goes on.
    async fn find_or_begin(&self) -> Result<(String, u64), Failure> {
        if let Some(id) = self.note.known() {
            let resource = format!("{}/v1/uploads/{id}", self.server.base_path);
            match self.offset(&resource).await {
                Ok(at) => {
                    self.console.say(&format!("going on at {}", crate::console::human_bytes(at)));
                    return Ok((resource, at));
                }
                // It was given up in the meantime, or is somebody else's.
                Err(failure) if failure.status() == Some(404) => self.note.forget(),
                Err(failure) => return Err(failure),
            }
        }
        let resource = self.begin().await?;
        let id = resource.rsplit('/').next().and_then(|id| FileId::parse(id).ok());
        if let Some(id) = id {
            self.note.keep(id);
        }
        Ok((resource, 0))
    }

    /// Reads and hashes what the server has, before a request is open that would stand still meanwhile.
    async fn read_before(&self, before: Before, offset: u64) -> Result<Before, Failure> {
        let source = self.source.to_owned();
        let reading = tokio::task::spawn_blocking(move || {
            let mut file = File::open(source)?;
            // The server never goes back behind what it said was durable; if it does, all is read again.
            let mut before = if before.bytes <= offset { before } else { Before::default() };
            file.seek(SeekFrom::Start(before.bytes))?;
            before.read_to(offset, &mut file)?;
            Ok(before)
        });
        let outcome = reading.await.map_err(|error| Failure::failed(format!("read the file: {error}")))?;
        outcome.map_err(|error: std::io::Error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &std::io::Error) -> Failure {
        Failure::usage(format!("{}: {error}", self.source.display()))
    }

    async fn begin(&self) -> Result<String, Failure> {
        let resource = format!("{}/v1/cohorts/{}/uploads", self.server.base_path, self.target.cohort);
        let name = utf8_percent_encode(self.target.path.as_str(), NON_ALPHANUMERIC);
        let name = format!("attachment; filename*=UTF-8''{name}");
        let length = self.length.to_string();
        let mut headers =
            vec![("content-disposition", name.as_str()), (UPLOAD_COMPLETE, "?0"), (UPLOAD_LENGTH, &length)];
        if let Some(file_type) = self.file_type {
            headers.push((CULVERT_FILE_TYPE, file_type.as_str()));
        }
        let attributes = self.attributes.to_list();
        if !attributes.is_empty() {
            headers.push((CULVERT_ATTRIBUTE, &attributes));
        }
        let digest = self.digest.map(|digest| digest.to_repr_digest());
        if let Some(digest) = &digest {
            headers.push((REPR_DIGEST, digest));
        }
        let answer = expect_success(self.ask(Method::POST, &resource, &headers).await?).await?;
        let location = text(answer.headers(), "location").filter(|path| path.starts_with("/v1/uploads/"));
        let location =
            location.ok_or_else(|| Failure::failed("the server began an upload and did not say where"))?;
        Ok(format!("{}{location}", self.server.base_path))
    }

    async fn offset(&self, resource: &str) -> Result<u64, Failure> {
        let answer = expect_success(self.ask(Method::HEAD, resource, &[]).await?).await?;
        let offset = text(answer.headers(), UPLOAD_OFFSET).and_then(|text| text.parse().ok());
        offset
            .filter(|offset| *offset <= self.length)
            .ok_or_else(|| Failure::failed("the server does not say how far the upload is"))
    }

    /// Everything behind what was read before, and the receipt.
    async fn stretch(
        &self,
        resource: &str,
        before: Before,
        moved: &Moved,
        tick: impl FnMut(u64),
    ) -> Result<(UploadReceipt, Sent), Failure> {
        let offset = before.bytes;
        let mut file = File::open(self.source).map_err(|error| self.unreadable(&error))?;
        file.seek(SeekFrom::Start(offset)).map_err(|error| self.unreadable(&error))?;
        let (body, mut read) = upload_body::start_after(before, file, Some(self.length), moved.clone())
            .map_err(|error| Failure::failed(format!("start a thread: {error}")))?;
        let request = http_client::request(Method::PATCH, self.server, self.credential, resource)
            .header(INTEROP_VERSION.0, INTEROP_VERSION.1)
            .header(http::header::CONTENT_TYPE, "application/partial-upload")
            .header(http::header::CONTENT_LENGTH, self.length - offset)
            .header(UPLOAD_OFFSET, offset)
            .header(UPLOAD_COMPLETE, "?1");
        let request =
            request.body(body).map_err(|error| Failure::failed(format!("make the request: {error}")))?;
        let exchange = async {
            let response = expect_success(http_client::send(self.server, request).await?).await?;
            http_client::json::<UploadReceipt>(response.into_body(), RECEIPT_BYTES_AT_MOST).await
        };
        let receipt = match watched(exchange, moved, self.patience, tick).await {
            Ok(receipt) => receipt,
            Err(failure) => match read.try_recv() {
                Ok(Err(error)) if !failure.is_problem() => return Err(self.unreadable(&error)),
                // The last answer may be what was lost: the file is there then, and the upload knows its receipt.
                _ => match self.receipt(resource).await {
                    Some(receipt) => receipt,
                    None => return Err(failure),
                },
            },
        };
        match tokio::time::timeout(READER_TIMEOUT, read).await {
            Ok(Ok(Ok(sent))) => Ok((receipt, sent)),
            Ok(Ok(Err(error))) => Err(self.unreadable(&error)),
            Ok(Err(_)) | Err(_) => {
                Err(Failure::failed("the server answered before it had taken the whole file"))
            }
        }
    }

    async fn receipt(&self, resource: &str) -> Option<UploadReceipt> {
        let answer = self.ask(Method::GET, resource, &[]).await.ok()?;
        let answer = expect_success(answer).await.ok()?;
        let state: UploadState = http_client::json(answer.into_body(), RECEIPT_BYTES_AT_MOST).await.ok()?;
        state.receipt
    }

    async fn ask(
        &self,
        method: Method,
        resource: &str,
        headers: &[(&str, &str)],
    ) -> Result<http::Response<hyper::body::Incoming>, Failure> {
        let mut request = http_client::request(method, self.server, self.credential, resource)
            .header(INTEROP_VERSION.0, INTEROP_VERSION.1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let empty = Empty::<Bytes>::new().map_err(|never| match never {});
        let request =
            request.body(empty).map_err(|error| Failure::failed(format!("make the request: {error}")))?;
        watched(http_client::send(self.server, request), &Moved::default(), self.patience, |_| ()).await
    }
}

/// Whether a later try may end better: the line broke, or the server says that it is away, busy or saw it break.
pub(super) fn is_worth_another_try(failure: &Failure) -> bool {
    match failure.status() {
        None => failure.exit() == crate::failure::Exit::CannotTell,
        Some(status) => {
            matches!(status, 408 | 423 | 429 | 502..=504) || failure.is_of_kind("incomplete-body")
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
