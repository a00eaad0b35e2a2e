//! `cargo xtask bench`: figures as medians of alternating runs, beside a peer or a limit measured in the same run.
//!
//! Invariant: a figure is never a promise of a test. Machines are noisy: what counts are the ratios within a run.

mod figures;
mod lockdown;
mod peers;
mod process_time;
mod store;
mod transfer;
mod tunnel;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Subcommand;
use culvert_netns::world::{self, World};

use crate::{packages, steps};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// wgd beside Debian's wireguard-go, in turn: TCP, CPU per byte, small packets, latency, memory
    Tunnel(tunnel::Options),
    /// Ten thousand peers on one interface, wgd beside Debian's wireguard-go: load time, memory, time to first packet
    Peers(peers::Options),
    /// Files up and down the whole path, large, small, and among slow clients: rates, CPU per byte and memory of each
    /// daemon, beside nginx with Debian's wireguard-go and the machine's limits
    Transfer(transfer::Options),
    /// What the lock-down costs: CPU of the daemons for files up and down, with seccomp and Landlock and without
    Lockdown(lockdown::Options),
    /// storaged alone: files over loopback HTTP beside nginx, small files beside the bare loop, the ledger beside
    /// PostgreSQL, all beside the machine's limits
    Store(store::Options),
}

/// Outside: builds with optimisation and goes into a world.
pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    let path = packages::provide()?;
    let mut build = steps::cargo();
    build.args(["build", "--release"]);
    match bench {
        Bench::Store(_) => {
            build.args(["--package", "storaged", "--package", "culvert"]);
            store::provide()?;
            build.args(["--bins", "--example", "pace"]);
        }
        Bench::Tunnel(options) => {
            options.provide()?;
            build.args(["--package", "wgd", "--bins"]);
            let mut pace = steps::cargo();
            pace.args(["build", "--release", "--package", "wg-proto", "--example", "steps"]);
            ensure!(steps::run(&mut pace)?, "the program steps does not build");
        }
        Bench::Peers(_) | Bench::Transfer(_) | Bench::Lockdown(_) => {
            match bench {
                Bench::Transfer(_) => transfer::provide()?,
                Bench::Lockdown(_) => lockdown::provide()?,
                Bench::Peers(_) | Bench::Store(_) | Bench::Tunnel(_) => {}
            }
            build.args(["--package", "storaged", "--package", "culvert"]);
            build.args(["--package", "wgd", "--package", "edge"]);
        }
    }
    // Programs from elsewhere: an older version, to compare with.
    let given = std::env::var_os("CULVERT_BIN_DIR");
    if given.is_none() {
        ensure!(steps::run(&mut build)?, "the programs do not build");
    }
    let programs = given.unwrap_or_else(|| steps::root().join("target/release").into_os_string());
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let tools = packages::tools_directory().into_os_string();
    let mut variables = vec![("PATH", path), ("CULVERT_BIN_DIR", programs), ("CULVERT_TOOLS", tools)];
    if matches!(bench, Bench::Lockdown(_)) {
        variables.push(("CULVERT_PRELOAD", lockdown::LIBRARY.into()));
    }
    let Bench::Transfer(options) = bench else { return world::run_inside_with(&arguments, &variables) };
    for more in options.worlds() {
        let arguments: Vec<OsString> = arguments.iter().cloned().chain(more.map(OsString::from)).collect();
        let ended = world::run_inside_with(&arguments, &variables)?;
        if ended != ExitCode::SUCCESS {
            return Ok(ended);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Inside the world.
pub(crate) fn run_inside(bench: &Bench, world: &World) -> Result<()> {
    match bench {
        Bench::Tunnel(options) => tunnel::run(options, world),
        Bench::Peers(options) => peers::run(options, world),
        Bench::Transfer(options) => transfer::run(options, world),
        Bench::Lockdown(options) => lockdown::run(options, world),
        Bench::Store(options) => store::run(options, world),
    }
}
