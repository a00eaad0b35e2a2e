//! The daily pass: whether what came in the last seven days is there.

use std::sync::Arc;

use crate::integrity::scrub::next;
use crate::integrity::{Depth, IntegrityError, Pace, look, settle};
use crate::ledger::Origin;
use crate::limits::{EXISTENCE_AGE_MS, EXISTENCE_EVERY, EXISTENCE_FIRST};
use crate::store::Store;

/// Once a day, until the runtime ends; the first time soon after a start.
pub async fn run(store: Arc<Store>) {
    tokio::time::sleep(EXISTENCE_FIRST).await;
    loop {
        match pass(&store).await {
            Ok(looked) => tracing::info!(objects = looked, "looked for what came in the last seven days"),
            Err(error) => tracing::warn!(%error, "the existence pass cannot go on"),
        }
        tokio::time::sleep(EXISTENCE_EVERY).await;
    }
}

/// Looks once; how many objects.
pub async fn pass(store: &Store) -> Result<u64, IntegrityError> {
    let since_ms = store.clock.unix_milliseconds().saturating_sub(EXISTENCE_AGE_MS);
    let (mut last, mut looked) = (None, 0);
    loop {
        let batch = next(store, last).await?;
        let Some(end) = batch.last() else { return Ok(looked) };
        last = Some(end.file_id);
        for file in batch.iter().filter(|file| file.created_ms >= since_ms) {
            for part in &file.parts {
                let verdict = look(store, part, Depth::Existence, Pace::InTurns).await;
                settle(store, &Origin::default(), file.file_id, part, Depth::Existence, &verdict).await?;
                looked += 1;
            }
        }
    }
}
