//! The command line and environment, as userspace WireGuards have them.
use clap::Parser;
use daemon::logging::{LogFormat, LogOptions};
use std::path::{Path, PathBuf};

/// The noise implementation reports what this daemon handles itself, some of it with addresses.
const QUIET: &[&str] = &["boringtun=off"];

/// A WireGuard tunnel that ends up without a single privilege.
///
/// wgd makes the interface INTERFACE and speaks WireGuard on it. If /etc/wireguard/INTERFACE.conf exists (the
/// format of wg-quick), it is configured from that: keys, peers, addresses, MTU, routes. If not, it waits to be
/// configured with `wg set` or `wg setconf`, as wireguard-go does.
///
/// It has to be started as root (CAP_NET_ADMIN). Before the first packet it gives up every capability and most
/// system calls; a second process, wgd-netcfg, keeps CAP_NET_ADMIN (without a
/// wgd.toml also CAP_NET_BIND_SERVICE, for ports below 1024) and answers a short list of requests.
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
    /// auto, offload or plain: whether packets are read from and written to the TUN device up to 64 KiB at once. auto takes
    /// what the kernel has; plain takes each by itself, as kernels and sandboxes need it that have no offloads
    /// [default: wgd.toml's key device, else auto].
    #[arg(long, value_name = "KIND")]
    pub device: Option<String>,
    /// The daemon's own configuration [default: /etc/culvert/wgd.toml if it exists].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check this configuration and the interface's, say what is wrong, and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration in force and exit.
    #[arg(long)]
    pub print_config: bool,
    /// error, warn, info, debug or trace, or wireguard-go's silent and verbose (also LOG_LEVEL and WG_LOG_LEVEL;
    /// RUST_LOG wins).
    #[arg(short = 'v', long, visible_alias = "verbosity", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [default: text on a terminal].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Use the TUN device that is open at descriptor FD (opened with IFF_TUN and IFF_NO_PI, with IFF_VNET_HDR or
    /// without); the interface is then
    /// called as the kernel says.
    #[arg(long, value_name = "FD", env = "WG_TUN_FD", hide_env_values = true, value_parser = handed_in())]
    pub tun_fd: Option<i32>,
    /// Serve the configuration socket that is open at descriptor FD: one that listens, as wireguard-go hands it on,
    /// or one that is connected, as boringtun-cli does. Without it, or one called `uapi` in LISTEN_FDNAMES, wgd
    /// makes /var/run/wireguard/INTERFACE.sock.
    #[arg(long, value_name = "FD", env = "WG_UAPI_FD", hide_env_values = true, value_parser = handed_in())]
    pub uapi_fd: Option<i32>,
    /// Ask the wgd-netcfg that listens at SOCKET instead of starting one. This process then begins without any right: the
    /// tunnel's files, its device and its sockets come from there.
    #[arg(long, value_name = "SOCKET")]
    pub netcfg: Option<PathBuf>,
    /// Serve as a part of another wgd, at the listener of the part's name in LISTEN_FDNAMES, for the first who connects:
    /// netcfg changes the network and reads the tunnel's files; inside, started in the interface's namespace, opens the
    /// device there.
    #[arg(long, value_name = "PART")]
    pub serve: Option<Part>,
    /// Where `--serve inside` listens; for `--serve netcfg`.
    #[arg(long, value_name = "SOCKET")]
    pub inside: Option<PathBuf>,
    /// Accepted for boringtun-cli's sake; wgd moves all packets on one thread, whatever the number.
    #[arg(short = 't', long, value_name = "NUMBER", env = "WG_THREADS", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Accepted for boringtun-cli's sake (also WG_SUDO=1) and ignored: wgd always gives up its privileges.
    #[arg(long)]
    pub disable_drop_privileges: bool,
}

/// A part of wgd that a service manager starts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Changes the network, and reads and writes the tunnel's files.
    Netcfg,
    /// Opens what is in the interface's namespace.
    Inside,
}

impl Part {
    /// Its name, and that of its listener.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Netcfg => "netcfg",
            Self::Inside => "inside",
        }
    }
}

/// Descriptors behind the standard streams.
fn handed_in() -> clap::builder::RangedI64ValueParser<i32> {
    clap::value_parser!(i32).range(3..)
}

const EXAMPLES: &str = "\
Examples:
  wgd wg0                          make wg0, configured by /etc/wireguard/wg0.conf
  wgd -f --log-level debug wg0     the same, in this terminal
  wgd -f --device plain wg0        without the kernel's offloads
  wgd --check-config wg0           say what is wrong with the files
  wgd --print-config wg0           every key that wgd.toml may have, with its value
  WG_QUICK_USERSPACE_IMPLEMENTATION=wgd wg-quick up wg0
                                   wg-quick carries out the file, and wgd leaves it alone
  wg set wg0 listen-port 51820     works on it as on any WireGuard interface
  ip link del wg0                  ends it, as do SIGTERM and removing its socket

Also as wireguard-go and boringtun-cli have it: WG_TUN_FD, WG_UAPI_FD, WG_THREADS (no effect), WG_SUDO (no effect).

Signals: SIGTERM and SIGINT end it with 0; SIGHUP reads INTERFACE.conf again.
Exit codes: 0 ended, 64 usage, 66 a file is missing, 71 the system refused, 77 not permitted, 78 configuration.

WireGuard is a registered trademark of Jason A. Donenfeld. This is not an official WireGuard project.";

impl Cli {
    /// Whether to stay in the foreground.
    #[must_use]
    pub fn foreground(&self) -> bool {
        self.stay || std::env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|value| value == "1")
    }

    /// Whether wg-quick started this: then it carries out the interface's file itself, addresses and hooks included,
    /// and would fail over what is there already. It is told of an implementation by this variable, or by a link
    /// under the name that it calls without it.
    #[must_use]
    pub fn wg_quick_configures(&self) -> bool {
        let called = std::env::args_os().next().unwrap_or_default();
        let by_name = Path::new(&called).file_name().is_some_and(|name| name == "wireguard-go");
        by_name || std::env::var_os("WG_QUICK_USERSPACE_IMPLEMENTATION").is_some()
    }

    /// What was asked for in other implementations' words and is not done, for the log.
    #[must_use]
    pub fn ignored(&self) -> Vec<&'static str> {
        let keeps =
            self.disable_drop_privileges || std::env::var_os("WG_SUDO").is_some_and(|value| value == "1");
        let mut ignored = Vec::new();
        if keeps {
            ignored.push("--disable-drop-privileges and WG_SUDO: privileges are always given up");
        }
        if self.threads.is_some_and(|threads| threads > 1) {
            ignored.push("--threads and WG_THREADS: packets are moved on one thread");
        }
        if std::env::var_os("WG_LOG_FILE").is_some() {
            ignored.push("WG_LOG_FILE: the log goes to stderr");
        }
        ignored
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
    fn flags_of_other_implementations_are_understood() {
        let arguments = [
            "wgd",
            "-f",
            "-v",
            "silent",
            "-t",
            "4",
            "--tun-fd",
            "3",
            "--uapi-fd=4",
            "--disable-drop-privileges",
            "wg0",
        ];
        let cli = Cli::try_parse_from(arguments).expect("arguments");
        assert_eq!((cli.tun_fd, cli.uapi_fd, cli.log_level.as_deref()), (Some(3), Some(4), Some("silent")));
        assert_eq!(cli.ignored().len(), 2);
        let ordinary =
            Cli::try_parse_from(["wgd", "--verbosity", "error", "-t", "1", "wg0"]).expect("arguments");
        assert!(ordinary.ignored().is_empty());
    }

    #[test]
    fn a_standard_stream_is_no_descriptor_that_is_handed_in() {
        for bad in
            [["wgd", "--tun-fd", "2", "wg0"], ["wgd", "--uapi-fd", "x", "wg0"], ["wgd", "-t", "0", "wg0"]]
        {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
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
