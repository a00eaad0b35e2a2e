//! The configuration: what the file, the environment and the command line come to.
//!
//! A [`Config`] that exists is coherent: storaged stands at a literal address inside the tunnel, the
//! role was said and is one edge can be, and the public side has TLS unless plain HTTP was asked for in words.
//! All mistakes in values are reported together, each with its key.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use daemon::config::{ConfigError, Problems};
use daemon::secret::SecretString;
use identity::IssuerRules;
use ipnet::IpNet;
use linux::User;
use store_proto::{EdgeName, ServerRole};

mod encryption;
mod limits;
mod raw;
mod upstreams;
pub use encryption::{ClientFiles, Encryption, TlsFiles};
pub use limits::Limits;
pub use raw::RawConfig;
pub use upstreams::{UpstreamRules, UpstreamTable};

const DEFAULT_LISTEN: &str = "0.0.0.0:8000";
const DEFAULT_PREFIX: &str = "10.100.0.0/24";
const DEFAULT_METRICS: &str = "127.0.0.1:9587";
const DEFAULT_ADMIN: &str = "/run/culvert/edge.sock";
const DEFAULT_EVENTS: &str = "/run/culvert/edge.events";

/// How strict the lock-down is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A missing layer is an error.
    Production,
    /// A missing layer is reported.
    Lab,
}

/// The configuration, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name under which storaged knows this edge: its WireGuard peer's friendly name.
    pub name: EdgeName,
    /// `web`, or `testing` on loopback.
    pub role: ServerRole,
    /// How strict the lock-down is.
    pub profile: Profile,
    /// The public address, unless a listener is handed in.
    pub listen: SocketAddr,
    /// TLS, or plain HTTP because the file says so.
    pub encryption: Encryption,
    /// Balancers that say whose connection they pass on.
    pub proxies: Vec<IpNet>,
    /// The storageds behind it.
    pub upstreams: UpstreamTable,
    /// The tunnel's addresses.
    pub tunnel_prefix: IpNet,
    /// Where the internal key is: a path or `credential:NAME`.
    pub internal_api_key_file: Option<String>,
    /// Metrics and health; `None`: off, unless a listener is handed in.
    pub metrics_listen: Option<SocketAddr>,
    /// The admin socket; `None`: off, unless a listener is handed in.
    pub admin_socket: Option<PathBuf>,
    /// Where wgd sends its events; `None`: off.
    pub events_socket: Option<PathBuf>,
    /// Who may use the admin socket beside root.
    pub admin_users: Vec<String>,
    /// Whose datagrams are wgd's events, beside root's.
    pub wgd_user: Option<String>,
    /// Who edge becomes.
    pub run_as: Option<String>,
    /// The identity providers whose tokens are taken.
    pub issuers: Vec<IssuerRules>,
    /// What can be changed while running.
    pub limits: Limits,
}

/// The users that a configuration names.
#[derive(Clone, Debug)]
pub struct Users {
    /// Who may use the admin socket beside root.
    pub admins: Vec<User>,
    /// Whose datagrams are wgd's.
    pub wgd: Option<User>,
    /// Who edge becomes.
    pub own: Option<User>,
}

/// What the environment says: the names that the platform's deployments use.
#[derive(Default)]
pub struct Environment {
    /// `SERVER_ROLE`
    pub server_role: Option<String>,
    /// `SERVICES_URL`
    pub services_url: Option<String>,
    /// `INTERNAL_API_KEY`: works, and is a finding, for an environment can be read by others.
    pub internal_api_key: Option<SecretString>,
}

impl Environment {
    /// Reads this process's environment.
    pub fn of_this_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Environment {
            server_role: text("SERVER_ROLE"),
            services_url: text("SERVICES_URL"),
            internal_api_key: text("INTERNAL_API_KEY").map(SecretString::new),
        }
    }
}

impl Config {
    /// Gives the file's text (`name` is its name, for messages) a meaning.
    pub fn parse(name: &str, text: &str, environment: &Environment) -> Result<Config, ConfigError> {
        let raw: RawConfig = daemon::config::parse(name, text)?;
        Self::from_raw(name, raw, environment)
    }

    fn from_raw(file: &str, raw: RawConfig, environment: &Environment) -> Result<Config, ConfigError> {
        let mut problems = Problems::new(file);
        let name = required(
            &mut problems,
            "name",
            raw.name.as_deref(),
            "the name under which storaged knows this edge",
        );
        let name = name.and_then(|text| problems.take("name", EdgeName::parse(text)));
        let role = environment.server_role.as_deref().or(raw.role.as_deref());
        let role =
            required(&mut problems, "role", role, "\"web\", or \"testing\" on loopback; there is no default");
        let role = role.and_then(|text| problems.take("role", role_of(text)));
        let profile = problems.take("profile", profile_of(raw.profile.as_deref().unwrap_or("production")));
        let listen = address(&mut problems, "listen", raw.listen.as_deref().unwrap_or(DEFAULT_LISTEN));
        let encryption = encryption::encryption(&mut problems, &raw);
        let proxies = (raw.proxy_protocol_from.iter())
            .filter_map(|text| problems.take("proxy_protocol_from", network(text)))
            .collect();
        let prefix_text = raw.tunnel_prefix.as_deref().unwrap_or(DEFAULT_PREFIX);
        let prefix = prefix_text
            .parse::<IpNet>()
            .map_err(|_| format!("{prefix_text:?} is not a prefix such as {DEFAULT_PREFIX}"));
        let tunnel_prefix = problems.take("tunnel_prefix", prefix);
        let services_url = environment.services_url.as_deref().or(raw.services_url.as_deref());
        let place = upstreams::Place { tunnel: tunnel_prefix, testing: role == Some(ServerRole::Testing) };
        let upstreams = upstreams::upstreams(&mut problems, &raw, services_url, place);
        if raw.internal_api_key_file.is_none() && environment.internal_api_key.is_none() {
            problems.add("internal_api_key_file", "is missing: a path or \"credential:NAME\"");
        }
        let metrics_text = raw.metrics_listen.as_deref().unwrap_or(DEFAULT_METRICS);
        let metrics_listen = (!metrics_text.is_empty())
            .then(|| address(&mut problems, "metrics_listen", metrics_text))
            .flatten();
        let issuers = IssuerRules::understand(&raw.issuer, &mut |key, what| problems.add(key, what));
        let limits = limits::limits(&mut problems, &raw.limits);
        let path = |text: Option<String>, default: &str| {
            let text = text.unwrap_or_else(|| default.to_owned());
            (!text.is_empty()).then(|| PathBuf::from(text))
        };
        problems.finish()?;
        let all_said = (name, role, profile, listen, encryption, upstreams, tunnel_prefix);
        let (
            Some(name),
            Some(role),
            Some(profile),
            Some(listen),
            Some(encryption),
            Some(upstreams),
            Some(tunnel_prefix),
        ) = all_said
        else {
            // every `None` above came with a problem
            return Err(ConfigError::Values(vec![format!("{file}: incomplete")]));
        };
        Ok(Config {
            name,
            role,
            profile,
            listen,
            encryption,
            proxies,
            upstreams,
            tunnel_prefix,
            internal_api_key_file: raw.internal_api_key_file,
            metrics_listen,
            admin_socket: path(raw.admin_socket, DEFAULT_ADMIN),
            events_socket: path(raw.events_socket, DEFAULT_EVENTS),
            admin_users: raw.admin_users.unwrap_or_default(),
            wgd_user: raw.wgd_user,
            run_as: raw.run_as,
            issuers,
            limits,
        })
    }

    /// Looks the users up, which reads the system's tables: at the start only, for a sealed process
    /// can read no file. `file` is the configuration's name.
    pub fn users(&self, file: &str) -> Result<Users, ConfigError> {
        let mut problems = Problems::new(file);
        let mut resolve = |key: &str, text: &str| problems.take(key, User::resolve(text));
        let users = Users {
            admins: self.admin_users.iter().filter_map(|text| resolve("admin_users", text)).collect(),
            wgd: self.wgd_user.as_deref().and_then(|text| resolve("wgd_user", text)),
            own: self.run_as.as_deref().and_then(|text| resolve("run_as", text)),
        };
        problems.finish().map(|()| users)
    }

    /// The keys in which `other` differs and which only a restart can change: sockets are bound,
    /// and the allowed port of storaged is sealed.
    pub fn needs_restart(&self, other: &Config) -> Vec<&'static str> {
        let changed = [
            ("name", self.name != other.name),
            ("role", self.role != other.role),
            ("profile", self.profile != other.profile),
            ("listen", self.listen != other.listen),
            ("plain_http", self.encryption.is_plain() != other.encryption.is_plain()),
            ("proxy_protocol_from", self.proxies != other.proxies),
            ("tunnel_prefix", self.tunnel_prefix != other.tunnel_prefix),
            ("metrics_listen", self.metrics_listen != other.metrics_listen),
            ("admin_socket", self.admin_socket != other.admin_socket),
            ("events_socket", self.events_socket != other.events_socket),
            ("admin_users", self.admin_users != other.admin_users),
            ("wgd_user", self.wgd_user != other.wgd_user),
            ("run_as", self.run_as != other.run_as),
            ("limits.max_connections", self.limits.max_connections != other.limits.max_connections),
            ("limits.max_requests", self.limits.max_requests != other.limits.max_requests),
            ("limits.drain_timeout", self.limits.drain_timeout != other.limits.drain_timeout),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key);
        changed.chain(self.upstreams.needs_restart(&other.upstreams)).collect()
    }
}

/// As a file that would give the same configuration; the internal key is not part of it.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = match self.profile {
            Profile::Production => "production",
            Profile::Lab => "lab",
        };
        writeln!(f, "name = {:?}", self.name.as_str())?;
        writeln!(f, "role = {:?}", self.role.name())?;
        writeln!(f, "profile = {profile:?}")?;
        writeln!(f, "listen = \"{}\"", self.listen)?;
        write!(f, "{}", self.encryption)?;
        let proxies: Vec<String> = self.proxies.iter().map(IpNet::to_string).collect();
        writeln!(f, "proxy_protocol_from = {proxies:?}")?;
        self.upstreams.write_top(f)?;
        writeln!(f, "tunnel_prefix = \"{}\"", self.tunnel_prefix)?;
        match &self.internal_api_key_file {
            Some(reference) => writeln!(f, "internal_api_key_file = {reference:?}")?,
            None => writeln!(f, "# the internal key comes from INTERNAL_API_KEY (redacted)")?,
        }
        let metrics = self.metrics_listen.map(|address| address.to_string()).unwrap_or_default();
        let path =
            |path: &Option<PathBuf>| path.as_deref().map_or(String::new(), |p| p.display().to_string());
        writeln!(f, "metrics_listen = {metrics:?}")?;
        writeln!(f, "admin_socket = {:?}", path(&self.admin_socket))?;
        writeln!(f, "events_socket = {:?}", path(&self.events_socket))?;
        writeln!(f, "admin_users = {:?}", self.admin_users)?;
        for (key, user) in [("wgd_user", &self.wgd_user), ("run_as", &self.run_as)] {
            if let Some(user) = user {
                writeln!(f, "{key} = {user:?}")?;
            }
        }
        write!(f, "\n{}", self.limits)?;
        self.upstreams.write_tables(f)?;
        self.issuers.iter().try_for_each(|issuer| write!(f, "\n{issuer}"))
    }
}

fn required<'a>(problems: &mut Problems, key: &str, value: Option<&'a str>, hint: &str) -> Option<&'a str> {
    if value.is_none() {
        problems.add(key, format!("is missing: {hint}"));
    }
    value
}

fn role_of(text: &str) -> Result<ServerRole, String> {
    match ServerRole::parse(text) {
        Some(role @ (ServerRole::Web | ServerRole::Testing)) => Ok(role),
        Some(ServerRole::Services) => Err("edge cannot be \"services\"; storaged is".to_owned()),
        None => Err(format!("{text:?} is neither \"web\" nor \"testing\"")),
    }
}

fn profile_of(text: &str) -> Result<Profile, String> {
    match text {
        "production" => Ok(Profile::Production),
        "lab" => Ok(Profile::Lab),
        other => Err(format!("{other:?} is neither \"production\" nor \"lab\"")),
    }
}

fn address(problems: &mut Problems, key: &str, text: &str) -> Option<SocketAddr> {
    let parsed =
        text.parse().map_err(|_| format!("{text:?} is not an address with a port, such as 127.0.0.1:8000"));
    problems.take(key, parsed)
}

/// Requirement C-02: plain HTTP only to a literal address inside the tunnel.
fn services_address(url: &str, tunnel: IpNet, testing: bool) -> Result<SocketAddr, String> {
    if url.starts_with("https://") {
        return Err(format!(
            "{url:?}: TLS within the tunnel is not built yet; use http:// to an address inside {tunnel}"
        ));
    }
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url:?} does not begin with http://"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(format!("{url:?} must be http://ADDRESS:PORT and nothing more"));
    }
    let address: SocketAddr = authority.parse().map_err(|_| {
        format!("{url:?} needs a literal address and a port: a name could lead out of the tunnel")
    })?;
    if address.port() == 0 {
        return Err(format!("{url:?}: port 0 is none"));
    }
    let inside = tunnel.contains(&address.ip());
    if inside || (testing && is_loopback(address.ip())) {
        return Ok(address);
    }
    Err(format!("{url:?} lies outside the tunnel ({tunnel}): what edge sends would not be encrypted"))
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither an address nor a network such as 192.0.2.0/24"))
}

fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}

#[cfg(test)]
mod tests;
