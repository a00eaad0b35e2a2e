//! `culvert get`: a file comes down, and appears only when its hash is right.
//!
//! Invariant: `FILE` never holds bytes whose SHA-256 is not the one that the server named beforehand.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Args;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use serde::Serialize;
use sha2::{Digest, Sha256};
use store_proto::headers::REPR_DIGEST;
use store_proto::{ContentDigest, Token};

use super::ServerArguments;
use super::part_file::{Existing, PartFile};
use super::progress::Progress;
use crate::console::Console;
use crate::failure::Failure;
use crate::http_client::{self, Moved, chain, expect_success, unless_interrupted, watched};
use crate::target::RemoteFile;

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// What to fetch: COHORT/PATH
    #[arg(value_name = "COHORT/PATH")]
    source: String,
    /// Where to write it, or - for standard output [default: the file's own name, here]
    #[arg(value_name = "FILE")]
    destination: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long, short)]
    force: bool,
    #[command(flatten)]
    server: ServerArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    path: String,
    /// None: standard output.
    file: Option<PathBuf>,
    size: u64,
    sha256: ContentDigest,
}

/// Where the bytes go.
enum Sink {
    File(PartFile),
    StandardOutput,
}

pub(crate) fn run(arguments: &GetArguments, console: Console) -> Result<(), Failure> {
    let source = RemoteFile::parse(&arguments.source)?;
    let token = arguments.server.token(console)?;
    let file = match &arguments.destination {
        Some(path) if path == Path::new("-") => None,
        Some(path) => Some(path.clone()),
        None => Some(PathBuf::from(source.path.file_name())),
    };
    let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
    let sink = match &file {
        Some(path) => Sink::File(PartFile::create(path, existing)?),
        None => Sink::StandardOutput,
    };
    let (size, sha256) = http_client::runtime()?
        .block_on(unless_interrupted(download(arguments, &source, sink, &token, console)))?;
    let Some(path) = &file else { return Ok(()) };
    let text = format!("{}: {size} bytes, sha256 {sha256}", path.display());
    console.report(&Report { path: source.to_string(), file: file.clone(), size, sha256 }, |_| text)
}

async fn download(
    arguments: &GetArguments,
    source: &RemoteFile,
    mut sink: Sink,
    token: &Token,
    console: Console,
) -> Result<(u64, ContentDigest), Failure> {
    let server = &arguments.server.server;
    let request = http_client::request(Method::GET, server, token, &source.resource(server))
        .body(Empty::new().map_err(|never| match never {}))
        .map_err(|error| Failure::failed(format!("make the request: {error}")))?;

    let moved = Moved::default();
    let patience = arguments.server.patience();
    let head = async { expect_success(http_client::send(server, request).await?).await };
    let (head, body) = watched(head, &moved, patience, |_| {}).await?.into_parts();
    let expected = announced_digest(&head.headers)?;
    let length = announced_length(&head.headers);

    let label = format!("get {}", source.path.file_name());
    let mut progress = Progress::start(label, length, console.progress_style());
    let copy = copy(body, &mut sink, &moved);
    let digest = watched(copy, &moved, patience, |bytes| progress.set(bytes)).await?;
    let size = moved.load(Ordering::Relaxed);
    if let Some(length) = length.filter(|length| *length != size) {
        return Err(Failure::failed(format!("{source}: {size} bytes came, {length} were announced")));
    }
    if digest != expected {
        return Err(Failure::failed(format!(
            "{source}: WRONG CONTENT: its sha256 is {digest}, the server announced {expected}; nothing was kept"
        )));
    }
    match sink {
        Sink::File(part) => part.publish()?,
        Sink::StandardOutput => std::io::stdout().flush().map_err(|error| Failure::output(&error))?,
    }
    progress.finish(size);
    Ok((size, digest))
}

/// Hashes and writes each piece while it is in the cache.
async fn copy(mut body: Incoming, sink: &mut Sink, moved: &Moved) -> Result<ContentDigest, Failure> {
    let mut hash = Sha256::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Failure::cannot_tell(format!("the download broke off: {}", chain(&error))))?;
        let Ok(bytes) = frame.into_data() else { continue };
        hash.update(&bytes);
        match sink {
            Sink::File(part) => part.write(&bytes)?,
            Sink::StandardOutput => {
                std::io::stdout().write_all(&bytes).map_err(|error| Failure::output(&error))?;
            }
        }
        moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    Ok(ContentDigest::from_bytes(hash.finalize().into()))
}

/// `Repr-Digest`, or the ETag, which is the content's SHA-256 with this server.
fn announced_digest(headers: &HeaderMap) -> Result<ContentDigest, Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let from_digest = text(REPR_DIGEST).and_then(|field| ContentDigest::from_repr_digest(field).ok());
    let from_etag = || ContentDigest::parse(text("etag")?.trim_matches('"')).ok();
    from_digest.or_else(from_etag).ok_or_else(|| {
        Failure::failed(
            "the server named no SHA-256 for this file, so it could not be verified; nothing was kept",
        )
    })
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
