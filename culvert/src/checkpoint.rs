//! `culvert checkpoint show|accept`: what edge holds of the store's log, and a new epoch that it may go on with.
//!
//! Invariant: an epoch is accepted only by its number, so that nobody accepts what was not looked at.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::admin;
use crate::console::{Console, printable};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// The highest checkpoint that this edge saw, and what is wrong with the log if something is
    #[command(after_help = "\
Exit codes: 0 the log is followed; 1 the store shows another history, and uploads are refused; 4 edge did not answer.\n\n\
Examples:\n  \
  culvert checkpoint show\n  \
  culvert checkpoint show --json | jq -j .checkpoint > /etc/culvert/edge.checkpoint   (for checkpoint_floor_file)")]
    Show(Socket),
    /// Go on with a store that was restored from a backup: its log began a new epoch
    #[command(after_help = "\
What the store acknowledged after that backup may be gone. Compare first: the store's records say what the epoch \
replaces.\n\n\
Example:\n  \
  culvert checkpoint accept --epoch 1")]
    Accept(AcceptArguments),
}

#[derive(Debug, Args)]
pub(crate) struct Socket {
    /// edge's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/edge.sock")]
    socket: PathBuf,
    /// Which store's log, where edge has several: an `upstream.name` of its configuration
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptArguments {
    /// The epoch that the store shows now
    #[arg(long, value_name = "N")]
    epoch: u64,
    #[command(flatten)]
    socket: Socket,
}

pub(crate) fn run(command: &CheckpointCommand, console: Console) -> Result<(), Failure> {
    match command {
        CheckpointCommand::Show(Socket { socket, upstream }) => {
            let question = json!({ "upstream": upstream });
            let shown = admin::call(socket, "checkpoint.show", question, &[], |_| Ok(()))?;
            console.report(&shown, text)?;
            match shown["fault"].as_str() {
                Some(fault) => Err(Failure::failed(format!("the store's log: {}", printable(fault)))),
                None => Ok(()),
            }
        }
        CheckpointCommand::Accept(arguments) => {
            let question = json!({ "epoch": arguments.epoch, "upstream": arguments.socket.upstream });
            let accepted =
                admin::call(&arguments.socket.socket, "checkpoint.accept", question, &[], |_| Ok(()))?;
            console.report(&accepted, |accepted| {
                format!(
                    "accepted epoch {} of {} records, in the place of {} records",
                    accepted["epoch"], accepted["records"], accepted["records_before"]
                )
            })
        }
    }
}

fn text(shown: &Value) -> String {
    let uploads = shown["uploads"].as_str().unwrap_or("unknown");
    let note = shown["checkpoint"].as_str().map(|note| {
        let lines: Vec<String> = note.lines().map(printable).collect();
        lines.join("\n")
    });
    let key = shown["log_key"].as_str().map_or_else(|| "none seen yet".to_owned(), printable);
    match note {
        Some(note) => format!("{note}\n\nlog key  {key}\nuploads  {uploads}"),
        None => format!("no checkpoint seen yet\nlog key  {key}\nuploads  {uploads}"),
    }
}
