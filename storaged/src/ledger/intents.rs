//! Operations that have begun and not ended, and area *intent*: ending what a dead process left open.
//!
//! **Invariant:** an intent is open if and only if no outcome names it; it is closed by the area that
//! opened it, or at the next start.

use serde::{Deserialize, Serialize};
use store_proto::{Attributes, Cohort, ContentDigest, FileId, FileType, LogicalPath};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Origin, Phase, Record};
use crate::ledger::repeat::Blinded;
use crate::ledger::state::{StateTable, View};
use crate::ledger::subject::Subject;
use crate::ledger::tables::CorruptError;
use crate::ledger::{download, partial, upload};

/// Index of the intent's record, big-endian → what was begun.
pub const INTENTS: StateTable<IntentRow> = StateTable::new("intents");

/// An operation that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentRow {
    /// What is said of the file beside name and type.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// What is being written, and would be left by a crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// The cohort.
    pub cohort: Cohort,
    /// What becomes a file.
    #[serde(default, skip_serializing_if = "Content::is_raw")]
    pub content: Content,
    /// The file.
    pub file_id: FileId,
    /// Its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// What its sender called the request, blinded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Blinded>,
    /// What is being done.
    pub kind: IntentKind,
    /// Who asked.
    pub origin: Origin,
    /// The file's name.
    pub path: LogicalPath,
    /// The content that an upload replaces by a new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ContentDigest>,
    /// Bytes of the cohort's quota that it holds.
    pub reserved_bytes: u64,
    /// Whether the file will be held for a scanner.
    pub scan_required: bool,
    /// The upload that resumes, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<FileId>,
    /// The row's version.
    pub v: u32,
}

/// What becomes a file, which is what its records are called by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// What a sender brings.
    #[default]
    Raw,
    /// A DuckDB file, which a worker made of others.
    Duckdb,
    /// A report that a worker brings.
    SentReport,
    /// A report that storaged made of its own records.
    Report,
}

impl Content {
    /// What a sender brings, by its type: `duckdb` and `report`, or what begins with these and `_`.
    pub fn brought(file_type: Option<&FileType>) -> Content {
        let kind = file_type.and_then(|named| named.as_str().split('_').next());
        match kind {
            Some("duckdb") => Content::Duckdb,
            Some("report") => Content::SentReport,
            Some(_) | None => Content::Raw,
        }
    }

    fn is_raw(&self) -> bool {
        *self == Content::Raw
    }

    /// What says that the file is here.
    pub fn created(self) -> Action {
        match self {
            Content::Raw => Action::NasRawCreated,
            Content::Duckdb => Action::NasDuckdbCreated,
            Content::SentReport | Content::Report => Action::NasReportCreated,
        }
    }

    /// What says that it is on its way, and that it did not arrive. What storaged made comes from no edge.
    pub fn arriving(self) -> Action {
        match self {
            Content::Raw | Content::Duckdb | Content::SentReport => Action::FileUploadedViaStream,
            Content::Report => Action::NasReportCreated,
        }
    }
}

/// An object that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The object.
    pub object: FileId,
    /// The number of the part that it will be, and the slot of its key.
    pub part: u32,
    /// Where it is written.
    pub volume: FileId,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentKind {
    /// A file is being written, in one stretch.
    Upload,
    /// A file is being written in stretches, over starts too: [`partial`] ends it.
    Partial,
    /// A file is being read.
    Download,
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// A process died in the midst of this; what it left on the volume is gone.
    CloseCrashed {
        /// The open intent.
        intent: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Closed; the index of its last record.
    Closed(u64),
    /// It can be resumed; only the stretch that was being written is given up.
    Resumable,
    /// There is no such open intent.
    UnknownIntent,
}

impl Area for Command {}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        let Command::CloseCrashed { intent } = self;
        let Some(row) = app.get(&INTENTS, &intent.to_be_bytes())? else { return Ok(Outcome::UnknownIntent) };
        let error = "crash".to_owned();
        if row.kind == IntentKind::Partial {
            return partial::crashed(app, intent, &row);
        }
        app.delete(&INTENTS, &intent.to_be_bytes())?;
        let index = match row.kind {
            IntentKind::Partial | IntentKind::Upload => {
                let objects = upload::Objects::Gone;
                let closing =
                    upload::Closing { ending: Ending::Failed, error, received: None, objects, instead: None };
                upload::close(app, intent, &row, closing)?
            }
            IntentKind::Download => download::close(app, intent, &row, Ending::Failed, Some(error), None)?,
        };
        Ok(Outcome::Closed(index))
    }
}

/// Appends the intent's record and opens it.
pub(crate) fn open(
    app: &mut Application<'_, '_>,
    action: Action,
    row: &IntentRow,
    detail: Option<String>,
) -> Result<u64, CorruptError> {
    let mut record = about(app, action, Phase::Intent, row);
    record.detail = detail;
    let index = app.append(record)?;
    app.put(&INTENTS, &index.to_be_bytes(), row)?;
    Ok(index)
}

/// Replaces the row of an open intent.
pub(crate) fn change(app: &mut Application<'_, '_>, index: u64, row: &IntentRow) -> Result<(), CorruptError> {
    app.put(&INTENTS, &index.to_be_bytes(), row)
}

/// An open intent of this kind.
pub(crate) fn find(
    view: &impl View,
    index: u64,
    kind: IntentKind,
) -> Result<Option<IntentRow>, CorruptError> {
    Ok(view.get(&INTENTS, &index.to_be_bytes())?.filter(|row| row.kind == kind))
}

/// Closes an open intent of this kind; the records of its end are the caller's to append.
pub(crate) fn take(
    app: &mut Application<'_, '_>,
    index: u64,
    kind: IntentKind,
) -> Result<Option<IntentRow>, CorruptError> {
    let row = find(app, index, kind)?;
    if row.is_some() {
        app.delete(&INTENTS, &index.to_be_bytes())?;
    }
    Ok(row)
}

/// A record about the intent's file.
pub(crate) fn about(app: &Application<'_, '_>, action: Action, phase: Phase, row: &IntentRow) -> Record {
    let mut record = app.record(action, phase, row.origin.clone());
    record.cohort = Some(row.cohort.clone());
    record.path = Some(row.path.clone());
    record.file_id = Some(row.file_id);
    record.file_type = row.file_type.clone();
    record.subject_ref = row.upload.map(Subject::Upload).map(String::from);
    record
}
