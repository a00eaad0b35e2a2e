//! Uploads that nobody has come back to.
//!
//! **Invariant:** an upload is given up only when its time is over and nobody writes it; what it left is removed
//! and recorded. What cannot be removed now is tried again.

use std::sync::Arc;

use store_proto::{FileId, ProblemKind, UserName};

use crate::ledger::partial::{Blob, Command, PartialRow};
use crate::ledger::repeat;
use crate::ledger::{CorruptError, Ending};
use crate::limits::{EXPIRY_CHECK, PREEMPTION_WAIT, REPEATS_BATCH, REPEATS_EVERY};
use crate::serve::answer::Refusal;
use crate::serve::stretch::{discard, resumable};
use crate::store::Store;

/// Looks again and again, until the runtime ends.
pub async fn expire_uploads(store: Arc<Store>) {
    for round in 0_u32.. {
        expire_now(&store).await;
        if round % REPEATS_EVERY == 0 {
            forget_repeats(&store, store.clock.unix_milliseconds()).await;
        }
        tokio::time::sleep(EXPIRY_CHECK).await;
    }
}

/// Forgets the keys of requests that nobody repeats any more. One that is forgotten late counts for nothing meanwhile.
pub async fn forget_repeats(store: &Store, now_ms: u64) {
    if !store.ledger.trusts_clock(store.clock) {
        return;
    }
    let mut after: Option<Vec<u8>> = None;
    loop {
        let looked = store.ledger.reader().repeats(after.as_deref(), REPEATS_BATCH, now_ms);
        let (last, keys) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                tracing::warn!(%error, "look for keys of requests that are over");
                return;
            }
        };
        if !keys.is_empty() && store.ledger.submit(repeat::Command::Forget { keys }).await.is_err() {
            tracing::warn!("keys of requests that are over could not be forgotten");
            return;
        }
        if last.is_none() {
            return;
        }
        after = last;
    }
}

/// Looks once.
pub async fn expire_now(store: &Store) {
    // A clock that jumped makes everything old at once.
    if !store.ledger.trusts_clock(store.clock) {
        return;
    }
    let mut after = None;
    loop {
        let some = match store.ledger.reader().partials(after) {
            Ok(some) => some,
            Err(error) => {
                tracing::warn!(%error, "look for expired uploads");
                return;
            }
        };
        after = some.last().map(|(upload, _)| *upload);
        if after.is_none() {
            return;
        }
        for (upload, row) in some {
            if is_over(store, &row) {
                expire(store, upload).await;
            }
        }
    }
}

/// Gives up all unfinished uploads of a user who was shut out, and says how many. What cannot be removed now expires.
pub async fn end_uploads_of(store: &Store, user: &UserName) -> u64 {
    let uploads = match store.ledger.reader().partials_of(user) {
        Ok(uploads) => uploads,
        Err(error) => {
            tracing::warn!(%error, "look for the uploads of a user who was shut out");
            return 0;
        }
    };
    let mut ended = 0;
    for (upload, _) in uploads {
        if end_upload(store, upload, "its sender was shut out").await.is_ok() {
            ended += 1;
        }
    }
    ended
}

/// Gives up one unfinished upload in its sender's place. A request that brings more of it is told to end first.
pub async fn end_upload(store: &Store, upload: FileId, why: &str) -> Result<(), Refusal> {
    let turn = store.writers.turn(upload, PREEMPTION_WAIT).await;
    let _turn = turn.ok_or(Refusal::of(ProblemKind::UploadBusy))?;
    // Its last stretch may have made a file of it meanwhile.
    if resumable(store, upload)?.row.finished {
        return Err(Refusal::of(ProblemKind::UnknownUpload));
    }
    discard(store, upload, Ending::Aborted, why.to_owned(), None).await
}

/// Where to go on, and the uploads up to there.
type Page = (FileId, Vec<(FileId, PartialRow)>);

/// The next uploads behind `after` that have not ended, without what they hold; none: that was all.
pub fn unfinished(store: &Store, after: Option<FileId>) -> Result<Option<Page>, CorruptError> {
    let some = store.ledger.reader().partials(after)?;
    let Some((last, _)) = some.last() else { return Ok(None) };
    let last = *last;
    let open = some.into_iter().filter(|(_, row)| !row.finished);
    let open = open.map(|(upload, row)| (upload, PartialRow { tail: Blob::default(), hash: None, ..row }));
    Ok(Some((last, open.collect())))
}

fn is_over(store: &Store, row: &PartialRow) -> bool {
    // What was condemned and not ended, because the process or the volume broke off, is ended here.
    row.condemned || row.expires_ms <= store.clock.unix_milliseconds()
}

async fn expire(store: &Store, upload: FileId) {
    // Whoever writes it brings a later time.
    let Some(_turn) = store.writers.idle_turn(upload) else { return };
    let Ok(found) = resumable(store, upload) else { return };
    if !is_over(store, &found.row) {
        return;
    }
    if found.row.finished {
        if store.ledger.submit(Command::Forget { upload }).await.is_err() {
            tracing::warn!("an upload that is over could not be forgotten");
        }
        return;
    }
    if discard(store, upload, Ending::Aborted, "expired".to_owned(), None).await.is_err() {
        tracing::warn!("an expired upload could not be removed; it is tried again");
    }
}
