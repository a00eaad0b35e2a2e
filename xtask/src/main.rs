//! The chores of this repository, one module per command.
//!
//! Invariant: a command that could not do all of its work says so and exits with something else than 0.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program whose output is for the person who typed the command")]

mod appliance;
mod bench;
mod book;
mod check;
mod conformance;
mod deb;
mod demo;
mod hosts;
mod image;
mod javascript;
mod lockdown;
#[cfg(test)]
mod monitoring;
mod netns;
mod packages;
mod probes;
#[cfg(test)]
mod promises;
mod python;
mod release;
mod results;
mod security;
mod slow_tools;
mod source_rules;
mod steps;
mod test;
mod tools;
#[cfg(test)]
mod units;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use culvert_netns::reexec::{self, Entered};
use culvert_netns::world::World;

/// Chores of the Culvert repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, clippy, docs, the book, licences and dependencies, and the rules of the source tree
    Check,
    /// The documentation as pages, in target/book, with every link followed
    Book,
    /// Every test, or those that a suite or a name selects; ends with `N passed, N failed, N skipped`
    #[command(after_help = test_help())]
    Test {
        /// `slow`, `security`, `security-smoke`, or a part of test names
        selection: Option<String>,
        /// One of the security suites
        suite: Option<String>,
    },
    /// The namespace scenarios alone
    #[command(after_help = "Examples:\n  \
        cargo xtask netns                                   all of them\n  \
        cargo xtask netns rotation                          those whose names contain the word\n  \
        cargo xtask netns --file transfer --file cut        those of two files\n  \
        cargo xtask netns --release --file lockdown         with the programs as they are shipped\n  \
        CULVERT_SLOW=1 cargo xtask netns --file store_crash those that wait, too")]
    Netns(netns::Options),
    /// The contract with other tools, rule by rule, against wgd or another program
    #[command(after_help = "Examples:\n  \
        cargo xtask conformance                                every check, against wgd\n  \
        cargo xtask conformance keepalive                      those whose names contain the word\n  \
        cargo xtask conformance --plain                        against wgd without offloads\n  \
        cargo xtask conformance --against wireguard-go         the same checks against another program")]
    Conformance(conformance::Options),
    /// What the daemons are seen to call, compared with what their tables allow, both ways
    #[command(after_help = "Examples:\n  \
        cargo xtask lockdown                          the scenarios that lead through everything, each daemon under strace\n  \
        cargo xtask lockdown --scenario transfer      one file of them, and only what is not allowed\n  \
        cargo xtask lockdown --again                  compares the last traces once more")]
    Lockdown(lockdown::Options),
    /// The programs as they are shipped, with a bill of materials, and that two builds are equal
    #[command(
        after_help = "Needs cargo-auditable and cargo-cyclonedx, which it installs from crates.io into target/tools.\n\n\
        Examples:\n  \
        cargo xtask release                           into target/release, with SHA-256 sums; target/sbom\n  \
        cargo xtask release --sbom                    the bills of materials alone\n  \
        cargo xtask release --reproducible            two builds of HEAD in different directories, compared\n  \
        cargo xtask release --reproducible --package wgd"
    )]
    Release(release::Options),
    /// The whole path on a real file: topology, lock-down, upload, download, capture, audit trail, a cut line
    #[command(after_help = "Examples:\n  \
        cargo xtask demo               a generated CSV of 1 GiB\n  \
        cargo xtask demo visits.csv    a file of yours\n  \
        cargo xtask demo --keep        leaves the lab up and says how to enter it")]
    Demo(demo::Options),
    /// Debian packages of the four programs, in target/packages
    #[command(after_help = "Examples:\n  \
        cargo xtask packages                 release builds\n  \
        cargo xtask packages --revision 2    the same version again, as an upgrade")]
    Packages(deb::Options),
    /// The appliance as a read-only image that the kernel verifies, with kernel and first process, in target/image
    #[command(
        after_help = "Stages, each a file of rootfs/: Debian's packages, our packages and files, (sealed) all programs gone \
        that are not wanted, erofs with a hash tree behind it. Then the initial file system, with a static first process that \
        has the kernel verify every block. Needs root, and installs what it needs of Debian's packages.\n\n\
        Examples:\n  \
        cargo xtask image                            sealed: nobody can log in\n  \
        cargo xtask image --flavour managed          with sshd and python for Ansible\n  \
        cargo xtask image --refresh                  with the newest packages of Debian\n  \
        cargo xtask image --kernel 6.1               Debian 12's first kernel\n  \
        cargo xtask image --update-key k.vkey        that takes updates which key k has signed\n  \
        cargo xtask image --revision 2 --update-key k.vkey --sign k    the next one, and its bundle: update.bundle\n  \
        cargo xtask image --reproducible             two builds, compared"
    )]
    Image(image::Options),
    /// A pair of keys for the updates of images
    #[command(
        after_help = "The secret half is one line, PRIVATE+KEY+NAME+ID+BASE64, as other tools for signed notes take it, too.\n\n\
        Examples:\n  \
        cargo xtask update-key example.org/culvert k     k and k.vkey"
    )]
    UpdateKey(image::signing::KeyOptions),
    /// The images booted under emulation: first boot, tunnel, upload, tampering
    #[command(after_help = "Examples:\n  \
        cargo xtask appliance                        all of it, some minutes\n  \
        cargo xtask appliance flipped                one step, with what it needs\n  \
        cargo xtask appliance --again                without building the images anew")]
    Appliance(appliance::Options),
    /// Debian hosts with a real systemd: installed from the packages by hand and by Ansible, disturbed, upgraded, restored, purged
    #[command(after_help = "Examples:\n  \
        cargo xtask hosts                    both parts, each with hosts of its own\n  \
        cargo xtask hosts --part by-hand     two hosts, as the installation page says\n  \
        cargo xtask hosts --part ansible     four hosts, by the collection's playbooks, over SSH\n  \
        cargo xtask hosts drill              the steps whose names contain the word, and what has to come before")]
    Hosts(hosts::Options),
    /// Figures: medians of alternating runs, beside a peer measured in the same run
    Bench {
        #[command(subcommand)]
        what: bench::Bench,
    },
}

fn test_help() -> String {
    format!(
        "Suites:\n  \
         slow            everything, with the scenarios that wait and many more cases for the property tests\n  \
         security        what stands for each danger, by name; `security path` for one of the suites below\n  \
         security-smoke  a few of each, without root\n\
         Any other word selects the tests whose names contain it.\n\n{}",
        security::help()
    )
}

fn main() -> ExitCode {
    let outcome = match reexec::enter() {
        Entered::Outside => run(Cli::parse().command),
        Entered::Inside(world) => run_inside(&world),
        Entered::Done(code) => return code,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Check => check::run()?,
        Command::Book => book::run()?,
        Command::Test { selection, suite } => return test::run(selection.as_deref(), suite.as_deref()),
        Command::Netns(options) => return netns::run(&options),
        Command::Conformance(options) => return conformance::run(&options),
        Command::Lockdown(options) => return lockdown::run(&options),
        Command::Release(options) => return release::run(&options),
        Command::Demo(options) => return demo::run(&options),
        Command::Packages(options) => drop(deb::run(&options)?),
        Command::Image(options) => return image::run(&options),
        Command::UpdateKey(options) => image::signing::make_key(&options)?,
        Command::Appliance(options) => return appliance::run(&options),
        Command::Hosts(options) => return hosts::run(&options),
        Command::Bench { what } => return bench::run(&what),
    }
    Ok(ExitCode::SUCCESS)
}

/// This program again, as the first process of a world of its own (see `culvert_netns::world`).
fn run_inside(world: &World) -> Result<ExitCode> {
    let name = std::ffi::OsString::from("cargo xtask");
    match Cli::parse_from(std::iter::once(&name).chain(world.arguments())).command {
        Command::Conformance(options) => return conformance::run_inside(&options, world),
        Command::Hosts(options) => return hosts::run_inside(&options, world),
        Command::Appliance(options) => return appliance::run_inside(&options, world),
        Command::Demo(options) => demo::run_inside(&options, world)?,
        Command::Bench { what } => bench::run_inside(&what, world)?,
        Command::Check
        | Command::Book
        | Command::Test { .. }
        | Command::Netns(_)
        | Command::Packages(_)
        | Command::Image(_)
        | Command::UpdateKey(_)
        | Command::Lockdown(_)
        | Command::Release(_) => {
            bail!("this command needs no world")
        }
    }
    Ok(ExitCode::SUCCESS)
}
