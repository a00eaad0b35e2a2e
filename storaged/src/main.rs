//! storaged: the daemon on the services host that keeps the files.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use daemon::exit;
use daemon::logging::LogOptions;
use storaged::cli::Cli;
use storaged::config::{Config, Environment};

fn main() -> ExitCode {
    daemon::run_main("storaged", try_main)
}

fn try_main() -> Result<()> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    daemon::install_panic_hook();
    let environment = Environment::of_process();
    let (config, raw) =
        Config::load(&cli.config, &environment).map_err(|error| daemon::fail(exit::CONFIG, error))?;
    if cli.print_config {
        return print(&storaged::config::describe(&config));
    }
    if cli.check_config {
        return print(&format!("{}: ok\n", cli.config.display()));
    }
    daemon::logging::init(&LogOptions { level: cli.log_level, format: cli.log_format, quiet: &[] })?;
    storaged::run::warn_of_findings(&config, &environment);
    storaged::run::run(config, raw, environment)
}

/// `--help` and `--version` are no errors; the rest is exit code 64.
fn usage(error: &clap::Error) -> Result<()> {
    error.print()?;
    if error.use_stderr() { std::process::exit(i32::from(exit::USAGE)) } else { Ok(()) }
}

fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
