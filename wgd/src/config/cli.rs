//! The command line and environment, as userspace WireGuards have them.
use clap::Parser;
use daemon::logging::{LogFormat, LogOptions};
use std::path::PathBuf;

/// The noise implementation reports what this daemon handles itself, some of it with addresses.
const QUIET: &[&str] = &["boringtun=off"];

/// A WireGuard tunnel that ends up without a single privilege.
///
/// wgd makes the interface INTERFACE and speaks WireGuard on it. If /etc/wireguard/INTERFACE.conf exists (the
/// format of wg-quick), it is configured from that: keys, peers, addresses, MTU, routes. If not, it waits to be
/// configured with `wg set` or `wg setconf`, as wireguard-go does.
///
/// It has to be started as root (CAP_NET_ADMIN). Before the first packet it gives up every capability and most
/// system calls; a second process, wgd-netcfg, keeps CAP_NET_ADMIN alone and answers a short list of requests.
#[derive(Debug, Parser)]
#[command(name = "wgd", version, after_long_help = EXAMPLES)]
pub struct Cli {
    /// The interface to make, such as wg0.
    #[arg(value_name = "INTERFACE")]
    pub interface: Option<String>,
    /// Stay in the foreground (also WG_PROCESS_FOREGROUND=1); otherwise wgd goes to the background as soon as the
    /// interface is ready.
    #[arg(short = 'f', long = "foreground")]
    pub stay: bool,
    /// The network namespace for the interface, by name (ip netns) or path. The UDP socket stays in this one.
    #[arg(long, value_name = "NAME")]
    pub tun_netns: Option<String>,
    /// The daemon's own configuration [default: /etc/culvert/wgd.toml if it exists].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check this configuration and the interface's, say what is wrong, and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration in force and exit.
    #[arg(long)]
    pub print_config: bool,
    /// error, warn, info, debug or trace (also LOG_LEVEL and WG_LOG_LEVEL; RUST_LOG wins).
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [default: text on a terminal].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

const EXAMPLES: &str = "\
Examples:
  wgd wg0                          make wg0, configured by /etc/wireguard/wg0.conf
  wgd -f --log-level debug wg0     the same, in this terminal
  wgd --check-config wg0           say what is wrong with the files
  wgd --print-config wg0           every key that wgd.toml may have, with its value
  wg set wg0 listen-port 51820     works on it as on any WireGuard interface
  ip link del wg0                  ends it, as do SIGTERM and removing its socket

Signals: SIGTERM and SIGINT end it with 0; SIGHUP reads INTERFACE.conf again.
Exit codes: 0 ended, 64 usage, 66 a file is missing, 71 the system refused, 77 not permitted, 78 configuration.

WireGuard is a registered trademark of Jason A. Donenfeld. This is not an official WireGuard project.";

impl Cli {
    /// Whether to stay in the foreground.
    #[must_use]
    pub fn foreground(&self) -> bool {
        self.stay || std::env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|value| value == "1")
    }

    /// Whether somebody asked for a log.
    #[must_use]
    pub fn log_is_wanted(&self) -> bool {
        self.log_level.is_some() || std::env::var_os("RUST_LOG").is_some() || level_of_environment().is_some()
    }

    /// Level and format.
    #[must_use]
    pub fn log_options(&self) -> LogOptions {
        let level = self.log_level.clone().or_else(level_of_environment);
        let level = level.map(|level| common_level(&level).to_owned());
        LogOptions { level, format: self.log_format, quiet: QUIET }
    }
}

fn level_of_environment() -> Option<String> {
    ["LOG_LEVEL", "WG_LOG_LEVEL"].into_iter().find_map(|name| std::env::var(name).ok())
}

/// wireguard-go's names for levels, besides everybody's.
fn common_level(level: &str) -> &str {
    match level {
        "verbose" => "debug",
        "silent" => "off",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreground_has_both_spellings() {
        for arguments in [["wgd", "-f", "wg0"], ["wgd", "--foreground", "wg0"]] {
            assert!(Cli::try_parse_from(arguments).expect("arguments").stay);
        }
    }

    #[test]
    fn levels_of_other_implementations_are_understood() {
        assert_eq!(common_level("verbose"), "debug");
        assert_eq!(common_level("silent"), "off");
        assert_eq!(common_level("error"), "error");
    }

    #[test]
    fn help_teaches() {
        use clap::CommandFactory as _;
        let help = Cli::command().render_long_help().to_string();
        for word in ["/etc/wireguard/INTERFACE.conf", "wg set", "SIGHUP", "Exit codes"] {
            assert!(help.contains(word), "{word}");
        }
    }
}
