//! The command line.

use std::path::PathBuf;

use clap::Parser;
use daemon::logging::LogFormat;

/// Keeps files, and a record of everything that happened to them, behind the tunnel.
#[derive(Debug, Parser)]
#[command(name = "storaged", version)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = crate::config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Check the configuration and end.
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration as understood, without secrets, and end.
    #[arg(long)]
    pub print_config: bool,
    /// error, warn, info, debug or trace; RUST_LOG wins.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json; the default is text on a terminal.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}
