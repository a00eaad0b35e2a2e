//! `cargo xtask hosts`: Debian hosts with a real systemd each, installed from our packages, by hand and by Ansible.
//!
//! ```text
//!  this world 192.0.2.1 ─ bridge ─┬─ web  192.0.2.10  wgd@wg0, edge
//!                                 ├─ svc  192.0.2.11  wgd@wg0, storaged
//!                                 ├─ mon  192.0.2.12  Prometheus, Alertmanager      (by Ansible alone)
//!                                 └─ spare 192.0.2.13 where a lost store comes back (by Ansible alone)
//! ```
//!
//! Invariant: a host starts as a bare Debian; everything on it comes out of a package, is typed as `docs/install.md` says,
//! or is done by the collection over SSH. The world's end takes all along.

mod ansible;
mod base;
mod client;
mod fleet;
mod host;
mod operation;
mod pair;
mod rollout;
mod sandbox;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use culvert_netns::world::{self, World};
use daemon::Clock;

use crate::packages::{self, Program};
use crate::results::Results;
use crate::{deb, python, steps};
use fleet::Fleet;
use pair::Pair;

pub(crate) use base::release;
pub(crate) use client::certificate;

const PROGRAMS: [Program; 11] = [
    Program { name: "lintian", package: "lintian" },
    Program { name: "mmdebstrap", package: "mmdebstrap" },
    Program { name: "systemd-nspawn", package: "systemd-container" },
    Program { name: "nsenter", package: "util-linux" },
    Program { name: "ip", package: "iproute2" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "curl", package: "curl" },
    Program { name: "pgrep", package: "procps" },
    Program { name: "ssh", package: "openssh-client" },
    Program { name: "ssh-keygen", package: "openssh-client" },
    Program { name: "age-keygen", package: "age" },
];

/// What is asked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// A part of a step's name; what has to come before it is done in any case
    filter: Option<String>,
    /// Only the hosts that are installed by hand, or only those by Ansible
    #[arg(long)]
    part: Option<Part>,
}

/// Who installs the hosts; each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    ByHand,
    Ansible,
}

/// One thing that is shown, on the state that the ones before have left.
struct Step<T> {
    name: &'static str,
    /// Later steps need it.
    needed: bool,
    run: fn(&mut T) -> Result<()>,
}

const fn step<T>(name: &'static str, run: fn(&mut T) -> Result<()>) -> Step<T> {
    Step { name, needed: false, run }
}

const fn needed<T>(name: &'static str, run: fn(&mut T) -> Result<()>) -> Step<T> {
    Step { name, needed: true, run }
}

const BY_HAND: [Step<Pair>; 14] = [
    step("the_packages_have_no_finding_of_lintian", pair::lint),
    needed("packages_install_on_a_bare_host_and_start_nothing", pair::install),
    needed("a_tunnel_comes_up_as_the_installation_page_says", pair::tunnel),
    needed("the_first_file_goes_up_and_comes_back", pair::first_file),
    step("edge_and_storaged_have_the_tunnel_and_nothing_else", sandbox::network),
    step("no_thread_has_a_capability_or_is_unfiltered", sandbox::privileges),
    step("edge_can_write_nowhere_and_sees_no_secret_of_others", sandbox::files),
    step("an_agent_tells_of_a_daemon_that_is_gone_and_has_keys_handed_over", sandbox::agent),
    step("a_restart_of_both_wgds_breaks_no_transfer", operation::tunnel_restart),
    step("a_daemon_whose_loop_hangs_is_restarted", operation::watchdog),
    step("a_root_key_from_the_encrypted_credential_store", operation::credential),
    step("an_upgrade_lets_a_transfer_finish", operation::upgrade),
    step("a_new_version_is_not_started_on_a_bad_configuration", operation::bad_configuration),
    step("packages_leave_nothing_but_what_is_the_administrators", operation::purge),
];

const BY_ANSIBLE: [Step<Fleet>; 14] = [
    step("the_collection_has_no_finding_of_ansible_lint", ansible::lint),
    needed("a_look_at_bare_hosts_changes_nothing_and_fails_nowhere", rollout::look),
    needed("site_leads_from_bare_hosts_to_a_file_that_went_through", rollout::site),
    step("a_second_run_changes_nothing", rollout::again),
    step("no_output_of_ansible_holds_a_secret", rollout::secrets),
    step("prometheus_asks_all_daemons_and_alertmanager_hears_of_a_cut_tunnel", watch::alerts),
    step("all_keys_are_replaced_while_a_file_goes_through", rollout::rotate),
    step("an_upgrade_in_turn_breaks_no_transfer_and_the_way_back_is_open", rollout::upgrade),
    step("a_backup_is_made_by_the_timers_unit_and_by_the_playbook_which_verifies_it", rollout::backup),
    step("a_spare_host_brings_the_store_back", rollout::drill),
    step("a_store_that_is_there_is_not_overwritten", rollout::no_overwriting),
    step("an_emergency_cleanup_wants_to_be_meant", rollout::cleanup),
    step("a_compromised_host_has_new_keys_and_the_old_ones_are_dead", rollout::compromise),
    step("a_decommissioned_edge_is_empty_and_counts_no_more", rollout::decommission),
];

/// Outside: everything that needs the network or a compiler.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "hosts with a systemd each need root");
    packages::require(&PROGRAMS)?;
    python::provide(&python::ANSIBLE)?;
    base::provide()?;
    for revision in [1, 2] {
        let into = Some(packages_of(revision));
        deb::run(&deb::Options { dev: true, revision, into })?;
    }
    let groups = base::ControlGroups::make()?;
    let mut worst = ExitCode::SUCCESS;
    for part in parts(options) {
        let mut arguments = vec![OsString::from("hosts"), OsString::from("--part")];
        arguments.push(OsString::from(
            part.to_possible_value().map_or(String::new(), |it| it.get_name().to_owned()),
        ));
        arguments.extend(options.filter.as_ref().map(OsString::from));
        let code = world::run_inside(&arguments)?;
        if code != ExitCode::SUCCESS {
            worst = code;
        }
    }
    drop(groups);
    Ok(worst)
}

/// Those that are asked for, and of them those that have a step of the name.
fn parts(options: &Options) -> Vec<Part> {
    let all = [(Part::ByHand, names(&BY_HAND)), (Part::Ansible, names(&BY_ANSIBLE))];
    all.into_iter()
        .filter(|(part, _)| options.part.is_none_or(|wanted| wanted == *part))
        .filter(|(_, names)| {
            options.filter.as_ref().is_none_or(|text| names.iter().any(|name| name.contains(text.as_str())))
        })
        .map(|(part, _)| part)
        .collect()
}

fn names<T>(steps: &[Step<T>]) -> Vec<&'static str> {
    steps.iter().map(|step| step.name).collect()
}

/// Where the packages of a revision are.
fn packages_of(revision: u32) -> PathBuf {
    steps::root().join(format!("target/hosts/packages-{revision}"))
}

/// Inside the world: prints what happens in the form of the test runner.
pub(crate) fn run_inside(options: &Options, world: &World) -> Result<ExitCode> {
    match options.part {
        Some(Part::Ansible) => {
            let mut fleet = Fleet::boot(world).context("boot four hosts")?;
            Ok(all_steps(&BY_ANSIBLE, &mut fleet, options, Fleet::journals))
        }
        Some(Part::ByHand) | None => {
            let mut pair = Pair::boot(world).context("boot two hosts")?;
            Ok(all_steps(&BY_HAND, &mut pair, options, Pair::journals))
        }
    }
}

fn all_steps<T>(steps: &[Step<T>], hosts: &mut T, options: &Options, journals: fn(&T) -> String) -> ExitCode {
    let wanted =
        |step: &Step<T>| step.needed || options.filter.as_ref().is_none_or(|text| step.name.contains(text));
    let (mut passed, mut failed) = (0, 0);
    for step in steps.iter().filter(|step| wanted(step)) {
        let began = Clock.now();
        let outcome = (step.run)(hosts);
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {} ... ok ({:.1} s)", step.name, began.elapsed().as_secs_f32());
            }
            Err(error) => {
                failed += 1;
                println!("{error:#}\n{}\ntest {} ... FAILED", journals(hosts), step.name);
                if step.needed {
                    break;
                }
            }
        }
    }
    println!("\ntest result: {passed} passed; {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As a part of `cargo xtask test slow`.
pub(crate) fn suite(results: &mut Results, filters: &[&str]) -> Result<()> {
    let all = [names(&BY_HAND), names(&BY_ANSIBLE)].concat();
    if !filters.is_empty() && !all.iter().any(|name| filters.iter().any(|text| name.contains(text))) {
        return Ok(());
    }
    let mut command = steps::cargo();
    command.args(["xtask", "hosts"]).args(filters);
    let failed_before = results.failed();
    let succeeded = steps::run_and_watch(&mut command, |line| results.line(line))?;
    results.suite_ended("hosts with systemd", succeeded, failed_before);
    Ok(())
}
