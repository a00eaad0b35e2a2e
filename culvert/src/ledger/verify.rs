//! `culvert ledger verify`: the walk over the whole log, by storaged or, where it does not run, by ourselves.
//!
//! Invariant: 0 means that all of it was walked over and nothing was found; a walk that could not be ended is 4,
//! whatever it had found by then.

use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use storaged::config::Environment;
use storaged::ledger::verify::{Claim, verify};
use storaged::offline::Offline;

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, printable};
use crate::failure::{Exit, Failure};
use crate::transfer::progress::Progress;

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// A receipt or a checkpoint that somebody kept: it must be part of the log's past. May be given again
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Read the ledger of a storaged that does not run
    #[arg(long)]
    offline: bool,
    /// With --offline: storaged's configuration, which says where ledger and keys are
    #[arg(long, value_name = "FILE", default_value = storaged::config::DEFAULT_PATH, requires = "offline")]
    config: PathBuf,
    /// With --offline: a directory with a ledger and keys, such as a copy, instead of the configured one
    #[arg(long, value_name = "DIR", requires = "offline", requires = "root_key")]
    state: Option<PathBuf>,
    /// With --state: the root key, as a path or credential:NAME
    #[arg(long, value_name = "KEY", requires = "state")]
    root_key: Option<String>,
    #[command(flatten)]
    at: SocketArgument,
}

pub(crate) fn run(arguments: &VerifyArguments, console: Console) -> Result<(), Failure> {
    let claims = arguments.against.iter().map(|path| claim(path)).collect::<Result<Vec<_>, _>>()?;
    let mut told = Told { console, progress: None };
    let summary = if arguments.offline {
        offline(arguments, &claims, &mut told)?
    } else {
        let question = json!({ "against": claims });
        let walked =
            admin::call(&arguments.at.socket, "ledger.verify", question, &[], |item| told.item(&item));
        // Findings are no refusal: who refused has not looked.
        walked.map_err(|failure| match failure.exit() {
            Exit::Failed if !failure.is_output_closed() => Failure::cannot_tell(failure.message()),
            Exit::Failed | Exit::Usage | Exit::Refused | Exit::CannotTell => failure,
        })?
    };
    told.end(&summary)?;
    match summary["findings"].as_u64() {
        Some(0) => Ok(()),
        Some(findings) => Err(Failure::failed(format!("{findings} findings: the log is not what it was"))),
        None => Err(Failure::cannot_tell("storaged did not say what it found")),
    }
}

fn offline(arguments: &VerifyArguments, claims: &[Claim], told: &mut Told) -> Result<Value, Failure> {
    let opened = match (&arguments.state, &arguments.root_key) {
        (Some(state), Some(key)) => Offline::open_at(state, key),
        _ => Offline::open(&arguments.config, &Environment::of_process()),
    };
    let store = opened.map_err(|error| {
        let message = printable(&error.to_string());
        if error.is_finding() { Failure::failed(message) } else { Failure::cannot_tell(message) }
    })?;
    let mut failure = None;
    let walked = verify(&store.reader, &store.log_key, claims, |event| match told.item(&event.to_json()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    let summary = walked.map_err(|error| Failure::cannot_tell(printable(&error.to_string())))?;
    Ok(summary.to_json())
}

/// What was told so far.
struct Told {
    console: Console,
    progress: Option<Progress>,
}

impl Told {
    fn item(&mut self, item: &Value) -> Result<(), Failure> {
        let (Some(checked), Some(records)) = (item["checked"].as_u64(), item["records"].as_u64()) else {
            return self.console.report(item, line);
        };
        let style = self.console.progress_style();
        let begin = || Progress::count("ledger verify".to_owned(), "records", records, style);
        self.progress.get_or_insert_with(begin).set(checked);
        Ok(())
    }

    fn end(&mut self, summary: &Value) -> Result<(), Failure> {
        if let Some(progress) = self.progress.take() {
            progress.finish(summary["records"].as_u64().unwrap_or(0));
        }
        self.console.report(summary, text)
    }
}

fn line(finding: &Value) -> String {
    let mut line = finding["finding"].as_str().map(printable).unwrap_or_default();
    if let Some(record) = finding["record"].as_u64() {
        line.push_str(&format!("  record {record}"));
    }
    if let Some(file) = finding["file_id"].as_str() {
        line.push_str(&format!("  file {}", printable(file)));
    }
    let what = finding["what"].as_str().map(printable).unwrap_or_default();
    format!("{line}  {what}")
}

fn text(summary: &Value) -> String {
    let number = |key: &str| summary[key].as_u64().unwrap_or(0);
    let mut text = format!(
        "{} records, {} files, {} operations under way, epoch {}",
        number("records"),
        number("files"),
        number("open_operations"),
        number("epoch")
    );
    if number("destroyed") > 0 {
        text.push_str(&format!(
            "\n{} records fell with the keys of deleted files; their place in the log is proven",
            number("destroyed")
        ));
    }
    if number("findings") == 0 {
        text.push_str("\nthe log is what was signed");
    }
    text
}

/// A file that is neither a receipt nor a checkpoint is a mistake of whoever names it.
fn claim(path: &Path) -> Result<Claim, Failure> {
    let name = printable(&path.display().to_string());
    let unreadable = |error: std::io::Error| Failure::usage(format!("--against {name}: {error}"));
    let mut document = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(receipt::limits::MAX_RECEIPT_BYTES as u64 + 1)
        .read_to_end(&mut document)
        .map_err(unreadable)?;
    Claim::parse(name.clone(), &document)
        .map_err(|error| Failure::usage(format!("--against {name}: {}", printable(&error.to_string()))))
}
