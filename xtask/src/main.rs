//! The chores of this repository, one module per command.
//!
//! Invariant: a command that could not do all of its work says so and exits with something else than 0.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program whose output is for the person who typed the command")]

mod check;
mod netns;
mod packages;
mod results;
mod source_rules;
mod steps;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the Culvert repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, clippy, docs, licences and dependencies, and the rules of the source tree
    Check,
    /// Every test, or those that a suite or a name selects; ends with `N passed, N failed, N skipped`
    #[command(after_help = "Suites:\n  \
        slow      the property tests with many more cases (runs for minutes)\n  \
        security  the tests about lock-down, refusals and secrets\n\
        Any other word selects the tests whose names contain it.")]
    Test {
        /// `slow`, `security`, or a part of test names
        selection: Option<String>,
    },
    /// The namespace scenarios alone
    Netns {
        /// A part of scenario names
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Check => check::run(),
        Command::Test { selection } => test::run(selection.as_deref()),
        Command::Netns { filter } => netns::run(filter.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
