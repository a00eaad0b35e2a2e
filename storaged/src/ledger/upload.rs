//! Area *upload*: a file comes in.
//!
//! **Invariant:** the intent is durable before the first byte is written; the file's row, its place in the
//! listing and its record come in one transaction, after the object is durable under its final name.

use store_proto::{Cohort, ContentDigest, FileId, FileType, LogicalPath};

use crate::keys::KeyChange;
use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::files::{self, FileRow, FileState};
use crate::ledger::intents::{self, IntentKind, IntentRow};
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::tables::CorruptError;

/// What is asked of this area.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "it moves through the queue once; a box is dearer than that")]
pub enum Command {
    /// An object is about to be written under `file_id`.
    Begin {
        /// Who asked.
        origin: Origin,
        /// Where it goes.
        cohort: Cohort,
        /// Under which name.
        path: LogicalPath,
        /// Its type.
        file_type: Option<FileType>,
        /// Its id.
        file_id: FileId,
        /// The volume that will hold it.
        volume: FileId,
        /// The file's record key, under which all that is about it is sealed.
        keys: Vec<KeyChange>,
    },
    /// The object is published and durable: make it a file.
    Finish {
        /// From `Begun`.
        intent: u64,
        /// Its length.
        size: u64,
        /// Its digest.
        sha256: ContentDigest,
    },
    /// Nothing of the object is left on the volume: close the intent.
    Abandon {
        /// From `Begun`.
        intent: u64,
        /// How it ended.
        ending: Ending,
        /// Why.
        error: String,
        /// Bytes that had arrived.
        received: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The intent stands under this index.
    Begun {
        /// The intent.
        intent: u64,
    },
    /// The file is part of the store.
    Stored(Box<FileRow>),
    /// Another file has the path. **The intent stays open** until the object is removed and the upload
    /// abandoned, so that a crash in between still finds the object.
    PathTaken(Box<FileRow>),
    /// Closed without a file; the index of the last record.
    Abandoned(u64),
    /// There is no such open intent.
    UnknownIntent,
}

impl Area for Command {
    fn new_keys(&self) -> &[KeyChange] {
        match self {
            Command::Begin { keys, .. } => keys,
            Command::Finish { .. } | Command::Abandon { .. } => &[],
        }
    }

    /// A sender who is told that the file is stored, or that the path holds it already, may delete his own.
    fn waits_for_mirror(&self) -> bool {
        match self {
            Command::Finish { .. } | Command::Abandon { .. } => true,
            Command::Begin { .. } => false,
        }
    }

    fn leads_to_waiting(&self) -> bool {
        matches!(self, Command::Begin { .. })
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Begin { origin, cohort, path, file_type, file_id, volume, keys: _ } => {
                let kind = IntentKind::Upload;
                let row = IntentRow { cohort, file_id, file_type, kind, origin, path, v: 1, volume };
                let intent = intents::open(app, Action::FileUploadedViaStream, &row, None)?;
                Ok(Outcome::Begun { intent })
            }
            Command::Finish { intent, size, sha256 } => finish(app, intent, size, sha256),
            Command::Abandon { intent, ending, error, received } => {
                let Some(row) = intents::take(app, intent, IntentKind::Upload)? else {
                    return Ok(Outcome::UnknownIntent);
                };
                close(app, intent, &row, ending, error, Some(received)).map(Outcome::Abandoned)
            }
        }
    }
}

fn finish(
    app: &mut Application<'_, '_>,
    intent: u64,
    size: u64,
    sha256: ContentDigest,
) -> Result<Outcome, CorruptError> {
    let Some(row) = intents::find(app, intent, IntentKind::Upload)? else {
        return Ok(Outcome::UnknownIntent);
    };
    if let Some(existing) = files::at(app, &row.cohort, &row.path)? {
        return Ok(Outcome::PathTaken(Box::new(existing)));
    }
    if files::find(app, row.file_id)?.is_some() {
        return Err(CorruptError::Row(format!("file {} is stored and has an open intent", row.file_id)));
    }
    intents::take(app, intent, IntentKind::Upload)?;

    let mut created = intents::about(app, Action::NasRawCreated, Phase::Outcome, &row);
    created.ending = Some(Ending::Succeeded);
    created.intent = Some(intent);
    created.size = Some(size);
    created.sha256 = Some(sha256);
    let created_ms = created.time_ms;
    let mut streamed = created.clone();
    let ledger_index = app.append(created)?;
    streamed.action = Action::FileUploadedViaStream;
    app.append(streamed)?;

    let file = FileRow {
        cohort: row.cohort,
        created_ms,
        file_id: row.file_id,
        file_type: row.file_type,
        ledger_index,
        path: row.path,
        sha256,
        size,
        state: FileState::Available,
        v: 1,
        volume: row.volume,
    };
    files::add(app, &file)?;
    Ok(Outcome::Stored(Box::new(file)))
}

/// Records the end of an upload that made no file.
pub(crate) fn close(
    app: &mut Application<'_, '_>,
    intent: u64,
    row: &IntentRow,
    ending: Ending,
    error: String,
    received: Option<u64>,
) -> Result<u64, CorruptError> {
    let mut cleaned = intents::about(app, Action::ScratchCleanup, Phase::Outcome, row);
    cleaned.ending = Some(Ending::Succeeded);
    cleaned.intent = Some(intent);
    app.append(cleaned)?;
    let mut record = intents::about(app, Action::FileUploadedViaStream, Phase::Outcome, row);
    record.ending = Some(ending);
    record.intent = Some(intent);
    record.error = Some(error);
    record.size = received;
    app.append(record)
}
