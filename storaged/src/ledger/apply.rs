//! `Command → apply → Outcome`: what each command changes, and which records say so.
//!
//! **Invariant:** `apply` reads no clock, draws no id and does no IO but to the tables of one transaction.
//! A command that cannot be done is an [`Outcome`]; an error means that the transaction is lost.

use redb::{ReadableTable as _, StorageError};
use store_proto::{Cohort, ContentDigest, FileId, FileType, LogicalPath};

use crate::ledger::record::{Action, Ending, Host, Origin, Phase, Record};
use crate::ledger::tables::{
    CorruptError, FileRow, FileState, IntentKind, IntentRow, META_STORED_BYTES, Tables, decode, encode,
};

/// What is asked of the ledger.
#[derive(Debug, Clone)]
pub enum Command {
    /// An object is about to be written under `file_id`.
    BeginUpload {
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
    },
    /// The object is published and durable: make it a file.
    FinishUpload {
        /// From `Begun`.
        intent: u64,
        /// Its length.
        size: u64,
        /// Its digest.
        sha256: ContentDigest,
    },
    /// Nothing of the object is left on the volume: close the intent.
    AbandonUpload {
        /// From `Begun`.
        intent: u64,
        /// How it ended.
        ending: Ending,
        /// Why.
        error: String,
        /// Bytes that had arrived.
        received: u64,
    },
    /// A file is about to be served.
    BeginDownload {
        /// Who asked.
        origin: Origin,
        /// Which.
        file_id: FileId,
        /// A closed word about how much, such as `bytes=0-99`.
        detail: Option<String>,
    },
    /// Serving has ended.
    FinishDownload {
        /// From `Opened`.
        intent: u64,
        /// How.
        ending: Ending,
        /// Why, if not well.
        error: Option<String>,
        /// Bytes that went out.
        sent: u64,
    },
    /// A process died in the midst of this; what it left on the volume is gone.
    CloseCrashed {
        /// The open intent.
        intent: u64,
    },
    /// Something that has no before.
    Note(Note),
}

/// Something that has no before: a denial, a verb of the admin socket, an event of the tunnel.
#[derive(Debug, Clone)]
pub struct Note {
    /// What.
    pub action: Action,
    /// How it ended.
    pub ending: Ending,
    /// Who asked.
    pub origin: Origin,
    /// About which cohort.
    pub cohort: Option<Cohort>,
    /// About which name.
    pub path: Option<LogicalPath>,
    /// About which file.
    pub file_id: Option<FileId>,
    /// A closed word or short sentence.
    pub detail: Option<String>,
}

impl Note {
    /// A note about nothing in particular.
    pub fn new(action: Action, ending: Ending, origin: Origin) -> Note {
        Note { action, ending, origin, cohort: None, path: None, file_id: None, detail: None }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The intent stands under this index.
    Begun {
        /// The intent.
        intent: u64,
    },
    /// The file may be served.
    Opened {
        /// The intent.
        intent: u64,
        /// The file.
        file: Box<FileRow>,
    },
    /// The file is part of the store.
    Stored(Box<FileRow>),
    /// Another file has the path. **The intent stays open** until the object is removed and the upload
    /// abandoned, so that a crash in between still finds the object.
    PathTaken(Box<FileRow>),
    /// There is no such file.
    UnknownFile,
    /// There is no such open intent.
    UnknownIntent,
    /// Recorded, under this index.
    Recorded(u64),
}

/// Where the next record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) next_index: u64,
    pub(crate) last_time_ms: u64,
}

impl Position {
    pub(crate) fn after(last: Option<&Record>) -> Position {
        last.map_or(Position { next_index: 0, last_time_ms: 0 }, |record| Position {
            next_index: record.index + 1,
            last_time_ms: record.time_ms,
        })
    }
}

/// One transaction's view: its tables, its place in the trail and its time.
pub(crate) struct Application<'a, 'txn> {
    pub(crate) tables: &'a mut Tables<'txn>,
    pub(crate) position: &'a mut Position,
    pub(crate) host: &'a Host,
    pub(crate) now_ms: u64,
}

impl Application<'_, '_> {
    /// Carries one command out.
    pub(crate) fn apply(&mut self, command: Command) -> Result<Outcome, CorruptError> {
        match command {
            Command::BeginUpload { origin, cohort, path, file_type, file_id, volume } => {
                let row = IntentRow {
                    cohort,
                    file_id,
                    file_type,
                    kind: IntentKind::Upload,
                    origin,
                    path,
                    v: 1,
                    volume,
                };
                let intent = self.open_intent(&row, None)?;
                Ok(Outcome::Begun { intent })
            }
            Command::FinishUpload { intent, size, sha256 } => self.finish_upload(intent, size, sha256),
            Command::AbandonUpload { intent, ending, error, received } => {
                let Some(row) = self.take_intent(intent, IntentKind::Upload)? else {
                    return Ok(Outcome::UnknownIntent);
                };
                self.close_upload(intent, row, ending, error, Some(received))
            }
            Command::BeginDownload { origin, file_id, detail } => {
                let Some(file) = self.file(file_id)? else { return Ok(Outcome::UnknownFile) };
                let row = IntentRow {
                    cohort: file.cohort.clone(),
                    file_id,
                    file_type: file.file_type.clone(),
                    kind: IntentKind::Download,
                    origin,
                    path: file.path.clone(),
                    v: 1,
                    volume: file.volume,
                };
                let intent = self.open_intent(&row, detail)?;
                Ok(Outcome::Opened { intent, file: Box::new(file) })
            }
            Command::FinishDownload { intent, ending, error, sent } => {
                let Some(row) = self.take_intent(intent, IntentKind::Download)? else {
                    return Ok(Outcome::UnknownIntent);
                };
                self.close_download(intent, row, ending, error, Some(sent))
            }
            Command::CloseCrashed { intent } => {
                let Some(row) = self.any_intent(intent)? else { return Ok(Outcome::UnknownIntent) };
                self.tables.intents.remove(intent)?;
                let error = "crash".to_owned();
                match row.kind {
                    IntentKind::Upload => self.close_upload(intent, row, Ending::Failed, error, None),
                    IntentKind::Download => {
                        self.close_download(intent, row, Ending::Failed, Some(error), None)
                    }
                }
            }
            Command::Note(note) => {
                let mut record = self.record(note.action, Phase::Outcome, note.origin);
                record.ending = Some(note.ending);
                record.cohort = note.cohort;
                record.path = note.path;
                record.file_id = note.file_id;
                record.detail = note.detail;
                Ok(Outcome::Recorded(self.append(record)?))
            }
        }
    }

    fn finish_upload(
        &mut self,
        intent: u64,
        size: u64,
        sha256: ContentDigest,
    ) -> Result<Outcome, CorruptError> {
        let Some(row) = self.intent(intent, IntentKind::Upload)? else { return Ok(Outcome::UnknownIntent) };
        if let Some(existing) = self.file_at(&row.cohort, &row.path)? {
            return Ok(Outcome::PathTaken(Box::new(existing)));
        }
        if self.file(row.file_id)?.is_some() {
            return Err(CorruptError::Row(format!("file {} is stored and has an open intent", row.file_id)));
        }
        self.tables.intents.remove(intent)?;

        let mut created = self.about(Action::NasRawCreated, Phase::Outcome, &row);
        created.ending = Some(Ending::Succeeded);
        created.intent = Some(intent);
        created.size = Some(size);
        created.sha256 = Some(sha256);
        let created_ms = created.time_ms;
        let mut streamed = created.clone();
        let ledger_index = self.append(created)?;
        streamed.action = Action::FileUploadedViaStream;
        self.append(streamed)?;

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
        self.tables.files.insert(file.file_id.as_bytes(), encode(&file).as_slice())?;
        self.tables.paths.insert((file.cohort.as_str(), file.path.as_str()), file.file_id.as_bytes())?;
        self.add_stored_bytes(size)?;
        Ok(Outcome::Stored(Box::new(file)))
    }

    fn close_upload(
        &mut self,
        intent: u64,
        row: IntentRow,
        ending: Ending,
        error: String,
        received: Option<u64>,
    ) -> Result<Outcome, CorruptError> {
        let mut cleaned = self.about(Action::ScratchCleanup, Phase::Outcome, &row);
        cleaned.ending = Some(Ending::Succeeded);
        cleaned.intent = Some(intent);
        self.append(cleaned)?;
        let mut record = self.about(Action::FileUploadedViaStream, Phase::Outcome, &row);
        record.ending = Some(ending);
        record.intent = Some(intent);
        record.error = Some(error);
        record.size = received;
        Ok(Outcome::Recorded(self.append(record)?))
    }

    fn close_download(
        &mut self,
        intent: u64,
        row: IntentRow,
        ending: Ending,
        error: Option<String>,
        sent: Option<u64>,
    ) -> Result<Outcome, CorruptError> {
        let mut record = self.about(Action::FileDownloadedViaStream, Phase::Outcome, &row);
        record.ending = Some(ending);
        record.intent = Some(intent);
        record.error = error;
        record.size = sent;
        Ok(Outcome::Recorded(self.append(record)?))
    }

    fn open_intent(&mut self, row: &IntentRow, detail: Option<String>) -> Result<u64, CorruptError> {
        let action = match row.kind {
            IntentKind::Upload => Action::FileUploadedViaStream,
            IntentKind::Download => Action::FileDownloadedViaStream,
        };
        let mut record = self.about(action, Phase::Intent, row);
        record.detail = detail;
        let index = self.append(record)?;
        self.tables.intents.insert(index, encode(row).as_slice())?;
        Ok(index)
    }

    fn intent(&self, index: u64, kind: IntentKind) -> Result<Option<IntentRow>, CorruptError> {
        Ok(self.any_intent(index)?.filter(|row| row.kind == kind))
    }

    fn take_intent(&mut self, index: u64, kind: IntentKind) -> Result<Option<IntentRow>, CorruptError> {
        let row = self.intent(index, kind)?;
        if row.is_some() {
            self.tables.intents.remove(index)?;
        }
        Ok(row)
    }

    fn any_intent(&self, index: u64) -> Result<Option<IntentRow>, CorruptError> {
        self.tables.intents.get(index)?.map(|row| decode("intent", row.value())).transpose()
    }

    fn file(&self, id: FileId) -> Result<Option<FileRow>, CorruptError> {
        self.tables.files.get(id.as_bytes())?.map(|row| decode("file", row.value())).transpose()
    }

    fn file_at(&self, cohort: &Cohort, path: &LogicalPath) -> Result<Option<FileRow>, CorruptError> {
        let Some(id) = self.tables.paths.get((cohort.as_str(), path.as_str()))?.map(|id| *id.value()) else {
            return Ok(None);
        };
        let id = FileId::from_bytes(id);
        self.file(id)?
            .map(Some)
            .ok_or_else(|| CorruptError::Row(format!("a path leads to {id}, which is no file")))
    }

    fn about(&self, action: Action, phase: Phase, row: &IntentRow) -> Record {
        let mut record = self.record(action, phase, row.origin.clone());
        record.cohort = Some(row.cohort.clone());
        record.path = Some(row.path.clone());
        record.file_id = Some(row.file_id);
        record.file_type = row.file_type.clone();
        record
    }

    fn record(&self, action: Action, phase: Phase, origin: Origin) -> Record {
        let mut record = Record::new(action, phase, self.host.clone(), origin);
        record.time_ms = self.now_ms.max(self.position.last_time_ms);
        record
    }

    fn append(&mut self, mut record: Record) -> Result<u64, StorageError> {
        record.index = self.position.next_index;
        self.tables.records.insert(record.index, record.to_bytes().as_slice())?;
        self.position.next_index += 1;
        self.position.last_time_ms = record.time_ms;
        Ok(record.index)
    }

    fn add_stored_bytes(&mut self, size: u64) -> Result<(), StorageError> {
        let stored = self
            .tables
            .meta
            .get(META_STORED_BYTES)?
            .and_then(|bytes| bytes.value().try_into().ok())
            .map_or(0, u64::from_le_bytes);
        self.tables.meta.insert(META_STORED_BYTES, stored.saturating_add(size).to_le_bytes().as_slice())?;
        Ok(())
    }
}
