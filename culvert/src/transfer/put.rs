//! `culvert put`: a file goes up, and the receipt is compared with what was read.
//!
//! Invariant: success is reported only when the server's receipt names the very size and SHA-256 that this
//! side counted and hashed while sending.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;
use http::{Method, StatusCode};
use receipt::Step;
use serde::Serialize;
use store_proto::headers::CULVERT_FILE_TYPE;
use store_proto::{FileType, Token, UploadReceipt};
use tokio::sync::Notify;

use super::ServerArguments;
use super::progress::Progress;
use super::resume::Resumable;
use super::upload_body::{self, Sent};
use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::http_client::{self, Moved, expect_success, unless_interrupted, watched};
use crate::limits::{READER_TIMEOUT, RECEIPT_BYTES_AT_MOST, RESUMABLE_BYTES};
use crate::receipt::KnownLogs;
use crate::target::RemoteFile;

#[derive(Debug, Args)]
pub(crate) struct PutArguments {
    /// The file to send, or - for standard input
    #[arg(value_name = "FILE")]
    source: PathBuf,
    /// Where to: COHORT/PATH; with a / at the end the file keeps its name
    #[arg(value_name = "COHORT/PATH")]
    destination: String,
    /// What kind of data it is, as the server's policy names it
    #[arg(long, value_name = "TYPE", value_parser = parse_file_type)]
    file_type: Option<FileType>,
    /// Save the receipt here, for `culvert receipt verify`; a file that exists is not replaced
    #[arg(long, value_name = "RECEIPT")]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArguments,
}

fn parse_file_type(text: &str) -> Result<FileType, String> {
    FileType::parse(text).map_err(|error| error.to_string())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// False: the same bytes were there already, and this is the receipt of then.
    created: bool,
    path: String,
    #[serde(flatten)]
    receipt: UploadReceipt,
}

pub(crate) fn run(arguments: &PutArguments, console: Console) -> Result<(), Failure> {
    if let Some(path) = arguments.receipt.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
        return Err(Failure::refused(format!("{}: exists already; nothing was sent", path.display())));
    }
    let source = Source::open(&arguments.source)?;
    let target = RemoteFile::for_upload(&arguments.destination, source.name.as_deref())?;
    let token = arguments.server.token(console)?;
    let (report, sent) = http_client::runtime()?
        .block_on(unless_interrupted(upload(arguments, source, &target, &token, console)))?;
    verify(&report.receipt, &sent)?;
    let verifiable = keep_receipt(arguments, &report, &sent, console);
    console.report(&report, |report| {
        let Report { receipt, created, path } = report;
        let word = if *created { "stored" } else { "was stored already" };
        let mut text = format!(
            "{path}: {word}, {} bytes, sha256 {}, file {}, ledger record {}",
            receipt.size, receipt.sha256, receipt.file_id, receipt.ledger_index
        );
        if let Ok(Some(command)) = &verifiable {
            text.push_str(&format!("\nto prove it without the server: {command}"));
        }
        text
    })?;
    verifiable.map(|_| ())
}

/// Looks whether the receipt proves what was sent, and saves it where it is wanted. What goes wrong here is told
/// after the report: the file is stored all the same.
fn keep_receipt(
    arguments: &PutArguments,
    report: &Report,
    sent: &Sent,
    console: Console,
) -> Result<Option<String>, Failure> {
    let Some(receipt) = &report.receipt.receipt else {
        return match &arguments.receipt {
            Some(path) => {
                Err(Failure::failed(format!("{}: not written: the server sent no receipt", path.display())))
            }
            None => Ok(None),
        };
    };
    let judged =
        receipt::verify_hashed(receipt, sent.size, sent.sha256.as_bytes(), receipt::Trust::SelfContained);
    if let Some((step, fault)) = Step::ALL.into_iter().find_map(|step| Some((step, judged.fault(step)?))) {
        return Err(Failure::failed(format!(
            "the file is stored, but THE SERVER'S RECEIPT PROVES NOTHING: {}: {fault}",
            step.name()
        )));
    }
    let Some(path) = &arguments.receipt else { return Ok(None) };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| not_saved(path, &error))?;
    file.write_all(receipt.to_json().as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| not_saved(path, &error))?;
    let key = receipt.log_key();
    if KnownLogs::of_this_user().remember(key)? {
        console.say(&format!("remembered the key of a log not seen before: {key}"));
    }
    Ok(Some(format!(
        "culvert receipt verify {} {} --log-key {key}",
        printable(&path.display().to_string()),
        printable(&arguments.source.display().to_string())
    )))
}

fn not_saved(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("the file is stored, but its receipt is not: {}: {error}", path.display()))
}

/// What is sent, and how long it is if that is known.
struct Source {
    reader: Box<dyn Read + Send>,
    length: Option<u64>,
    /// The file's own name.
    name: Option<String>,
    label: String,
}

impl Source {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let label = "put -".to_owned();
            return Ok(Self { reader: Box::new(std::io::stdin()), length: None, name: None, label });
        }
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(|error| wrong(&error))?;
        let metadata = file.metadata().map_err(|error| wrong(&error))?;
        if metadata.is_dir() {
            return Err(wrong(&"is a directory; put sends one file"));
        }
        // Pipes and devices have no length.
        let length = metadata.is_file().then_some(metadata.len());
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let label = printable(&format!("put {}", name.as_deref().unwrap_or("file")));
        Ok(Self { reader: Box::new(file), length, name, label })
    }
}

async fn upload(
    arguments: &PutArguments,
    source: Source,
    target: &RemoteFile,
    token: &Token,
    console: Console,
) -> Result<(Report, Sent), Failure> {
    let server = &arguments.server.server;
    let moved = Moved::default();
    if let Some(length) = source.length.filter(|length| *length >= RESUMABLE_BYTES) {
        let resumable = Resumable {
            server,
            token,
            target,
            file_type: arguments.file_type.as_ref(),
            source: &arguments.source,
            length,
            patience: arguments.server.patience(),
            console,
        };
        if resumable.is_new().await {
            let mut progress = Progress::start(source.label, source.length, console.progress_style());
            let (receipt, sent) = resumable.send(&moved, |bytes| progress.set(bytes)).await?;
            progress.finish(length);
            return Ok((Report { created: true, path: target.to_string(), receipt }, sent));
        }
    }
    let mut progress = Progress::start(source.label, source.length, console.progress_style());
    let (mut body, mut read) = upload_body::start(source.reader, source.length, moved.clone())
        .map_err(|error| Failure::failed(format!("start a thread: {error}")))?;

    let mut request = http_client::request(Method::PUT, server, token, &target.resource(server));
    if let Some(length) = source.length {
        request = request.header(http::header::CONTENT_LENGTH, length);
    }
    if let Some(file_type) = &arguments.file_type {
        request = request.header(CULVERT_FILE_TYPE, file_type.as_str());
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
    let answer = watched(exchange, &moved, arguments.server.patience(), |bytes| progress.set(bytes)).await;
    let report = match answer {
        Ok(report) => report,
        // A file that could not be read broke the request off: that is the cause, hyper's error its echo.
        Err(failure) => match read.try_recv() {
            Ok(Err(error)) if !failure.is_problem() => return Err(unreadable(&arguments.source, &error)),
            _ => return Err(failure),
        },
    };
    let sent = match tokio::time::timeout(READER_TIMEOUT, read).await {
        Ok(Ok(Ok(sent))) => sent,
        Ok(Ok(Err(error))) => return Err(unreadable(&arguments.source, &error)),
        Ok(Err(_)) | Err(_) => {
            return Err(Failure::failed("the server answered before it had taken the whole file"));
        }
    };
    progress.finish(moved.load(Ordering::Relaxed));
    Ok((report, sent))
}

fn unreadable(source: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", source.display()))
}

/// Two sides that disagree about the bytes is the one thing that must never pass in silence.
fn verify(receipt: &UploadReceipt, sent: &Sent) -> Result<(), Failure> {
    if receipt.size == sent.size && receipt.sha256 == sent.sha256 {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "THE SERVER STORED SOMETHING ELSE than was sent: sent {} bytes with sha256 {}, the receipt of file {} \
         says {} bytes with sha256 {}",
        sent.size, sent.sha256, receipt.file_id, receipt.size, receipt.sha256
    )))
}
