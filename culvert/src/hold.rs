//! `culvert hold …`: legal holds. While one stands, nothing under it is deleted.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};
use store_proto::{Cohort, FileId};

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, printable};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum HoldCommand {
    /// From here on, nothing of a cohort or file is deleted
    #[command(after_help = "\
Examples:\n  \
  culvert hold place --cohort c5 --reason 'case 2026-114'\n  \
  culvert hold place --file 0f3c…e1 --reason 'request of the ethics board'")]
    Place(PlaceArguments),
    /// End a hold
    Release(ReleaseArguments),
    /// The holds that stand
    List(SocketArgument),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["cohort", "file"]))]
pub(crate) struct PlaceArguments {
    /// Every file of this cohort, of today and to come
    #[arg(long, value_parser = parse_cohort)]
    cohort: Option<Cohort>,
    /// This file, by its id
    #[arg(long, value_name = "FILE_ID", value_parser = parse_file)]
    file: Option<FileId>,
    /// Why: the case, for the record
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    at: SocketArgument,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArguments {
    /// The number that `hold list` shows
    id: u64,
    /// Why, for the record
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    at: SocketArgument,
}

fn parse_cohort(text: &str) -> Result<Cohort, String> {
    Cohort::parse(text).map_err(|error| error.to_string())
}

fn parse_file(text: &str) -> Result<FileId, String> {
    FileId::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn run(command: &HoldCommand, console: Console) -> Result<(), Failure> {
    match command {
        HoldCommand::Place(arguments) => {
            let mut question = json!({ "reason": arguments.reason });
            if let Some(cohort) = &arguments.cohort {
                question["cohort"] = cohort.as_str().into();
            }
            if let Some(file) = arguments.file {
                question["file"] = file.to_string().into();
            }
            let placed = admin::call(&arguments.at.socket, "hold.place", question, &[], |_| Ok(()))?;
            console.report(&placed, |placed| format!("hold {} stands", placed["id"]))
        }
        HoldCommand::Release(arguments) => {
            let question = json!({ "id": arguments.id, "reason": arguments.reason });
            let released = admin::call(&arguments.at.socket, "hold.release", question, &[], |_| Ok(()))?;
            console.report(&released, |_| format!("hold {} is released", arguments.id))
        }
        HoldCommand::List(at) => {
            let mut holds = 0_u64;
            admin::call(&at.socket, "hold.list", Value::Null, &[], |item| {
                holds += 1;
                console.report(&item, line)
            })?;
            if holds == 0 && !console.is_json() {
                console.line("no hold stands")?;
            }
            Ok(())
        }
    }
}

fn line(item: &Value) -> String {
    let text = |key: &str| item[key].as_str().map(printable);
    let target = text("cohort").map(|cohort| format!("cohort {cohort}"));
    let target = target.or_else(|| text("file_id").map(|file| format!("file {file}"))).unwrap_or_default();
    format!(
        "{:>9}  {:<38}  {}  {}  {}",
        item["id"].as_u64().unwrap_or_default(),
        target,
        text("placed_at").unwrap_or_default(),
        text("placed_by").unwrap_or_default(),
        text("reason").unwrap_or_default(),
    )
}
