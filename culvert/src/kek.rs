//! `culvert kek …`: the keys that wrap storaged's file keys.
//!
//! Invariant: no key is printed; a new root key goes over as a descriptor.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};
use store_proto::Cohort;

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, table};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum KekCommand {
    /// Each cohort's key: its version, its age, and how many file keys wait for it
    Status(SocketArgument),
    /// Replace a cohort's key, all cohorts' keys, or the root key; no file is touched
    #[command(after_help = "\
File keys move to the new key in the background; `culvert kek status` says how many are left.\n\n\
Examples:\n  \
  culvert kek rotate --cohort c5\n  \
  (umask 077; head -c 32 /dev/urandom | base64 > /etc/culvert/root-2.key)\n  \
  culvert kek rotate --root /etc/culvert/root-2.key")]
    Rotate(RotateArguments),
    /// Make the deletions so far final: no older copy of the keys opens a deleted file any more
    #[command(after_help = "\
Backups of the keys from before it open nothing any more: make a new one afterwards.")]
    Shred(SocketArgument),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["cohort", "all", "root"]))]
pub(crate) struct RotateArguments {
    /// The key of this cohort
    #[arg(long, value_parser = parse_cohort)]
    cohort: Option<Cohort>,
    /// The keys of all cohorts
    #[arg(long)]
    all: bool,
    /// The root key: the file that holds the new one, 32 bytes as base64
    #[arg(long, value_name = "NEW_KEY_FILE")]
    root: Option<PathBuf>,
    #[command(flatten)]
    at: SocketArgument,
}

pub(crate) fn run(command: &KekCommand, console: Console) -> Result<(), Failure> {
    match command {
        KekCommand::Status(at) => {
            let status = admin::call(&at.socket, "kek.status", Value::Null, &[], |_| Ok(()))?;
            console.report(&status, |status| {
                let memory = status["root_key_memory"].as_str().unwrap_or("?");
                format!("root key in {memory}, epoch {}\n\n{}", status["epoch"], cohorts(&status["cohorts"]))
            })
        }
        KekCommand::Rotate(arguments) => rotate(arguments, console),
        KekCommand::Shred(at) => {
            let shred = admin::call(&at.socket, "kek.shred", Value::Null, &[], |_| Ok(()))?;
            console.report(&shred, |shred| {
                format!(
                    "{} keys of deleted files are gone for good, {} of files that live have a new wrapping; epoch {}",
                    shred["destroyed"], shred["survivors"], shred["epoch"]
                )
            })
        }
    }
}

fn rotate(arguments: &RotateArguments, console: Console) -> Result<(), Failure> {
    let socket = &arguments.at.socket;
    if let Some(path) = &arguments.root {
        let file =
            File::open(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        let question = json!({ "path": path });
        let done = admin::call(socket, "kek.rotate_root", question, &[file.as_fd()], |_| Ok(()))?;
        return console.report(&done, |_| {
            format!(
                "the root key is the one in {path} now. Before the next start: name it as root_key_file in \
                 storaged.toml, and wrap it for recovery (age -a -r RECIPIENT -o root-key.age {path})",
                path = path.display()
            )
        });
    }
    let question = arguments.cohort.as_ref().map_or(json!({}), |cohort| json!({ "cohort": cohort }));
    let rotated = admin::call(socket, "kek.rotate", question, &[], |_| Ok(()))?;
    console.report(&rotated, |rotated| cohorts(&rotated["rotated"]))
}

fn cohorts(rows: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let columns = ["cohort", "version", "created", "file_keys", "pending", "not_yet_shredded"];
    let rows: Vec<Vec<String>> = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| columns.iter().map(|column| text(&row[column])).collect())
        .collect();
    table(&["COHORT", "VERSION", "CREATED", "FILE KEYS", "PENDING", "NOT YET SHREDDED"], &rows)
}

fn parse_cohort(text: &str) -> Result<Cohort, String> {
    Cohort::parse(text).map_err(|error| error.to_string())
}
