//! `culvert get`: files come down, and appear only when their hash is right.
//!
//! Invariant: `FILE` never holds bytes whose SHA-256 is not the one that the server named beforehand.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Args;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use store_proto::ContentDigest;

use super::fetch::{Fetching, Sink};
use super::many::{self, Job};
use super::part_file::{Existing, PartFile};
use super::progress::Progress;
use super::{ServerArguments, SeveralArguments, list};
use crate::console::Console;
use crate::failure::Failure;
use crate::http_client::{self, Credential, Moved, unless_interrupted};
use crate::limits::{CHUNK_BYTES, FOLDER_FILES};
use crate::target::{RemoteFile, RemotePrefix, Server};

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// What to fetch: COHORT/PATH; with a / at the end everything below it
    #[arg(value_name = "COHORT/PATH")]
    source: String,
    /// Where to write it, or - for standard output [default: the file's own name, here]
    #[arg(value_name = "FILE")]
    destination: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long, short)]
    force: bool,
    /// A FILE that exists with the right hash is no error, and is not fetched again
    #[arg(long)]
    checksum: bool,
    #[command(flatten)]
    several: SeveralArguments,
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
    /// False: it was here already.
    fetched: bool,
}

impl Report {
    fn text(&self) -> String {
        let file = self.file.as_deref().unwrap_or(Path::new("-")).display();
        let word = if self.fetched { "" } else { "is here, " };
        format!("{file}: {word}{} bytes, sha256 {}", self.size, self.sha256)
    }
}

pub(crate) fn run(arguments: &GetArguments, console: Console) -> Result<(), Failure> {
    let server = arguments.server.server();
    if arguments.source.ends_with('/') {
        return get_folder(arguments, &server, console);
    }
    let source = RemoteFile::parse(&arguments.source)?;
    let file = match &arguments.destination {
        Some(path) if path == Path::new("-") => None,
        Some(path) => Some(path.clone()),
        None => Some(PathBuf::from(source.path.file_name())),
    };
    let credential = arguments.server.credential(console)?;
    let fetching = arguments.fetching(&server, &credential, console);
    let moved = Moved::default();
    let mut progress = None;
    let work = arguments.one(&fetching, &source, file, &moved, |bytes, total| {
        let start =
            || Progress::start(format!("get {}", source.path.file_name()), total, console.progress_style());
        progress.get_or_insert_with(start).set(bytes);
    });
    let report = http_client::runtime()?.block_on(unless_interrupted(work))?;
    if report.fetched {
        let start = || {
            Progress::start(
                format!("get {}", source.path.file_name()),
                Some(report.size),
                console.progress_style(),
            )
        };
        progress.unwrap_or_else(start).finish(moved.load(Ordering::Relaxed));
    }
    if report.file.is_none() {
        return Ok(());
    }
    console.report(&report, Report::text)
}

/// Everything whose path begins so, below a directory.
fn get_folder(arguments: &GetArguments, server: &Server, console: Console) -> Result<(), Failure> {
    let prefix = RemotePrefix::parse(&arguments.source)?;
    let folder = arguments.destination.clone().unwrap_or_else(|| PathBuf::from("."));
    if folder == Path::new("-") {
        return Err(Failure::usage("several files cannot go to standard output; name a directory"));
    }
    let credential = arguments.server.credential(console)?;
    let fetching = &arguments.fetching(server, &credential, console);
    let work = async {
        let mut jobs = Vec::new();
        let mut cursor = None;
        loop {
            let page = list::page(&arguments.server, &prefix, &credential, &[], cursor.as_deref()).await?;
            for file in page.files {
                let Some(below) = file.path.as_str().strip_prefix(&prefix.prefix) else { continue };
                // A `LogicalPath` holds no `..` and no absolute part, so this stays below the directory.
                let to = folder.join(below);
                let source = RemoteFile { cohort: file.cohort, path: file.path.clone() };
                jobs.push(Job { name: file.path.as_str().to_owned(), bytes: file.size, what: (source, to) });
            }
            if jobs.len() > FOLDER_FILES {
                return Err(Failure::usage(format!(
                    "more than {FOLDER_FILES} files lie there; fetch them in parts"
                )));
            }
            match page.next_cursor {
                None => break,
                Some(next) if cursor.as_ref() == Some(&next) => {
                    return Err(Failure::failed("the server's listing does not advance"));
                }
                next => cursor = next,
            }
        }
        if jobs.is_empty() {
            return Err(Failure::failed(format!("{}: nothing lies there", arguments.source)));
        }
        let one = |(source, to): (RemoteFile, PathBuf), moved: Moved| async move {
            if let Some(parent) = to.parent() {
                let failed = |error| Failure::failed(format!("make {}: {error}", parent.display()));
                fs::create_dir_all(parent).map_err(failed)?;
            }
            arguments.one(fetching, &source, Some(to), &moved, |_, _| ()).await
        };
        let label = format!("get {}", arguments.source);
        let tell = |report: Report| console.report(&report, Report::text);
        many::each(label, jobs, arguments.several.parallel(), console, one, tell).await
    };
    http_client::runtime()?.block_on(unless_interrupted(work))
}

impl GetArguments {
    fn fetching<'a>(&self, server: &'a Server, credential: &'a Credential, console: Console) -> Fetching<'a> {
        let (patience, retries) = (self.server.patience(), self.several.retries());
        Fetching { server, credential, patience, retries, console }
    }

    async fn one(
        &self,
        fetching: &Fetching<'_>,
        source: &RemoteFile,
        file: Option<PathBuf>,
        moved: &Moved,
        tick: impl FnMut(u64, Option<u64>),
    ) -> Result<Report, Failure> {
        let path = source.to_string();
        if let Some(existing) = file.as_deref().filter(|path| self.checksum && path.is_file()) {
            let wanted = fetching.digest(source).await?;
            let (size, sha256) = hash(existing).await?;
            if sha256 == wanted {
                return Ok(Report { path, file, size, sha256, fetched: false });
            }
        }
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        let sink = match &file {
            Some(path) => Sink::File(PartFile::take_over(path, existing)?),
            None => Sink::StandardOutput,
        };
        let (size, sha256) = fetching.fetch(source, sink, moved, tick).await?;
        Ok(Report { path, file, size, sha256, fetched: true })
    }
}

/// The hash of a file that is here.
async fn hash(path: &Path) -> Result<(u64, ContentDigest), Failure> {
    let owned = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut file, mut hash, mut size) = (fs::File::open(owned)?, Sha256::new(), 0);
        let mut piece = vec![0; CHUNK_BYTES];
        loop {
            let length = file.read(&mut piece)?;
            if length == 0 {
                return Ok((size, ContentDigest::from_bytes(hash.finalize().into())));
            }
            hash.update(&piece[..length]);
            size += length as u64;
        }
    });
    let outcome = reading.await.map_err(|error| Failure::failed(format!("read the file: {error}")))?;
    outcome.map_err(|error: std::io::Error| Failure::failed(format!("{}: {error}", path.display())))
}
