//! Area *download*: a file goes out.
//!
//! **Invariant:** the intent is durable before the first byte is served.

use store_proto::FileId;

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::files::{self, FileRow, FileState};
use crate::ledger::intents::{self, Content, IntentKind, IntentRow};
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::tables::CorruptError;

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// A file is about to be served.
    Begin {
        /// Who asked.
        origin: Origin,
        /// Which.
        file_id: FileId,
        /// A closed word about how much, such as `bytes=0-99`.
        detail: Option<String>,
        /// Whether whoever asks may read what is held: a scanner, and nobody else.
        scanner: bool,
    },
    /// Serving has ended.
    Finish {
        /// From `Opened`.
        intent: u64,
        /// How.
        ending: Ending,
        /// Why, if not well.
        error: Option<String>,
        /// Bytes that went out.
        sent: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The file may be served.
    Opened {
        /// The intent.
        intent: u64,
        /// The file.
        file: Box<FileRow>,
    },
    /// It is held or rejected.
    Withheld(FileState),
    /// There is no such file.
    UnknownFile,
    /// The end is recorded, under this index.
    Ended(u64),
    /// There is no such open intent.
    UnknownIntent,
}

impl Area for Command {}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Begin { origin, file_id, detail, scanner } => {
                let Some(file) = files::find(app, file_id)? else { return Ok(Outcome::UnknownFile) };
                if !file.state.may_be_read(scanner) {
                    return Ok(Outcome::Withheld(file.state));
                }
                let row = IntentRow {
                    attributes: file.attributes.clone(),
                    content: Content::Raw,
                    claim: None,
                    cohort: file.cohort.clone(),
                    file_id,
                    file_type: file.file_type.clone(),
                    key: None,
                    kind: IntentKind::Download,
                    origin,
                    path: file.path.clone(),
                    replaces: None,
                    reserved_bytes: 0,
                    scan_required: false,
                    upload: None,
                    v: 1,
                };
                let intent = intents::open(app, Action::FileDownloadedViaStream, &row, detail)?;
                Ok(Outcome::Opened { intent, file: Box::new(file) })
            }
            Command::Finish { intent, ending, error, sent } => {
                let Some(row) = intents::take(app, intent, IntentKind::Download)? else {
                    return Ok(Outcome::UnknownIntent);
                };
                close(app, intent, &row, ending, error, Some(sent)).map(Outcome::Ended)
            }
        }
    }
}

/// Records the end of a download.
pub(crate) fn close(
    app: &mut Application<'_, '_>,
    intent: u64,
    row: &IntentRow,
    ending: Ending,
    error: Option<String>,
    sent: Option<u64>,
) -> Result<u64, CorruptError> {
    let mut record = intents::about(app, Action::FileDownloadedViaStream, Phase::Outcome, row);
    record.ending = Some(ending);
    record.intent = Some(intent);
    record.error = error;
    record.size = sent;
    app.append(record)
}
