//! The verbs of the admin socket.
//!
//! **Invariant:** every call is recorded before it is answered; a call that cannot be recorded is refused.

mod access;
mod backup;
mod end_of_life;
mod integrity;
mod keys;
mod ledger;
mod ledger_verify;
mod report;
mod shred;
mod storage;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use daemon::admin::{AdminError, Caller, Handler, Replies};
use daemon::config::MAX_CONFIG_BYTES;
use daemon::secret::SecretString;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::{Cohort, FileId, RequestId, UserName};

use crate::config::{Config, Environment, Fixed, KeySource, Raw, private};
use crate::denial::Denial;
use crate::ledger::Note;
use crate::ledger::audit::Question;
use crate::ledger::{Action, Ending, Origin, Record, tables};
use crate::limits::{TRAIL_DAYS, TRAIL_RECORDS};
use crate::policy::HostRules;
use crate::store::Store;

/// Answers operators.
#[derive(Debug)]
pub struct Admin {
    store: Arc<Store>,
    fixed: Fixed,
    environment: Environment,
    /// The configuration of the start: what differs from it needs a new start.
    started_with: Raw,
    lockdown: Value,
    /// One reload at a time, so that the last answer is the one in force.
    reloading: tokio::sync::Mutex<()>,
    /// One walk over the log at a time.
    verifying: tokio::sync::Mutex<()>,
    /// One look at all objects at a time, beside the scrub.
    looking_at_objects: tokio::sync::Mutex<()>,
    /// One backup at a time.
    backing_up: tokio::sync::Mutex<()>,
    backups_pending: backup::Pending,
}

impl Admin {
    /// Puts the verbs together. `lockdown` is what is known from the seal.
    pub fn new(
        store: Arc<Store>,
        fixed: Fixed,
        environment: Environment,
        started_with: Raw,
        lockdown: &linux::Lockdown,
    ) -> Admin {
        let lockdown = daemon::lockdown::describe(lockdown);
        Admin {
            store,
            fixed,
            environment,
            started_with,
            lockdown,
            reloading: tokio::sync::Mutex::new(()),
            verifying: tokio::sync::Mutex::new(()),
            looking_at_objects: tokio::sync::Mutex::new(()),
            backing_up: tokio::sync::Mutex::default(),
            backups_pending: backup::Pending::default(),
        }
    }

    async fn record(
        &self,
        action: Action,
        ending: Ending,
        caller: Caller,
        detail: String,
    ) -> Result<(), AdminError> {
        let note = Note { detail: Some(detail), ..Note::new(action, ending, origin(caller)) };
        let recorded = self.store.note(note).await;
        recorded.map(drop).map_err(|error| AdminError::new("ledger-unavailable", error))
    }

    async fn trail(&self, caller: Caller, args: Value, out: &mut Replies) -> Result<Value, AdminError> {
        let asked = args.to_string();
        let question = TrailArgs::understand(args, self.store.clock.unix_milliseconds())?;
        // Recorded first: reading the trail is part of it.
        self.record(Action::AdminAuditTrail, Ending::Succeeded, caller, asked).await?;
        let reader = self.store.ledger.reader().clone();
        let (records, mut stream) = tokio::sync::mpsc::channel(64);
        let asking = tokio::task::spawn_blocking(move || {
            question.ask(&reader, |record| match records.blocking_send(record) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_gone) => ControlFlow::Break(()),
            })
        });
        while let Some(record) = stream.recv().await {
            out.item(trail_item(&record)).await.map_err(|error| AdminError::new("gone", error))?;
        }
        let found = asking.await.map_err(|error| AdminError::new("internal", error))?;
        let found = found.map_err(|error| AdminError::new("ledger-unavailable", error))?;
        Ok(json!({ "records": found }))
    }

    /// `request.trace`: what is under way of one request, and every record that it left. Recorded as reading the trail.
    async fn request_trace(
        &self,
        caller: Caller,
        args: Value,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let asked: TraceArgs = end_of_life::parse(args)?;
        let request = RequestId::parse(&asked.request)
            .map_err(|error| AdminError::new("bad-argument", format!("request: {error}")))?;
        let now = self.store.clock.now();
        for (upload, moment) in self.store.under_way.list(now) {
            if moment.about.request.as_ref() == Some(&request) {
                end_of_life::send(out, json!({ "under_way": storage::running(upload, &moment, now) }))
                    .await?;
            }
        }
        let mut question = json!({ "request": request });
        if let Some(days) = asked.days {
            question["days"] = days.into();
        }
        self.trail(caller, question, out).await
    }

    async fn reload(
        &self,
        caller: Caller,
        args: Value,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Value, AdminError> {
        let _one_at_a_time = self.reloading.lock().await;
        let understood = self.understand(args, descriptors);
        self.store.metrics.reload_success.set(i64::from(understood.is_ok()));
        match understood {
            Ok((rules, restart_needed)) => {
                let mut detail = if restart_needed.is_empty() {
                    "taken".to_owned()
                } else {
                    format!("taken; a restart is needed for {}", restart_needed.join(", "))
                };
                if let Some(providers) = rules.providers.summary() {
                    detail.push_str(&format!("; {providers}"));
                }
                // Before it is in force, for not even one request: what cannot be recorded does not happen.
                if let Err(error) = self.record(Action::AdminReload, Ending::Succeeded, caller, detail).await
                {
                    self.store.metrics.reload_success.set(0);
                    return Err(error);
                }
                self.store.policy.swap_rules(rules).await;
                self.store.metrics.configured(self.store.clock.unix_milliseconds());
                tracing::info!(restart_needed = restart_needed.len(), "configuration reloaded");
                Ok(json!({ "reloaded": true, "restart_needed": restart_needed }))
            }
            Err(error) => {
                tracing::warn!(%error, "a reload was refused; the old configuration stays");
                self.record(Action::AdminReload, Ending::Failed, caller, "refused".to_owned()).await?;
                Err(AdminError::new("bad-configuration", error))
            }
        }
    }

    /// Reads what was handed in, and names the keys that need a new start.
    fn understand(
        &self,
        args: Value,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(HostRules, Vec<&'static str>), String> {
        let args: Option<ReloadArgs> = serde_json::from_value(args).map_err(|error| error.to_string())?;
        let args = args.unwrap_or_default();
        let mut files = descriptors.into_iter().map(File::from);
        let config = files.next().ok_or("the configuration file's descriptor is missing")?;
        let name = args.files.first().map_or_else(|| "storaged.toml".to_owned(), |file| file.path.clone());
        let mut text = String::new();
        let read = config.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text);
        read.map_err(|error| format!("{name}: {error}"))?;
        if text.len() as u64 > MAX_CONFIG_BYTES {
            return Err(format!("{name}: larger than {MAX_CONFIG_BYTES} bytes"));
        }
        let raw: Raw = daemon::config::parse(&name, &text).map_err(|error| error.to_string())?;
        let mut keys = HandedIn {
            names: args.files.into_iter().skip(1).map(|file| file.reference).collect(),
            files: files.collect(),
        };
        let understood =
            Config::understand_reload(&name, &self.started_with, &raw, &self.environment, &mut keys);
        understood.map_err(|error| error.to_string())
    }

    async fn status(&self, caller: Caller) -> Result<Value, AdminError> {
        self.record(Action::AdminStatus, Ending::Succeeded, caller, String::new()).await?;
        let totals = self.store.ledger.reader().totals();
        let totals = totals.map_err(|error| AdminError::new("ledger-unavailable", error))?;
        let checkpoint = self.store.ledger.reader().checkpoint();
        let checkpoint = checkpoint.map_err(|error| AdminError::new("ledger-unavailable", error))?;
        let time_hold = self.store.ledger.reader().time_hold();
        let time_hold = time_hold.map_err(|error| AdminError::new("ledger-unavailable", error))?;
        let policy = self.store.policy.load();
        let volumes: Vec<Value> = self
            .store
            .volumes
            .iter()
            .map(|volume| json!({ "name": volume.name, "usable": volume.is_usable() }))
            .collect();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "role": self.fixed.role.name(),
            "profile": self.fixed.profile.name(),
            "bind_address": self.fixed.bind_address.to_string(),
            "encrypted_at_rest": true,
            "root_key_memory": self.store.keys.protection().name(),
            "ledger": {
                "usable": self.store.ledger.is_usable(),
                "records": totals.records,
                "open_operations": totals.open_intents,
                "checkpoint": checkpoint.unverified().size,
                "epoch": checkpoint.unverified().epoch,
                "mirror": {
                    "keeps_up": self.store.ledger.mirror_keeps_up(),
                    "lag_groups": self.store.ledger.mirror_lag(),
                },
                "time_hold": time_hold.map(|hold| hold.to_string()),
            },
            "files": totals.files,
            "stored_bytes": totals.stored_bytes,
            "volumes": volumes,
            "edges": policy.book().edges.len(),
            "cohorts": policy.book().cohorts.len(),
            "users": policy.book().users.len(),
            "transfers": self.store.metrics.transfers.get(),
            "free_transfer_slots": self.store.buffers.free_slots(),
            "lockdown": self.lockdown,
        }))
    }

    async fn unknown(&self, caller: Caller, verb: &str) -> Result<Value, AdminError> {
        let shown: String = verb.chars().take(64).filter(|c| !c.is_control()).collect();
        self.record(Action::AdminRefused, Ending::Denied, caller, format!("unknown verb {shown}")).await?;
        Err(AdminError::unknown_verb(verb))
    }
}

/// What an auditor may ask: it changes nothing, and shows no file.
const AUDITOR_VERBS: &[&str] = &[
    "access.list",
    "audit.trail",
    "backup.status",
    "capability.key",
    "capability.list",
    "cleanup.list",
    "cohort.list",
    "edge.list",
    "hold.list",
    "integrity.verify",
    "kek.status",
    "ledger.checkpoint",
    "ledger.verify",
    "report.audit",
    "request.trace",
    "shred.certificate",
    "shred.list",
    "status",
    "token.list",
    "usage",
    "user.list",
    "volume.list",
];

impl Admin {
    /// Root, `admin_users` and storaged's own user may everything; `auditor_users` what they need to judge it.
    fn may(&self, caller: Caller, verb: &str) -> bool {
        let auditor = caller.uid != 0 && self.fixed.auditor_users.iter().any(|user| user.uid == caller.uid);
        !auditor || AUDITOR_VERBS.contains(&verb)
    }

    async fn forbidden(&self, caller: Caller, verb: &str) -> Result<Value, AdminError> {
        let shown: String = verb.chars().take(64).filter(|c| !c.is_control()).collect();
        let detail = format!("an auditor may not {shown}");
        self.record(Action::AdminRefused, Ending::Denied, caller, detail).await?;
        Err(AdminError::new("forbidden", "an auditor looks and changes nothing: this is for admin_users"))
    }
}

impl Handler for Admin {
    /// Recorded like other strangers: the first of a minute each, the rest as a number.
    fn refused(&self, caller: Caller) -> BoxFuture<'_, ()> {
        Box::pin(self.store.refuse_stranger(Denial::AdminCaller, false, origin(caller)))
    }

    fn handle<'a>(
        &'a self,
        caller: Caller,
        verb: &'a str,
        args: Value,
        descriptors: Vec<OwnedFd>,
        out: &'a mut Replies,
    ) -> BoxFuture<'a, Result<Value, AdminError>> {
        Box::pin(async move {
            if !self.may(caller, verb) {
                return self.forbidden(caller, verb).await;
            }
            match verb {
                "audit.trail" => self.trail(caller, args, out).await,
                "backup.kept" => self.backup_kept(caller, args).await,
                "backup.make" => self.backup_make(caller, args, descriptors, out).await,
                "backup.status" => self.backup_status(caller, out).await,
                "backup.verified" => self.backup_verified(caller, args).await,
                "cleanup.emergency" => self.cleanup_emergency(caller, args, out).await,
                "cleanup.list" => self.cleanup_list(caller, args, out).await,
                "cleanup.mark" => self.cleanup_mark(caller, args).await,
                "cleanup.verify" => self.cleanup_verify(caller, out).await,
                "upload.cancel" => self.upload_cancel(caller, args).await,
                "upload.list" => self.upload_list(caller, out).await,
                "upload.show" => self.upload_show(caller, args).await,
                "request.trace" => self.request_trace(caller, args, out).await,
                "usage" => self.usage(caller, out).await,
                "volume.list" => self.volume_list(caller, out).await,
                "volume.set_aside" => self.volume_set_aside(caller, args).await,
                "volume.unclaimed" => self.volume_unclaimed(caller, out).await,
                "hold.list" => self.hold_list(caller, out).await,
                "hold.place" => self.hold_place(caller, args).await,
                "hold.release" => self.hold_release(caller, args).await,
                "shred.certificate" => self.shred_certificate(caller, args).await,
                "shred.file" => self.shred_file(caller, args).await,
                "shred.list" => self.shred_list(caller, out).await,
                "report.audit" => self.report_audit(caller, args, out).await,
                "report.store" => self.report_store(caller, args).await,
                "integrity.verify" => self.integrity_verify(caller, args, out).await,
                "kek.rotate" => self.kek_rotate(caller, args).await,
                "kek.rotate_root" => self.kek_rotate_root(caller, args, descriptors).await,
                "kek.shred" => self.kek_shred(caller).await,
                "kek.status" => self.kek_status(caller).await,
                "ledger.checkpoint" => self.ledger_checkpoint(caller).await,
                "ledger.confirm-time" => self.ledger_confirm_time(caller).await,
                "ledger.verify" => self.ledger_verify(caller, args, out).await,
                "reload" => self.reload(caller, args, descriptors).await,
                "status" => self.status(caller).await,
                _ => match self.access(caller, verb, &args, out).await {
                    Some(result) => result,
                    None => self.unknown(caller, verb).await,
                },
            }
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrailArgs {
    cohort: Option<String>,
    days: Option<u64>,
    user: Option<String>,
    action: Option<String>,
    file: Option<String>,
    request: Option<String>,
    /// The WireGuard public key of the peer.
    peer: Option<String>,
    limit: Option<usize>,
}

impl TrailArgs {
    fn understand(args: Value, now_ms: u64) -> Result<Question, AdminError> {
        let bad = |what: &str, error: &dyn std::fmt::Display| {
            AdminError::new("bad-argument", format!("{what}: {error}"))
        };
        let args: Option<TrailArgs> = serde_json::from_value(args).map_err(|error| bad("args", &error))?;
        let args = args.unwrap_or_default();
        let cohort = args.cohort.map(|cohort| Cohort::parse(&cohort)).transpose();
        let user = args.user.map(|user| UserName::parse(&user)).transpose();
        let action = match args.action {
            None => None,
            Some(name) => {
                Some(Action::parse(&name).ok_or_else(|| bad("action", &format!("there is no {name:?}")))?)
            }
        };
        let file = args.file.map(|file| FileId::parse(&file)).transpose();
        let request = args.request.map(|request| RequestId::parse(&request)).transpose();
        if args.days.is_some_and(|days| days > TRAIL_DAYS) {
            return Err(bad("days", &format!("at most {TRAIL_DAYS}")));
        }
        Ok(Question {
            cohort: cohort.map_err(|error| bad("cohort", &error))?,
            user: user.map_err(|error| bad("user", &error))?,
            action,
            file: file.map_err(|error| bad("file", &error))?,
            request: request.map_err(|error| bad("request", &error))?,
            peer_public_key: args.peer,
            until_ms: None,
            since_ms: args.days.map(|days| now_ms.saturating_sub(days * 86_400_000)),
            limit: Some(args.limit.unwrap_or(TRAIL_RECORDS).min(TRAIL_RECORDS)),
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceArgs {
    request: String,
    days: Option<u64>,
}

/// `files`: what each descriptor is, in their order: the configuration first, then each secret with its
/// `reference` in the configuration. Without it: the configuration, the internal key, the next internal key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReloadArgs {
    files: Vec<HandedFile>,
}

/// What `culvert reload` says about a descriptor.
#[derive(Debug, Deserialize)]
struct HandedFile {
    path: String,
    #[serde(default)]
    reference: String,
}

/// Keys from descriptors.
#[derive(Debug)]
struct HandedIn {
    names: VecDeque<String>,
    files: VecDeque<File>,
}

impl KeySource for HandedIn {
    fn read(&mut self, reference: &str) -> Result<SecretString, String> {
        let file = self.take(reference)?;
        private(Path::new(reference), &file)?;
        SecretString::from_reader(Path::new(reference), file).map_err(|error| error.to_string())
    }

    fn read_public(&mut self, reference: &str, most: u64) -> Result<String, String> {
        let file = self.take(reference)?;
        daemon::config::read_trusted(Path::new(reference), file, most).map_err(|error| error.to_string())
    }
}

impl HandedIn {
    fn take(&mut self, reference: &str) -> Result<File, String> {
        let at = if self.names.is_empty() {
            Some(0)
        } else {
            self.names.iter().position(|name| name == reference)
        };
        let file = at.and_then(|at| {
            self.names.remove(at);
            self.files.remove(at)
        });
        file.ok_or_else(|| format!("no descriptor was handed in for {reference}"))
    }
}

fn origin(caller: Caller) -> Origin {
    Origin { caller: Some(format!("uid={} pid={}", caller.uid, caller.pid)), ..Origin::default() }
}

fn trail_item(record: &Record) -> Value {
    let mut item = serde_json::to_value(record).expect("records are JSON");
    if let Some(object) = item.as_object_mut() {
        object.insert("time".to_owned(), tables::rfc3339(record.time_ms).into());
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trail_arguments_are_checked() {
        let ask = |args| TrailArgs::understand(args, 10 * 86_400_000);
        assert_eq!(ask(json!({"days": 3})).unwrap().since_ms, Some(7 * 86_400_000));
        assert_eq!(ask(Value::Null).unwrap().limit, Some(TRAIL_RECORDS));
        assert_eq!(ask(json!({"limit": 5, "action": "nas_raw_created"})).unwrap().limit, Some(5));
        for bad in [
            json!({"cohort": "../x"}),
            json!({"action": "x"}),
            json!({"days": 99_999_999_u64}),
            json!({"x": 1}),
        ] {
            assert!(ask(bad.clone()).is_err(), "{bad}");
        }
    }
}
