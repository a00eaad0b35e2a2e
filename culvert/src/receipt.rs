//! `culvert receipt verify`: whether a file is the one that a store took, by the receipt alone.
//!
//! Invariant: no socket is opened. What was not proven is said as plainly as what was.

mod known_logs;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use receipt::limits::MAX_RECEIPT_BYTES;
use receipt::{LogKey, Receipt, Report, Step, StoredFile, Trust};
use serde_json::{Value, json};

use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::limits::VKEY_BYTES_AT_MOST;
use crate::transfer::progress::Progress;

pub(crate) use known_logs::KnownLogs;

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Check that FILE is the one that a store took and recorded; no server is asked
    #[command(after_help = "\
The log's key says who signed. It is taken from --log-key; without it from the logs that `culvert put` remembered \
on this machine; without that from the receipt itself, which proves that receipt and file belong together, but \
not who signed.\n\n\
Exit codes: 0 every step is right; 1 one is not; 2 a file cannot be opened or a key is none; 4 FILE could not be \
read to its end.\n\n\
Examples:\n  \
  culvert receipt verify visits.receipt visits.csv\n  \
  culvert receipt verify visits.receipt visits.csv --log-key store.vkey")]
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The receipt, as `culvert put --receipt` saved it
    #[arg(value_name = "RECEIPT")]
    receipt: PathBuf,
    /// The file it is for, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The key of the log that must have signed: NAME+KEYID+BASE64, or a file that holds it
    #[arg(long, value_name = "VKEY|FILE")]
    log_key: Option<String>,
}

/// Where the key comes from that is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    Given,
    Remembered,
    /// From the receipt: nobody vouches for it.
    Receipt,
}

impl KeySource {
    fn name(&self) -> &'static str {
        match self {
            KeySource::Given => "given",
            KeySource::Remembered => "remembered",
            KeySource::Receipt => "receipt",
        }
    }
}

pub(crate) fn run(command: &ReceiptCommand, console: Console) -> Result<(), Failure> {
    match command {
        ReceiptCommand::Verify(arguments) => verify(arguments, console),
    }
}

fn verify(arguments: &VerifyArguments, console: Console) -> Result<(), Failure> {
    let receipt = read_receipt(&arguments.receipt)?;
    let (source, trust) = trust(arguments.log_key.as_deref(), &receipt, &KnownLogs::of_this_user())?;
    let (content, length) = open(&arguments.file)?;
    let label = printable(&format!("verify {}", arguments.file.display()));
    let mut progress = Progress::start(label, length, console.progress_style());
    let mut read = 0;
    let report = receipt::verify(&receipt, content, trust, |bytes| {
        read = bytes;
        progress.set(bytes);
    });
    progress.finish(read);
    console.report(&document(&report, &source), |_| text(&report, &source))?;
    if report.is_right() {
        return Ok(());
    }
    let (receipt, file) = (arguments.receipt.display(), arguments.file.display());
    if report.is_unreadable() {
        return Err(Failure::cannot_tell(format!("{file}: could not be read to its end")));
    }
    let wrong: Vec<&str> =
        Step::ALL.into_iter().filter(|step| report.fault(*step).is_some()).map(Step::name).collect();
    Err(Failure::failed(format!("{receipt} does not prove {file}: wrong in {}", wrong.join(", "))))
}

/// A receipt that is none is a finding: it was changed, or it is something else.
fn read_receipt(path: &Path) -> Result<Receipt, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let mut document = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_RECEIPT_BYTES as u64 + 1).read_to_end(&mut document).map_err(unreadable)?;
    Receipt::parse(&document)
        .map_err(|error| Failure::failed(format!("{}: {}", path.display(), printable(&error.to_string()))))
}

/// The key to check against, and where it comes from.
fn trust(given: Option<&str>, receipt: &Receipt, known: &KnownLogs) -> Result<(KeySource, Trust), Failure> {
    if let Some(given) = given {
        return Ok((KeySource::Given, Trust::Key(given_key(given)?)));
    }
    match known.key_of(receipt.log_key().name())? {
        Some(key) => Ok((KeySource::Remembered, Trust::Key(key))),
        None => Ok((KeySource::Receipt, Trust::SelfContained)),
    }
}

/// `--log-key`: the key's text, or a file with it.
fn given_key(given: &str) -> Result<LogKey, Failure> {
    let path = Path::new(given);
    match File::open(path) {
        Ok(file) => {
            let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("--log-key {given}: {error}"));
            let mut text = String::new();
            file.take(VKEY_BYTES_AT_MOST).read_to_string(&mut text).map_err(|error| wrong(&error))?;
            LogKey::parse(text.trim()).map_err(|error| wrong(&error))
        }
        Err(opened) => LogKey::parse(given).map_err(|error| {
            Failure::usage(format!("--log-key: no such file ({opened}), and as a key: {error}"))
        }),
    }
}

fn open(path: &Path) -> Result<(Box<dyn Read>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let metadata = file.metadata().map_err(|error| wrong(&error))?;
    if metadata.is_dir() {
        return Err(wrong(&"is a directory"));
    }
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), length))
}

/// What `--json` prints.
fn document(report: &Report, source: &KeySource) -> Value {
    let steps: Vec<Value> = Step::ALL
        .into_iter()
        .map(|step| {
            let fault = report.fault(step).map(ToString::to_string);
            json!({ "step": step.name(), "right": fault.is_none(), "fault": fault })
        })
        .collect();
    json!({
        "right": report.is_right(),
        "proves_who_signed": report.is_right() && *source != KeySource::Receipt,
        "log_key": report.key.to_string(),
        "log_key_source": source.name(),
        "checkpoint": {
            "origin": report.checkpoint.origin,
            "size": report.checkpoint.size,
            "root": report.checkpoint.root.to_string(),
            "epoch": report.checkpoint.epoch,
        },
        "file": report.file.as_ref().map(|file| json!({
            "file_id": file.file_id,
            "cohort": file.cohort,
            "path": file.path,
            "size": file.size,
            "sha256": receipt::record::digest_text(&file.sha256),
            "stored_at": time(file),
        })),
        "steps": steps,
    })
}

fn text(report: &Report, source: &KeySource) -> String {
    let mut lines: Vec<String> = Step::ALL.into_iter().map(|step| line(report, step, source)).collect();
    if report.is_right() {
        lines.push(match source {
            KeySource::Given | KeySource::Remembered => "the store took this very file".to_owned(),
            KeySource::Receipt => format!(
                "receipt and file belong together; WHO SIGNED IS NOT PROVEN: give --log-key, if you know that the \
                 log's key is {}",
                printable(&report.key.to_string())
            ),
        });
    }
    lines.join("\n")
}

fn line(report: &Report, step: Step, source: &KeySource) -> String {
    let (word, what) = match report.fault(step) {
        Some(fault) => ("WRONG", fault.to_string()),
        None if step == Step::Key && *source == KeySource::Receipt => {
            ("unknown", "the log's key is the receipt's own word".to_owned())
        }
        None => ("right", right(report, step, source)),
    };
    format!("{:<10} {word:<8} {}", step.name(), printable(&what))
}

fn right(report: &Report, step: Step, source: &KeySource) -> String {
    let checkpoint = &report.checkpoint;
    let file = report.file.as_ref();
    match step {
        Step::Key => format!("key {} of {}, {}", report.key.id(), report.key.name(), source.name()),
        Step::Signature => {
            format!("it signed the log of {} records, epoch {}", checkpoint.size, checkpoint.epoch)
        }
        Step::Inclusion => "the record is in that log".to_owned(),
        Step::Record => file.map_or_else(String::new, |file| {
            format!("{}/{} stored {} as file {}", file.cohort, file.path, time(file), file.file_id)
        }),
        Step::Content => file.map_or_else(String::new, |file| {
            format!("{} bytes, sha256 {}", file.size, receipt::record::digest_text(&file.sha256))
        }),
    }
}

/// RFC 3339 in UTC.
fn time(file: &StoredFile) -> String {
    let time = i64::try_from(file.time_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{} ms", file.time_ms), |time| time.to_string())
}
