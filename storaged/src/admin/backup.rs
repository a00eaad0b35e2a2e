//! The verbs about backups: `backup.make`, `backup.kept`, `backup.verified`, `backup.status`.
//!
//! **Invariant:** storaged writes into the descriptor that it is handed and opens nothing for it; a backup counts when
//! whoever keeps it says that its file is durable and has the hash that was written; the journal loses only what a
//! verified backup of today's keys holds.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::{ContentDigest, FileId};
use vault::age::Recipient;
use zeroize::Zeroizing;

use crate::admin::Admin;
use crate::admin::end_of_life::{by, parse, send, unavailable};
use crate::backup::Part;
use crate::backup::make::{Handed, Made, make};
use crate::keys::KeyStore;
use crate::ledger::backup::{self, BackupRow, Command, Outcome};
use crate::ledger::{Action, Ending, journal, tables};
use crate::limits::{BACKUP_FILE_BYTES, BACKUP_PROGRESS, BACKUP_RECIPIENTS, BACKUPS_PENDING};

/// Backups that were made and are not known to be kept.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<HashMap<FileId, BackupRow>>);

impl Pending {
    fn add(&self, id: FileId, row: BackupRow) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= BACKUPS_PENDING
            && let Some(oldest) = pending.iter().min_by_key(|(_, row)| row.made_ms).map(|(id, _)| *id)
        {
            pending.remove(&oldest);
        }
        pending.insert(id, row);
    }

    fn take(&self, id: FileId, sha256: ContentDigest) -> Option<BackupRow> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.get(&id).is_none_or(|row| row.sha256 != sha256) {
            return None;
        }
        pending.remove(&id)
    }
}

impl Admin {
    /// `backup.make`: the first descriptor is the file to write, the others are what goes into it.
    pub(super) async fn backup_make(
        &self,
        caller: Caller,
        args: Value,
        descriptors: Vec<OwnedFd>,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let MakeArgs { recipients, parts } = parse(args)?;
        let recipients = understand(&recipients)?;
        let mut files = descriptors.into_iter().map(File::from);
        let bad = |what: &str| AdminError::new("bad-argument", what);
        let to = files.next().ok_or_else(|| bad("the first descriptor is the file to write"))?;
        let files: Vec<File> = files.collect();
        if files.len() != parts.len() {
            return Err(bad("one descriptor for each part, behind the file to write"));
        }
        let handed = parts.iter().zip(files).map(|(name, file)| read_part(name, file));
        let handed = handed.collect::<Result<Vec<Handed>, AdminError>>()?;
        let Ok(_only_one) = self.backing_up.try_lock() else {
            return Err(AdminError::new("busy", "another backup is being made"));
        };
        let detail = format!("asked, for {} recipients", recipients.len());
        self.record(Action::AdminBackup, Ending::Succeeded, caller, detail).await?;
        let written = Arc::new(AtomicU64::new(0));
        let store = Arc::clone(&self.store);
        let (count, counted) = (recipients.len(), Arc::clone(&written));
        let mut making = tokio::task::spawn_blocking(move || {
            let now_ms = store.clock.unix_milliseconds();
            make(&store.ledger, &store.keys, &handed, &recipients, now_ms, to, &counted)
        });
        let made = loop {
            tokio::select! {
                made = &mut making => break made,
                () = tokio::time::sleep(BACKUP_PROGRESS) => {
                    // Whoever asked may be gone: then the file has lost its name, and the end is near.
                    let item = json!({ "bytes": written.load(Ordering::Relaxed) });
                    let _ = send(out, item).await;
                    let _ = out.flush().await;
                }
            }
        };
        let made =
            made.map_err(|lost| lost.to_string()).and_then(|made| made.map_err(|error| error.to_string()));
        let Made { head, bytes, sha256 } = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(error, "a backup was not made");
                self.record(Action::AdminBackup, Ending::Failed, caller, "not made".to_owned()).await?;
                return Err(AdminError::new("not-made", error));
            }
        };
        let row = BackupRow {
            bytes,
            group: head.group,
            keys_epoch: head.keys_epoch,
            made_ms: head.made_ms,
            recipients: u32::try_from(count).unwrap_or(u32::MAX),
            records: head.records,
            sha256,
            v: 1,
            verified_ms: None,
        };
        let told = item(head.backup_id, &row, self.store.keys.epoch());
        self.backups_pending.add(head.backup_id, row);
        Ok(json!({ "backup": told, "store": head.store_id, "checkpoint": head.checkpoint }))
    }

    /// `backup.kept`: its file is durable under its name, and was read again.
    pub(super) async fn backup_kept(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let KeptArgs { backup, sha256 } = parse(args)?;
        let row = self.backups_pending.take(backup, sha256).ok_or_else(|| {
            AdminError::new("unknown", format!("no backup {backup} with this hash was made since the start"))
        })?;
        let command = Command::Kept { origin: by(caller), backup, row };
        match self.store.ledger.submit(command).await.map_err(unavailable)? {
            Outcome::Recorded(row) => {
                self.store.metrics.operation(Action::AdminBackup, Ending::Succeeded, None);
                Ok(item(backup, &row, self.store.keys.epoch()))
            }
            Outcome::Unknown => unreachable!("what was just made is recorded"),
        }
    }

    /// `backup.verified`: somebody has restored it, and all of it was there. The journal may forget what it holds.
    pub(super) async fn backup_verified(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let VerifiedArgs { backup } = parse(args)?;
        let at_ms = self.store.clock.unix_milliseconds();
        let command = Command::Verified { origin: by(caller), backup, at_ms };
        let row = match self.store.ledger.submit(command).await.map_err(unavailable)? {
            Outcome::Recorded(row) => row,
            Outcome::Unknown => {
                return Err(AdminError::new("unknown", format!("this store knows no backup {backup}")));
            }
        };
        self.store.metrics.operation(Action::AdminBackupVerified, Ending::Succeeded, None);
        let mut told = item(backup, &row, self.store.keys.epoch());
        // An older copy of the keys does not open what came after: it covers nothing that a replay would need.
        let pruned = if row.keys_epoch == self.store.keys.epoch() { self.prune(row.group).await? } else { 0 };
        told["journal_files_removed"] = pruned.into();
        Ok(told)
    }

    async fn prune(&self, group: u64) -> Result<usize, AdminError> {
        let (directory, keys) = (self.fixed.journal_mirror.clone(), Arc::clone(&self.store.keys));
        let pruning = tokio::task::spawn_blocking(move || {
            let store = keys.store();
            journal::prune(&directory, store, keys as Arc<dyn KeyStore>, group)
        });
        let failed = |error: &dyn std::fmt::Display| AdminError::new("journal-unavailable", error);
        match tokio::time::timeout(crate::limits::IO_PATIENCE, pruning).await {
            Ok(Ok(Ok(removed))) => Ok(removed),
            Ok(Ok(Err(error))) => Err(failed(&error)),
            Ok(Err(lost)) => Err(failed(&lost)),
            Err(_) => Err(failed(&"the journal mirror does not answer")),
        }
    }

    /// `backup.status`: what is known of the backups, and whether the newest still serves.
    pub(super) async fn backup_status(&self, caller: Caller, out: &mut Replies) -> Result<Value, AdminError> {
        self.record(Action::AdminBackupStatus, Ending::Succeeded, caller, String::new()).await?;
        let reader = self.store.ledger.reader();
        let snapshot = reader.snapshot().map_err(unavailable)?;
        let known = backup::all(&snapshot).map_err(unavailable)?;
        let epoch = self.store.keys.epoch();
        for (id, row) in &known {
            send(out, item(*id, row, epoch)).await?;
        }
        let newest = known.first().map(|(_, row)| row);
        let now_ms = self.store.clock.unix_milliseconds();
        Ok(json!({
            "backups": known.len(),
            "store": self.store.keys.store(),
            "keys_epoch": epoch,
            "groups": snapshot.group().map_err(unavailable)?,
            "newest_age_seconds": newest.map(|row| now_ms.saturating_sub(row.made_ms) / 1000),
            "needed": needed(newest, epoch),
        }))
    }
}

/// Why a backup is to be made now, whatever the time.
fn needed(newest: Option<&BackupRow>, keys_epoch: u64) -> Option<&'static str> {
    match newest {
        None => Some("there is none"),
        Some(row) if row.keys_epoch != keys_epoch => Some(
            "the keys were shredded or given a new root key since the newest: it and the journal mirror do not bring back \
             what was stored after that",
        ),
        Some(_) => None,
    }
}

fn item(id: FileId, row: &BackupRow, keys_epoch: u64) -> Value {
    json!({
        "backup": id,
        "made": tables::rfc3339(row.made_ms),
        "made_ms": row.made_ms,
        "verified": row.verified_ms.map(tables::rfc3339),
        "records": row.records,
        "group": row.group,
        "bytes": row.bytes,
        "sha256": row.sha256,
        "recipients": row.recipients,
        "keys_epoch": row.keys_epoch,
        "keys_current": row.keys_epoch == keys_epoch,
    })
}

fn understand(recipients: &[String]) -> Result<Vec<Recipient>, AdminError> {
    let bad = |what: String| AdminError::new("bad-argument", what);
    if recipients.is_empty() || recipients.len() > BACKUP_RECIPIENTS {
        return Err(bad(format!("recipients: at least one, at most {BACKUP_RECIPIENTS}")));
    }
    // A text that is none may be a secret: it is not repeated.
    recipients.iter().map(|text| text.parse().map_err(|error| bad(format!("recipients: {error}")))).collect()
}

fn read_part(name: &str, file: File) -> Result<Handed, AdminError> {
    let bad = |what: String| AdminError::new("bad-argument", what);
    let part = match name {
        "storaged.toml" => Part::Config,
        "internal.key" => Part::InternalKey,
        "internal-next.key" => Part::NextInternalKey,
        "root-key.age" => Part::RecoveryFile,
        _other => {
            return Err(bad("parts: storaged.toml, internal.key, internal-next.key, root-key.age".into()));
        }
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let read = file.take(BACKUP_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| bad(format!("{name}: {error}")))?;
    if bytes.len() as u64 > BACKUP_FILE_BYTES {
        return Err(bad(format!("{name}: longer than {BACKUP_FILE_BYTES} bytes")));
    }
    Ok((part, bytes))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MakeArgs {
    /// `age1…`.
    recipients: Vec<String>,
    /// What the descriptors behind the first are.
    #[serde(default)]
    parts: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptArgs {
    backup: FileId,
    sha256: ContentDigest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifiedArgs {
    backup: FileId,
}
