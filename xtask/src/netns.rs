//! `cargo xtask netns`: the scenarios with real daemons in network namespaces, without the unit tests.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::results::Results;
use crate::test::Selection;
use crate::{packages, slow_tools, steps, test};

#[derive(Args)]
pub(crate) struct Options {
    /// A part of scenario names
    filter: Option<String>,
    /// Those of this file in tests/netns/tests alone; may be given several times
    #[arg(long, value_name = "FILE")]
    file: Vec<String>,
    /// With the programs as `cargo xtask release` builds them
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    steps::require_room()?;
    let path = packages::provide()?;
    if test::is_slow() {
        slow_tools::provide()?;
    }
    let mut results = Results::default();
    let filters: Vec<&str> = options.filter.iter().map(String::as_str).collect();
    let files: Vec<&str> = options.file.iter().map(String::as_str).collect();
    let (filters, files, release) = (&filters[..], &files[..], options.release);
    test::scenarios(&mut results, &path, &Selection { filters, files, release, ..Selection::default() })?;
    Ok(test::conclude(&results))
}
