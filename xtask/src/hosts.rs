//! `cargo xtask hosts`: two Debian hosts with a real systemd each, installed from our packages.
//!
//! ```text
//!  this world 192.0.2.1 ─ bridge ─┬─ web 192.0.2.10  wgd@wg0, edge
//!                                 └─ svc 192.0.2.11  wgd@wg0, storaged
//! ```
//!
//! Invariant: a host starts as a bare Debian; everything on it comes out of a package or is typed as
//! `docs/install.md` says. The world's end takes both along.

mod base;
mod host;
mod operation;
mod pair;
mod sandbox;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use culvert_netns::world::{self, World};
use daemon::Clock;

use crate::packages::{self, Program};
use crate::results::Results;
use crate::{deb, steps};
use pair::Pair;

const PROGRAMS: [Program; 7] = [
    Program { name: "mmdebstrap", package: "mmdebstrap" },
    Program { name: "systemd-nspawn", package: "systemd-container" },
    Program { name: "nsenter", package: "util-linux" },
    Program { name: "ip", package: "iproute2" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "curl", package: "curl" },
    Program { name: "pgrep", package: "procps" },
];

/// What is asked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// A part of a step's name; what has to come before it is done in any case
    filter: Option<String>,
}

/// One thing that is shown, on the state that the ones before have left.
struct Step {
    name: &'static str,
    /// Later steps need it.
    needed: bool,
    run: fn(&mut Pair) -> Result<()>,
}

const fn step(name: &'static str, run: fn(&mut Pair) -> Result<()>) -> Step {
    Step { name, needed: false, run }
}

const fn needed(name: &'static str, run: fn(&mut Pair) -> Result<()>) -> Step {
    Step { name, needed: true, run }
}

const STEPS: [Step; 12] = [
    needed("packages_install_on_a_bare_host_and_start_nothing", pair::install),
    needed("a_tunnel_comes_up_as_the_installation_page_says", pair::tunnel),
    needed("the_first_file_goes_up_and_comes_back", pair::first_file),
    step("edge_and_storaged_have_the_tunnel_and_nothing_else", sandbox::network),
    step("no_thread_has_a_capability_or_is_unfiltered", sandbox::privileges),
    step("edge_can_write_nowhere_and_sees_no_secret_of_others", sandbox::files),
    step("a_restart_of_both_wgds_breaks_no_transfer", operation::tunnel_restart),
    step("a_daemon_whose_loop_hangs_is_restarted", operation::watchdog),
    step("a_root_key_from_the_encrypted_credential_store", operation::credential),
    step("an_upgrade_lets_a_transfer_finish", operation::upgrade),
    step("a_new_version_is_not_started_on_a_bad_configuration", operation::bad_configuration),
    step("packages_leave_nothing_but_what_is_the_administrators", operation::purge),
];

/// Outside: everything that needs the network or a compiler.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "two hosts with a systemd each need root");
    packages::require(&PROGRAMS)?;
    base::provide()?;
    for revision in [1, 2] {
        let into = Some(packages_of(revision));
        deb::run(&deb::Options { dev: true, revision, into })?;
    }
    let groups = base::ControlGroups::make()?;
    let mut arguments = vec![OsString::from("hosts")];
    arguments.extend(options.filter.as_ref().map(OsString::from));
    let code = world::run_inside(&arguments);
    drop(groups);
    code
}

/// Where the packages of a revision are.
fn packages_of(revision: u32) -> PathBuf {
    steps::root().join(format!("target/hosts/packages-{revision}"))
}

/// Inside the world: prints what happens in the form of the test runner.
pub(crate) fn run_inside(options: &Options, world: &World) -> Result<ExitCode> {
    let mut pair = Pair::boot(world).context("boot two hosts")?;
    let wanted =
        |step: &Step| step.needed || options.filter.as_ref().is_none_or(|text| step.name.contains(text));
    let (mut passed, mut failed) = (0, 0);
    for step in STEPS.iter().filter(|step| wanted(step)) {
        let began = Clock.now();
        let outcome = (step.run)(&mut pair);
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {} ... ok ({:.1} s)", step.name, began.elapsed().as_secs_f32());
            }
            Err(error) => {
                failed += 1;
                println!("{error:#}\n{}\ntest {} ... FAILED", pair.journals(), step.name);
                if step.needed {
                    break;
                }
            }
        }
    }
    println!("\ntest result: {passed} passed; {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As a part of `cargo xtask test slow`.
pub(crate) fn suite(results: &mut Results, filters: &[&str]) -> Result<()> {
    let matches = |step: &Step| filters.iter().any(|text| step.name.contains(text));
    if !filters.is_empty() && !STEPS.iter().any(matches) {
        return Ok(());
    }
    let mut command = steps::cargo();
    command.args(["xtask", "hosts"]).args(filters);
    let failed_before = results.failed();
    let succeeded = steps::run_and_watch(&mut command, |line| results.line(line))?;
    results.suite_ended("hosts with systemd", succeeded, failed_before);
    Ok(())
}
