//! Area *deletion*: a file leaves the store, and what is left is the proof of it.
//!
//! **Invariant:** in this order, each durable before the next: the decision (no hold stands, retention is
//! over) with which the file is out of sight; its keys destroyed; its objects looked for and found gone; a
//! shred, after which no copy of the keys opens it. A crash in between is taken up where it stopped: the row
//! here is written with the decision and says how far it came. Nothing is deleted because time passed.
//!
//! What is recorded here outlives the file's keys, so it names the file by its id alone.

use serde::{Deserialize, Serialize};
use store_proto::{Cohort, FileId};

use crate::keys::KeyChange;
use crate::ledger::application::Application;
use crate::ledger::cleanup::{self, CleanupKind, Temporary};
use crate::ledger::command::Area;
use crate::ledger::files::{self, FileRow};
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::CorruptError;
use crate::ledger::{access, hold, integrity};
use crate::limits::{CLEANUP_GRACE_MS, DELETION_REASON_BYTES};

/// File id → its deletion.
pub const DELETIONS: StateTable<DeletionRow> = StateTable::new("deletions");
/// File id → nothing more: the deletions that are not at their end.
pub const UNFINISHED: StateTable<FileId> = StateTable::new("deletions_unfinished");

/// A deletion, and how far it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletionRow {
    /// The file's objects, and who looks for each.
    pub cleanups: Vec<u64>,
    /// Whose it was.
    pub cohort: Cohort,
    /// When the file came.
    pub created_ms: u64,
    /// When it was decided.
    pub decided_ms: u64,
    /// By whom: a user's name, or `uid=…` of an operator.
    pub deleted_by: String,
    /// The record of its arrival.
    pub arrival: u64,
    /// The record of the decision.
    pub intent: u64,
    /// The file's objects.
    pub objects: Vec<DeletedObject>,
    /// Why, in their words.
    pub reason: String,
    /// The file's length.
    pub size: u64,
    /// How far it came.
    pub step: Step,
    /// The row's version.
    pub v: u32,
}

/// An object of a deleted file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletedObject {
    /// Its name.
    pub object: FileId,
    /// Its bytes.
    pub sealed_size: u64,
    /// Where it lay.
    pub volume: FileId,
}

/// How far a deletion came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step", deny_unknown_fields)]
pub enum Step {
    /// The file is out of sight.
    Decided,
    /// Its keys are destroyed.
    KeysDestroyed {
        /// When.
        at_ms: u64,
        /// The record.
        record: u64,
    },
    /// Its objects were looked for and found gone.
    ObjectsGone {
        /// When its keys were destroyed.
        keys_destroyed_ms: u64,
        /// When the last object was found gone.
        at_ms: u64,
        /// The record.
        record: u64,
    },
    /// No copy of the keys opens it.
    Final {
        /// When its keys were destroyed.
        keys_destroyed_ms: u64,
        /// When the last object was found gone.
        objects_gone_ms: u64,
        /// When the shred was done.
        at_ms: u64,
        /// The epoch of the keys that began with it.
        key_epoch: u64,
        /// The record.
        record: u64,
    },
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// Decide it: from here on the file is out of sight.
    Decide {
        /// Who asked.
        origin: Origin,
        /// Which.
        file_id: FileId,
        /// Why.
        reason: String,
        /// For how long its cohort's files stay, as policy says at this moment.
        retention_days: Option<u32>,
    },
    /// Destroy its keys.
    DestroyKeys {
        /// Which.
        file_id: FileId,
    },
    /// Its objects are gone, say their cleanups.
    ObjectsGone {
        /// Which.
        file_id: FileId,
    },
    /// A shred is done: it makes these deletions final.
    Shredded {
        /// Who asked.
        origin: Origin,
        /// The epoch of the keys that began with it.
        key_epoch: u64,
        /// Keys that live and were wrapped anew.
        survivors: u64,
        /// The files whose keys were destroyed before it began.
        files: Vec<FileId>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on, or is done: where it stands now.
    At(Box<DeletionRow>),
    /// A hold stands: this one.
    Held(u64),
    /// The file is too young.
    Retained {
        /// Until then.
        until_ms: u64,
    },
    /// So many deletions are final.
    Finalized(u64),
    /// There is no such file.
    UnknownFile,
    /// Not all of its objects are gone.
    ObjectsLeft,
}

impl Area for Command {
    fn waits_for_mirror(&self) -> bool {
        true
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Decide { origin, file_id, reason, retention_days } => {
                decide(app, origin, file_id, &reason, retention_days)
            }
            Command::DestroyKeys { file_id } => destroy_keys(app, file_id),
            Command::ObjectsGone { file_id } => objects_gone(app, file_id),
            Command::Shredded { origin, key_epoch, survivors, files } => {
                shredded(app, origin, key_epoch, survivors, &files)
            }
        }
    }
}

/// A deletion.
pub fn find(view: &impl View, file_id: FileId) -> Result<Option<DeletionRow>, CorruptError> {
    view.get(&DELETIONS, file_id.as_bytes())
}

/// The deletions that are not at their end, at most `limit`, from behind `after`.
pub fn unfinished(
    view: &impl View,
    after: Option<FileId>,
    limit: usize,
) -> Result<Vec<(FileId, DeletionRow)>, CorruptError> {
    let after = after.map(|file| file.as_bytes().to_vec());
    let rows = view.scan(&UNFINISHED, &[], after.as_deref(), limit)?;
    rows.into_iter()
        .map(|(_, file)| {
            let row = find(view, file)?;
            row.map(|row| (file, row))
                .ok_or_else(|| CorruptError::Row(format!("deletion of {file} has no row")))
        })
        .collect()
}

fn decide(
    app: &mut Application<'_, '_>,
    origin: Origin,
    file_id: FileId,
    reason: &str,
    retention_days: Option<u32>,
) -> Result<Outcome, CorruptError> {
    if let Some(row) = find(app, file_id)? {
        return Ok(Outcome::At(Box::new(row)));
    }
    let Some(file) = files::find(app, file_id)? else { return Ok(Outcome::UnknownFile) };
    if let Some(hold) = hold::on_file(app, file_id, &file.cohort)? {
        return Ok(Outcome::Held(hold));
    }
    let promised = access::retained_days(app, &file.cohort, file.created_ms)?;
    let until_ms = retained_until_ms(&file, retention_days.max(promised));
    if app.now_ms() < until_ms {
        return Ok(Outcome::Retained { until_ms });
    }
    let reason = reason[..reason.floor_char_boundary(DELETION_REASON_BYTES)].to_owned();
    let deleted_by = origin.user.as_ref().map(ToString::to_string);
    let deleted_by = deleted_by.or_else(|| origin.caller.clone()).unwrap_or_else(|| "system".to_owned());
    let mut record = app.record(Action::NasRawDeleted, Phase::Intent, origin);
    record.cohort = Some(file.cohort.clone());
    record.file_id = Some(file_id);
    record.size = Some(file.size);
    record.detail = Some(reason.clone());
    let decided_ms = record.time_ms;
    let intent = app.append_lasting(record)?;
    files::forget(app, &file)?;
    integrity::forget(app, &file)?;
    let row = DeletionRow {
        cleanups: Vec::new(),
        cohort: file.cohort,
        created_ms: file.created_ms,
        decided_ms,
        deleted_by,
        arrival: file.ledger_index,
        intent,
        objects: file
            .parts
            .iter()
            .map(|part| DeletedObject {
                object: part.object,
                sealed_size: part.sealed_size,
                volume: part.volume,
            })
            .collect(),
        reason,
        size: file.size,
        step: Step::Decided,
        v: 1,
    };
    app.put(&UNFINISHED, file_id.as_bytes(), &file_id)?;
    write(app, file_id, row)
}

fn destroy_keys(app: &mut Application<'_, '_>, file_id: FileId) -> Result<Outcome, CorruptError> {
    let Some(mut row) = find(app, file_id)? else { return Ok(Outcome::UnknownFile) };
    if row.step != Step::Decided {
        return Ok(Outcome::At(Box::new(row)));
    }
    app.destroy_keys(KeyChange::Destroy { file: file_id });
    let mut record = app.record(Action::KeyDestroyed, Phase::Outcome, Origin::default());
    record.ending = Some(Ending::Succeeded);
    record.intent = Some(row.intent);
    record.cohort = Some(row.cohort.clone());
    record.file_id = Some(file_id);
    let at_ms = record.time_ms;
    let record = app.append_lasting(record)?;
    for object in row.objects.clone() {
        let temporary = Temporary {
            kind: CleanupKind::DeletedObject,
            cohort: Some(row.cohort.clone()),
            file_id,
            object: object.object,
            volume: object.volume,
            expected_by_ms: at_ms.saturating_add(CLEANUP_GRACE_MS),
        };
        row.cleanups.push(cleanup::require(app, Origin::default(), temporary)?);
    }
    row.step = Step::KeysDestroyed { at_ms, record };
    write(app, file_id, row)
}

fn objects_gone(app: &mut Application<'_, '_>, file_id: FileId) -> Result<Outcome, CorruptError> {
    let Some(mut row) = find(app, file_id)? else { return Ok(Outcome::UnknownFile) };
    let Step::KeysDestroyed { at_ms: keys_destroyed_ms, .. } = row.step else {
        return Ok(Outcome::At(Box::new(row)));
    };
    for id in &row.cleanups {
        if cleanup::find(app, *id)?.is_none_or(|cleanup| cleanup.cleaned_up.is_none()) {
            return Ok(Outcome::ObjectsLeft);
        }
    }
    for object in &row.objects {
        files::release_object(app, object.object)?;
    }
    let mut record = app.record(Action::NasRawDeleted, Phase::Outcome, Origin::default());
    record.ending = Some(Ending::Succeeded);
    record.intent = Some(row.intent);
    record.cohort = Some(row.cohort.clone());
    record.file_id = Some(file_id);
    record.size = Some(row.size);
    record.detail = Some(format!("{} objects found gone", row.objects.len()));
    let at_ms = record.time_ms;
    let record = app.append_lasting(record)?;
    row.step = Step::ObjectsGone { keys_destroyed_ms, at_ms, record };
    write(app, file_id, row)
}

fn shredded(
    app: &mut Application<'_, '_>,
    origin: Origin,
    key_epoch: u64,
    survivors: u64,
    files: &[FileId],
) -> Result<Outcome, CorruptError> {
    let mut record = app.record(Action::KeyDestroyed, Phase::Outcome, origin);
    record.ending = Some(Ending::Succeeded);
    record.detail =
        Some(format!("key epoch {key_epoch}: {} files final, {survivors} keys wrapped anew", files.len()));
    let at_ms = record.time_ms;
    let record = app.append_lasting(record)?;
    let mut finalized = 0;
    for file_id in files {
        let Some(mut row) = find(app, *file_id)? else { continue };
        let Step::ObjectsGone { keys_destroyed_ms, at_ms: objects_gone_ms, .. } = row.step else { continue };
        row.step = Step::Final { keys_destroyed_ms, objects_gone_ms, at_ms, key_epoch, record };
        app.put(&DELETIONS, file_id.as_bytes(), &row)?;
        app.delete(&UNFINISHED, file_id.as_bytes())?;
        finalized += 1;
    }
    Ok(Outcome::Finalized(finalized))
}

/// Retention is a minimum: before it is over nothing is deleted, and after it nothing is deleted by itself.
fn retained_until_ms(file: &FileRow, retention_days: Option<u32>) -> u64 {
    retention_days.map_or(0, |days| file.created_ms.saturating_add(u64::from(days) * 86_400_000))
}

fn write(app: &mut Application<'_, '_>, file_id: FileId, row: DeletionRow) -> Result<Outcome, CorruptError> {
    app.put(&DELETIONS, file_id.as_bytes(), &row)?;
    Ok(Outcome::At(Box::new(row)))
}
