//! `culvert shred …`: a file leaves the store for good, and what shows that it did.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use store_proto::{Cohort, FileId, LogicalPath};

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, printable};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum ShredCommand {
    /// Delete a file: destroy its keys, then remove its objects and look that they are gone
    #[command(after_help = "\
Refused while a legal hold stands or the cohort's retention is not over. What stays is the proof: that it was \
there, when it went, who decided it and why.\n\n\
The keys are destroyed at once. Copies of the keys (old pages of the database, backups) stop opening the file \
with the next shred, once a day; --final does it now.\n\n\
Examples:\n  \
  culvert shred file c5/2026/visits.csv --reason 'consent withdrawn, case 12' --force\n  \
  culvert shred file 0f3c…e1 --reason 'sent by mistake' --final --force --json > certificate.json")]
    File(FileArguments),
    /// The deletions that are not at their end
    List(SocketArgument),
    /// What the deletion of a file can show for itself
    Certificate(CertificateArguments),
}

#[derive(Debug, Args)]
pub(crate) struct FileArguments {
    /// COHORT/PATH, or the file's id; the newest version of a path
    file: String,
    /// Why, for the record and the certificate
    #[arg(long)]
    reason: String,
    /// Shred the copies of the keys too, now
    #[arg(long = "final")]
    make_final: bool,
    /// Do it: it cannot be undone
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    at: SocketArgument,
}

#[derive(Debug, Args)]
pub(crate) struct CertificateArguments {
    /// The file's id
    #[arg(value_parser = parse_id)]
    file: FileId,
    #[command(flatten)]
    at: SocketArgument,
}

fn parse_id(text: &str) -> Result<FileId, String> {
    FileId::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn run(command: &ShredCommand, console: Console) -> Result<(), Failure> {
    match command {
        ShredCommand::File(arguments) => file(arguments, console),
        ShredCommand::List(at) => {
            let mut found = 0_u64;
            admin::call(&at.socket, "shred.list", Value::Null, &[], |item| {
                found += 1;
                console.report(&item, line)
            })?;
            if found == 0 && !console.is_json() {
                console.line("every deletion is at its end")?;
            }
            Ok(())
        }
        ShredCommand::Certificate(arguments) => {
            let question = json!({ "file": arguments.file });
            let certificate =
                admin::call(&arguments.at.socket, "shred.certificate", question, &[], |_| Ok(()))?;
            console.report(&certificate, text)
        }
    }
}

fn file(arguments: &FileArguments, console: Console) -> Result<(), Failure> {
    let mut question = json!({ "reason": arguments.reason, "final": arguments.make_final });
    match arguments.file.split_once('/') {
        None => {
            let id = FileId::parse(&arguments.file).map_err(|error| {
                Failure::usage(format!("{}: neither COHORT/PATH nor a file's id: {error}", arguments.file))
            })?;
            question["file"] = json!(id);
        }
        Some((cohort, path)) => {
            let bad = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", arguments.file));
            question["cohort"] = json!(Cohort::parse(cohort).map_err(|error| bad(&error))?);
            question["path"] = json!(LogicalPath::parse(path).map_err(|error| bad(&error))?);
        }
    }
    if !arguments.force {
        return Err(Failure::refused(format!(
            "{} would be deleted and nothing brings it back; add --force to do it",
            arguments.file
        )));
    }
    let certificate = admin::call(&arguments.at.socket, "shred.file", question, &[], |_| Ok(()))?;
    console.report(&certificate, text)
}

/// One line of the list.
fn line(item: &Value) -> String {
    let text = |key: &str| item[key].as_str().map(printable);
    let waiting = match (text("keys_destroyed_at"), text("objects_found_gone_at")) {
        (None, _) => "its keys are being destroyed",
        (Some(_), None) => "its objects are still to be found gone",
        (Some(_), Some(_)) => "waits for the next shred of the keys",
    };
    format!("{}  {}  {waiting}", text("file_id").unwrap_or_default(), text("decided_at").unwrap_or_default())
}

/// The certificate for people.
fn text(certificate: &Value) -> String {
    let field = |key: &str| certificate[key].as_str().map_or_else(|| "not yet".to_owned(), printable);
    let mut lines = vec![
        format!("file                {}", field("file_id")),
        format!("stored              {}, {} bytes", field("stored_at"), certificate["size"]),
        format!("decided             {} by {}", field("decided_at"), field("deleted_by")),
        format!("reason              {}", field("reason")),
        format!("keys destroyed      {}", field("keys_destroyed_at")),
        format!("objects found gone  {}", field("objects_found_gone_at")),
        format!("key copies unusable {}", field("key_copies_unusable_since")),
        format!("records             {}", certificate["records"]),
    ];
    if certificate["complete"] != true {
        lines.push("This deletion is not at its end; `culvert kek shred` makes it final now.".to_owned());
    }
    lines.join("\n")
}
