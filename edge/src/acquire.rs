//! What edge takes hold of before it gives its rights up: listeners, sockets, keys and certificates.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::Context;
use daemon::exit;
use daemon::secret::{SecretString, read_reference, reference_path};
use http::HeaderValue;
use identity::limits::JWKS_BYTES;
use identity::{Issuer, IssuerRules, Issuers};
use linux::unix_datagram::DatagramSocket;
use linux::unix_listener::bind_unix_listener;
use linux::{ListenFds, Privileged, User};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use receipt::SignedCheckpoint;

use crate::config::{ClientFiles, Config, Encryption, Environment, UpstreamRules, Users};
use crate::tls::{Clients, Named, Tls};
use crate::witness::Witness;

/// Owner and group may talk to edge's sockets; who they are is then checked by credentials.
const SOCKET_MODE: u32 = 0o660;

/// Everything that is open when edge is sealed.
#[derive(Debug)]
pub struct Listeners {
    /// Clients.
    pub public: TcpListener,
    /// Metrics and health.
    pub metrics: Option<TcpListener>,
    /// `culvert`.
    pub admin: Option<UnixListener>,
    /// wgd's events.
    pub events: Option<DatagramSocket>,
}

impl Listeners {
    /// Takes what the service manager hands in, by name, and binds the rest.
    pub fn acquire(privileged: &Privileged, config: &Config, users: &Users) -> anyhow::Result<Listeners> {
        let mut handed_in = ListenFds::take(privileged).map_err(|error| exit::fail(exit::CONFIG, error))?;
        let mut tcp = |name: &str, address: Option<SocketAddr>| -> anyhow::Result<Option<TcpListener>> {
            let handed_in = handed_in.tcp(name).map_err(|error| exit::fail(exit::CONFIG, error))?;
            match (handed_in, address) {
                (Some(listener), _) => Ok(Some(listener)),
                (None, Some(address)) => bind(name, address).map(Some),
                (None, None) => Ok(None),
            }
        };
        let public = tcp("public", Some(config.listen))?.context("no public listener")?;
        let metrics = tcp("metrics", config.metrics_listen)?;
        let admin = handed_in.unix("admin").map_err(|error| exit::fail(exit::CONFIG, error))?;
        let admin = match (admin, &config.admin_socket) {
            (Some(listener), _) => Some(listener),
            (None, Some(path)) => Some(
                daemon::socket_directory::make(path)
                    .and_then(|()| bind_unix_listener(path, SOCKET_MODE, users.own))
                    .map_err(|error| socket("admin_socket", path, error))?,
            ),
            (None, None) => None,
        };
        let events = handed_in.datagrams("events").map_err(|error| exit::fail(exit::CONFIG, error))?;
        let events = match (events, &config.events_socket) {
            (Some(socket), _) => Some(socket),
            (None, Some(path)) => Some(
                daemon::socket_directory::make(path)
                    .and_then(|()| DatagramSocket::bind(path, SOCKET_MODE, events_owner(users)))
                    .map_err(|error| socket("events_socket", path, error))?,
            ),
            (None, None) => None,
        };
        for name in handed_in.left_over() {
            tracing::warn!(
                name,
                "a listener was handed in that edge does not know; it takes public, metrics, admin, events"
            );
        }
        Ok(Listeners { public, metrics, admin, events })
    }
}

/// edge reads, wgd's group writes; the credentials of each datagram are checked all the same.
fn events_owner(users: &Users) -> Option<User> {
    let own = users.own.unwrap_or_else(User::current);
    users.wgd.map(|wgd| User { uid: own.uid, gid: wgd.gid }).or(users.own)
}

fn bind(name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        let key = if name == "public" { "listen" } else { "metrics_listen" };
        let hint = if error.kind() == ErrorKind::AddrInUse {
            "; another process has this port (`ss -ltnp` shows which)"
        } else if error.kind() == ErrorKind::PermissionDenied {
            "; ports below 1024 need systemd to hand the listener in"
        } else if error.kind() == ErrorKind::AddrNotAvailable {
            "; no interface of this namespace has this address"
        } else {
            ""
        };
        exit::fail(exit::OS, anyhow::anyhow!("{key} = \"{address}\": {error}{hint}"))
    })
}

fn socket(key: &str, path: &Path, error: std::io::Error) -> anyhow::Error {
    exit::fail(exit::OS, anyhow::anyhow!("{key} = {:?}: {error}", path.display().to_string()))
}

/// The internal key, ready to be a header.
pub fn internal_key(config: &Config, environment: &Environment) -> anyhow::Result<HeaderValue> {
    let secret = match (&environment.internal_api_key, &config.internal_api_key_file) {
        (Some(secret), _) => {
            tracing::warn!(
                "the internal key comes from the environment, which others can read: prefer internal_api_key_file"
            );
            secret.clone()
        }
        (None, Some(reference)) => read_reference(reference)
            .map_err(|error| exit::fail(exit::CONFIG, error))
            .context("internal_api_key_file")?,
        (None, None) => anyhow::bail!("no internal key"), // `Config::parse` demands one of both
    };
    key_header(&secret)
}

/// The certificate and its key; `None` on a plain listener.
pub fn tls(config: &Config, now_s: u64) -> anyhow::Result<Option<Tls>> {
    let Encryption::Tls(files) = &config.encryption else { return Ok(None) };
    let open = |key: &str, reference: &str| -> anyhow::Result<Named> {
        let wrong =
            |error: &dyn std::fmt::Display| exit::fail(exit::CONFIG, anyhow::anyhow!("{key}: {error}"));
        let path = reference_path(reference).map_err(|error| wrong(&error))?;
        Named::open(path).map_err(|error| wrong(&error))
    };
    let chain = open("tls_certificate_file", &files.certificate)?;
    let key = open("tls_key_file", &files.key)?;
    let clients = match &files.clients {
        None => None,
        Some(ClientFiles { authorities, revocations, required }) => Some(Clients {
            authorities: open("client_ca_file", authorities)?,
            revocations: revocations.as_deref().map(|file| open("client_crl_file", file)).transpose()?,
            required: *required,
        }),
    };
    let tls = Tls::read(chain, key, clients, files.oldest, now_s)
        .map_err(|error| exit::fail(exit::CONFIG, error))?;
    Ok(Some(tls))
}

/// The identity providers, with their keys.
pub fn issuers(config: &Config) -> anyhow::Result<Issuers> {
    let read = |rules: &IssuerRules| -> anyhow::Result<Issuer> {
        let wrong = |error: &dyn std::fmt::Display| {
            let key = format!("issuer {:?}: jwks_file", rules.name);
            exit::fail(exit::CONFIG, anyhow::anyhow!("{key}: {error}"))
        };
        let path = reference_path(&rules.jwks_file).map_err(|error| wrong(&error))?;
        let file = std::fs::File::open(&path)
            .map_err(|error| wrong(&format_args!("{}: {error}", path.display())))?;
        read_issuer(rules, &path, file).map_err(|error| wrong(&error))
    };
    Ok(Issuers::new(config.issuers.iter().map(read).collect::<anyhow::Result<_>>()?))
}

/// One provider, with the keys in an open file.
pub fn read_issuer(rules: &IssuerRules, path: &Path, file: std::fs::File) -> Result<Issuer, String> {
    let text = daemon::config::read_trusted(path, file, JWKS_BYTES).map_err(|error| error.to_string())?;
    rules.clone().with_keys(&text).map_err(|error| format!("{} {error}", path.display()))
}

/// What is known of each storaged's log before the first look at it.
pub fn witnesses(config: &Config) -> anyhow::Result<Vec<Witness>> {
    config.upstreams.all.iter().map(witness).collect()
}

fn witness(upstream: &UpstreamRules) -> anyhow::Result<Witness> {
    let Some(reference) = &upstream.checkpoint_floor_file else {
        return Ok(Witness::new(upstream.log_key.clone(), None));
    };
    let wrong = |error: &dyn std::fmt::Display| {
        exit::fail(exit::CONFIG, anyhow::anyhow!("checkpoint_floor_file = {reference:?}: {error}"))
    };
    // `Config::parse` demands the key with the floor.
    let key = upstream.log_key.clone().ok_or_else(|| wrong(&"needs log_key"))?;
    let path = reference_path(reference).map_err(|error| wrong(&error))?;
    let text = daemon::config::read_text(&path).map_err(|error| wrong(&error))?;
    let floor = SignedCheckpoint::parse(&text).map_err(|error| wrong(&error))?;
    floor.verify(&key).map_err(|error| wrong(&error))?;
    Ok(Witness::new(Some(key), Some(floor)))
}

/// The key as a header's value that no log shows.
pub fn key_header(secret: &SecretString) -> anyhow::Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(secret.expose()).map_err(|error| exit::fail(exit::CONFIG, error))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Refuses a stderr that is a regular file: `RLIMIT_FSIZE` 0 would silently swallow every log line.
pub fn check_stderr() -> anyhow::Result<()> {
    let stderr = std::fs::File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    if stderr.metadata()?.is_file() {
        let message = "stderr is a regular file, and edge can write to none: send its logs to the journal or through a pipe (2>&1 | cat >FILE)";
        return Err(exit::fail(exit::OS, anyhow::anyhow!(message)));
    }
    Ok(())
}

/// Raises the soft limit of open descriptors to the hard one: two for each request, and some.
pub fn raise_descriptor_limit(config: &Config) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read RLIMIT_NOFILE")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise RLIMIT_NOFILE")?;
    }
    let needed = (config.limits.max_connections + config.limits.max_requests + 64) as u64;
    if hard < needed {
        tracing::warn!(
            hard,
            needed,
            "the limit of open files is lower than limits.max_connections + max_requests need"
        );
    }
    Ok(())
}
