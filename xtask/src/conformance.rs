//! `cargo xtask conformance`: the contract with other tools, rule by rule, against wgd or another program.

use std::process::ExitCode;

use ::conformance::Subject;
use anyhow::{Result, ensure};
use culvert_netns::world::{self, World};

use crate::results::Results;
use crate::{packages, steps};

/// What to look at.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Another program than wgd, by name or path; it is started as `PROGRAM -f INTERFACE`
    #[arg(long, value_name = "PROGRAM")]
    against: Option<String>,
    /// Parts of names of checks
    filters: Vec<String>,
}

/// The program whose run shows that the suite itself is sane.
const REFERENCE: &str = "wireguard-go";

/// Outside: builds and goes into a world.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let path = packages::provide()?;
    // Said here and not in the world, where a missing program would look like a failed check.
    Subject::find(options.against.as_deref())?;
    let mut build = steps::cargo();
    build.args(["build", "--package", "wgd"]);
    ensure!(options.against.is_some() || steps::run(&mut build)?, "wgd does not build");
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    world::run_inside_with(&arguments, &[("PATH", path)])
}

/// Inside the world.
pub(crate) fn run_inside(options: &Options, world: &World) -> Result<ExitCode> {
    let subject = Subject::find(options.against.as_deref())?;
    let fine = ::conformance::run(world, &subject, &options.filters)?;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As a part of `cargo xtask test`: against wgd, then against the reference.
pub(crate) fn suites(results: &mut Results, filters: &[&str]) -> Result<()> {
    let checks = ::conformance::all();
    if !filters.is_empty() && !checks.iter().any(|check| filters.iter().any(|text| check.name.contains(text)))
    {
        return Ok(());
    }
    for against in [None, Some(REFERENCE)] {
        // By cargo, for our own file may have been built anew meanwhile.
        let mut command = steps::cargo();
        command
            .args(["xtask", "conformance"])
            .args(against.iter().flat_map(|program| ["--against", program]));
        command.args(filters);
        let failed_before = results.failed();
        let succeeded = steps::run_and_watch(&mut command, |line| results.line(line))?;
        let suite = format!("conformance of {}", against.unwrap_or("wgd"));
        results.suite_ended(&suite, succeeded, failed_before);
    }
    Ok(())
}
