//! Completion scripts for shells, made from the same definition that parses the command line.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;
use crate::failure::Failure;

pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "culvert", &mut script);
    std::io::stdout().lock().write_all(&script).map_err(|error| Failure::output(&error))
}
