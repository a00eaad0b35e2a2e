//! The configuration, understood.
//!
//! **Invariant:** a [`Config`] that exists binds no wildcard and no address outside the tunnel, has a role
//! that was written down, and at least one internal key. What is wrong with a file is reported all at once,
//! each with its key.

mod raw;

use std::collections::HashSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::config::{ConfigError, Problems};
use daemon::secret::SecretString;
use ipnet::IpNet;
use store_proto::ServerRole;

pub use self::raw::Raw;
use crate::access_monitor::Rule;
use crate::integrity::scrub;
use crate::limits;
use crate::policy::HostRules;
use crate::providers::Providers;

/// Where the configuration is, unless said otherwise.
pub const DEFAULT_PATH: &str = "/etc/culvert/storaged.toml";
/// Where metrics are served, unless said otherwise.
pub const DEFAULT_METRICS: &str = "127.0.0.1:9588";
/// The admin socket, unless said otherwise.
pub const DEFAULT_ADMIN: &str = "/run/culvert/storaged.sock";
/// The socket for wgd's events and answers, unless said otherwise.
pub const DEFAULT_EVENTS: &str = "/run/culvert/storaged.events";
/// wgd's own socket, unless said otherwise.
pub const DEFAULT_WGD: &str = "/run/culvert/wgd.events";

/// Whether a missing layer of the lock-down is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// It is.
    Production,
    /// It is reported.
    Lab,
}

impl Profile {
    /// The word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Production => "production",
            Profile::Lab => "lab",
        }
    }
}

/// What storaged is told to do.
#[derive(Debug)]
pub struct Config {
    /// What stays until the next start.
    pub fixed: Fixed,
    /// What a reload swaps.
    pub rules: HostRules,
}

/// What stays until the next start.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// `services` or `testing`.
    pub role: ServerRole,
    /// Whether a missing layer of the lock-down is an error.
    pub profile: Profile,
    /// An address of the tunnel.
    pub bind_address: SocketAddr,
    /// The interface that has it.
    pub tunnel_interface: String,
    /// The prefix that holds it.
    pub tunnel_prefix: IpNet,
    /// The root key: a path or `credential:NAME`. Read when the store is opened.
    pub root_key_file: String,
    /// Where the ledger and the keys are.
    pub state_dir: PathBuf,
    /// Where the journal mirror is; `.journal` on the first volume, unless configured.
    pub journal_mirror: PathBuf,
    /// Where metrics are served.
    pub metrics_listen: SocketAddr,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Who beside root may use it.
    pub admin_users: Vec<linux::User>,
    /// Who may only look, and change nothing.
    pub auditor_users: Vec<linux::User>,
    /// The socket for wgd's events and answers.
    pub events_socket: PathBuf,
    /// wgd's socket.
    pub wgd_socket: PathBuf,
    /// Who wgd is, beside root and ourselves.
    pub wgd_user: Option<linux::User>,
    /// Whom to become.
    pub run_as: Option<linux::User>,
    /// Where objects are.
    pub volumes: Vec<Volume>,
    /// Transfers at once.
    pub transfers: usize,
    /// Connections at once.
    pub connections: usize,
    /// How long requests under way may take at the end.
    pub drain: Duration,
    /// How long an upload that nothing arrives for can be resumed.
    pub upload_expiry: Duration,
    /// How often and how fast objects are read again.
    pub scrub: scrub::Rules,
    /// Bytes that uploads leave free on the disk of `state_dir`; none: a sixteenth, 1 GiB at most.
    pub state_reserve_bytes: Option<u64>,
}

/// The journal mirror's name on the first volume.
pub const JOURNAL_DIRECTORY: &str = ".journal";

/// A named directory for objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The name in messages.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// Bytes that uploads leave free there; none: a sixteenth, 1 GiB at most.
    pub reserve_bytes: Option<u64>,
}

/// The environment's aliases (requirements ); what is set wins over the file.
#[derive(Debug, Default)]
pub struct Environment {
    /// `SERVER_ROLE`.
    pub role: Option<String>,
    /// `BIND_ADDRESS`.
    pub bind_address: Option<String>,
    /// `ALLOWED_HOSTS`, separated by commas.
    pub allowed_hosts: Option<String>,
    /// `INTERNAL_API_KEY`: works, and is a finding, because environments leak.
    pub internal_api_key: Option<SecretString>,
}

impl Environment {
    /// What is set for this process.
    pub fn of_process() -> Environment {
        let get = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Environment {
            role: get("SERVER_ROLE"),
            bind_address: get("BIND_ADDRESS"),
            allowed_hosts: get("ALLOWED_HOSTS"),
            internal_api_key: get("INTERNAL_API_KEY").map(SecretString::new),
        }
    }
}

/// Where the internal keys come from: files at start, descriptors on a reload.
pub trait KeySource {
    /// Reads what `reference` names.
    fn read(&mut self, reference: &str) -> Result<SecretString, String>;

    /// Reads a file that is no secret and that decides who is let in, of `most` bytes at most.
    fn read_public(&mut self, reference: &str, most: u64) -> Result<String, String>;
}

/// Keys from their files or systemd credentials.
#[derive(Debug)]
pub struct KeyFiles;

impl KeySource for KeyFiles {
    fn read(&mut self, reference: &str) -> Result<SecretString, String> {
        let path = daemon::secret::reference_path(reference).map_err(|error| error.to_string())?;
        let file =
            std::fs::File::open(&path).map_err(|error| format!("secret file {}: {error}", path.display()))?;
        private(&path, &file)?;
        SecretString::from_reader(&path, file).map_err(|error| error.to_string())
    }

    fn read_public(&mut self, reference: &str, most: u64) -> Result<String, String> {
        let path = daemon::secret::reference_path(reference).map_err(|error| error.to_string())?;
        let file = std::fs::File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        daemon::config::read_trusted(&path, file, most).map_err(|error| error.to_string())
    }
}

/// Refuses a key that everybody on the host can read: it is half of what lets a request in.
pub fn private(path: &Path, file: &std::fs::File) -> Result<(), String> {
    let mode = file.metadata().map_err(|error| format!("{}: {error}", path.display()))?.mode() & 0o777;
    if mode & 0o007 == 0 {
        return Ok(());
    }
    Err(format!("secret file {} has mode {mode:o}: others may use it; `chmod o= FILE`", path.display()))
}

impl Config {
    /// Reads the file and what it refers to.
    pub fn load(path: &Path, environment: &Environment) -> Result<(Config, Raw), ConfigError> {
        let raw: Raw = daemon::config::load(path)?;
        let config = Config::understand(&path.display().to_string(), &raw, environment, &mut KeyFiles)?;
        Ok((config, raw))
    }

    /// Understands a file that was read; `name` stands in messages.
    pub fn understand(
        name: &str,
        raw: &Raw,
        environment: &Environment,
        keys: &mut dyn KeySource,
    ) -> Result<Config, ConfigError> {
        let mut problems = Problems::new(name);
        let fixed = fixed(raw, environment, &mut problems);
        let rules = rules(raw, environment, keys, &mut problems);
        problems.finish()?;
        match fixed {
            Some(fixed) => Ok(Config { fixed, rules }),
            // It has left its problem behind.
            None => Err(ConfigError::Syntax(format!("{name}: the configuration is incomplete"))),
        }
    }

    /// Understands the part that a reload swaps, and names the keys that changed and need a new start.
    pub fn understand_reload(
        name: &str,
        old: &Raw,
        new: &Raw,
        environment: &Environment,
        keys: &mut dyn KeySource,
    ) -> Result<(HostRules, Vec<&'static str>), ConfigError> {
        let mut problems = Problems::new(name);
        let rules = rules(new, environment, keys, &mut problems);
        problems.finish()?;
        Ok((rules, changed_fixed_keys(old, new)))
    }
}

/// The configuration as understood, as TOML, with secrets left out.
pub fn describe(config: &Config) -> String {
    let Config { fixed, rules } = config;
    let quote = |text: &dyn Display| toml::Value::String(text.to_string()).to_string();
    let user = |user: &linux::User| quote(&format_args!("{}:{}", user.uid, user.gid));
    let mut text = String::new();
    let mut line = |key: &str, value: String| text.push_str(&format!("{key} = {value}\n"));
    line("role", quote(&fixed.role.name()));
    line("profile", quote(&fixed.profile.name()));
    line("bind_address", quote(&fixed.bind_address));
    line("tunnel_interface", quote(&fixed.tunnel_interface));
    line("tunnel_prefix", quote(&fixed.tunnel_prefix));
    line("root_key_file", quote(&fixed.root_key_file));
    line("allowed_hosts", format!("{:?}", rules.allowed_hosts));
    line("state_dir", quote(&fixed.state_dir.display()));
    line("journal_mirror", quote(&fixed.journal_mirror.display()));
    line("metrics_listen", quote(&fixed.metrics_listen));
    line("admin_socket", quote(&fixed.admin_socket.display()));
    let admins: Vec<String> = fixed.admin_users.iter().map(user).collect();
    line("admin_users", format!("[{}]", admins.join(", ")));
    let auditors: Vec<String> = fixed.auditor_users.iter().map(user).collect();
    line("auditor_users", format!("[{}]", auditors.join(", ")));
    line("events_socket", quote(&fixed.events_socket.display()));
    line("wgd_socket", quote(&fixed.wgd_socket.display()));
    fixed.wgd_user.iter().for_each(|wgd| line("wgd_user", user(wgd)));
    fixed.run_as.iter().for_each(|run_as| line("run_as", user(run_as)));
    for (key, file) in rules.providers.files() {
        text.push_str(&format!("{key} = {file:?}\n"));
    }
    text.push_str(&format!("# internal keys alive: {}, not shown\n", rules.internal_keys.len()));
    text.push_str(&format!(
        "\n[limits]\nbody_idle_timeout_seconds = {}\ndrain_timeout_seconds = {}\ntransfers = {}\nconnections = {}\nmax_file_bytes = {}\nmax_hourly_access = {}\nenforce_hourly_access = {}\n",
        rules.body_idle.as_secs(),
        fixed.drain.as_secs(),
        fixed.transfers,
        fixed.connections,
        rules.max_file_bytes,
        rules.access.max_hourly_access,
        rules.access.enforce
    ));
    text.push_str(&format!("upload_expiry_seconds = {}\n", fixed.upload_expiry.as_secs()));
    if let Some(reserve) = fixed.state_reserve_bytes {
        text.push_str(&format!("state_reserve_bytes = {reserve}\n"));
    }
    for volume in &fixed.volumes {
        let path = quote(&volume.path.display());
        text.push_str(&format!("\n[[volume]]\nname = {}\npath = {path}\n", quote(&volume.name)));
        if let Some(reserve) = volume.reserve_bytes {
            text.push_str(&format!("reserve_bytes = {reserve}\n"));
        }
    }
    text.push_str(&rules.providers.to_string());
    text
}

fn changed_fixed_keys(old: &Raw, new: &Raw) -> Vec<&'static str> {
    let limits = |raw: &Raw| {
        let limits = &raw.limits;
        (
            limits.drain_timeout_seconds,
            limits.transfers,
            limits.connections,
            limits.upload_expiry_seconds,
            limits.state_reserve_bytes,
        )
    };
    let changes = [
        ("role", old.role != new.role),
        ("profile", old.profile != new.profile),
        ("bind_address", old.bind_address != new.bind_address),
        ("tunnel_interface", old.tunnel_interface != new.tunnel_interface),
        ("tunnel_prefix", old.tunnel_prefix != new.tunnel_prefix),
        ("root_key_file", old.root_key_file != new.root_key_file),
        ("state_dir", old.state_dir != new.state_dir),
        ("journal_mirror", old.journal_mirror != new.journal_mirror),
        ("metrics_listen", old.metrics_listen != new.metrics_listen),
        ("admin_socket", old.admin_socket != new.admin_socket),
        ("admin_users", old.admin_users != new.admin_users),
        ("auditor_users", old.auditor_users != new.auditor_users),
        ("events_socket", old.events_socket != new.events_socket),
        ("wgd_socket", old.wgd_socket != new.wgd_socket),
        ("wgd_user", old.wgd_user != new.wgd_user),
        ("run_as", old.run_as != new.run_as),
        ("volume", old.volume != new.volume),
        ("limits", limits(old) != limits(new)),
    ];
    changes.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

fn fixed(raw: &Raw, environment: &Environment, problems: &mut Problems) -> Option<Fixed> {
    let role = role(raw, environment, problems);
    let profile = match raw.profile.as_deref() {
        Some("production") => Some(Profile::Production),
        Some("lab") => Some(Profile::Lab),
        Some(other) => {
            problems.add("profile", format_args!("{other:?} is neither \"production\" nor \"lab\""));
            None
        }
        None => {
            problems.add("profile", "is missing: say \"production\" or \"lab\"");
            None
        }
    };
    let bind_address = environment.bind_address.as_ref().or(raw.bind_address.as_ref());
    let bind_address: Option<SocketAddr> = required(problems, "bind_address", bind_address);
    let tunnel_prefix: Option<IpNet> = required(problems, "tunnel_prefix", raw.tunnel_prefix.as_ref());
    let tunnel_interface: Option<String> =
        required(problems, "tunnel_interface", raw.tunnel_interface.as_ref());
    if let (Some(role), Some(address), Some(prefix)) = (role, bind_address, tunnel_prefix) {
        check_bind_address(problems, role, address, prefix);
    }
    let root_key_file: Option<String> = required(problems, "root_key_file", raw.root_key_file.as_ref());
    let state_dir = directory(problems, "state_dir", raw.state_dir.as_deref());
    let metrics_listen = or_default(problems, "metrics_listen", raw.metrics_listen.as_ref(), DEFAULT_METRICS);
    let admin_socket = raw.admin_socket.as_deref().unwrap_or(DEFAULT_ADMIN).into();
    let mut admin_users = Vec::new();
    for (i, name) in raw.admin_users.iter().enumerate() {
        admin_users.extend(problems.take(&format!("admin_users[{i}]"), linux::User::resolve(name)));
    }
    let mut auditor_users = Vec::new();
    for (i, name) in raw.auditor_users.iter().enumerate() {
        let auditor = problems.take(&format!("auditor_users[{i}]"), linux::User::resolve(name));
        if let Some(both) = auditor.filter(|auditor| admin_users.iter().any(|admin| admin.uid == auditor.uid))
        {
            let what = format_args!("user {} is in admin_users too: an auditor changes nothing", both.uid);
            problems.add(&format!("auditor_users[{i}]"), what);
        }
        auditor_users.extend(auditor);
    }
    let wgd_user = user(problems, "wgd_user", raw.wgd_user.as_deref());
    let run_as = user(problems, "run_as", raw.run_as.as_deref());
    let volumes = volumes(raw, problems);
    let journal_mirror = match &raw.journal_mirror {
        Some(path) => directory(problems, "journal_mirror", Some(path)),
        None => volumes.first().map(|volume| volume.path.join(JOURNAL_DIRECTORY)),
    };
    let number = |problems: &mut Problems, key: &str, value: Option<u64>, default: usize, most: usize| {
        let value = value.map_or(Some(default), |value| usize::try_from(value).ok());
        match value {
            Some(value) if (1..=most).contains(&value) => value,
            _ => {
                problems.add(key, format_args!("must be 1 to {most}"));
                default
            }
        }
    };
    let transfers = number(problems, "limits.transfers", raw.limits.transfers, limits::TRANSFERS, 1024);
    let connections =
        number(problems, "limits.connections", raw.limits.connections, limits::CONNECTIONS, 65_536);
    let drain =
        seconds(problems, "limits.drain_timeout_seconds", raw.limits.drain_timeout_seconds, limits::DRAIN);
    let upload_expiry = seconds_up_to(
        problems,
        "limits.upload_expiry_seconds",
        raw.limits.upload_expiry_seconds,
        limits::UPLOAD_EXPIRY,
        MAX_UPLOAD_EXPIRY_SECONDS,
    );
    Some(Fixed {
        role: role?,
        profile: profile?,
        bind_address: bind_address?,
        tunnel_interface: tunnel_interface?,
        tunnel_prefix: tunnel_prefix?,
        root_key_file: root_key_file?,
        state_dir: state_dir?,
        journal_mirror: journal_mirror?,
        metrics_listen: metrics_listen?,
        admin_socket,
        admin_users,
        auditor_users,
        events_socket: raw.events_socket.as_deref().unwrap_or(DEFAULT_EVENTS).into(),
        wgd_socket: raw.wgd_socket.as_deref().unwrap_or(DEFAULT_WGD).into(),
        wgd_user,
        run_as,
        volumes,
        transfers,
        connections,
        drain,
        upload_expiry,
        state_reserve_bytes: raw.limits.state_reserve_bytes,
        scrub: scrub_rules(&raw.limits, problems),
    })
}

fn scrub_rules(raw: &raw::RawLimits, problems: &mut Problems) -> scrub::Rules {
    let days = raw.scrub_cycle_days.unwrap_or(limits::SCRUB_CYCLE_DAYS);
    if !(1..=MAX_SCRUB_CYCLE_DAYS).contains(&days) {
        problems.add("limits.scrub_cycle_days", format_args!("must be 1 to {MAX_SCRUB_CYCLE_DAYS}"));
    }
    scrub::Rules {
        cycle: Duration::from_secs(days.saturating_mul(86_400)),
        bytes_per_second: raw.scrub_bytes_per_second.filter(|rate| *rate > 0),
    }
}

fn role(raw: &Raw, environment: &Environment, problems: &mut Problems) -> Option<ServerRole> {
    let Some(text) = environment.role.as_ref().or(raw.role.as_ref()) else {
        problems.add("role", "is missing and has no default: say \"services\" (or \"testing\" on loopback)");
        return None;
    };
    match ServerRole::parse(text) {
        Some(role @ (ServerRole::Services | ServerRole::Testing)) => Some(role),
        Some(ServerRole::Web) => {
            problems.add("role", "\"web\" is edge's role; storaged can be \"services\" or \"testing\"");
            None
        }
        None => {
            problems.add("role", format_args!("{text:?} is neither \"services\" nor \"testing\""));
            None
        }
    }
}

/// What can be said of the address without looking at the host; [`crate::listen`] does that.
fn check_bind_address(problems: &mut Problems, role: ServerRole, address: SocketAddr, prefix: IpNet) {
    let ip = address.ip();
    if ip.is_unspecified() {
        problems.add("bind_address", format_args!("{address} is every interface: name the tunnel address"));
    } else if ip.is_loopback() {
        if role != ServerRole::Testing {
            problems.add(
                "bind_address",
                format_args!("{address} is loopback, which role \"services\" must not be"),
            );
        }
    } else if !prefix.contains(&ip) {
        problems.add("bind_address", format_args!("{address} is outside tunnel_prefix {prefix}"));
    }
    if address.port() == 0 && role != ServerRole::Testing {
        problems.add("bind_address", format_args!("{address} has no port"));
    }
}

fn volumes(raw: &Raw, problems: &mut Problems) -> Vec<Volume> {
    if raw.volume.is_empty() {
        problems.add("volume", "is missing: there must be at least one [[volume]]");
    }
    let mut names = HashSet::new();
    let mut volumes = Vec::new();
    for (i, volume) in raw.volume.iter().enumerate() {
        if volume.name.is_empty() || !names.insert(&volume.name) {
            problems.add(
                &format!("volume[{i}].name"),
                format_args!("{:?} is empty or stands twice", volume.name),
            );
        }
        if let Some(path) = directory(problems, &format!("volume[{i}].path"), Some(&volume.path)) {
            let reserve_bytes = volume.reserve_bytes;
            volumes.push(Volume { name: volume.name.clone(), path, reserve_bytes });
        }
    }
    volumes
}

fn rules(
    raw: &Raw,
    environment: &Environment,
    keys: &mut dyn KeySource,
    problems: &mut Problems,
) -> HostRules {
    refuse_people(raw, problems);
    let internal_keys = internal_keys(raw, environment, keys, problems);
    let allowed_hosts = match (&environment.allowed_hosts, &raw.allowed_hosts) {
        (Some(list), _) => list.split(',').map(|host| host.trim().to_ascii_lowercase()).collect(),
        (None, Some(list)) => list.iter().map(|host| host.to_ascii_lowercase()).collect(),
        (None, None) => {
            let address = environment.bind_address.as_ref().or(raw.bind_address.as_ref());
            address.into_iter().cloned().collect()
        }
    };
    let body_idle = seconds(
        problems,
        "limits.body_idle_timeout_seconds",
        raw.limits.body_idle_timeout_seconds,
        limits::BODY_IDLE,
    );
    let max_file_bytes = raw.limits.max_file_bytes.unwrap_or(limits::MAX_FILE_BYTES);
    let access = Rule {
        max_hourly_access: raw.limits.max_hourly_access.unwrap_or(limits::MAX_HOURLY_ACCESS),
        enforce: raw.limits.enforce_hourly_access.unwrap_or(false),
    };
    let mut providers = Providers::understand(&raw.issuer, &raw.group_map, keys, problems);
    let (ca, crl) = (raw.client_ca_file.as_deref(), raw.client_crl_file.as_deref());
    providers.take_certificates(ca, crl, &raw.certificate_map, keys, problems);
    HostRules { allowed_hosts, internal_keys, body_idle, max_file_bytes, access, providers }
}

/// They live in the ledger, where each change of them is recorded.
fn refuse_people(raw: &Raw, problems: &mut Problems) {
    for (key, stands, command) in [
        ("user", raw.user.is_some(), "culvert user add NAME --role ROLE"),
        ("cohort", raw.cohort.is_some(), "culvert cohort add NAME"),
        ("edge", raw.edge.is_some(), "culvert edge add NAME --cohort COHORT"),
    ] {
        if stands {
            let what = format_args!("[[{key}]] lives in the ledger now: take it out and run `{command}`");
            problems.add(key, what);
        }
    }
}

fn internal_keys(
    raw: &Raw,
    environment: &Environment,
    keys: &mut dyn KeySource,
    problems: &mut Problems,
) -> Vec<SecretString> {
    let mut alive = Vec::new();
    match (&environment.internal_api_key, &raw.internal_api_key_file) {
        (Some(key), _) => alive.push(key.clone()),
        (None, Some(file)) => alive.extend(problems.take("internal_api_key_file", keys.read(file))),
        (None, None) => {
            problems.add("internal_api_key_file", "is missing: name the file that holds the internal key")
        }
    }
    if let Some(file) = &raw.internal_api_key_next_file {
        alive.extend(problems.take("internal_api_key_next_file", keys.read(file)));
    }
    alive
}

fn required<T: std::str::FromStr<Err: Display>>(
    problems: &mut Problems,
    key: &str,
    text: Option<&String>,
) -> Option<T> {
    let Some(text) = text else {
        problems.add(key, "is missing");
        return None;
    };
    problems.take(key, text.parse::<T>().map_err(|error| format!("{text:?}: {error}")))
}

fn or_default<T: std::str::FromStr<Err: Display>>(
    problems: &mut Problems,
    key: &str,
    text: Option<&String>,
    default: &str,
) -> Option<T> {
    let text = text.map_or(default, String::as_str);
    problems.take(key, text.parse::<T>().map_err(|error| format!("{text:?}: {error}")))
}

fn directory(problems: &mut Problems, key: &str, text: Option<&str>) -> Option<PathBuf> {
    match text {
        Some(text) if Path::new(text).is_absolute() => Some(text.into()),
        Some(text) => {
            problems.add(key, format_args!("{text:?} is not an absolute path"));
            None
        }
        None => {
            problems.add(key, "is missing");
            None
        }
    }
}

fn user(problems: &mut Problems, key: &str, text: Option<&str>) -> Option<linux::User> {
    problems.take(key, linux::User::resolve(text?))
}

fn seconds(problems: &mut Problems, key: &str, value: Option<u64>, default: Duration) -> Duration {
    seconds_up_to(problems, key, value, default, 86_400)
}

/// A scrub's cycle: longer than ten years is never.
const MAX_SCRUB_CYCLE_DAYS: u64 = 3650;
/// Thirty days: who has not come back by then begins anew.
const MAX_UPLOAD_EXPIRY_SECONDS: u64 = 30 * 86_400;

fn seconds_up_to(
    problems: &mut Problems,
    key: &str,
    value: Option<u64>,
    default: Duration,
    most: u64,
) -> Duration {
    match value {
        None => default,
        Some(seconds) if (1..=most).contains(&seconds) => Duration::from_secs(seconds),
        Some(other) => {
            problems.add(key, format_args!("{other} is not 1 to {most}"));
            default
        }
    }
}

#[cfg(test)]
mod tests;
