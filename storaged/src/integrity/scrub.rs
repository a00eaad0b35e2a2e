//! The scrub: every byte of every object, volume by volume, again and again.
//!
//! **Invariant:** a cycle takes up where the last start left it, reads at most as fast as it has to, and waits while its
//! volume cannot be used. A file that comes while it runs is read in this cycle or the next.

use std::sync::Arc;
use std::time::Duration;

use store_proto::FileId;

use crate::integrity::{Depth, IntegrityError, Pace, Verdict, look, settle};
use crate::ledger::files::{FILES, FileRow};
use crate::ledger::integrity::{self, Command, CycleRow};
use crate::ledger::{Origin, View as _};
use crate::limits::{SCRUB_BATCH, SCRUB_CHECK, SCRUB_KEEP_EVERY, SCRUB_LEAST_RATE, SCRUB_MOST_RATE};
use crate::store::Store;
use crate::volumes::VolumeState;

/// How often, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Each object is read once in this time.
    pub cycle: Duration,
    /// Bytes a second of each volume; none: as fast as the cycle needs.
    pub bytes_per_second: Option<u64>,
}

/// Scrubs a volume until the runtime ends.
pub async fn run(store: Arc<Store>, volume: Arc<VolumeState>) {
    loop {
        match step(&store, &volume).await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(SCRUB_CHECK).await,
            Err(error) => {
                tracing::warn!(volume = %volume.name, %error, "the scrub cannot go on");
                tokio::time::sleep(SCRUB_CHECK).await;
            }
        }
    }
}

/// Begins a cycle, or goes on with it for some minutes; false: there is nothing to do for now.
pub async fn step(store: &Store, volume: &VolumeState) -> Result<bool, IntegrityError> {
    let id = volume.backend.id();
    let mut cycle = integrity::cycle(&store.ledger.reader().snapshot()?, id)?;
    let now_ms = store.clock.unix_milliseconds();
    if cycle.number == 0 || cycle.ended_ms.is_some() {
        if cycle.number > 0 && now_ms < due_ms(store, &cycle) {
            tell(store, volume, &cycle);
            return Ok(false);
        }
        cycle = CycleRow {
            begun_ms: now_ms,
            number: cycle.number + 1,
            succeeded_ms: cycle.ended_ms.unwrap_or(0),
            v: 1,
            ..CycleRow::default()
        };
    }
    if !volume.is_usable() {
        return Ok(false);
    }
    go_on(store, volume, &mut cycle).await?;
    store.ledger.submit(Command::Advance { volume: id, cycle: cycle.clone() }).await?;
    tell(store, volume, &cycle);
    Ok(cycle.ended_ms.is_none() && volume.is_usable())
}

/// Reads on, for at most [`SCRUB_KEEP_EVERY`].
async fn go_on(store: &Store, volume: &VolumeState, cycle: &mut CycleRow) -> Result<(), IntegrityError> {
    let id = volume.backend.id();
    let begun = store.clock.now();
    let pace = Pace::Rate(rate(store, id, cycle)?);
    loop {
        let batch = next(store, cycle.last_file).await?;
        if batch.is_empty() {
            cycle.ended_ms = Some(store.clock.unix_milliseconds());
            return Ok(());
        }
        for file in batch {
            for part in file.parts.iter().filter(|part| part.volume == id) {
                let verdict = look(store, part, Depth::Bytes, pace).await;
                match &verdict {
                    // A volume that went away is waited for, and this file is looked at again.
                    Verdict::CannotTell(_) if gone_away(store, volume).await => return Ok(()),
                    Verdict::CannotTell(_) => cycle.cannot_tell += 1,
                    Verdict::Wrong(_) => cycle.findings += 1,
                    Verdict::Right => cycle.read_bytes += part.sealed_size,
                }
                cycle.objects += 1;
                settle(store, &Origin::default(), file.file_id, part, Depth::Bytes, &verdict).await?;
            }
            cycle.last_file = Some(file.file_id);
            if store.clock.now().duration_since(begun) >= SCRUB_KEEP_EVERY {
                return Ok(());
            }
        }
    }
}

/// Whether it is the volume that is wrong, and not one object.
async fn gone_away(store: &Store, volume: &VolumeState) -> bool {
    store.look_at(volume).await;
    !volume.is_usable()
}

/// The next files behind this one, of whatever volume.
pub(super) async fn next(store: &Store, after: Option<FileId>) -> Result<Vec<FileRow>, IntegrityError> {
    let reader = store.ledger.reader().clone();
    let found = tokio::task::spawn_blocking(move || {
        let after = after.map(|file| *file.as_bytes());
        reader.snapshot()?.scan(&FILES, &[], after.as_ref().map(<[u8; 16]>::as_slice), SCRUB_BATCH)
    });
    Ok(found.await??.into_iter().map(|(_, row)| row).collect())
}

/// Bytes a second with which what is left is read in nine tenths of the time that is left.
fn rate(store: &Store, volume: FileId, cycle: &CycleRow) -> Result<u64, IntegrityError> {
    if let Some(rate) = store.scrub.bytes_per_second {
        return Ok(rate.max(1));
    }
    let used = store.ledger.reader().usage_by_volume()?;
    let all: u64 = used.iter().filter(|(_, id, _)| *id == volume).map(|(_, _, row)| row.sealed_bytes).sum();
    let left_ms = due_ms(store, cycle).saturating_sub(store.clock.unix_milliseconds());
    Ok(needed_rate(all.saturating_sub(cycle.read_bytes), left_ms))
}

fn needed_rate(left_bytes: u64, left_ms: u64) -> u64 {
    let seconds = (left_ms / 1000 / 10 * 9).max(1);
    (left_bytes / seconds).clamp(SCRUB_LEAST_RATE, SCRUB_MOST_RATE)
}

/// When the next cycle is to begin.
fn due_ms(store: &Store, cycle: &CycleRow) -> u64 {
    let length = u64::try_from(store.scrub.cycle.as_millis()).unwrap_or(u64::MAX);
    cycle.begun_ms.saturating_add(length)
}

fn tell(store: &Store, volume: &VolumeState, cycle: &CycleRow) {
    let now_ms = store.clock.unix_milliseconds();
    let used = store.ledger.reader().usage_by_volume().unwrap_or_default();
    let id = volume.backend.id();
    let all: u64 = used.iter().filter(|(_, of, _)| *of == id).map(|(_, _, row)| row.sealed_bytes).sum();
    let progress = if cycle.ended_ms.is_some() { 1.0 } else { ratio(cycle.read_bytes, all) };
    let length = due_ms(store, cycle).saturating_sub(cycle.begun_ms);
    let elapsed = ratio(now_ms.saturating_sub(cycle.begun_ms), length);
    store.metrics.scrub(&volume.name, cycle, now_ms, progress, elapsed);
}

#[expect(clippy::cast_precision_loss, reason = "a gauge between 0 and 1")]
fn ratio(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_fits_what_is_left_into_the_time_that_is_left() {
        let day_ms = 86_400_000;
        // 10 TiB in 30 days: 4.4 MB/s, with a tenth of the time to spare.
        assert_eq!(needed_rate(10 << 40, 30 * day_ms), (10 << 40) / (27 * 86_400));
        assert_eq!(needed_rate(0, 30 * day_ms), SCRUB_LEAST_RATE);
        assert_eq!(needed_rate(10 << 40, 0), SCRUB_MOST_RATE, "late, and still bounded");
    }
}
