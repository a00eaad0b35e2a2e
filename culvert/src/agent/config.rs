//! `agent.toml`: whom to ask, whom to tell, and whose keys to fetch.
//!
//! Invariant: a [`Config`] is good as a whole; with the production profile nothing that decides who is let in, and no
//! token, goes over a connection that is not encrypted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::config::{ConfigError, Problems};
use linux::User;
use serde::Deserialize;

use crate::target::Server;

/// Between two looks at a daemon: well below the shortest patience that makes sense.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A provider announces a new key hours before it signs with it.
const KEYS_EVERY_SECONDS: u64 = 900;
const PATIENCE_SECONDS: u64 = 30;
/// A day: nobody waits longer to hear that something is wrong, or for a new key.
const SECONDS_AT_MOST: u64 = 86_400;
/// Of each table; a host has a handful.
const TABLES_AT_MOST: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    profile: Profile,
    host: Option<String>,
    run_as: Option<String>,
    events_socket: Option<PathBuf>,
    wgd_user: Option<String>,
    ca_file: Option<PathBuf>,
    patience_seconds: Option<u64>,
    keys_directory: Option<PathBuf>,
    keys_every_seconds: Option<u64>,
    #[serde(default)]
    watch: Vec<RawWatch>,
    #[serde(default)]
    webhook: Vec<RawWebhook>,
    #[serde(default)]
    syslog: Vec<RawSyslog>,
    #[serde(default)]
    issuer: Vec<RawIssuer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Profile {
    Production,
    Lab,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWatch {
    name: String,
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWebhook {
    url: String,
    token_file: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSyslog {
    server: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIssuer {
    name: String,
    jwks_url: String,
}

/// A daemon of this host: its name, and its status listener.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    pub(super) name: String,
    pub(super) server: Server,
}

/// Somebody who is told by HTTP.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    pub(super) server: Server,
    /// A path, or `credential:NAME`: what goes into `Authorization: Bearer`.
    pub(super) token_file: Option<String>,
}

/// How a log server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// RFC 5426.
    Udp,
    /// RFC 6587, counted.
    Tcp,
    /// RFC 5425.
    Tls,
}

#[derive(Debug, Clone)]
pub(super) struct Syslog {
    pub(super) transport: Transport,
    pub(super) server: Server,
}

/// An identity provider whose keys are fetched.
#[derive(Debug, Clone)]
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) server: Server,
}

#[derive(Debug)]
pub(super) struct Config {
    pub(super) require_all: bool,
    pub(super) host: String,
    pub(super) user: Option<User>,
    pub(super) events_socket: Option<PathBuf>,
    pub(super) wgd: Option<User>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) patience: Duration,
    pub(super) keys_directory: Option<PathBuf>,
    pub(super) keys_every: Duration,
    pub(super) watch: Vec<Watch>,
    pub(super) webhooks: Vec<Webhook>,
    pub(super) syslogs: Vec<Syslog>,
    pub(super) issuers: Vec<Issuer>,
}

impl Config {
    pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
        Self::parse(&path.display().to_string(), &daemon::config::read_text(path)?)
    }

    fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
        let raw: Raw = daemon::config::parse(file, text)?;
        let mut wrong = Problems::new(file);
        let production = raw.profile == Profile::Production;
        let mut user =
            |key: &str, name: Option<&String>| name.and_then(|name| wrong.take(key, User::resolve(name)));
        let (own, wgd) = (user("run_as", raw.run_as.as_ref()), user("wgd_user", raw.wgd_user.as_ref()));
        let mut seconds = |key: &str, value: Option<u64>, default: u64| {
            let value = value.unwrap_or(default);
            if value > SECONDS_AT_MOST {
                wrong.add(key, format!("{value} s is more than a day"));
            }
            Duration::from_secs(value)
        };
        let patience = seconds("patience_seconds", raw.patience_seconds, PATIENCE_SECONDS);
        let keys_every = seconds("keys_every_seconds", raw.keys_every_seconds, KEYS_EVERY_SECONDS);
        if keys_every.is_zero() {
            wrong.add("keys_every_seconds", "0 would ask the providers without a pause");
        }
        for (key, length) in [
            ("watch", raw.watch.len()),
            ("webhook", raw.webhook.len()),
            ("syslog", raw.syslog.len()),
            ("issuer", raw.issuer.len()),
        ] {
            if length > TABLES_AT_MOST {
                wrong.add(key, format!("{length} are more than {TABLES_AT_MOST}"));
            }
        }
        let watch = raw.watch.into_iter().enumerate().filter_map(|(at, one)| {
            let key = format!("watch[{at}].address");
            let address: std::net::SocketAddr = wrong.take(&key, one.address.parse())?;
            if production && !is_of_this_host(address.ip()) {
                wrong.add(&key, "is no address of this host");
            }
            let server = wrong.take(&key, format!("http://{address}").parse())?;
            Some(Watch { name: one.name, server })
        });
        let watch = watch.collect();
        let mut url = |key: &str, text: &str| -> Option<Server> {
            let server: Server = wrong.take(key, text.parse())?;
            if production && !server.tls {
                wrong.add(key, "profile = \"production\" demands https://");
            }
            Some(server)
        };
        let webhooks = raw.webhook.into_iter().enumerate().filter_map(|(at, one)| {
            let server = url(&format!("webhook[{at}].url"), &one.url)?;
            Some(Webhook { server, token_file: one.token_file })
        });
        let webhooks = webhooks.collect();
        let mut issuers = Vec::new();
        for (at, one) in raw.issuer.into_iter().enumerate() {
            let server = url(&format!("issuer[{at}].jwks_url"), &one.jwks_url);
            issuers.extend(server.map(|server| Issuer { name: one.name, server }));
        }
        for (at, issuer) in issuers.iter().enumerate() {
            let key = format!("issuer[{at}].name");
            // It is a file's name.
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if issuer.name.is_empty() || issuer.name.len() > 32 || !issuer.name.bytes().all(is_plain) {
                wrong.add(&key, format!("{:?} is not 1 to 32 of a-z, 0-9 and -", issuer.name));
            }
            if issuers[..at].iter().any(|other| other.name == issuer.name) {
                wrong.add(&key, format!("{:?} stands twice", issuer.name));
            }
        }
        let syslogs = raw
            .syslog
            .into_iter()
            .enumerate()
            .filter_map(|(at, one)| wrong.take(&format!("syslog[{at}].server"), log_server(&one.server)));
        let syslogs: Vec<Syslog> = syslogs.collect();
        if !issuers.is_empty() && raw.keys_directory.is_none() {
            wrong.add("keys_directory", "is missing: where the keys of [[issuer]] go");
        }
        let host = raw.host.or_else(|| Some(nix::unistd::gethostname().ok()?.to_string_lossy().into_owned()));
        let host = host.unwrap_or_default();
        if host.is_empty() || host.len() > 255 || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
            wrong.add("host", format!("{host:?} is no name of a host"));
        }
        wrong.finish()?;
        Ok(Config {
            require_all: production,
            host,
            user: own,
            events_socket: raw.events_socket,
            wgd,
            ca_file: raw.ca_file,
            patience,
            keys_directory: raw.keys_directory,
            keys_every,
            watch,
            webhooks,
            syslogs,
            issuers,
        })
    }

    /// Every server that is spoken to over TCP.
    fn servers(&self) -> impl Iterator<Item = &Server> {
        let watched = self.watch.iter().map(|one| &one.server);
        let told = self.webhooks.iter().map(|one| &one.server);
        let logged = self.syslogs.iter().filter(|one| one.transport != Transport::Udp).map(|one| &one.server);
        watched.chain(told).chain(logged).chain(self.issuers.iter().map(|one| &one.server))
    }

    pub(super) fn speaks_tls(&self) -> bool {
        self.servers().any(|server| server.tls)
    }

    /// The ports that it may connect to, name servers' apart.
    pub(super) fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.servers().map(|server| server.port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// The agent reads, wgd's group writes.
    pub(super) fn events_owner(&self) -> Option<User> {
        let own = self.user.unwrap_or_else(User::current);
        self.wgd.map(|wgd| User { uid: own.uid, gid: wgd.gid }).or(self.user)
    }
}

/// Whether the kernel lets a socket have it: what is asked there in plain text never leaves the host.
fn is_of_this_host(address: std::net::IpAddr) -> bool {
    address.is_loopback() || std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// `udp://HOST[:514]`, `tcp://HOST[:514]` or `tls://HOST[:6514]`.
fn log_server(text: &str) -> Result<Syslog, String> {
    const FORM: &str = "a log server is written udp://HOST[:PORT], tcp://… or tls://…";
    let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
    let (transport, port, stand_in) = match scheme {
        "udp" => (Transport::Udp, 514, "http"),
        "tcp" => (Transport::Tcp, 514, "http"),
        "tls" => (Transport::Tls, 6514, "https"),
        _ => return Err(FORM.to_owned()),
    };
    let uri: http::Uri =
        format!("{stand_in}://{rest}").parse().map_err(|error| format!("{error}: {FORM}"))?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(FORM.to_owned());
    }
    let named = uri.port_u16();
    let mut server: Server = format!("{stand_in}://{rest}").parse().map_err(|_| FORM.to_owned())?;
    server.port = named.unwrap_or(port);
    Ok(Syslog { transport, server })
}

#[cfg(test)]
#[path = "../../../crates/daemon/testing/documented.rs"]
mod documented;

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
profile = \"production\"
host = \"web1\"
events_socket = \"/run/culvert/agent.events\"
wgd_user = \"1:2\"
keys_directory = \"/var/lib/culvert-agent/keys\"
[[watch]]
name = \"edge\"
address = \"127.0.0.1:9587\"
[[webhook]]
url = \"https://alerts.example/culvert\"
[[syslog]]
server = \"tls://log.example\"
[[syslog]]
server = \"udp://192.0.2.7:5514\"
[[issuer]]
name = \"corp\"
jwks_url = \"https://idp.example:8443/jwks\"
";

    #[test]
    fn the_ports_are_those_of_the_file_and_no_more() {
        let config = Config::parse("agent.toml", GOOD).unwrap();
        assert_eq!(config.ports(), [443, 6514, 8443, 9587]);
        assert!(config.speaks_tls() && config.require_all);
        assert_eq!((config.syslogs[1].transport, config.syslogs[1].server.port), (Transport::Udp, 5514));
        assert_eq!(config.patience, Duration::from_secs(30));
    }

    #[test]
    fn every_key_is_documented() {
        let refusal = |text: &str| Config::parse("x", text).unwrap_err().to_string();
        let mut keys = documented::keys(&refusal("zz = 1\n"), "");
        for table in ["watch", "webhook", "syslog", "issuer"] {
            keys.retain(|key| key != table);
            keys.extend(documented::keys(&refusal(&format!("[[{table}]]\nzz = 1\n")), &format!("{table}.")));
        }
        documented::compare(documented::table(documented::section("agent"), "key in"), keys);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key_and_all_of_it_at_once() {
        let bad = GOOD
            .replace("https://alerts", "http://alerts")
            .replace("\"corp\"", "\"../corp\"")
            .replace("tls://log", "log")
            .replace("127.0.0.1:9587", "192.0.2.1:9587")
            .replace("keys_directory", "#");
        let said = Config::parse("agent.toml", &bad).unwrap_err().to_string();
        for key in
            ["webhook[0].url", "issuer[0].name", "syslog[0].server", "watch[0].address", "keys_directory"]
        {
            assert!(said.contains(key), "{key}: {said}");
        }
        let unknown = Config::parse("agent.toml", "profile = \"lab\"\nwebhooks = 1\n").unwrap_err();
        assert!(unknown.to_string().contains("webhooks"), "{unknown}");
    }
}
