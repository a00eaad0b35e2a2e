//! How much of the store a cohort uses, and what running uploads will add.
//!
//! **Invariant:** what is counted is what the files' rows say, and what is reserved is what the open uploads
//! hold, each changed in the transaction that changes those; no two uploads can be promised the same room.

use serde::{Deserialize, Serialize};
use store_proto::{Cohort, FileId};

use crate::ledger::application::Application;
use crate::ledger::files::FileRow;
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::CorruptError;

/// Cohort → what it uses.
pub const USAGE: StateTable<UsageRow> = StateTable::new("usage");
/// Cohort ‖ 0 ‖ volume id → what it uses there.
pub const VOLUME_USAGE: StateTable<VolumeUsageRow> = StateTable::new("volume_usage");

/// What a cohort uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRow {
    /// Bytes of its files, of all versions.
    pub bytes: u64,
    /// Its files, of all versions.
    pub files: u64,
    /// Bytes that open uploads may still add.
    pub reserved_bytes: u64,
    /// Files that open uploads may still add.
    pub reserved_files: u64,
    /// The row's format.
    pub v: u32,
}

/// What a cohort uses on one volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeUsageRow {
    /// Objects.
    pub objects: u64,
    /// Their bytes, sealed.
    pub sealed_bytes: u64,
    /// The row's format.
    pub v: u32,
}

/// What a cohort may use, as policy says at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes; none: as many as there is room for.
    pub bytes: Option<u64>,
    /// Files.
    pub files: Option<u64>,
}

/// What a cohort uses now.
pub(crate) fn of(view: &impl View, cohort: &Cohort) -> Result<UsageRow, CorruptError> {
    Ok(view.get(&USAGE, cohort.as_str().as_bytes())?.unwrap_or_default())
}

/// Reserves room for a file and `wanted` bytes, or, of a length that is not known (`known` is false), as many
/// of them as there are; how many. `None`: the quota is used up.
pub(crate) fn reserve(
    app: &mut Application<'_, '_>,
    cohort: &Cohort,
    quota: Quota,
    wanted: Wanted,
) -> Result<Option<u64>, CorruptError> {
    let mut usage = of(app, cohort)?;
    let left = quota
        .bytes
        .map_or(u64::MAX, |most| most.saturating_sub(usage.bytes.saturating_add(usage.reserved_bytes)));
    let granted = match wanted.bytes {
        Bytes::Exactly(bytes) if bytes <= left => bytes,
        Bytes::Exactly(_) => return Ok(None),
        Bytes::UpTo(_) if left == 0 => return Ok(None),
        Bytes::UpTo(bytes) => bytes.min(left),
    };
    let files = u64::from(wanted.file);
    let after = usage.files.saturating_add(usage.reserved_files).saturating_add(files);
    if wanted.file && quota.files.is_some_and(|most| after > most) {
        return Ok(None);
    }
    usage.reserved_bytes = usage.reserved_bytes.saturating_add(granted);
    usage.reserved_files = usage.reserved_files.saturating_add(files);
    write(app, cohort, usage)?;
    Ok(Some(granted))
}

/// What an upload wants reserved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) bytes: Bytes,
    /// A file too; not if it was reserved before.
    pub(crate) file: bool,
}

/// How many bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bytes {
    /// These or nothing.
    Exactly(u64),
    /// As many of these as there are, but one at least.
    UpTo(u64),
}

/// Gives back what an upload held.
pub(crate) fn release(
    app: &mut Application<'_, '_>,
    cohort: &Cohort,
    reserved_bytes: u64,
) -> Result<(), CorruptError> {
    let mut usage = of(app, cohort)?;
    usage.reserved_bytes = usage.reserved_bytes.saturating_sub(reserved_bytes);
    usage.reserved_files = usage.reserved_files.saturating_sub(1);
    write(app, cohort, usage)
}

/// Counts a file that was made.
pub(crate) fn add_file(app: &mut Application<'_, '_>, file: &FileRow) -> Result<(), CorruptError> {
    let mut usage = of(app, &file.cohort)?;
    usage.bytes = usage.bytes.saturating_add(file.size);
    usage.files += 1;
    write(app, &file.cohort, usage)?;
    for part in &file.parts {
        let key = volume_key(&file.cohort, part.volume);
        let mut there = app.get(&VOLUME_USAGE, &key)?.unwrap_or_default();
        there.objects += 1;
        there.sealed_bytes = there.sealed_bytes.saturating_add(part.sealed_size);
        app.put(&VOLUME_USAGE, &key, &VolumeUsageRow { v: 1, ..there })?;
    }
    Ok(())
}

/// Counts a file that was deleted.
pub(crate) fn remove_file(app: &mut Application<'_, '_>, file: &FileRow) -> Result<(), CorruptError> {
    let mut usage = of(app, &file.cohort)?;
    usage.bytes = usage.bytes.saturating_sub(file.size);
    usage.files = usage.files.saturating_sub(1);
    write(app, &file.cohort, usage)?;
    for part in &file.parts {
        let key = volume_key(&file.cohort, part.volume);
        let mut there = app.get(&VOLUME_USAGE, &key)?.unwrap_or_default();
        there.objects = there.objects.saturating_sub(1);
        there.sealed_bytes = there.sealed_bytes.saturating_sub(part.sealed_size);
        app.put(&VOLUME_USAGE, &key, &VolumeUsageRow { v: 1, ..there })?;
    }
    Ok(())
}

fn write(app: &mut Application<'_, '_>, cohort: &Cohort, usage: UsageRow) -> Result<(), CorruptError> {
    app.put(&USAGE, cohort.as_str().as_bytes(), &UsageRow { v: 1, ..usage })
}

fn volume_key(cohort: &Cohort, volume: FileId) -> Vec<u8> {
    [cohort.as_str().as_bytes(), &[0], volume.as_bytes()].concat()
}

/// The cohort and the volume of a row's key.
pub(crate) fn parse_volume_key(key: &[u8]) -> Option<(Cohort, FileId)> {
    let (cohort, volume) = key.split_at_checked(key.len().checked_sub(16)?)?;
    let cohort = std::str::from_utf8(cohort.strip_suffix(&[0])?).ok()?;
    Some((Cohort::parse(cohort).ok()?, FileId::from_bytes(volume.try_into().ok()?)))
}
