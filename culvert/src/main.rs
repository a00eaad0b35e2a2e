//! The `culvert` program; everything is in the library, so that tests can call it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    culvert::run(culvert::Cli::parse())
}
