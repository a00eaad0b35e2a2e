//! Area *cleanup*: temporary things on the volumes, and that they are gone.
//!
//! **Invariant:** whatever must not stay has a row here from the transaction that brought it about, until
//! somebody has looked and found it gone. `cleaned_up` is written with that evidence and the name of who
//! looked, and with nothing less; a deadline that passes changes no row, it makes it overdue.
//!
//! Requirements. The fields in records have the names given there.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store_proto::{Cohort, FileId, UserName};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Origin, Phase, Record};
use crate::ledger::state::{StateTable, View};
use crate::ledger::subject::Subject;
use crate::ledger::tables::{CorruptError, rfc3339};
use crate::limits::{CLEANUP_ERROR_BYTES, CLEANUP_RETRY_FIRST_MS, CLEANUP_RETRY_LAST_MS};

/// Id, big-endian → the cleanup.
pub const CLEANUPS: StateTable<CleanupRow> = StateTable::new("cleanups");
/// Deadline ‖ id, both big-endian → the id: the cleanups that are not done, the most urgent first.
pub const PENDING: StateTable<u64> = StateTable::new("cleanups_pending");

/// Something that must go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CleanupRow {
    /// How often somebody has tried.
    pub attempted_count: u32,
    /// The evidence that it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleaned_up: Option<CleanedUp>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<Cohort>,
    /// When it must be gone.
    pub expected_by_ms: u64,
    /// The file it was to become or has been.
    pub file_id: FileId,
    /// What it is.
    pub kind: CleanupKind,
    /// What stood in the way the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When the next attempt is due.
    pub next_attempt_ms: u64,
    /// Its name on the volume.
    pub object: FileId,
    /// When it was asked for.
    pub required_ms: u64,
    /// The row's version.
    pub v: u32,
    /// Where it lies.
    pub volume: FileId,
}

/// What must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CleanupKind {
    /// An object of an upload that became no file.
    UnfinishedObject,
    /// An object of a file that was deleted.
    DeletedObject,
    /// A copy of a file that was handed out for work.
    WorkCopy,
}

impl CleanupKind {
    /// The word on disk and for people.
    pub fn name(self) -> &'static str {
        match self {
            CleanupKind::UnfinishedObject => "unfinished_object",
            CleanupKind::DeletedObject => "deleted_object",
            CleanupKind::WorkCopy => "work_copy",
        }
    }

    /// The action that says it is gone.
    fn action(self) -> Action {
        match self {
            CleanupKind::UnfinishedObject | CleanupKind::DeletedObject => Action::ScratchCleanup,
            CleanupKind::WorkCopy => Action::WorkCopyDeleted,
        }
    }
}

/// That it is gone: seen by somebody, at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CleanedUp {
    /// When it was found gone.
    pub at_ms: u64,
    /// What was looked at.
    pub evidence: Evidence,
    /// Who looked.
    pub verified_by: Verifier,
}

/// What was looked at, on the volume that holds the marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Neither the object nor its temporary is there under its name.
    AbsentByName,
}

/// Who looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verifier {
    /// storaged itself.
    System,
    /// An operator, as `uid=…`.
    Operator(String),
    /// A user.
    User(UserName),
}

impl Verifier {
    /// For people and records.
    pub fn name(&self) -> String {
        match self {
            Verifier::System => "system".to_owned(),
            Verifier::Operator(caller) => caller.clone(),
            Verifier::User(user) => user.to_string(),
        }
    }
}

/// A record's word on a cleanup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// Which: the index of the record that asked for it.
    pub cleanup: u64,
    /// How often somebody has tried.
    pub cleanup_attempted_count: u32,
    /// Always so, while there is a row.
    pub cleanup_required: bool,
    /// Who found it gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup_verified_by: Option<String>,
    /// Whether it is gone.
    pub cleaned_up: bool,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleaned_up_at_ms: Option<u64>,
    /// When it must be gone, milliseconds since 1970.
    pub expected_cleanup_by_ms: u64,
    /// What it is.
    pub kind: CleanupKind,
}

impl CleanupRow {
    /// Its fields in a record.
    pub fn fields(&self, id: u64) -> Fields {
        Fields {
            cleanup: id,
            cleanup_attempted_count: self.attempted_count,
            cleanup_required: true,
            cleanup_verified_by: self.cleaned_up.as_ref().map(|done| done.verified_by.name()),
            cleaned_up: self.cleaned_up.is_some(),
            cleaned_up_at_ms: self.cleaned_up.as_ref().map(|done| done.at_ms),
            expected_cleanup_by_ms: self.expected_by_ms,
            kind: self.kind,
        }
    }

    /// As it is told to those who clean up.
    pub fn told(&self, id: u64, now_ms: u64) -> Value {
        json!({
            "id": id,
            "kind": self.kind.name(),
            "cohort": self.cohort,
            "file_id": self.file_id,
            "cleanup_required": true,
            "expected_cleanup_by": rfc3339(self.expected_by_ms),
            "overdue": self.is_overdue(now_ms),
            "cleanup_attempted_count": self.attempted_count,
            "last_error": self.last_error,
            "cleaned_up": self.cleaned_up.is_some(),
        })
    }

    /// Whether it should be gone and is not.
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        self.cleaned_up.is_none() && self.expected_by_ms < now_ms
    }
}

/// What must go, and by when.
#[derive(Debug, Clone)]
pub struct Temporary {
    /// What it is.
    pub kind: CleanupKind,
    /// Whose it is.
    pub cohort: Option<Cohort>,
    /// The file it was to become or has been.
    pub file_id: FileId,
    /// Its name on the volume.
    pub object: FileId,
    /// Where it lies.
    pub volume: FileId,
    /// When it must be gone.
    pub expected_by_ms: u64,
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// Something must go, from here on.
    Require {
        /// Who asked.
        origin: Origin,
        /// What, and by when.
        temporary: Temporary,
    },
    /// Something was tried and it is still there.
    Attempted {
        /// Which.
        id: u64,
        /// Who tried.
        origin: Origin,
        /// What stood in the way.
        error: String,
    },
    /// It is gone.
    Finish {
        /// Which.
        id: u64,
        /// Who asked.
        origin: Origin,
        /// What was looked at.
        evidence: Evidence,
        /// Who looked.
        verified_by: Verifier,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is asked for, under this id.
    Required(u64),
    /// The attempt is recorded; the next one is due then.
    Retry {
        /// Milliseconds since 1970.
        next_attempt_ms: u64,
    },
    /// It is marked as gone, under this record.
    Done(u64),
    /// It was marked before.
    AlreadyDone,
    /// There is no such cleanup.
    Unknown,
}

impl Area for Command {}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Require { origin, temporary } => require(app, origin, temporary).map(Outcome::Required),
            Command::Attempted { id, origin, error } => attempted(app, id, origin, error),
            Command::Finish { id, origin, evidence, verified_by } => {
                finish(app, id, origin, evidence, verified_by)
            }
        }
    }
}

/// Asks for a cleanup in the transaction that makes it needed, and says under which id.
pub(crate) fn require(
    app: &mut Application<'_, '_>,
    origin: Origin,
    temporary: Temporary,
) -> Result<u64, CorruptError> {
    let Temporary { kind, cohort, file_id, object, volume, expected_by_ms } = temporary;
    let row = CleanupRow {
        attempted_count: 0,
        cleaned_up: None,
        cohort,
        expected_by_ms,
        file_id,
        kind,
        last_error: None,
        next_attempt_ms: app.now_ms(),
        object,
        required_ms: app.now_ms(),
        v: 1,
        volume,
    };
    let id = app.next_index();
    let mut record = about(app, kind.action(), Phase::Intent, origin, (id, &row));
    record.cleanup = Some(row.fields(id));
    match kind {
        // The file's keys go with this very transaction.
        CleanupKind::DeletedObject => app.append_lasting(record)?,
        CleanupKind::UnfinishedObject | CleanupKind::WorkCopy => app.append(record)?,
    };
    app.put(&CLEANUPS, &id.to_be_bytes(), &row)?;
    app.put(&PENDING, &pending_key(expected_by_ms, id), &id)?;
    Ok(id)
}

/// The cleanups that are not done, the most urgent first.
pub fn pending(view: &impl View, limit: usize) -> Result<Vec<(u64, CleanupRow)>, CorruptError> {
    let ids = view.scan(&PENDING, &[], None, limit)?;
    ids.into_iter()
        .map(|(_, id)| {
            let row = find(view, id)?;
            row.map(|row| (id, row)).ok_or_else(|| CorruptError::Row(format!("cleanup {id} has no row")))
        })
        .collect()
}

/// One cleanup.
pub fn find(view: &impl View, id: u64) -> Result<Option<CleanupRow>, CorruptError> {
    view.get(&CLEANUPS, &id.to_be_bytes())
}

fn attempted(
    app: &mut Application<'_, '_>,
    id: u64,
    origin: Origin,
    mut error: String,
) -> Result<Outcome, CorruptError> {
    let Some(mut row) = find(app, id)? else { return Ok(Outcome::Unknown) };
    if row.cleaned_up.is_some() {
        return Ok(Outcome::AlreadyDone);
    }
    error.truncate(error.floor_char_boundary(CLEANUP_ERROR_BYTES));
    let pause = CLEANUP_RETRY_FIRST_MS << row.attempted_count.min(16);
    row.attempted_count = row.attempted_count.saturating_add(1);
    row.next_attempt_ms = app.now_ms().saturating_add(pause.min(CLEANUP_RETRY_LAST_MS));
    row.last_error = Some(error.clone());
    let mut record = about(app, row.kind.action(), Phase::Outcome, origin, (id, &row));
    record.intent = Some(id);
    record.ending = Some(Ending::Failed);
    record.error = Some(error);
    record.cleanup = Some(row.fields(id));
    app.append(record)?;
    app.put(&CLEANUPS, &id.to_be_bytes(), &row)?;
    Ok(Outcome::Retry { next_attempt_ms: row.next_attempt_ms })
}

fn finish(
    app: &mut Application<'_, '_>,
    id: u64,
    origin: Origin,
    evidence: Evidence,
    verified_by: Verifier,
) -> Result<Outcome, CorruptError> {
    let Some(mut row) = find(app, id)? else { return Ok(Outcome::Unknown) };
    if row.cleaned_up.is_some() {
        return Ok(Outcome::AlreadyDone);
    }
    row.cleaned_up = Some(CleanedUp { at_ms: app.now_ms(), evidence, verified_by });
    row.last_error = None;
    let mut record = about(app, row.kind.action(), Phase::Outcome, origin, (id, &row));
    record.intent = Some(id);
    record.ending = Some(Ending::Succeeded);
    record.cleanup = Some(row.fields(id));
    let index = app.append(record)?;
    app.put(&CLEANUPS, &id.to_be_bytes(), &row)?;
    app.delete(&PENDING, &pending_key(row.expected_by_ms, id))?;
    Ok(Outcome::Done(index))
}

fn about(
    app: &Application<'_, '_>,
    action: Action,
    phase: Phase,
    origin: Origin,
    (id, row): (u64, &CleanupRow),
) -> Record {
    let mut record = app.record(action, phase, origin);
    record.cohort.clone_from(&row.cohort);
    record.file_id = Some(row.file_id);
    record.subject_ref = Some(Subject::Cleanup(id).into());
    record
}

fn pending_key(expected_by_ms: u64, id: u64) -> Vec<u8> {
    [expected_by_ms.to_be_bytes(), id.to_be_bytes()].concat()
}
