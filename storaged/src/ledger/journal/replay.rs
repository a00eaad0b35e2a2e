//! Bringing an older copy of ledger and keys forward, from the journal.
//!
//! **Invariant:** each change of the journal is done in order, onto the state that it followed, and the tree must
//! then have the head that was signed at the time; else that change is not committed.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, Durability};

use crate::keys::{KeyStore, KeysError};
use crate::ledger::checkpoint;
use crate::ledger::journal::{Envelope, FileReader, Frame, JournalError, LeftBehind, damaged, files};
use crate::ledger::log;
use crate::ledger::read::Reader;
use crate::ledger::redo::Redo;
use crate::ledger::tables::{CorruptError, StoreId, Tables};

/// What a replay did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Groups of commands that were done again.
    pub groups: u64,
    /// Records before.
    pub records_before: u64,
    /// Records now.
    pub records: u64,
    /// What stands behind the last change in the newest file.
    pub left_behind: Option<LeftBehind>,
}

/// Changes that are made durable together. A crash before that costs doing them again.
const STEP: u64 = 1000;

/// Does again what the journal in `directory` holds beyond this ledger and these keys. Nobody else may have
/// them open. What was done stays done if a later frame is damaged: the error says where it stopped.
pub fn replay(
    directory: &Path,
    database: &Arc<Database>,
    store: StoreId,
    keys: &Arc<dyn KeyStore>,
) -> Result<Replayed, JournalError> {
    let replayed = replay_all(directory, database, store, keys);
    let settled = settle(database, keys);
    let replayed = replayed?;
    settled.map(|()| replayed)
}

fn replay_all(
    directory: &Path,
    database: &Arc<Database>,
    store: StoreId,
    keys: &Arc<dyn KeyStore>,
) -> Result<Replayed, JournalError> {
    let reader = Reader::new(Arc::clone(database), Arc::clone(keys));
    let envelope = Envelope::new(store, Arc::clone(keys));
    let log_key = checkpoint::log_key(store, keys.as_ref())?;
    let snapshot = reader.snapshot()?;
    let mut group = snapshot.group()?;
    let before = snapshot.position()?.edge.size();
    drop(snapshot);
    let mut replayed = Replayed { groups: 0, records_before: before, records: before, left_behind: None };
    let paths = files(directory)?;
    let mut pending: Option<Frame> = None;
    let mut chain = None;
    for (number, path) in paths.iter().enumerate() {
        let newest = number + 1 == paths.len();
        let reading = if newest {
            FileReader::open_newest(path, &envelope)?
        } else {
            Some(FileReader::open(path, &envelope)?)
        };
        let Some(mut reading) = reading else { break };
        if chain.is_some_and(|chain| chain != reading.chain) {
            return Err(damaged(path, "does not follow the file before it"));
        }
        let mut whole = reading.offset;
        while let Some(frame) = reading.next(newest)? {
            let change = match pending.take() {
                None => frame,
                Some(mut begun) => {
                    begun.redo.writes.extend(frame.redo.writes);
                    begun.redo.keys.extend(frame.redo.keys);
                    Frame { redo: begun.redo, ..frame }
                }
            };
            if change.more {
                pending = Some(change);
                continue;
            }
            whole = reading.offset;
            if change.last <= group {
                continue;
            }
            if change.first > group + 1 {
                return Err(JournalError::TooNew { journal: change.first, ledger: group });
            }
            redo(database, keys, &change)?;
            let snapshot = reader.snapshot()?;
            checkpoint::check(&snapshot.checkpoint()?, &log_key, &snapshot.position()?.edge)?;
            replayed.groups += change.last - group;
            replayed.records = change.size;
            group = change.last;
            if replayed.groups.is_multiple_of(STEP) {
                settle(database, keys)?;
            }
        }
        if newest {
            replayed.left_behind = LeftBehind::look(path, whole)?;
        }
        chain = Some(reading.chain);
    }
    Ok(replayed)
}

fn lost(error: redb::Error) -> CorruptError {
    CorruptError::Row(error.to_string())
}

/// Makes both durable, the keys first.
fn settle(database: &Database, keys: &Arc<dyn KeyStore>) -> Result<(), JournalError> {
    keys.settle().map_err(CorruptError::from)?;
    let mut transaction = database.begin_write().map_err(|error| lost(error.into()))?;
    transaction.set_durability(Durability::Immediate).map_err(|error| lost(error.into()))?;
    transaction.set_quick_repair(true);
    transaction.commit().map_err(|error| lost(error.into()))?;
    Ok(())
}

fn redo(database: &Database, keys: &Arc<dyn KeyStore>, change: &Frame) -> Result<(), JournalError> {
    let Redo { writes, keys: changes } = &change.redo;
    // Keys first, as when it was done for the first time.
    if !changes.is_empty() {
        keys.commit_ahead(keys.mark().map_err(CorruptError::from)?, changes).map_err(|error| {
            match matches!(error, KeysError::EpochGone) {
                true => JournalError::Shredded { group: change.last },
                false => CorruptError::from(error).into(),
            }
        })?;
    }
    let mut transaction = database.begin_write().map_err(|error| lost(error.into()))?;
    transaction.set_durability(Durability::None).map_err(|error| lost(error.into()))?;
    {
        let mut tables = Tables::open(&transaction).map_err(CorruptError::Table)?;
        for write in writes {
            tables.write(write.place, &write.key, write.value.as_deref())?;
        }
        // The mirror has it, so it need not be remembered for the mirror.
        tables.forget_mirrored(change.last)?;
        let edge = log::edge(&tables.tiles, change.size)?;
        if edge.root() != change.root {
            return Err(JournalError::Fork { group: change.last });
        }
    }
    transaction.commit().map_err(|error| lost(error.into()))?;
    Ok(())
}
