//! Upkeep of the keys: file keys move to their cohort's newest key, and deletions become final.
//!
//! **Invariant:** no object is touched, and what was done stands in the ledger with its numbers, never with a key.

use std::sync::Arc;

use store_proto::Cohort;

use crate::keys::rewrap::{CohortKeys, Step};
use crate::keys::shred::Shred;
use crate::keys::{Keys, KeysError};
use crate::ledger::{Action, Ending, LedgerUnavailable, Note, Origin};
use crate::limits::{REWRAP_CHECK, REWRAP_KEYS, REWRAP_PAUSE};
use crate::store::Store;

/// Why upkeep stopped.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The keys cannot be changed.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// What was done, or is to be done, cannot be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerUnavailable),
    /// The thread was lost.
    #[error("the step on the keys was lost: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

/// Moves file keys to the newest key of their cohort, batch by batch, until the runtime ends. What a dead
/// process left over goes on here.
pub async fn run(store: Arc<Store>) {
    let mut moved = 0;
    loop {
        let pause = match step(&store).await {
            Ok(step) => {
                moved += step.moved;
                if step.pending > 0 {
                    REWRAP_PAUSE
                } else {
                    if moved > 0 {
                        rewrapped(&store, moved).await;
                    }
                    moved = 0;
                    REWRAP_CHECK
                }
            }
            Err(error) => {
                tracing::warn!(%error, "file keys could not be moved to their cohort's new key");
                REWRAP_CHECK
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Gives cohorts a new key: all of them, or one. Recorded before and after.
pub async fn rotate(
    store: &Arc<Store>,
    cohort: Option<Cohort>,
    origin: Origin,
) -> Result<Vec<CohortKeys>, KeeperError> {
    let which = cohort.as_ref().map_or("all cohorts".to_owned(), |cohort| format!("cohort {cohort}"));
    note(store, Action::KeyRotated, &origin, format!("asked: {which}")).await?;
    let rotated = on_keys(store, move |keys| {
        let cohorts = match cohort {
            Some(cohort) => vec![cohort],
            None => keys.cohorts()?.into_iter().map(|keys| keys.cohort).collect(),
        };
        cohorts.iter().map(|cohort| keys.rotate(cohort)).collect::<Result<Vec<_>, _>>()
    })
    .await?;
    for keys in &rotated {
        let detail = format!("version {}, {} file keys to re-wrap", keys.version, keys.pending);
        let note = Note {
            cohort: Some(keys.cohort.clone()),
            detail: Some(detail),
            ..Note::new(Action::KeyRotated, Ending::Succeeded, origin.clone())
        };
        store.note(note).await?;
    }
    Ok(rotated)
}

/// Makes the deletions so far final: what deletes files calls it once a day and before a certificate. Recorded
/// before and after. None: there was nothing to do.
///
/// Copies of the keys from before it, and the journal's key changes from before it, open nothing any more: a
/// backup has to follow.
pub async fn shred(store: &Arc<Store>, origin: Origin) -> Result<Option<Shred>, KeeperError> {
    let due = on_keys(store, |keys| keys.cohorts()).await?;
    if due.iter().all(|keys| keys.destroyed == 0) {
        return Ok(None);
    }
    note(store, Action::KeyDestroyed, &origin, "asked".to_owned()).await?;
    let shredded = on_keys(store, |keys| keys.shred()).await;
    let result = if shredded.is_ok() { "succeeded" } else { "failed" };
    store.metrics.shreds.with_label_values(&[result]).inc();
    let Some(shred) = shredded? else { return Ok(None) };
    let detail = format!(
        "epoch {}: {} keys of deleted files in {} cohorts, {} survivors re-wrapped",
        shred.epoch,
        shred.destroyed,
        shred.cohorts.len(),
        shred.survivors
    );
    note(store, Action::KeyDestroyed, &origin, detail).await?;
    Ok(Some(shred))
}

async fn step(store: &Arc<Store>) -> Result<Step, KeeperError> {
    on_keys(store, |keys| keys.step(REWRAP_KEYS)).await
}

/// Nothing depends on this record: the keys have moved, and the rotation itself is recorded.
async fn rewrapped(store: &Arc<Store>, moved: u64) {
    let detail = format!("{moved} file keys");
    if note(store, Action::KeyRewrapped, &Origin::default(), detail).await.is_err() {
        tracing::warn!(moved, "the end of a re-wrapping could not be recorded");
    }
}

async fn note(
    store: &Store,
    action: Action,
    origin: &Origin,
    detail: String,
) -> Result<u64, LedgerUnavailable> {
    let note = Note { detail: Some(detail), ..Note::new(action, Ending::Succeeded, origin.clone()) };
    store.note(note).await
}

/// On a thread that may wait for the disk.
pub(crate) async fn on_keys<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Keys) -> Result<T, KeysError> + Send + 'static,
) -> Result<T, KeeperError> {
    let keys = Arc::clone(&store.keys);
    Ok(tokio::task::spawn_blocking(move || work(&keys)).await??)
}
