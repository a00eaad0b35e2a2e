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
    /// Tells wgd to do without the kernel's offloads
    #[arg(long, conflicts_with = "against")]
    plain: bool,
    /// Parts of names of checks
    filters: Vec<String>,
}

impl Options {
    fn subject(&self) -> Result<Subject> {
        if self.plain { Ok(Subject::Wgd { plain: true }) } else { Subject::find(self.against.as_deref()) }
    }
}

/// The program whose run shows that the suite itself is sane.
const REFERENCE: &str = "wireguard-go";

/// Outside: builds and goes into a world.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let path = packages::provide()?;
    // Said here and not in the world, where a missing program would look like a failed check.
    options.subject()?;
    let mut build = steps::cargo();
    build.args(["build", "--package", "wgd"]);
    ensure!(options.against.is_some() || steps::run(&mut build)?, "wgd does not build");
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    world::run_inside_with(&arguments, &[("PATH", path)])
}

/// Inside the world.
pub(crate) fn run_inside(options: &Options, world: &World) -> Result<ExitCode> {
    let subject = options.subject()?;
    let fine = ::conformance::run(world, &subject, &options.filters)?;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The suites of `cargo xtask test`: what each is called, and the arguments that make it so. The last one is run against
/// another program, which shows that the checks themselves are sane.
const SUITES: [(&str, &[&str]); 3] =
    [("wgd", &[]), ("wgd without offloads", &["--plain"]), (REFERENCE, &["--against", REFERENCE])];

/// As a part of `cargo xtask test`.
pub(crate) fn suites(results: &mut Results, filters: &[&str]) -> Result<()> {
    let checks = ::conformance::all();
    if !filters.is_empty() && !checks.iter().any(|check| filters.iter().any(|text| check.name.contains(text)))
    {
        return Ok(());
    }
    for (name, arguments) in SUITES {
        // By cargo, for our own file may have been built anew meanwhile.
        let mut command = steps::cargo();
        command.args(["xtask", "conformance"]).args(arguments).args(filters);
        let failed_before = results.failed();
        let succeeded = steps::run_and_watch(&mut command, |line| results.line(line))?;
        results.suite_ended(&format!("conformance of {name}"), succeeded, failed_before);
    }
    Ok(())
}
