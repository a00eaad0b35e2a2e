//! Carries deletions out, step by step, and takes up those that a crash or an absent volume left unfinished.
//!
//! **Invariant:** each step is recorded before the next begins (`ledger::deletion` holds the order); what cannot
//! be done now is done later by [`resume`], never left out.

use std::sync::Arc;

use serde_json::{Value, json};
use store_proto::FileId;

use crate::keeper;
use crate::keys::shred::Shred;
use crate::ledger::cleanup::{self, Verifier};
use crate::ledger::deletion::{self, Command, DeletionRow, Outcome, Step};
use crate::ledger::tables::rfc3339;
use crate::ledger::{LedgerUnavailable, Origin};
use crate::limits::{DELETION_BATCH, SHRED_EVERY};
use crate::reaper::{self, Before, Look};
use crate::store::Store;

/// Why a file is not deleted, or not yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// A hold stands.
    #[error("legal hold {0} stands")]
    Held(u64),
    /// Its cohort keeps files longer.
    #[error("its cohort keeps files: this one until {}", rfc3339(*.until_ms))]
    Retained {
        /// Until then.
        until_ms: u64,
    },
    /// There is no such file.
    #[error("there is no such file")]
    UnknownFile,
    /// It cannot be recorded, so it is not done.
    #[error(transparent)]
    Ledger(#[from] LedgerUnavailable),
    /// The ledger or the keys cannot be read or written.
    #[error("{0}")]
    Storage(String),
}

/// Deletes a file: decides, destroys its keys, and takes its objects away as far as their volumes let it.
pub async fn delete(
    store: &Store,
    origin: Origin,
    file_id: FileId,
    reason: String,
) -> Result<DeletionRow, DeleteError> {
    let file = store.ledger.reader().file(file_id).map_err(storage)?;
    let retention_days = file
        .and_then(|file| store.policy.load().cohort(&file.cohort))
        .and_then(|cohort| cohort.retention_days);
    let decide = Command::Decide { origin, file_id, reason, retention_days };
    let row = match store.ledger.submit(decide).await? {
        Outcome::At(row) => row,
        Outcome::Held(hold) => return Err(DeleteError::Held(hold)),
        Outcome::Retained { until_ms } => return Err(DeleteError::Retained { until_ms }),
        Outcome::UnknownFile => return Err(DeleteError::UnknownFile),
        other @ (Outcome::Finalized(_) | Outcome::ObjectsLeft) => return Err(unexpected(&other)),
    };
    go_on(store, file_id, *row).await
}

/// Does what is left to do of a deletion, but for the shred.
async fn go_on(store: &Store, file_id: FileId, row: DeletionRow) -> Result<DeletionRow, DeleteError> {
    let row = match row.step {
        Step::Decided => at(store.ledger.submit(Command::DestroyKeys { file_id }).await?)?,
        Step::KeysDestroyed { .. } | Step::ObjectsGone { .. } | Step::Final { .. } => row,
    };
    if !matches!(row.step, Step::KeysDestroyed { .. }) {
        return Ok(row);
    }
    for id in &row.cleanups {
        let snapshot = store.ledger.reader().snapshot().map_err(storage)?;
        let Some(cleanup) = cleanup::find(&snapshot, *id).map_err(storage)? else {
            return Err(DeleteError::Storage(format!("cleanup {id} is not there")));
        };
        drop(snapshot);
        let due = cleanup.attempted_count == 0 || cleanup.next_attempt_ms <= store.clock.unix_milliseconds();
        let gone = cleanup.cleaned_up.is_some()
            || (due
                && reaper::look(store, *id, &cleanup, Before::Remove, Origin::default(), Verifier::System)
                    .await?
                    == Look::Gone);
        if !gone {
            // Its volume is away: the keys are gone, and the reaper tries again.
            return Ok(row);
        }
    }
    match store.ledger.submit(Command::ObjectsGone { file_id }).await? {
        Outcome::ObjectsLeft => Ok(row),
        other @ (Outcome::At(_)
        | Outcome::Held(_)
        | Outcome::Retained { .. }
        | Outcome::Finalized(_)
        | Outcome::UnknownFile) => at(other),
    }
}

/// Goes on with what is unfinished, and shreds once a day if something waits for it; until the runtime ends.
pub async fn run(store: Arc<Store>) {
    let mut shredded = store.clock.now();
    loop {
        if let Err(error) = resume(&store).await {
            tracing::warn!(%error, "deletions could not go on");
        }
        // A clock that jumped ends nobody's retention, and nothing is made final by its word.
        let held = !matches!(store.ledger.reader().time_hold(), Ok(None));
        if !held && store.clock.now().duration_since(shredded) >= SHRED_EVERY {
            shredded = store.clock.now();
            match shred(&store, Origin::default()).await {
                Ok(Some((_, finalized))) => tracing::info!(files = finalized, "deletions are final"),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "a shred failed"),
            }
        }
        tokio::time::sleep(crate::limits::CLEANUP_CHECK).await;
    }
}

/// One step further with each that is unfinished.
pub async fn resume(store: &Store) -> Result<(), DeleteError> {
    for (file_id, row) in unfinished(store)? {
        match go_on(store, file_id, row).await {
            Ok(_) => {}
            Err(error @ DeleteError::Ledger(_)) => return Err(error),
            // One that cannot go on does not hold up the others.
            Err(error) => tracing::error!(%error, file = %file_id, "a deletion cannot go on"),
        }
    }
    Ok(())
}

/// The deletions that are not at their end.
pub fn unfinished(store: &Store) -> Result<Vec<(FileId, DeletionRow)>, DeleteError> {
    let snapshot = store.ledger.reader().snapshot().map_err(storage)?;
    deletion::unfinished(&snapshot, None, DELETION_BATCH).map_err(storage)
}

/// Makes the deletions so far final: after it no copy of the keys opens them. What is done, and how many
/// deletions it finished; `None`: no key was destroyed since the last. If that one was done and its end was never
/// recorded, because the process died between the two, it is recorded now.
pub async fn shred(store: &Arc<Store>, origin: Origin) -> Result<Option<(Shred, u64)>, DeleteError> {
    // Before the shred: what is destroyed during it waits for the next.
    let files: Vec<FileId> = unfinished(store)?
        .into_iter()
        .filter(|(_, row)| matches!(row.step, Step::ObjectsGone { .. }))
        .map(|(file, _)| file)
        .collect();
    let done = keeper::shred(store, origin.clone()).await;
    let done = done.map_err(|error| DeleteError::Storage(error.to_string()))?;
    if done.is_none() && files.is_empty() {
        return Ok(None);
    }
    let (key_epoch, survivors) = match &done {
        Some(done) => (done.epoch, done.survivors),
        // Their keys were destroyed, and none is that a shred has not gone over since.
        None => (store.keys.epoch(), 0),
    };
    match store.ledger.submit(Command::Shredded { origin, key_epoch, survivors, files }).await? {
        Outcome::Finalized(count) => Ok(done.map(|done| (done, count))),
        other @ (Outcome::At(_)
        | Outcome::Held(_)
        | Outcome::Retained { .. }
        | Outcome::ObjectsLeft
        | Outcome::UnknownFile) => Err(unexpected(&other)),
    }
}

/// What a deletion can show for itself, after NIST SP 800-88: what was destroyed, how, when, by whom, and what
/// was looked at. It names the file by its id and holds nothing of its content.
pub fn certificate(file_id: FileId, row: &DeletionRow, checkpoint: &str) -> Value {
    let (keys_destroyed, objects_gone, finality) = match row.step {
        Step::Decided => (None, None, None),
        Step::KeysDestroyed { at_ms, .. } => (Some(at_ms), None, None),
        Step::ObjectsGone { keys_destroyed_ms, at_ms, .. } => (Some(keys_destroyed_ms), Some(at_ms), None),
        Step::Final { keys_destroyed_ms, objects_gone_ms, at_ms, key_epoch, .. } => {
            (Some(keys_destroyed_ms), Some(objects_gone_ms), Some((at_ms, key_epoch)))
        }
    };
    json!({
        "certificate": "culvert-deletion/1",
        "complete": finality.is_some(),
        "file_id": file_id,
        "cohort": row.cohort,
        "size": row.size,
        "stored_at": rfc3339(row.created_ms),
        "decided_at": rfc3339(row.decided_ms),
        "deleted_by": row.deleted_by,
        "reason": row.reason,
        "method": "cryptographic erase: the keys of the sealed objects destroyed; then the objects removed",
        "keys_destroyed_at": keys_destroyed.map(rfc3339),
        "objects": row.objects.iter().zip(row.cleanups.iter().map(Some).chain(std::iter::repeat(None)))
            .map(|(object, cleanup)| json!({
                "object": object.object,
                "volume": object.volume,
                "sealed_bytes": object.sealed_size,
                "cleanup": cleanup,
            })).collect::<Vec<_>>(),
        "objects_found_gone_at": objects_gone.map(rfc3339),
        "verified_by": objects_gone.map(|_| "system: neither object nor temporary under its name"),
        "key_copies_unusable_since": finality.map(|(at_ms, _)| rfc3339(at_ms)),
        "key_epoch": finality.map(|(_, epoch)| epoch),
        "records": { "arrival": row.arrival, "decision": row.intent, "last": last_record(row) },
        "checkpoint": checkpoint,
    })
}

fn last_record(row: &DeletionRow) -> u64 {
    match row.step {
        Step::Decided => row.intent,
        Step::KeysDestroyed { record, .. }
        | Step::ObjectsGone { record, .. }
        | Step::Final { record, .. } => record,
    }
}

fn at(outcome: Outcome) -> Result<DeletionRow, DeleteError> {
    match outcome {
        Outcome::At(row) => Ok(*row),
        other @ (Outcome::Held(_)
        | Outcome::Retained { .. }
        | Outcome::Finalized(_)
        | Outcome::UnknownFile
        | Outcome::ObjectsLeft) => Err(unexpected(&other)),
    }
}

fn unexpected(outcome: &Outcome) -> DeleteError {
    DeleteError::Storage(format!("the ledger answered {outcome:?}"))
}

fn storage(error: crate::ledger::tables::CorruptError) -> DeleteError {
    DeleteError::Storage(error.to_string())
}
