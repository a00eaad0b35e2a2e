//! The admin socket's verbs: `status`, `request.show`, `checkpoint.…`, and `reload` from descriptors that `culvert` hands over.
//!
//! A sealed edge can open no file, so a reload brings the files open. It is all or nothing: whatever
//! is wrong is answered, and the old configuration stays.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use daemon::admin::{AdminError, Caller, Handler, Replies};
use daemon::config::read_open;
use daemon::notify::Notify;
use daemon::secret::SecretString;
use futures_util::future::BoxFuture;
use identity::Issuers;
use linux::Lockdown;
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::RequestId;

use crate::acquire::{key_header, read_issuer};
use crate::config::{Config, Encryption, Environment};
use crate::request::{Edge, Live};
use crate::tls::{Clients, Named, Tls};
use crate::upstream::Upstream;
use crate::witness::{Fault, Standing};

/// Answers on the admin socket.
pub struct Control {
    /// What runs.
    pub edge: Arc<Edge>,
    /// The configuration in effect.
    pub config: Mutex<Config>,
    /// As it was at the start.
    pub environment: Environment,
    /// As it was at the seal.
    pub lockdown: Lockdown,
    /// The service manager.
    pub notify: Arc<Notify>,
}

#[derive(Deserialize)]
struct ReloadArguments {
    files: Vec<HandedFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptArguments {
    epoch: u64,
    upstream: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShowArguments {
    upstream: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestArguments {
    request: String,
}

#[derive(Deserialize)]
struct HandedFile {
    key: String,
    path: PathBuf,
}

impl Handler for Control {
    fn handle<'a>(
        &'a self,
        _caller: Caller,
        verb: &'a str,
        args: Value,
        descriptors: Vec<OwnedFd>,
        _out: &'a mut Replies,
    ) -> BoxFuture<'a, Result<Value, AdminError>> {
        let result = match verb {
            "status" => Ok(self.status()),
            "reload" => self.reload(args, descriptors),
            "request.show" => self.request(args),
            "checkpoint.show" => self.checkpoint(args),
            "checkpoint.accept" => self.accept_epoch(args),
            other => Err(AdminError::unknown_verb(other)),
        };
        Box::pin(std::future::ready(result))
    }
}

impl Control {
    fn status(&self) -> Value {
        let max_requests = self.config().limits.max_requests;
        json!({
            "daemon": "edge",
            "version": env!("CARGO_PKG_VERSION"),
            "tls_not_after": self.edge.live.load().tls.as_ref().map(|tls| tls.not_after_s),
            // Closed if each is: a check of health must not pass while one is away.
            "circuit": match (self.edge.upstreams.any_up(), self.edge.upstreams.iter().all(|one| one.is_up())) {
                (_, true) => "closed",
                (true, false) => "partly open",
                (false, false) => "open",
            },
            "upstreams": self.edge.upstreams.iter().map(|upstream| json!({
                "upstream": upstream.name,
                "circuit": if upstream.is_up() { "closed" } else { "open" },
                "well": upstream.is_well(),
            })).collect::<Vec<_>>(),
            "locked_out": self.edge.gate.locked_out(self.edge.clock.now()),
            "draining": self.edge.drain.is_draining(),
            "requests_in_flight": max_requests.saturating_sub(self.edge.places.available_permits()),
            "connections": self.edge.metrics.connections_active.get(),
            "buffered_bytes": self.edge.metrics.buffered_bytes.get(),
            "key_memory": linux::secret_arena::protection().map(linux::secret_memory::Protection::name),
            "lockdown": daemon::lockdown::describe(&self.lockdown),
        })
    }

    /// The one that is named; the only one needs no name.
    fn upstream(&self, name: Option<&str>) -> Result<&Arc<Upstream>, AdminError> {
        let upstreams = &self.edge.upstreams;
        let names = || upstreams.iter().map(|upstream| upstream.name.as_str()).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => upstreams
                .named(name)
                .ok_or_else(|| AdminError::new("no-such-upstream", format!("there are: {}", names()))),
            None if upstreams.iter().count() == 1 => Ok(upstreams.first()),
            None => Err(AdminError::new("malformed", format!("name the upstream, one of: {}", names()))),
        }
    }

    fn checkpoint(&self, args: Value) -> Result<Value, AdminError> {
        let arguments: ShowArguments =
            serde_json::from_value(args).map_err(|error| AdminError::new("malformed", error))?;
        let witness = &self.upstream(arguments.upstream.as_deref())?.witness;
        let Standing { key, seen, fault } = witness.standing();
        Ok(json!({
            "log_key": key.map(|key| key.to_string()),
            "checkpoint": seen.as_ref().map(|seen| seen.as_str()),
            "records": seen.as_ref().map(|seen| seen.unverified().size),
            "epoch": seen.as_ref().map(|seen| seen.unverified().epoch),
            "fault": fault.as_ref().map(ToString::to_string),
            "fault_kind": fault.as_ref().map(Fault::label),
            "uploads": if witness.refuses() { "refused" } else { "taken" },
        }))
    }

    fn request(&self, args: Value) -> Result<Value, AdminError> {
        let RequestArguments { request } =
            serde_json::from_value(args).map_err(|error| AdminError::new("malformed", error))?;
        let id = RequestId::parse(&request)
            .map_err(|error| AdminError::new("malformed", format!("request: {error}")))?;
        let found = self.edge.recent.show(&id, self.edge.clock.unix_milliseconds());
        found.ok_or_else(|| AdminError::new("unknown", "no request of that id runs, nor ended of late"))
    }

    fn accept_epoch(&self, args: Value) -> Result<Value, AdminError> {
        let arguments: AcceptArguments =
            serde_json::from_value(args).map_err(|error| AdminError::new("malformed", error))?;
        let upstream = self.upstream(arguments.upstream.as_deref())?;
        let accepted = upstream.witness.accept(arguments.epoch);
        let (before, now) = accepted.map_err(|error| AdminError::new("no-such-epoch", error))?;
        let records_before = before.as_ref().map(|before| before.size);
        tracing::warn!(
            upstream = upstream.name,
            epoch = now.epoch,
            records = now.size,
            records_before,
            "an operator accepted a new epoch of the store's log"
        );
        let refused = self.edge.metrics.log_refused.with_label_values(&[&upstream.name]);
        refused.set(i64::from(upstream.witness.refuses()));
        Ok(json!({ "epoch": now.epoch, "records": now.size, "records_before": records_before }))
    }

    fn reload(&self, args: Value, descriptors: Vec<OwnedFd>) -> Result<Value, AdminError> {
        self.notify.reloading();
        let result = self.try_reload(args, descriptors);
        self.notify.ready();
        let metrics = &self.edge.metrics;
        metrics.reload_successful.set(i64::from(result.is_ok()));
        match &result {
            Ok(_) => {
                let seconds = self.edge.clock.unix_milliseconds() / 1000;
                metrics.reload_success_timestamp.set(i64::try_from(seconds).unwrap_or(i64::MAX));
                tracing::info!("configuration reloaded");
            }
            Err(error) => {
                tracing::warn!(error = %error.message, "configuration not reloaded; the old one stays")
            }
        }
        result
    }

    fn try_reload(&self, args: Value, descriptors: Vec<OwnedFd>) -> Result<Value, AdminError> {
        let malformed = |what: String| AdminError::new("malformed", what);
        let arguments: ReloadArguments =
            serde_json::from_value(args).map_err(|error| malformed(error.to_string()))?;
        if arguments.files.len() != descriptors.len() {
            let (named, came) = (arguments.files.len(), descriptors.len());
            return Err(malformed(format!("{named} files are named and {came} descriptors came")));
        }
        let mut files: Vec<(HandedFile, File)> =
            arguments.files.into_iter().zip(descriptors.into_iter().map(File::from)).collect();
        let mut take = |key: &str| {
            let at = files.iter().position(|(file, _)| file.key == key);
            at.map(|at| files.swap_remove(at)).map(|(named, file)| (named.path, file))
        };
        let (path, file) =
            take("config").ok_or_else(|| malformed("the file \"config\" is missing".into()))?;
        let bad = |error: &dyn std::fmt::Display| AdminError::new("bad-config", error);
        let text = read_open(&path, file).map_err(|error| bad(&error))?;
        let name = path.display().to_string();
        let config = Config::parse(&name, &text, &self.environment).map_err(|error| bad(&error))?;
        let changed = self.config().needs_restart(&config);
        if !changed.is_empty() {
            let message = format!("{name}: only a restart can change {}", changed.join(", "));
            return Err(AdminError::new("needs-restart", message));
        }
        let internal_key = match (&self.environment.internal_api_key, take("internal_api_key_file")) {
            (Some(_), _) => self.edge.live.load().internal_key.clone(),
            (None, Some((path, file))) => read_key(&path, file)?,
            (None, None) => return Err(malformed("the file \"internal_api_key_file\" is missing".into())),
        };
        let tls = match &config.encryption {
            Encryption::Plain => None,
            Encryption::Tls(files) => {
                let mut named = |key: &str| {
                    let missing = || malformed(format!("the file {key:?} is missing"));
                    take(key).map(|(path, file)| Named { path, file }).ok_or_else(missing)
                };
                let (chain, key) = (named("tls_certificate_file")?, named("tls_key_file")?);
                let clients = match &files.clients {
                    None => None,
                    Some(clients) => Some(Clients {
                        authorities: named("client_ca_file")?,
                        revocations: clients
                            .revocations
                            .is_some()
                            .then(|| named("client_crl_file"))
                            .transpose()?,
                        required: clients.required,
                    }),
                };
                let now_s = self.edge.clock.unix_milliseconds() / 1000;
                Some(Tls::read(chain, key, clients, files.oldest, now_s).map_err(|error| bad(&error))?)
            }
        };
        let mut issuers = Vec::new();
        for (at, rules) in config.issuers.iter().enumerate() {
            let key = format!("issuer[{at}].jwks_file");
            let missing = || malformed(format!("the file {key:?} is missing"));
            let (path, file) = take(&key).ok_or_else(missing)?;
            issuers.push(read_issuer(rules, &path, file).map_err(|error| bad(&error))?);
        }
        self.edge.metrics.certificate_in_use(tls.as_ref());
        if let Some(tls) = &tls {
            tracing::info!(not_after = tls.not_after_s, "new connections get the certificate just read");
        }
        self.edge.live.store(Arc::new(Live {
            limits: config.limits,
            internal_key,
            tls,
            issuers: Issuers::new(issuers),
        }));
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(json!("taken"))
    }

    fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read_key(path: &Path, file: File) -> Result<http::HeaderValue, AdminError> {
    let secret =
        SecretString::from_reader(path, file).map_err(|error| AdminError::new("bad-config", error))?;
    key_header(&secret).map_err(|error| AdminError::new("bad-config", error))
}
