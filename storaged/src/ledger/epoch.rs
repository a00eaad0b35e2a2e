//! Area *epoch*: what a restore from a backup means for the log.
//!
//! **Invariant:** a log that is shorter than it once was says so itself, signed: from the restore on its
//! checkpoints carry the next epoch, and the record behind that names what was there before and why.

use std::collections::BTreeMap;

use receipt::merkle::Hash;

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Metadata, Origin, Phase};
use crate::ledger::tables::CorruptError;

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// The store was restored, and what is there now is what counts.
    Open {
        /// Who says so.
        origin: Origin,
        /// The largest log that is known to have been signed before.
        old_size: u64,
        /// Its head.
        old_root: Hash,
        /// Why.
        reason: String,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The epoch that the checkpoints carry from now on, and its record.
    Opened {
        /// The epoch.
        epoch: u64,
        /// The record.
        index: u64,
    },
}

impl Area for Command {
    fn waits_for_mirror(&self) -> bool {
        true
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        let Command::Open { origin, old_size, old_root, reason } = self;
        let epoch = app.next_epoch();
        let mut record = app.record(Action::AdminEpoch, Phase::Outcome, origin);
        record.ending = Some(Ending::Succeeded);
        record.metadata = Metadata::from(BTreeMap::from([
            ("epoch".to_owned(), epoch.to_string()),
            ("old_root".to_owned(), old_root.to_string()),
            ("old_size".to_owned(), old_size.to_string()),
        ]));
        record.detail = Some(reason);
        let index = app.append(record)?;
        Ok(Outcome::Opened { epoch, index })
    }
}
