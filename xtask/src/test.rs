//! `cargo xtask test`: unit tests, then the namespace scenarios, then one line of counts.
//!
//! Invariant: what was asked for and could not run is a failure; nothing is left out in silence.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};

use crate::results::Results;
use crate::{
    appliance, conformance, hosts, javascript, lockdown, packages, probes, python, release, security,
    slow_tools, steps,
};

/// What the scenarios start.
const PROGRAMS: [&str; 4] = ["wgd", "edge", "storaged", "culvert"];

/// The ordinary run draws the same cases for the property tests each time, so that a change is refused for what it
/// did. Whoever wants others sets another seed; the slow suite draws anew.
const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "1");

/// What the slow suite sets: more cases for the property tests (256 otherwise), and the scenarios that wait.
const SLOW: [(&str, &str); 2] = [("PROPTEST_CASES", "2000"), ("CULVERT_SLOW", "1")];

pub(crate) fn run(selection: Option<&str>, suite: Option<&str>) -> Result<ExitCode> {
    ensure!(suite.is_none() || selection == Some("security"), "only `security` has suites to choose from");
    match selection {
        None => run_selected(&[], &[]),
        Some("slow") => run_selected(&[], &SLOW),
        Some("security") => security::run(suite),
        Some("security-smoke") => security::run_smoke(),
        Some(name) => run_selected(&[name], &[]),
    }
}

/// Whether the environment asks for the slow scenarios, as it does where one of them is run alone.
pub(crate) fn is_slow() -> bool {
    std::env::var_os("CULVERT_SLOW").is_some_and(|value| value == "1")
}

fn run_selected(filters: &[&str], variables: &[(&str, &str)]) -> Result<ExitCode> {
    steps::require_room()?;
    let path = packages::provide()?;
    for library in [&python::TINK, &python::AGE, &python::TLOG] {
        python::provide(library)?;
    }
    if !variables.is_empty() || is_slow() {
        slow_tools::provide()?;
    }
    let mut results = Results::default();
    let mut tests = steps::cargo();
    tests.args(["test", "--workspace", "--exclude", "culvert-netns", "--no-fail-fast"]);
    tests.envs(variables.iter().copied());
    if variables.is_empty() && std::env::var_os(SEED.0).is_none() {
        tests.env(SEED.0, SEED.1);
    }
    suite(&mut results, "unit tests", tests, &path, filters)?;
    scenarios(&mut results, &path, &Selection { filters, variables, ..Selection::default() })?;
    conformance::suites(&mut results, filters)?;
    if !variables.is_empty() || is_slow() {
        hosts::suite(&mut results, filters)?;
        appliance::suite(&mut results, filters)?;
    }
    if !variables.is_empty() && filters.is_empty() {
        // What is claimed of the daemons is claimed of the programs that are shipped.
        let files = &["lockdown", "verify_server"];
        scenarios(
            &mut results,
            &path,
            &Selection { files, variables, release: true, ..Selection::default() },
        )?;
        let failed_before = results.failed();
        let holds = lockdown::holds()?;
        results.suite_ended("calls seen and calls allowed (cargo xtask lockdown)", holds, failed_before);
    }
    Ok(conclude(&results))
}

/// Builds what the scenarios start; false if it does not build.
pub(crate) fn build_programs() -> Result<bool> {
    let mut build = steps::cargo();
    build.arg("build").args(PROGRAMS.iter().flat_map(|program| ["--package", program]));
    steps::run(&mut build)
}

/// Which scenarios, and of what.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Selection<'a> {
    /// Those whose names contain one of these; all if there is none.
    pub(crate) filters: &'a [&'a str],
    /// Those in these files; all if there is none.
    pub(crate) files: &'a [&'a str],
    /// What they find in their environment.
    pub(crate) variables: &'a [(&'a str, &'a str)],
    /// With the programs as they are shipped.
    pub(crate) release: bool,
}

/// Builds the programs that the scenarios start, runs the scenarios and adds what they report.
pub(crate) fn scenarios(results: &mut Results, path: &OsStr, selection: &Selection<'_>) -> Result<()> {
    let Selection { filters, files, variables, release } = *selection;
    let name =
        if release { "namespace scenarios with the programs as shipped" } else { "namespace scenarios" };
    for library in [&python::TUSPY, &python::SCHEMATHESIS, &python::SSLYZE] {
        python::provide(library)?;
    }
    packages::require(&javascript::CHROMIUM)?;
    for library in [&javascript::TUS, &javascript::UPPY] {
        javascript::provide(library)?;
    }
    // Three daemons built once more: in the slow set.
    if (!variables.is_empty() || is_slow()) && !probes::provide()? {
        results.suite_ended(name, false, results.failed());
        return Ok(());
    }
    let mut tests = steps::cargo();
    if release {
        tests.env("CULVERT_BIN_DIR", release::build_here()?);
    } else if !build_programs()? {
        results.suite_ended(name, false, results.failed());
        return Ok(());
    }
    tests.args(["test", "--package", "culvert-netns", "--no-fail-fast"]).envs(variables.iter().copied());
    tests.args(files.iter().flat_map(|file| ["--test", file]));
    suite(results, name, tests, path, filters)
}

/// Runs the tests of one cargo command whose names contain one of `filters`; all of them if there is none.
pub(crate) fn suite(
    results: &mut Results,
    name: &str,
    mut tests: Command,
    path: &OsStr,
    filters: &[&str],
) -> Result<()> {
    tests.env("PATH", path).env("CULVERT_TOOLS", packages::tools_directory());
    if !filters.is_empty() {
        tests.arg("--").args(filters);
    }
    let failed_before = results.failed();
    let succeeded = steps::run_and_watch(&mut tests, |line| results.line(line))?;
    results.suite_ended(name, succeeded, failed_before);
    Ok(())
}

/// Prints the counts as the last line; success means that at least one test ran and none failed.
pub(crate) fn conclude(results: &Results) -> ExitCode {
    if results.ran() == 0 {
        println!("\nno test matched");
    }
    println!("\n{}", results.summary());
    if results.ran() > 0 && results.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
