//! Whether the objects on the volumes are still what was sealed.
//!
//! **Invariant:** an object is missing only if its volume was there before and after the look; a volume that is away,
//! hangs or answers with an error of its own gives *cannot tell*, never a finding. One look at a time touches a volume
//! for each of who asks, and no key is needed.

pub mod existence;
pub mod scrub;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use store_proto::FileId;

use crate::ledger::files::PartRow;
use crate::ledger::integrity::{self, Command, FindingKind, Outcome};
use crate::ledger::{CorruptError, LedgerUnavailable, Origin};
use crate::limits::{SCRUB_CHECK, SCRUB_CHUNK_BYTES, SCRUB_OBJECT_BYTES, SCRUB_PATIENCE};
use crate::objects::{Backend, Pool, Reading};
use crate::store::Store;

/// How closely an object is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Whether it is there, with its length.
    Existence,
    /// Each byte.
    Bytes,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is what was sealed, as far as was looked.
    Right,
    /// It is not.
    Wrong(FindingKind),
    /// Nobody can say: what stood in the way.
    CannotTell(String),
}

impl Verdict {
    /// Every word of [`result`](Self::result).
    pub const RESULTS: [&str; 4] = ["valid", "missing", "hash_mismatch", "cannot_tell"];

    /// The word in metrics.
    pub fn result(&self) -> &'static str {
        match self {
            Verdict::Right => "valid",
            Verdict::Wrong(kind) => kind.name(),
            Verdict::CannotTell(_) => "cannot_tell",
        }
    }
}

/// Why what was found is not kept.
#[derive(Debug, thiserror::Error)]
pub enum IntegrityError {
    /// It cannot be read what is to be looked at.
    #[error(transparent)]
    Read(#[from] CorruptError),
    /// It cannot be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerUnavailable),
    /// The thread was lost.
    #[error("a look at the ledger was lost: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

/// How fast objects are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many bytes a second, opening an object counted as [`SCRUB_OBJECT_BYTES`].
    Rate(u64),
    /// As fast as one reader goes that gives others for the same disk every other turn.
    InTurns,
}

impl Pace {
    /// What is left of the time that a step may take; after a slow one at least as long as it took.
    fn pause(self, bytes: u64, took: Duration) -> Duration {
        let turn = took.min(SCRUB_CHECK);
        match self {
            Pace::InTurns => turn,
            Pace::Rate(rate) => {
                let may_take = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1));
                may_take.saturating_sub(took).max(turn)
            }
        }
    }

    async fn after(self, store: &Store, bytes: u64, begun: Instant) {
        tokio::time::sleep(self.pause(bytes, store.clock.now().duration_since(begun))).await;
    }
}

/// Looks at one object.
pub async fn look(store: &Store, part: &PartRow, depth: Depth, pace: Pace) -> Verdict {
    let Some(volume) = store.volume(part.volume) else {
        return Verdict::CannotTell("its volume is not configured".to_owned());
    };
    // What does not answer the watch would only hold one more thread.
    if !volume.is_usable() {
        return Verdict::CannotTell("its volume cannot be used".to_owned());
    }
    let (pool, backend) = (&volume.pool, Arc::clone(&volume.backend));
    let (object, wanted) = (part.object, part.sealed_size);
    let begun = store.clock.now();
    let patience = store.io_patience.min(SCRUB_PATIENCE);
    let opened = patiently(pool, patience, move || open(backend.as_ref(), object)).await;
    pace.after(store, SCRUB_OBJECT_BYTES, begun).await;
    let reading = match opened {
        Ok(Some(reading)) if reading.length() == wanted => reading,
        Ok(Some(_)) => return Verdict::Wrong(FindingKind::Length),
        Ok(None) => return Verdict::Wrong(FindingKind::Missing),
        Err(why) => return Verdict::CannotTell(why),
    };
    if depth == Depth::Existence {
        return Verdict::Right;
    }
    let reading: Arc<dyn Reading> = Arc::from(reading);
    let mut hash = blake3::Hasher::new();
    let mut offset = 0;
    while offset < wanted {
        let begun = store.clock.now();
        let from = Arc::clone(&reading);
        let length = SCRUB_CHUNK_BYTES.min(wanted - offset);
        let step = patiently(pool, patience, move || read(from.as_ref(), hash, offset, length)).await;
        pace.after(store, length, begun).await;
        hash = match step {
            Ok(Some(hash)) => hash,
            // It was longer a moment ago.
            Ok(None) => return Verdict::Wrong(FindingKind::Length),
            Err(why) => return Verdict::CannotTell(why),
        };
        store.metrics.scrubbed_bytes.inc_by(length);
        offset += length;
    }
    if *hash.finalize().as_bytes() == part.blake3.0 {
        Verdict::Right
    } else {
        Verdict::Wrong(FindingKind::HashMismatch)
    }
}

/// Records what a look found, if it is news.
pub async fn settle(
    store: &Store,
    origin: &Origin,
    file_id: FileId,
    part: &PartRow,
    depth: Depth,
    verdict: &Verdict,
) -> Result<(), IntegrityError> {
    store.metrics.integrity_checks.with_label_values(&[verdict.result()]).inc();
    match verdict {
        Verdict::CannotTell(_) => Ok(()),
        Verdict::Wrong(kind) => {
            let (origin, object, kind) = (origin.clone(), part.object, *kind);
            let outcome = store.ledger.submit(Command::Found { origin, file_id, object, kind }).await?;
            if let Outcome::Recorded(_) = outcome {
                store.metrics.integrity_failed(kind);
                tracing::error!(file = %file_id, kind = kind.name(), "an object is not what was sealed");
            }
            Ok(())
        }
        Verdict::Right => {
            let stands = integrity::against(&store.ledger.reader().snapshot()?, file_id, part.part)?;
            // Whoever only looked at the length cannot say that the bytes are right again.
            let seen = |kind| depth == Depth::Bytes || kind != FindingKind::HashMismatch;
            if stands.is_some_and(|row| seen(row.kind)) {
                let (origin, part) = (origin.clone(), part.part);
                store.ledger.submit(Command::Right { origin, file_id, part }).await?;
            }
            Ok(())
        }
    }
}

/// A job on a volume's threads, and why there is no answer to it.
async fn patiently<T: Send + 'static>(
    pool: &Pool,
    patience: Duration,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::time::timeout(patience, pool.run(job)).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(lost)) => Err(lost.to_string()),
        Err(_) => Err("the volume does not answer".to_owned()),
    }
}

/// None: it is not there, and the volume is.
fn open(backend: &dyn Backend, object: FileId) -> io::Result<Option<Box<dyn Reading>>> {
    backend.check()?;
    match backend.open(object) {
        Ok(reading) => Ok(Some(reading)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It may have gone away in between, and an empty mount point has no object either.
            backend.check()?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The hash with the next bytes in it; none: there are no more.
fn read(
    reading: &dyn Reading,
    mut hash: blake3::Hasher,
    offset: u64,
    length: u64,
) -> io::Result<Option<blake3::Hasher>> {
    let mut buffer = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < buffer.len() {
        match reading.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => return Ok(None),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    hash.update(&buffer);
    Ok(Some(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_gets_a_pause_as_long_as_the_read_took() {
        let mib = 1 << 20;
        let paced = Pace::Rate(mib);
        assert_eq!(paced.pause(mib, Duration::from_millis(100)), Duration::from_millis(900));
        assert_eq!(paced.pause(mib, Duration::from_secs(3)), Duration::from_secs(3));
        assert_eq!(paced.pause(mib, Duration::from_secs(3600)), SCRUB_CHECK, "a pause has an end");
        assert_eq!(Pace::InTurns.pause(mib, Duration::from_millis(3)), Duration::from_millis(3));
    }
}
