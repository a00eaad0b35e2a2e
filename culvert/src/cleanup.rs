//! `culvert cleanup …`, `culvert verify cleanup`: temporary things on storaged's volumes, and that they are gone.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::admin;
use crate::console::{Console, printable};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum CleanupCommand {
    /// What must go and is not known to be gone, the most urgent first
    #[command(after_help = "\
Exit code 1 with --overdue if anything is.\n\n\
Examples:\n  \
  culvert cleanup list\n  \
  culvert cleanup list --overdue --json | jq .file_id")]
    List(ListArguments),
    /// Mark one as gone; refused while it is still there
    Mark(MarkArguments),
    /// Take away everything temporary at once, unfinished uploads too
    #[command(after_help = "\
Uploads that can be resumed are given up, and requests that bring files now are broken off.\n\n\
Without --force and --confirm it prints what it would take away and ends with code 3. Files of the store are not \
temporary and stay.\n\n\
Example:\n  \
  culvert cleanup emergency --force --confirm")]
    Emergency(EmergencyArguments),
}

#[derive(Debug, Args)]
pub(crate) struct SocketArgument {
    /// storaged's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/storaged.sock")]
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only what is past its deadline
    #[arg(long)]
    overdue: bool,
    #[command(flatten)]
    at: SocketArgument,
}

#[derive(Debug, Args)]
pub(crate) struct MarkArguments {
    /// The number that `cleanup list` shows
    id: u64,
    #[command(flatten)]
    at: SocketArgument,
}

#[derive(Debug, Args)]
pub(crate) struct EmergencyArguments {
    /// Do it
    #[arg(long)]
    force: bool,
    /// Yes, really
    #[arg(long)]
    confirm: bool,
    #[command(flatten)]
    at: SocketArgument,
}

pub(crate) fn run(command: &CleanupCommand, console: Console) -> Result<(), Failure> {
    match command {
        CleanupCommand::List(arguments) => list(arguments, console),
        CleanupCommand::Mark(arguments) => mark(arguments, console),
        CleanupCommand::Emergency(arguments) => emergency(arguments, console),
    }
}

fn list(arguments: &ListArguments, console: Console) -> Result<(), Failure> {
    let found = stream(&arguments.at, "cleanup.list", json!({ "overdue": arguments.overdue }), console)?;
    match (found, arguments.overdue) {
        (0, _) if console.is_json() => Ok(()),
        (0, false) => console.line("nothing is waiting to be cleaned up"),
        (0, true) => console.line("nothing is overdue"),
        (_, false) => Ok(()),
        (found, true) => Err(Failure::failed(format!("{found} are overdue"))),
    }
}

/// `verify cleanup`: looks at each; a finding is what is still there.
pub(crate) fn verify(at: &SocketArgument, console: Console) -> Result<(), Failure> {
    let mut still = 0_u64;
    let done = admin::call(&at.socket, "cleanup.verify", Value::Null, &[], |item| {
        still += u64::from(item["cleaned_up"] != true);
        console.report(&item, line)
    })?;
    let gone = done["gone"].as_u64().unwrap_or(0);
    if still > 0 {
        return Err(Failure::failed(format!("{still} are still there, {gone} were found gone")));
    }
    if console.is_json() {
        return Ok(());
    }
    console.line(&format!("nothing is left; {gone} were found gone and are marked"))
}

fn mark(arguments: &MarkArguments, console: Console) -> Result<(), Failure> {
    let marked =
        admin::call(&arguments.at.socket, "cleanup.mark", json!({ "id": arguments.id }), &[], |_| Ok(()))?;
    console.report(&marked, |marked| match marked["already"].as_bool() {
        Some(true) => format!("cleanup {} was marked before", arguments.id),
        Some(false) | None => format!("cleanup {} is gone, and marked", arguments.id),
    })
}

/// Both flags are needed; without them the plan is printed.
pub(crate) fn emergency(arguments: &EmergencyArguments, console: Console) -> Result<(), Failure> {
    let confirm = arguments.force && arguments.confirm;
    let question = json!({ "confirm": confirm });
    if !confirm {
        let found = stream(&arguments.at, "cleanup.emergency", question, console)?;
        return Err(Failure::refused(format!(
            "{found} temporary things would be taken away; add --force and --confirm to do it"
        )));
    }
    let done = admin::call(&arguments.at.socket, "cleanup.emergency", question, &[], |item| {
        console.report(&item, line)
    })?;
    let (gone, still) = (done["gone"].as_u64().unwrap_or(0), done["still_there"].as_u64().unwrap_or(0));
    if still > 0 {
        return Err(Failure::failed(format!("{gone} are gone, {still} are still there")));
    }
    if console.is_json() {
        return Ok(());
    }
    console.line(&format!("{gone} are gone"))
}

fn stream(at: &SocketArgument, verb: &str, question: Value, console: Console) -> Result<u64, Failure> {
    let mut found = 0;
    admin::call(&at.socket, verb, question, &[], |item| {
        if found == 0 && !console.is_json() {
            console.line(&format!(
                "{:>9}  {:<17}  {:<24}  {:>5}  {:<32}  LAST ERROR",
                "CLEANUP", "KIND", "GONE BY", "TRIES", "FILE"
            ))?;
        }
        found += 1;
        console.report(&item, line)
    })?;
    Ok(found)
}

fn line(item: &Value) -> String {
    let text = |key: &str| item[key].as_str().map(printable).unwrap_or_default();
    let number = |key: &str| item[key].as_u64().map_or_else(String::new, |number| number.to_string());
    let mark = if item["cleaned_up"] == true {
        "gone".to_owned()
    } else if item["overdue"] == true {
        format!("OVERDUE {}", text("last_error"))
    } else {
        text("last_error")
    };
    // An unfinished upload has no number yet, and is known by its own id.
    let file = if item["upload"].is_null() { text("file_id") } else { text("upload") };
    format!(
        "{:>9}  {:<17}  {:<24}  {:>5}  {:<32}  {mark}",
        number("id"),
        text("kind"),
        text("expected_cleanup_by"),
        number("cleanup_attempted_count"),
        file,
    )
    .trim_end()
    .to_owned()
}
