//! `culvert ledger …`: the log that storaged keeps.

mod verify;

use clap::Subcommand;
use serde_json::json;

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, printable};
use crate::failure::Failure;
use verify::VerifyArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Walk over the whole log: is it what was signed, and what its receipts say?
    #[command(after_help = "\
Every record is opened and hashed, the tree is grown from the hashes and compared with what is stored and signed, and \
so are the indices, the file rows and the operations under way. storaged goes on meanwhile.\n\n\
A store that was set back and gone on with is without fault in itself: only somebody who kept a receipt or a \
checkpoint (`culvert ledger checkpoint`, the end of a report, the edge) can tell. Bring those with --against.\n\n\
With --offline it reads the ledger itself, for a storaged that does not run or a copy of its state directory.\n\n\
Exit codes: 0 all of it is right; 1 findings; 2 wrong usage; 4 it could not be walked over.\n\n\
Examples:\n  \
  culvert ledger verify\n  \
  culvert ledger verify --against visits.receipt --against last-month.checkpoint\n  \
  culvert ledger verify --offline --json | tail -1 | jq .findings")]
    Verify(VerifyArguments),
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
        LedgerCommand::Verify(arguments) => verify::run(arguments, console),
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
