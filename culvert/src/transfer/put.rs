//! `culvert put`: files go up, and each receipt is compared with what was read.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Args;
use receipt::Step;
use store_proto::{Attribute, Attributes, FileType};

use super::many::{self, Job};
use super::progress::Progress;
use super::send::{Outcome, Report, Sending, Source};
use super::upload_body::Sent;
use super::{ServerArguments, SeveralArguments};
use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::http_client::{self, Credential, Moved, unless_interrupted};
use crate::receipt::KnownLogs;
use crate::target::RemoteFile;

#[derive(Debug, Args)]
pub(crate) struct PutArguments {
    /// The file or directory to send, or - for standard input
    #[arg(value_name = "FILE")]
    source: PathBuf,
    /// Where to: COHORT/PATH; with a / at the end a file keeps its name, and a directory's files lie below it
    #[arg(value_name = "COHORT/PATH")]
    destination: String,
    /// What kind of data it is, as the server's policy names it
    #[arg(long, value_name = "TYPE", value_parser = parse_file_type)]
    file_type: Option<FileType>,
    /// What is to be remembered of the file beside that; several times for several
    #[arg(long = "attribute", value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
    /// Save the receipt here, for `culvert receipt verify`; a file that exists is not replaced
    #[arg(long, value_name = "RECEIPT")]
    receipt: Option<PathBuf>,
    /// Hash first: send nothing that the server has with the same hash, and have the rest verified before it is a file
    #[arg(long)]
    checksum: bool,
    #[command(flatten)]
    several: SeveralArguments,
    #[command(flatten)]
    server: ServerArguments,
}

fn parse_file_type(text: &str) -> Result<FileType, String> {
    FileType::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn run(arguments: &PutArguments, console: Console) -> Result<(), Failure> {
    if arguments.source.is_dir() {
        return put_folder(arguments, console);
    }
    if let Some(path) = arguments.receipt.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
        return Err(Failure::refused(format!("{}: exists already; nothing was sent", path.display())));
    }
    let attributes = arguments.attributes()?;
    let source = Source::open(&arguments.source)?;
    let target = RemoteFile::for_upload(&arguments.destination, source.name.as_deref())?;
    let credential = arguments.server.credential(console)?;
    let server = arguments.server.server();
    let sending = arguments.sending(&server, &credential, &attributes, console);
    let moved = Moved::default();
    let mut progress = Progress::start(source.label.clone(), source.length, console.progress_style());
    let work = sending.send(source, &target, &moved, |bytes| progress.set(bytes));
    let (outcome, sent) = http_client::runtime()?.block_on(unless_interrupted(work))?;
    progress.finish(moved.load(Ordering::Relaxed));
    let verifiable = match (&outcome, &sent) {
        (Outcome::Stored(report), Some(sent)) => keep_receipt(arguments, report, sent, console),
        (Outcome::Stored(_) | Outcome::There(_), _) => match &arguments.receipt {
            Some(path) => Err(Failure::failed(format!(
                "{}: not written: nothing was sent, so no receipt came; without --checksum it does",
                path.display()
            ))),
            None => Ok(None),
        },
    };
    console.report(&outcome, |outcome| {
        let mut text = outcome.text();
        if let Ok(Some(command)) = &verifiable {
            text.push_str(&format!("\nto prove it without the server: {command}"));
        }
        text
    })?;
    verifiable.map(|_| ())
}

/// Every file below a directory, under its path below it.
fn put_folder(arguments: &PutArguments, console: Console) -> Result<(), Failure> {
    let folder = arguments.source.display().to_string();
    if arguments.receipt.is_some() {
        return Err(Failure::usage(
            "--receipt is for one file; of each file, `culvert put FILE … --receipt` saves one",
        ));
    }
    let Some(destination) = arguments.destination.strip_suffix('/') else {
        return Err(Failure::usage(format!(
            "{folder}: is a directory, so the place needs a / at its end: {}/",
            arguments.destination
        )));
    };
    let attributes = arguments.attributes()?;
    let mut jobs = Vec::new();
    for found in many::files_below(&arguments.source, console)? {
        let target = RemoteFile::parse(&format!("{destination}/{}", found.below))?;
        jobs.push(Job { name: found.below, bytes: found.bytes, what: (found.path, target) });
    }
    let credential = arguments.server.credential(console)?;
    let server = arguments.server.server();
    let sending = &arguments.sending(&server, &credential, &attributes, console);
    let work = |(path, target): (PathBuf, RemoteFile), moved: Moved| async move {
        let source = Source::open(&path)?;
        sending.send(source, &target, &moved, |_| ()).await.map(|(outcome, _)| outcome)
    };
    let label = format!("put {}", printable(&folder));
    let tell = |outcome: Outcome| console.report(&outcome, Outcome::text);
    let all = many::each(label, jobs, arguments.several.parallel(), console, work, tell);
    http_client::runtime()?.block_on(unless_interrupted(all))
}

impl PutArguments {
    fn attributes(&self) -> Result<Attributes, Failure> {
        let mut all = Attributes::default();
        for attribute in &self.attributes {
            let added = all.add(attribute.clone());
            added.map_err(|error| Failure::usage(format!("--attribute {attribute}: {error}")))?;
        }
        Ok(all)
    }

    fn sending<'a>(
        &'a self,
        server: &'a crate::target::Server,
        credential: &'a Credential,
        attributes: &'a Attributes,
        console: Console,
    ) -> Sending<'a> {
        Sending {
            server,
            credential,
            file_type: self.file_type.as_ref(),
            attributes,
            checksum: self.checksum,
            patience: self.server.patience(),
            retries: self.several.retries(),
            console,
        }
    }
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
