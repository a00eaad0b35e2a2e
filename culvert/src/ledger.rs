//! `culvert ledger …`: the log that storaged keeps.

use clap::Subcommand;
use serde_json::json;

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, printable};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// The newest signed checkpoint: what a witness keeps
    Checkpoint(SocketArgument),
    /// The clock is right: what waits since it went forward goes on
    #[command(after_help = "\
When the wall clock goes forward by over an hour that the machine did not run for, storaged stops what deletes\n\
because of a date. Look at the clock (`timedatectl`, `chronyc tracking`) before this.")]
    ConfirmTime(SocketArgument),
}

pub(crate) fn run(command: &LedgerCommand, console: Console) -> Result<(), Failure> {
    match command {
        LedgerCommand::Checkpoint(at) => {
            let checkpoint = admin::call(&at.socket, "ledger.checkpoint", json!({}), &[], |_| Ok(()))?;
            console.report(&checkpoint, |checkpoint| {
                let text = checkpoint["checkpoint"].as_str().unwrap_or_default();
                let lines: Vec<String> = text.lines().map(printable).collect();
                lines.join("\n")
            })
        }
        LedgerCommand::ConfirmTime(at) => {
            let confirmed = admin::call(&at.socket, "ledger.confirm-time", json!({}), &[], |_| Ok(()))?;
            console.report(&confirmed, |confirmed| {
                if confirmed["held"].as_bool() == Some(true) {
                    "the hold ended; what waited goes on".to_owned()
                } else {
                    "no hold stood".to_owned()
                }
            })
        }
    }
}
