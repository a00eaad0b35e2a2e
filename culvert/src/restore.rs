//! `culvert restore`: a store that was set back comes forward again.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use storaged::config::Environment;

use crate::console::Console;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// Do again what the journal mirror holds beyond the ledger
    #[arg(long, required = true)]
    replay: bool,
    /// storaged's configuration
    #[arg(long, value_name = "FILE", default_value = storaged::config::DEFAULT_PATH)]
    config: PathBuf,
}

pub(crate) fn run(arguments: &RestoreArguments, console: Console) -> Result<(), Failure> {
    debug_assert!(arguments.replay, "clap demands it");
    let replayed = storaged::restore::replay_mirror(&arguments.config, &Environment::of_process())
        .map_err(|error| Failure::failed(error.to_string()))?;
    let told = json!({
        "groups": replayed.groups,
        "records_before": replayed.records_before,
        "records": replayed.records,
    });
    console.report(&told, |_| match replayed.groups {
        0 => format!("the ledger holds all that its mirror does: {} records", replayed.records),
        groups => format!(
            "{groups} groups of commands done again: {} records before, {} now",
            replayed.records_before, replayed.records
        ),
    })
}
