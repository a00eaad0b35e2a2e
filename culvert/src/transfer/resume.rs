//! A large file goes up in as many stretches as the line makes of it (the IETF's resumable uploads).
//!
//! Invariant: each stretch begins where the server says that its durable bytes end, and the file is read and hashed from
//! its beginning for each: the receipt is compared with what this side read, not with what it remembers.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use store_proto::headers::{CULVERT_FILE_TYPE, UPLOAD_LENGTH, UPLOAD_OFFSET};
use store_proto::{FileType, Token, UploadReceipt, UploadState};

use super::upload_body::{self, Sent};
use crate::console::Console;
use crate::failure::Failure;
use crate::http_client::{self, Moved, expect_success, watched};
use crate::limits::{READER_TIMEOUT, RECEIPT_BYTES_AT_MOST, RESUME_PAUSE_AT_MOST, RESUMES_WITHOUT_PROGRESS};
use crate::target::{RemoteFile, Server};

/// The wire format that we speak: draft -05.
const INTEROP_VERSION: (&str, &str) = ("upload-draft-interop-version", "6");
const UPLOAD_COMPLETE: &str = "upload-complete";

/// A file on its way.
pub(super) struct Resumable<'a> {
    pub(super) server: &'a Server,
    pub(super) token: &'a Token,
    pub(super) target: &'a RemoteFile,
    pub(super) file_type: Option<&'a FileType>,
    pub(super) source: &'a Path,
    pub(super) length: u64,
    pub(super) patience: Duration,
    pub(super) console: Console,
}

impl Resumable<'_> {
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
        let resource = self.begin().await?;
        let (mut offset, mut vain, mut pause) = (0, 0, Duration::from_millis(250));
        loop {
            let broken = match self.stretch(&resource, offset, moved, &mut tick).await {
                Ok(done) => return Ok(done),
                Err(failure) if !is_worth_another_try(&failure) => return Err(failure),
                Err(failure) => failure,
            };
            vain += 1;
            if vain > RESUMES_WITHOUT_PROGRESS {
                return Err(broken);
            }
            self.console.say(&format!("the connection broke: {}; going on in a moment", broken.message()));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESUME_PAUSE_AT_MOST);
            match self.offset(&resource).await {
                Ok(at) => {
                    if at > offset {
                        (vain, pause) = (0, Duration::from_millis(250));
                    }
                    offset = at;
                    moved.store(offset, Ordering::Relaxed);
                }
                Err(failure) if is_worth_another_try(&failure) => {}
                Err(failure) => return Err(failure),
            }
        }
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

    /// Everything from `offset` on, and the receipt.
    async fn stretch(
        &self,
        resource: &str,
        offset: u64,
        moved: &Moved,
        tick: impl FnMut(u64),
    ) -> Result<(UploadReceipt, Sent), Failure> {
        let unreadable =
            |error: &std::io::Error| Failure::usage(format!("{}: {error}", self.source.display()));
        let file = File::open(self.source).map_err(|error| unreadable(&error))?;
        let (body, mut read) = upload_body::start_at(file, Some(self.length), offset, moved.clone())
            .map_err(|error| Failure::failed(format!("start a thread: {error}")))?;
        let request = http_client::request(Method::PATCH, self.server, self.token, resource)
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
                Ok(Err(error)) if !failure.is_problem() => return Err(unreadable(&error)),
                // The last answer may be what was lost: the file is there then, and the upload knows its receipt.
                _ => match self.receipt(resource).await {
                    Some(receipt) => receipt,
                    None => return Err(failure),
                },
            },
        };
        match tokio::time::timeout(READER_TIMEOUT, read).await {
            Ok(Ok(Ok(sent))) => Ok((receipt, sent)),
            Ok(Ok(Err(error))) => Err(unreadable(&error)),
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
        let mut request = http_client::request(method, self.server, self.token, resource)
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
fn is_worth_another_try(failure: &Failure) -> bool {
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
