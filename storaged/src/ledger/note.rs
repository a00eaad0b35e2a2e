//! Area *note*: something that has no before, such as a denial, a verb of the admin socket, an event of the tunnel,
//! a worker's report of its job.
//!
//! **Invariant:** it changes no state.

use store_proto::{Cohort, ContentDigest, FileId, FileType, LogicalPath};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Metadata, Origin, Phase};
use crate::ledger::tables::CorruptError;

/// The area's one command.
pub type Command = Note;

/// The index of the record.
pub type Outcome = u64;

/// Something that has no before.
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
    /// What went wrong.
    pub error: Option<String>,
    /// The file's type.
    pub file_type: Option<FileType>,
    /// What else the one who reports it wants to be remembered.
    pub metadata: Metadata,
    /// The record that this one follows from.
    pub parent: Option<u64>,
    /// SHA-256 of the file's bytes.
    pub sha256: Option<ContentDigest>,
    /// The file's length.
    pub size: Option<u64>,
    /// What it is about beside a file, as a URI.
    pub subject_ref: Option<String>,
    /// The program that did the work.
    pub worker: Option<String>,
}

impl Area for Note {}

impl Note {
    /// A note about nothing in particular.
    pub fn new(action: Action, ending: Ending, origin: Origin) -> Note {
        Note {
            action,
            ending,
            origin,
            cohort: None,
            path: None,
            file_id: None,
            detail: None,
            error: None,
            file_type: None,
            metadata: Metadata::default(),
            parent: None,
            sha256: None,
            size: None,
            subject_ref: None,
            worker: None,
        }
    }

    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        let mut record = app.record(self.action, Phase::Outcome, self.origin);
        record.ending = Some(self.ending);
        record.cohort = self.cohort;
        record.path = self.path;
        record.file_id = self.file_id;
        record.detail = self.detail;
        record.error = self.error;
        record.file_type = self.file_type;
        record.metadata = self.metadata;
        record.parent = self.parent;
        record.sha256 = self.sha256;
        record.size = self.size;
        record.subject_ref = self.subject_ref;
        record.worker = self.worker;
        app.append(record)
    }
}
