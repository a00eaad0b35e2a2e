//! What a start does about operations that a dead process left open.
//!
//! **Invariant:** an object is removed only if an open intent of *this* ledger names it; whatever else
//! lies on a volume is counted and kept. Removal comes before the record of it: a crash in between leaves
//! the intent open, and the next start does it again.

use crate::ledger::intents::{Claim, Command, IntentKind, IntentRow, Outcome};
use crate::ledger::tables::CorruptError;
use crate::ledger::writer::{Ledger, LedgerUnavailable};

/// What was closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Uploads that had not ended.
    pub uploads: u64,
    /// Downloads that had not ended.
    pub downloads: u64,
}

/// Why a start could not tidy up.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The open intents cannot be read.
    #[error("read open intents: {0}")]
    Read(#[from] CorruptError),
    /// What an intent names cannot be removed.
    #[error("remove the unfinished object {}: {error}", .intent.file_id)]
    Remove {
        /// The intent.
        intent: Box<IntentRow>,
        /// What the volume says.
        error: std::io::Error,
    },
    /// A file and an open intent claim one object.
    #[error("object {} belongs to a file and to an open intent", .0.file_id)]
    Claimed(Box<IntentRow>),
    /// The end cannot be recorded.
    #[error("record the end of an interrupted operation: {0}")]
    Record(#[from] LedgerUnavailable),
}

/// Closes every open intent as failed, after `remove` took away what an upload had left.
pub fn recover(
    ledger: &Ledger,
    mut remove: impl FnMut(&Claim) -> std::io::Result<()>,
) -> Result<Recovered, RecoverError> {
    let mut recovered = Recovered::default();
    for (intent, row) in ledger.reader().open_intents()? {
        match row.kind {
            IntentKind::Upload | IntentKind::Partial => {
                if ledger.reader().file(row.file_id)?.is_some() {
                    return Err(RecoverError::Claimed(Box::new(row)));
                }
                let Some(claim) = row.claim else { continue };
                remove(&claim)
                    .map_err(|error| RecoverError::Remove { intent: Box::new(row.clone()), error })?;
                recovered.uploads += 1;
            }
            IntentKind::Download => recovered.downloads += 1,
        }
        match ledger.submit_blocking(Command::CloseCrashed { intent })? {
            Outcome::Closed(_) | Outcome::Resumable => {}
            Outcome::UnknownIntent => {
                unreachable!("an intent that was just read is open: nothing serves yet")
            }
        }
    }
    Ok(recovered)
}
