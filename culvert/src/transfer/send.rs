//! One file on its way up, in one piece or in as many as the line makes of it.
//!
//! Invariant: success is reported only when the server's receipt names the very size and SHA-256 that this side counted
//! and hashed while sending.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use serde::Serialize;
use sha2::Sha256;
use store_proto::headers::{CULVERT_ATTRIBUTE, CULVERT_FILE_TYPE, REPR_DIGEST};
use store_proto::{Attributes, ContentDigest, FileId, FileType, UploadReceipt};
use tokio::sync::Notify;

use super::resume::Resumable;
use super::unfinished::Note;
use super::upload_body::{self, Before, Sent};
use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::http_client::{self, Credential, Moved, expect_success, watched};
use crate::limits::{READER_TIMEOUT, RECEIPT_BYTES_AT_MOST, RESUMABLE_BYTES};
use crate::target::{RemoteFile, Server};

/// What holds for every file of a command.
pub(super) struct Sending<'a> {
    pub(super) server: &'a Server,
    pub(super) credential: &'a Credential,
    pub(super) file_type: Option<&'a FileType>,
    pub(super) attributes: &'a Attributes,
    /// Hash first: what is there is not sent, and what is sent is verified before it is a file.
    pub(super) checksum: bool,
    pub(super) patience: Duration,
    pub(super) retries: u32,
    pub(super) console: Console,
}

/// How it ended; this is what `--json` prints.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// The server answered with a receipt.
    Stored(Box<Report>),
    /// The server has the file, with the hash that was computed here.
    There(There),
}

/// A file that the server took.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// False: the same bytes were there already, and this is the receipt of then.
    pub(super) created: bool,
    pub(super) path: String,
    #[serde(flatten)]
    pub(super) receipt: UploadReceipt,
}

/// A file that was not sent.
#[derive(Debug, Serialize)]
pub(super) struct There {
    created: bool,
    path: String,
    file_id: FileId,
    size: u64,
    sha256: ContentDigest,
}

impl Outcome {
    /// For a person.
    pub(super) fn text(&self) -> String {
        match self {
            Outcome::There(There { path, size, sha256, file_id, .. }) => {
                format!("{path}: is there, {size} bytes, sha256 {sha256}, file {file_id}; nothing was sent")
            }
            Outcome::Stored(report) => {
                let Report { receipt, created, path } = &**report;
                let word = if *created { "stored" } else { "was stored already" };
                format!(
                    "{path}: {word}, {} bytes, sha256 {}, file {}, ledger record {}",
                    receipt.size, receipt.sha256, receipt.file_id, receipt.ledger_index
                )
            }
        }
    }
}

/// What is sent, and how long it is if that is known.
pub(super) struct Source {
    reader: Box<dyn Read + Send>,
    /// None: standard input.
    path: Option<PathBuf>,
    pub(super) length: Option<u64>,
    /// The file's own name.
    pub(super) name: Option<String>,
    pub(super) label: String,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let reader = Box::new(std::io::stdin());
            return Ok(Self { reader, path: None, length: None, name: None, label: "put -".to_owned() });
        }
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(|error| wrong(&error))?;
        let metadata = file.metadata().map_err(|error| wrong(&error))?;
        // Pipes and devices have no length.
        let length = metadata.is_file().then_some(metadata.len());
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let label = printable(&format!("put {}", name.as_deref().unwrap_or("file")));
        Ok(Self { reader: Box::new(file), path: Some(path.to_owned()), length, name, label })
    }

    /// A regular file: it can be read again.
    fn file(&self) -> Option<(&Path, u64)> {
        Some((self.path.as_deref()?, self.length?))
    }
}

impl Sending<'_> {
    /// Sends it, and compares the receipt with what was read.
    pub(super) async fn send(
        &self,
        source: Source,
        target: &RemoteFile,
        moved: &Moved,
        mut tick: impl FnMut(u64),
    ) -> Result<(Outcome, Option<Sent>), Failure> {
        let mut digest = None;
        if let (true, Some((path, length))) = (self.checksum, source.file()) {
            let hashed = hash(path, length).await?;
            if let Some(there) = self.there(target, length, hashed).await {
                moved.store(length, std::sync::atomic::Ordering::Relaxed);
                return Ok((Outcome::There(there), None));
            }
            digest = Some(hashed);
        }
        let large = source.file().filter(|(_, length)| *length >= RESUMABLE_BYTES);
        if let Some((path, length)) = large {
            let note = Note::of(path, self.server, target);
            let resumable = Resumable {
                server: self.server,
                credential: self.credential,
                target,
                file_type: self.file_type,
                attributes: self.attributes,
                digest,
                source: path,
                length,
                patience: self.patience,
                console: self.console,
                retries: self.retries,
                note,
            };
            if resumable.is_begun() || resumable.is_new().await {
                let (receipt, sent) = resumable.send(moved, tick).await?;
                let report = Report { created: true, path: target.to_string(), receipt };
                return verified(report, sent);
            }
        }
        let (report, sent) = self.send_whole(source, target, digest, moved, &mut tick).await?;
        verified(report, sent)
    }

    /// Whether the server has it already, by its own word on the hash.
    async fn there(&self, target: &RemoteFile, length: u64, hashed: ContentDigest) -> Option<There> {
        let request =
            http_client::request(Method::HEAD, self.server, self.credential, &target.resource(self.server));
        let request = request.body(Empty::<Bytes>::new().map_err(|never| match never {})).ok()?;
        let asking = async { expect_success(http_client::send(self.server, request).await?).await };
        let answer = watched(asking, &Moved::default(), self.patience, |_| ()).await.ok()?;
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let named = ContentDigest::parse(text("etag")?.trim_matches('"')).ok()?;
        let file_id = FileId::parse(text("culvert-file-id")?).ok()?;
        let path = target.to_string();
        (named == hashed).then_some(There { created: false, path, file_id, size: length, sha256: hashed })
    }

    async fn send_whole(
        &self,
        source: Source,
        target: &RemoteFile,
        digest: Option<ContentDigest>,
        moved: &Moved,
        tick: &mut impl FnMut(u64),
    ) -> Result<(Report, Sent), Failure> {
        let server = self.server;
        let name = source.path.clone().unwrap_or_else(|| PathBuf::from("-"));
        let unreadable = |error: &std::io::Error| Failure::failed(format!("{}: {error}", name.display()));
        let (mut body, mut read) = upload_body::start(source.reader, source.length, moved.clone())
            .map_err(|error| Failure::failed(format!("start a thread: {error}")))?;

        let mut request =
            http_client::request(Method::PUT, server, self.credential, &target.resource(server));
        if let Some(length) = source.length {
            request = request.header(http::header::CONTENT_LENGTH, length);
        }
        if let Some(file_type) = self.file_type {
            request = request.header(CULVERT_FILE_TYPE, file_type.as_str());
        }
        if !self.attributes.is_empty() {
            request = request.header(CULVERT_ATTRIBUTE, self.attributes.to_list());
        }
        if let Some(digest) = digest {
            request = request.header(REPR_DIGEST, digest.to_repr_digest());
        }
        let go_on = Arc::new(Notify::new());
        if source.length != Some(0) {
            request = request.header(http::header::EXPECT, "100-continue");
            body.wait_for(go_on.clone());
        }
        let mut request =
            request.body(body).map_err(|error| Failure::failed(format!("make the request: {error}")))?;
        hyper::ext::on_informational(&mut request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                go_on.notify_one();
            }
        });

        let exchange = async {
            let response = expect_success(http_client::send(server, request).await?).await?;
            let created = response.status() == StatusCode::CREATED;
            let receipt = http_client::json(response.into_body(), RECEIPT_BYTES_AT_MOST).await?;
            Ok(Report { created, path: target.to_string(), receipt })
        };
        let report = match watched(exchange, moved, self.patience, tick).await {
            Ok(report) => report,
            // A file that could not be read broke the request off: that is the cause, hyper's error its echo.
            Err(failure) => match read.try_recv() {
                Ok(Err(error)) if !failure.is_problem() => return Err(unreadable(&error)),
                _ => return Err(failure),
            },
        };
        match tokio::time::timeout(READER_TIMEOUT, read).await {
            Ok(Ok(Ok(sent))) => Ok((report, sent)),
            Ok(Ok(Err(error))) => Err(unreadable(&error)),
            Ok(Err(_)) | Err(_) => {
                Err(Failure::failed("the server answered before it had taken the whole file"))
            }
        }
    }
}

/// The hash of a file that is not sent yet.
async fn hash(path: &Path, length: u64) -> Result<ContentDigest, Failure> {
    let owned = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let mut before = Before::default();
        before.read_to(length, &mut File::open(owned)?)?;
        Ok(before.hash)
    });
    let outcome = reading.await.map_err(|error| Failure::failed(format!("read the file: {error}")))?;
    let hash: Sha256 =
        outcome.map_err(|error: std::io::Error| Failure::failed(format!("{}: {error}", path.display())))?;
    Ok(ContentDigest::from_bytes(sha2::Digest::finalize(hash).into()))
}

/// Two sides that disagree about the bytes is the one thing that must never pass in silence.
fn verified(report: Report, sent: Sent) -> Result<(Outcome, Option<Sent>), Failure> {
    let receipt = &report.receipt;
    if receipt.size == sent.size && receipt.sha256 == sent.sha256 {
        return Ok((Outcome::Stored(Box::new(report)), Some(sent)));
    }
    Err(Failure::failed(format!(
        "THE SERVER STORED SOMETHING ELSE than was sent: sent {} bytes with sha256 {}, the receipt of file {} \
         says {} bytes with sha256 {}",
        sent.size, sent.sha256, receipt.file_id, receipt.size, receipt.sha256
    )))
}
