//! Area *note*: something that has no before, such as a denial, a verb of the admin socket, an event of
//! the tunnel. It changes no state.

use store_proto::{Cohort, FileId, LogicalPath};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Origin, Phase};
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
}

impl Area for Note {}

impl Note {
    /// A note about nothing in particular.
    pub fn new(action: Action, ending: Ending, origin: Origin) -> Note {
        Note { action, ending, origin, cohort: None, path: None, file_id: None, detail: None }
    }

    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        let mut record = app.record(self.action, Phase::Outcome, self.origin);
        record.ending = Some(self.ending);
        record.cohort = self.cohort;
        record.path = self.path;
        record.file_id = self.file_id;
        record.detail = self.detail;
        app.append(record)
    }
}
