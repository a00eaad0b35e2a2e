//! Takes away what must not stay on the volumes, and looks that it is gone.
//!
//! **Invariant:** a cleanup is marked as done only after a look at the volume found nothing, in that order; a
//! volume that cannot be asked gives an attempt that failed, never a cleanup.

use std::sync::Arc;

use crate::ledger::cleanup::{self, CleanupRow, Command, Evidence, Outcome, Verifier};
use crate::ledger::{LedgerUnavailable, Origin, hold};
use crate::limits::{CLEANUP_BATCH, CLEANUP_CHECK, CLEANUP_PATIENCE, HOLDS};
use crate::metrics::signed;
use crate::store::Store;

/// What came of a look at one cleanup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It is gone, and that is recorded.
    Gone,
    /// It is still there, or nobody can tell.
    Still(String),
}

/// What is to be done before the look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Take it away.
    Remove,
    /// Nothing: whoever was to take it away says that they did.
    OnlyLook,
}

/// Again and again, until the runtime ends.
pub async fn run(store: Arc<Store>) {
    loop {
        if let Err(error) = reap_what_is_due(&store).await {
            tracing::warn!(error, "cleanups could not be worked on");
        }
        if let Err(error) = count(&store) {
            tracing::warn!(error, "cleanups could not be counted");
        }
        tokio::time::sleep(CLEANUP_CHECK).await;
    }
}

/// Tries each cleanup whose next attempt is due.
async fn reap_what_is_due(store: &Store) -> Result<(), String> {
    let now_ms = store.clock.unix_milliseconds();
    for (id, row) in pending(store)? {
        if row.next_attempt_ms <= now_ms {
            let looked = look(store, id, &row, Before::Remove, Origin::default(), Verifier::System).await;
            looked.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// The cleanups that are not done, the most urgent first.
pub fn pending(store: &Store) -> Result<Vec<(u64, CleanupRow)>, String> {
    let snapshot = store.ledger.reader().snapshot().map_err(|error| error.to_string())?;
    cleanup::pending(&snapshot, CLEANUP_BATCH).map_err(|error| error.to_string())
}

/// Looks whether one is gone, and records what was found.
pub async fn look(
    store: &Store,
    id: u64,
    row: &CleanupRow,
    before: Before,
    origin: Origin,
    verified_by: Verifier,
) -> Result<Look, LedgerUnavailable> {
    let found = match at_the_volume(store, row, before).await {
        Ok(true) => {
            let evidence = Evidence::AbsentByName;
            store.ledger.submit(Command::Finish { id, origin, evidence, verified_by }).await?;
            store.metrics.cleanups.with_label_values(&["succeeded"]).inc();
            return Ok(Look::Gone);
        }
        Ok(false) => "it is still there".to_owned(),
        Err(error) => error,
    };
    store.metrics.cleanups.with_label_values(&["failed"]).inc();
    let attempt = Command::Attempted { id, origin, error: found.clone() };
    let outcome = store.ledger.submit(attempt).await?;
    match outcome {
        // Somebody else was faster.
        Outcome::AlreadyDone => Ok(Look::Gone),
        Outcome::Retry { .. } | Outcome::Required(_) | Outcome::Done(_) | Outcome::Unknown => {
            Ok(Look::Still(found))
        }
    }
}

/// Whether it is gone.
async fn at_the_volume(store: &Store, row: &CleanupRow, before: Before) -> Result<bool, String> {
    let Some(volume) = store.volume(row.volume) else {
        return Err("its volume is not configured".to_owned());
    };
    let object = row.object;
    let disk = Arc::clone(&volume.backend);
    let looking = volume.pool.run(move || {
        // First of all: is it the volume? An empty mount point has no object either.
        disk.check()?;
        if before == Before::Remove {
            disk.remove(object)?;
        }
        disk.is_absent(object)
    });
    match tokio::time::timeout(CLEANUP_PATIENCE, looking).await {
        Ok(Ok(Ok(absent))) => Ok(absent),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(lost)) => Err(lost.to_string()),
        Err(_) => Err("the volume does not answer".to_owned()),
    }
}

fn count(store: &Store) -> Result<(), String> {
    let now_ms = store.clock.unix_milliseconds();
    let pending = pending(store)?;
    let overdue = pending.iter().filter(|(_, row)| row.is_overdue(now_ms)).count();
    let oldest = pending.first().map_or(0, |(_, row)| now_ms.saturating_sub(row.expected_by_ms));
    let snapshot = store.ledger.reader().snapshot().map_err(|error| error.to_string())?;
    let holds = hold::standing(&snapshot, HOLDS).map_err(|error| error.to_string())?;
    store.metrics.legal_holds.set(signed(holds.len() as u64));
    store.metrics.cleanups_pending.set(signed(pending.len() as u64));
    store.metrics.cleanups_overdue.set(signed(overdue as u64));
    #[expect(clippy::cast_precision_loss, reason = "a gauge of seconds")]
    store.metrics.cleanup_oldest_overdue_seconds.set(oldest as f64 / 1000.0);
    Ok(())
}
