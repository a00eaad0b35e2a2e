//! Area *backup*: which backups were made, and which of them are known to be good.
//!
//! **Invariant:** a backup stands here after its file was durable under its name; it is called verified only by its own
//! id, after somebody has restored and checked it.

use serde::{Deserialize, Serialize};
use store_proto::{ContentDigest, FileId};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::CorruptError;
use crate::limits::BACKUPS_REMEMBERED;

/// Backup id → what it holds.
pub const BACKUPS: StateTable<BackupRow> = StateTable::new("backups");

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRow {
    /// The bytes of its file.
    pub bytes: u64,
    /// Groups of commands that it holds.
    pub group: u64,
    /// The epoch of the keys in it.
    pub keys_epoch: u64,
    /// When it was begun.
    pub made_ms: u64,
    /// For how many it is encrypted.
    pub recipients: u32,
    /// Records that it holds.
    pub records: u64,
    /// SHA-256 of its file.
    pub sha256: ContentDigest,
    /// The row's format.
    pub v: u32,
    /// When it was found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_ms: Option<u64>,
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// It is kept somewhere, durably.
    Kept {
        /// Who says so.
        origin: Origin,
        /// Its id.
        backup: FileId,
        /// What it holds.
        row: BackupRow,
    },
    /// It was restored, and all of it checked.
    Verified {
        /// Who says so.
        origin: Origin,
        /// Its id.
        backup: FileId,
        /// When.
        at_ms: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is recorded.
    Recorded(Box<BackupRow>),
    /// There is no such backup.
    Unknown,
}

impl Area for Command {}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Kept { origin, backup, row } => {
                forget_oldest(app)?;
                app.put(&BACKUPS, backup.as_bytes(), &row)?;
                let detail = format!(
                    "{backup}: {} records, {} groups, keys of epoch {}, {} bytes, SHA-256 {}",
                    row.records, row.group, row.keys_epoch, row.bytes, row.sha256
                );
                record(app, Action::AdminBackup, origin, detail)?;
                Ok(Outcome::Recorded(Box::new(row)))
            }
            Command::Verified { origin, backup, at_ms } => {
                let Some(mut row) = app.get(&BACKUPS, backup.as_bytes())? else {
                    return Ok(Outcome::Unknown);
                };
                row.verified_ms = Some(at_ms);
                app.put(&BACKUPS, backup.as_bytes(), &row)?;
                record(app, Action::AdminBackupVerified, origin, backup.to_string())?;
                Ok(Outcome::Recorded(Box::new(row)))
            }
        }
    }
}

fn record(
    app: &mut Application<'_, '_>,
    action: Action,
    origin: Origin,
    detail: String,
) -> Result<(), CorruptError> {
    let mut record = app.record(action, Phase::Outcome, origin);
    record.ending = Some(Ending::Succeeded);
    record.detail = Some(detail);
    app.append(record).map(drop)
}

fn forget_oldest(app: &mut Application<'_, '_>) -> Result<(), CorruptError> {
    let known = app.scan(&BACKUPS, &[], None, usize::MAX)?;
    if known.len() >= BACKUPS_REMEMBERED
        && let Some((key, _)) = known.iter().min_by_key(|(_, row)| row.made_ms)
    {
        app.delete(&BACKUPS, key)?;
    }
    Ok(())
}

/// The backups that are remembered, the newest first.
pub fn all(view: &impl View) -> Result<Vec<(FileId, BackupRow)>, CorruptError> {
    let mut all = Vec::new();
    for (key, row) in view.scan(&BACKUPS, &[], None, usize::MAX)? {
        let id = key.try_into().map(FileId::from_bytes);
        all.push((id.map_err(|_| CorruptError::Row("the key of a backup".into()))?, row));
    }
    all.sort_by_key(|(_, row)| std::cmp::Reverse(row.made_ms));
    Ok(all)
}
