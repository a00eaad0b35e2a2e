//! What the operator asked for: command line over environment over file over default.
//!
//! Invariant: a [`Config`] holds only values that were checked; mistakes in the file are reported together, each
//! with its key.
mod cli;
mod raw;

pub use cli::{Cli, Part};

use crate::limits;
use anyhow::Context as _;
use daemon::config::{ConfigError, Problems};
use daemon::logging::LogOptions;
use linux::tun::WantedDevice;
use linux::{NetNs, User};
use raw::Raw;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Read if it is there; a file named with `--config` must be there.
pub const DEFAULT_FILE: &str = "/etc/culvert/wgd.toml";
/// As all userspace implementations have it.
const UAPI_DIRECTORY: &str = "/var/run/wireguard";
const WIREGUARD_DIRECTORY: &str = "/etc/wireguard";
/// Used if it is there.
const STATE_DIRECTORY: &str = "/var/lib/wgd";

/// How strict the daemon is with its surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Every peer has a pre-shared key and every lock-down layer is there, or the daemon does not start.
    Production,
    /// What is missing is reported.
    Lab,
}

/// Checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The interface's name.
    pub interface: String,
    /// Stay in the foreground.
    pub foreground: bool,
    /// How strict.
    pub profile: Profile,
    /// Who to become; `None` stays.
    pub user: Option<User>,
    /// Whether there is a second process that may change the network.
    pub netcfg: bool,
    /// Where a netcfg listens that this process did not start.
    pub netcfg_at: Option<PathBuf>,
    /// With offloads or without.
    pub device: WantedDevice,
    /// Where `/metrics` is served.
    pub metrics_listen: Option<SocketAddr>,
    /// The admin socket.
    pub admin_socket: Option<PathBuf>,
    /// Users besides root who may use it.
    pub admin_uids: Vec<u32>,
    /// The datagram socket that answers whois and sends events.
    pub events_socket: Option<PathBuf>,
    /// Sockets that events are sent to.
    pub event_listeners: Vec<PathBuf>,
    /// How often each peer's round trip is measured; `None` is never.
    pub probe_interval: Option<Duration>,
    /// Export the age of handshakes, too.
    pub handshake_delay_metric: bool,
    /// Users besides root who may ask whois.
    pub whois_uids: Vec<u32>,
    /// The namespace of the interface.
    pub tun_netns: Option<String>,
    /// Where `IF.conf` is looked for.
    pub wireguard_dir: PathBuf,
    /// Where the UAPI socket is made.
    pub uapi_directory: PathBuf,
    /// Where the time of the last handshake is kept.
    pub state_directory: Option<PathBuf>,
    /// Level and format of the log.
    pub log: LogOptions,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Puts command line, environment and file together.
    ///
    /// # Errors
    /// Naming the file and the key.
    pub fn load(cli: &Cli) -> anyhow::Result<Self> {
        if let Some(name) = cli.interface.as_ref().filter(|name| !linux::tun::is_interface_name(name)) {
            return Err(daemon::fail(daemon::exit::USAGE, linux::tun::TunError::Name(name.clone())));
        }
        let (raw, file) = read_file(cli.config.as_deref())?;
        if cli.interface.is_none() && file.is_none() {
            let error =
                anyhow::anyhow!("which interface? (wgd INTERFACE, such as wgd wg0; wgd --help explains)");
            return Err(daemon::fail(daemon::exit::USAGE, error));
        }
        let name = file.as_deref().unwrap_or_else(|| Path::new(DEFAULT_FILE)).display().to_string();
        Self::build(cli, raw, &name, file.clone()).map_err(|error| daemon::fail(daemon::exit::CONFIG, error))
    }

    fn build(cli: &Cli, raw: Raw, name: &str, file: Option<PathBuf>) -> Result<Self, ConfigError> {
        let mut problems = Problems::new(name);
        let user = raw.run_as.as_deref().and_then(|text| problems.take("run_as", User::resolve(text)));
        let metrics_listen = raw
            .metrics_listen
            .as_deref()
            .and_then(|text| problems.take("metrics_listen", parse_address(text)));
        let profile = match raw.profile.as_deref() {
            None | Some("lab") => Profile::Lab,
            Some("production") => Profile::Production,
            Some(other) => {
                problems.add("profile", format!("{other:?} is neither \"production\" nor \"lab\""));
                Profile::Lab
            }
        };
        let device = cli.device.as_ref().or(raw.device.as_ref());
        let device = device.and_then(|text| problems.take("device", parse_device(text))).unwrap_or_default();
        let mut uids = |key: &str, numbers: &[u32], names: &[String]| -> Vec<u32> {
            let named = names.iter().filter_map(|text| problems.take(key, User::resolve(text)));
            numbers.iter().copied().chain(named.map(|user| user.uid)).collect()
        };
        let whois_uids = uids("whois_users", &raw.whois_uids, &raw.whois_users);
        let admin_uids = uids("admin_users", &raw.admin_uids, &raw.admin_users);
        let paths = [
            ("admin_socket", raw.admin_socket.as_ref()),
            ("events_socket", raw.events_socket.as_ref()),
            ("wireguard_dir", raw.wireguard_dir.as_ref()),
            ("uapi_directory", raw.uapi_directory.as_ref()),
            ("state_directory", raw.state_directory.as_ref()),
        ];
        for (key, path) in
            paths.into_iter().chain(raw.event_listeners.iter().map(|path| ("event_listeners", Some(path))))
        {
            if let Some(path) = path
                && !path.is_absolute()
            {
                problems.add(key, format!("{:?} is not an absolute path", path.display().to_string()));
            }
        }
        if raw.events_socket.is_none() && !raw.event_listeners.is_empty() {
            problems.add("event_listeners", "events are sent from events_socket, which is not set");
        }
        let probe_interval =
            raw.probe_interval_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        if probe_interval.is_some_and(|interval| interval > limits::PROBE_INTERVAL_MAX) {
            problems.add("probe_interval_seconds", "between 1 and 3600, or 0 for off");
        }
        let interface = cli.interface.clone().or(raw.interface);
        if let Some(name) = interface.as_ref().filter(|name| !linux::tun::is_interface_name(name)) {
            problems.add("interface", linux::tun::TunError::Name(name.clone()));
        }
        if interface.is_none() {
            problems.add("interface", "name it here or on the command line (wgd INTERFACE; wgd --help)");
        }
        let interface = interface.unwrap_or_default();
        problems.finish()?;
        Ok(Self {
            interface,
            foreground: cli.foreground(),
            profile,
            user,
            netcfg: raw.netcfg.unwrap_or(true),
            netcfg_at: cli.netcfg.clone(),
            device,
            metrics_listen,
            admin_socket: raw.admin_socket,
            admin_uids,
            events_socket: raw.events_socket,
            event_listeners: raw.event_listeners,
            probe_interval,
            handshake_delay_metric: raw.handshake_delay_metric.unwrap_or(false),
            whois_uids,
            tun_netns: cli.tun_netns.clone().or(raw.tun_netns),
            wireguard_dir: raw.wireguard_dir.unwrap_or_else(|| WIREGUARD_DIRECTORY.into()),
            uapi_directory: raw.uapi_directory.unwrap_or_else(|| UAPI_DIRECTORY.into()),
            state_directory: raw
                .state_directory
                .or_else(|| Some(PathBuf::from(STATE_DIRECTORY)).filter(|directory| directory.is_dir())),
            log: cli.log_options(),
            file,
        })
    }

    /// The interface's own file.
    #[must_use]
    pub fn tunnel_file(&self) -> PathBuf {
        self.wireguard_dir.join(format!("{}.conf", self.interface))
    }

    /// The interface's UAPI socket.
    #[must_use]
    pub fn uapi_socket(&self) -> PathBuf {
        self.uapi_directory.join(format!("{}.sock", self.interface))
    }

    /// Opens the namespace of the interface, if it has one of its own.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn open_netns(&self) -> anyhow::Result<Option<NetNs>> {
        let open = |name: &String| NetNs::open(name).context("tun_netns");
        self.tun_netns
            .as_ref()
            .map(open)
            .transpose()
            .map_err(|error| daemon::fail(daemon::exit::NO_INPUT, error))
    }

    /// The values in force, as a file that would give them. There is no secret among them.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: Option<String>| {
            let _ = match value {
                Some(value) => writeln!(text, "{key} = {value}"),
                None => writeln!(text, "# {key} is not set"),
            };
        };
        let quoted = |text: &str| format!("{text:?}");
        let path = |path: &Path| format!("{:?}", path.display().to_string());
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let numbers = |uids: &[u32]| list(uids.iter().map(ToString::to_string).collect());
        line("interface", Some(quoted(&self.interface)));
        let profile = match self.profile {
            Profile::Production => "production",
            Profile::Lab => "lab",
        };
        line("profile", Some(quoted(profile)));
        line("run_as", self.user.map(|user| format!("\"{}:{}\"", user.uid, user.gid)));
        line("netcfg", Some(self.netcfg.to_string()));
        let device = match self.device {
            WantedDevice::Auto => "auto",
            WantedDevice::Offload => "offload",
            WantedDevice::Plain => "plain",
        };
        line("device", Some(quoted(device)));
        line("tun_netns", self.tun_netns.as_deref().map(quoted));
        line("wireguard_dir", Some(path(&self.wireguard_dir)));
        line("uapi_directory", Some(path(&self.uapi_directory)));
        line("state_directory", self.state_directory.as_deref().map(path));
        line("metrics_listen", self.metrics_listen.map(|address| format!("\"{address}\"")));
        line("admin_socket", self.admin_socket.as_deref().map(path));
        line("admin_uids", Some(numbers(&self.admin_uids)));
        line("events_socket", self.events_socket.as_deref().map(path));
        line("event_listeners", Some(list(self.event_listeners.iter().map(|p| path(p)).collect())));
        line("whois_uids", Some(numbers(&self.whois_uids)));
        let probe_interval = self.probe_interval.map_or(0, |interval| interval.as_secs());
        line("probe_interval_seconds", Some(probe_interval.to_string()));
        line("handshake_delay_metric", Some(self.handshake_delay_metric.to_string()));
        text
    }
}

fn read_file(named: Option<&Path>) -> anyhow::Result<(Raw, Option<PathBuf>)> {
    let path = named.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    match daemon::config::load(path) {
        Ok(raw) => Ok((raw, Some(path.to_owned()))),
        Err(ConfigError::Read { error, .. })
            if named.is_none() && error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok((Raw::default(), None))
        }
        Err(error @ ConfigError::Read { .. }) => Err(daemon::fail(daemon::exit::NO_INPUT, error)),
        Err(error) => Err(daemon::fail(daemon::exit::CONFIG, error)),
    }
}

fn parse_device(text: &str) -> Result<WantedDevice, String> {
    match text {
        "auto" => Ok(WantedDevice::Auto),
        "offload" => Ok(WantedDevice::Offload),
        "plain" => Ok(WantedDevice::Plain),
        other => Err(format!("{other:?} is none of \"auto\", \"offload\" and \"plain\"")),
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no ADDRESS:PORT (such as 127.0.0.1:9586)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn build(text: &str, arguments: &[&str]) -> Result<Config, ConfigError> {
        let raw = daemon::config::parse::<Raw>("wgd.toml", text)?;
        let cli = Cli::try_parse_from(std::iter::once(&"wgd").chain(arguments)).expect("arguments");
        Config::build(&cli, raw, "wgd.toml", None)
    }

    #[test]
    fn without_a_file_it_behaves_like_any_userspace_implementation() {
        let config = build("", &["wg0"]).expect("defaults");
        assert_eq!(config.profile, Profile::Lab);
        assert!(config.netcfg && config.user.is_none() && config.metrics_listen.is_none());
        assert_eq!(config.uapi_socket(), Path::new("/var/run/wireguard/wg0.sock"));
        assert_eq!(config.tunnel_file(), Path::new("/etc/wireguard/wg0.conf"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error =
            build("netcfg = true\nmetric_listen = \"127.0.0.1:1\"\n", &["wg0"]).unwrap_err().to_string();
        assert!(error.contains("wgd.toml:2:") && error.contains("metric_listen"), "{error}");
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let text = "profile = \"prod\"\ndevice = \"fast\"\nmetrics_listen = \"9586\"\nadmin_socket = \"wgd.sock\"\n\
                    probe_interval_seconds = 3601\n";
        let error = build(text, &["wg/0"]).unwrap_err().to_string();
        for key in [
            "profile:",
            "device:",
            "metrics_listen:",
            "admin_socket:",
            "interface:",
            "probe_interval_seconds:",
        ] {
            assert!(error.contains(key), "{key} in {error}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let text = "interface = \"wg7\"\ndevice = \"offload\"\ntun_netns = \"a\"\nwhois_uids = [7]\nwhois_users = [\"9:9\"]\n";
        let config = build(text, &["wg0", "--tun-netns", "b", "--device", "plain"]).expect("valid");
        assert_eq!(config.device, WantedDevice::Plain);
        assert_eq!((config.interface.as_str(), config.tun_netns.as_deref()), ("wg0", Some("b")));
        assert_eq!(config.whois_uids, [7, 9]);
        assert_eq!(build(text, &[]).expect("valid").interface, "wg7");
    }

    #[test]
    fn what_is_printed_is_a_file_that_gives_the_same() {
        let text = "run_as = \"1:2\"\nevents_socket = \"/run/e\"\nevent_listeners = [\"/run/a\"]\n";
        let config = build(text, &["wg0"]).expect("valid");
        let again = build(&config.print(), &[]).expect("valid");
        assert_eq!(config.print(), again.print());
    }

    #[test]
    fn every_key_is_documented() {
        use crate::documented;
        let refusal = build("zz = 1\n", &["wg0"]).unwrap_err().to_string();
        let section = documented::section("wgd");
        documented::compare(documented::table(section, "key in"), documented::keys(&refusal, ""));
    }
}
