//! `culvert verify integrity`: whether the objects on storaged's volumes are what was sealed.
//!
//! Invariant: 0 means that each file was looked at and is valid; a file that could not be looked at is not valid and
//! not invalid, and alone it ends with 4.

use clap::Args;
use serde_json::{Value, json};

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, human_bytes, printable};
use crate::failure::{Exit, Failure};
use crate::transfer::progress::Progress;

#[derive(Debug, Args)]
pub(crate) struct IntegrityArguments {
    /// Read every byte and compare its hash; without it: existence and length
    #[arg(long)]
    check_hashes: bool,
    /// Only the files of this cohort
    #[arg(long, value_name = "COHORT")]
    cohort: Option<String>,
    /// Only this file, by its id
    #[arg(long, value_name = "ID", conflicts_with = "cohort")]
    file: Option<String>,
    #[command(flatten)]
    at: SocketArgument,
}

pub(crate) fn run(arguments: &IntegrityArguments, console: Console) -> Result<(), Failure> {
    let question = json!({
        "check_hashes": arguments.check_hashes, "cohort": arguments.cohort, "file": arguments.file,
    });
    let mut progress: Option<Progress> = None;
    let looked = admin::call(&arguments.at.socket, "integrity.verify", question, &[], |item| {
        let (Some(checked), Some(files)) = (item["checked"].as_u64(), item["files"].as_u64()) else {
            return console.report(&item, line);
        };
        let begin =
            || Progress::count("verify integrity".to_owned(), "files", files, console.progress_style());
        progress.get_or_insert_with(begin).set(checked);
        Ok(())
    });
    // Who refused has not looked.
    let summary = looked.map_err(|failure| match failure.exit() {
        Exit::Failed if !failure.is_output_closed() => Failure::cannot_tell(failure.message()),
        Exit::Failed | Exit::Usage | Exit::Refused | Exit::CannotTell => failure,
    })?;
    if let Some(progress) = progress {
        progress.finish(summary["files"].as_u64().unwrap_or(0));
    }
    console.report(&summary, text)?;
    match (summary["not_valid"].as_u64(), summary["cannot_tell"].as_u64()) {
        (Some(0), Some(0)) => Ok(()),
        (Some(0), Some(unknown)) => {
            Err(Failure::cannot_tell(format!("{unknown} files could not be looked at")))
        }
        (Some(wrong), _) => Err(Failure::failed(format!("{wrong} files are not what was stored"))),
        (None, _) => Err(Failure::cannot_tell("storaged did not say what it found")),
    }
}

fn line(item: &Value) -> String {
    let text = |key: &str| item[key].as_str().map(printable).unwrap_or_default();
    let word = match item["is_valid"].as_bool() {
        Some(true) => "valid",
        Some(false) => "NOT VALID",
        None => "cannot tell",
    };
    format!("{word:<11}  {:<32}  {:<12}  {}", text("file_id"), text("cohort"), text("error"))
        .trim_end()
        .to_owned()
}

fn text(summary: &Value) -> String {
    let number = |key: &str| summary[key].as_u64().unwrap_or(0);
    let how = if summary["check_hashes"] == true { "every byte" } else { "existence and length" };
    let mut text = format!(
        "{} files by {how}: {} valid, {} not valid, {} could not be looked at",
        number("files"),
        number("valid"),
        number("not_valid"),
        number("cannot_tell")
    );
    for cycle in summary["scrub"].as_array().into_iter().flatten() {
        let number = |key: &str| cycle[key].as_u64().unwrap_or(0);
        let time = |key: &str| cycle[key].as_str().map(printable);
        let volume = cycle["volume"].as_str().map(printable).unwrap_or_default();
        let state = match (time("begun_at"), time("ended_at")) {
            (None, _) => "has not begun".to_owned(),
            (Some(begun), None) => format!("runs since {begun}"),
            (Some(_), Some(ended)) => format!("ended {ended}"),
        };
        text.push_str(&format!(
            "\nscrub of {volume}: cycle {} {state}; {} in {} objects, {} findings",
            number("cycle"),
            human_bytes(number("read_bytes")),
            number("objects"),
            number("findings")
        ));
    }
    text
}
