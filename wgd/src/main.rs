//! `wgd`: makes a WireGuard interface and speaks for it.
#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use wgd::config::{Cli, Config};
use wgd::parts;
use wgd::run::{self, Start};

/// Keys and sessions lie apart from everything else.
#[global_allocator]
static ALLOCATOR: linux::secret_arena::SecretAware = linux::secret_arena::SecretAware;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => daemon::run_main("wgd", || try_main(&cli)),
        Err(error) => run::usage(&error),
    }
}

fn try_main(cli: &Cli) -> anyhow::Result<()> {
    let mut config = Config::load(cli)?;
    run::prepare(&config)?;
    if run::only_asked(cli, &config)? {
        return Ok(());
    }
    if let Some(part) = cli.serve {
        return parts::serve(part, cli, &config);
    }
    let started = match run::begin(cli, &mut config)? {
        Start::Here(started) => started,
        Start::Elsewhere(code) => std::process::exit(i32::from(code)),
    };
    let (started, mut netcfg) = run::fork_netcfg(started, &config)?;
    let tunnel = run::first_tunnel(cli, &config, &mut netcfg)?;
    let (privileged, background, opened) = run::acquire(started, config, tunnel, netcfg)?;
    let unprivileged = opened.confine(privileged)?;
    let workers = unprivileged.start()?;
    let ready = workers.seal()?;
    ready.run(background)
}
