//! Area *integrity*: what was found wrong with objects, and how far the scrub of each volume is.
//!
//! **Invariant:** a finding stands, with its record, until the object was looked at again in the same way and was found
//! right, or its file is deleted. Nothing is deleted or repaired because of one.

use serde::{Deserialize, Serialize};
use store_proto::{Cohort, FileId};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::files::{self, FileRow};
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::CorruptError;

/// File id ‖ part, big-endian → what is wrong with the part's object.
pub const FINDINGS: StateTable<FindingRow> = StateTable::new("integrity.findings");
/// Volume id → the cycle that runs over it.
pub const CYCLES: StateTable<CycleRow> = StateTable::new("integrity.cycles");

/// Something wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingRow {
    /// Whose file it is.
    pub cohort: Cohort,
    /// The file.
    pub file_id: FileId,
    /// When it was found.
    pub found_ms: u64,
    /// What is wrong.
    pub kind: FindingKind,
    /// The object.
    pub object: FileId,
    /// The number of the part that it is.
    pub part: u32,
    /// The record.
    pub record: u64,
    /// The row's version.
    pub v: u32,
    /// Where it lies, or should.
    pub volume: FileId,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// It is not there, on a volume that is.
    Missing,
    /// It has another length than was recorded.
    Length,
    /// It has other bytes than were sealed.
    HashMismatch,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [FindingKind; 3] = [FindingKind::Missing, FindingKind::Length, FindingKind::HashMismatch];

    /// The word on disk and in metrics; another length is another content.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Missing => "missing",
            FindingKind::Length | FindingKind::HashMismatch => "hash_mismatch",
        }
    }

    /// The sentence for people.
    pub fn sentence(self) -> &'static str {
        match self {
            FindingKind::Missing => "File does not exist",
            FindingKind::Length | FindingKind::HashMismatch => "Hash mismatch - file corrupted",
        }
    }
}

/// One pass over all objects of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CycleRow {
    /// When it began.
    pub begun_ms: u64,
    /// Objects that could not be looked at.
    pub cannot_tell: u64,
    /// When it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Objects in which something was found.
    pub findings: u64,
    /// The last file that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_file: Option<FileId>,
    /// Counts the cycles of the volume.
    pub number: u64,
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// When the cycle before it ended; 0: there was none.
    pub succeeded_ms: u64,
    /// The row's version.
    pub v: u32,
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// An object is not what the ledger says.
    Found {
        /// Who had it looked at.
        origin: Origin,
        /// The file.
        file_id: FileId,
        /// The object, which may have been let go since.
        object: FileId,
        /// What is wrong.
        kind: FindingKind,
    },
    /// An object in which something was found is right.
    Right {
        /// Who had it looked at.
        origin: Origin,
        /// The file.
        file_id: FileId,
        /// The part.
        part: u32,
    },
    /// So far is the scrub of a volume. At its end that is recorded.
    Advance {
        /// The volume.
        volume: FileId,
        /// How far.
        cycle: CycleRow,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Recorded, under this index.
    Recorded(u64),
    /// It was known.
    Known,
    /// The file, or this object of it, is no more: nothing is wrong.
    Gone,
    /// The scrub's place is kept.
    Kept,
}

impl Area for Command {}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Found { origin, file_id, object, kind } => found(app, origin, file_id, object, kind),
            Command::Right { origin, file_id, part } => right(app, origin, file_id, part),
            Command::Advance { volume, cycle } => advance(app, volume, &cycle),
        }
    }
}

/// The findings that stand, in the order of their files, from behind `after`.
pub fn standing(
    view: &impl View,
    after: Option<(FileId, u32)>,
    limit: usize,
) -> Result<Vec<FindingRow>, CorruptError> {
    let after = after.map(|(file, part)| key(file, part));
    let rows = view.scan(&FINDINGS, &[], after.as_ref().map(<[u8; 20]>::as_slice), limit)?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// What stands against a part of a file.
pub fn against(view: &impl View, file: FileId, part: u32) -> Result<Option<FindingRow>, CorruptError> {
    view.get(&FINDINGS, &key(file, part))
}

/// The cycle of a volume.
pub fn cycle(view: &impl View, volume: FileId) -> Result<CycleRow, CorruptError> {
    Ok(view.get(&CYCLES, volume.as_bytes())?.unwrap_or_default())
}

/// A file leaves: what stood against it is over.
pub(crate) fn forget(app: &mut Application<'_, '_>, file: &FileRow) -> Result<(), CorruptError> {
    for part in &file.parts {
        app.delete(&FINDINGS, &key(file.file_id, part.part))?;
    }
    Ok(())
}

fn found(
    app: &mut Application<'_, '_>,
    origin: Origin,
    file_id: FileId,
    object: FileId,
    kind: FindingKind,
) -> Result<Outcome, CorruptError> {
    let Some(file) = files::find(app, file_id)? else { return Ok(Outcome::Gone) };
    let Some(part) = file.parts.iter().find(|part| part.object == object) else { return Ok(Outcome::Gone) };
    let key = key(file_id, part.part);
    if app.get(&FINDINGS, &key)?.is_some_and(|row| row.kind == kind) {
        return Ok(Outcome::Known);
    }
    let mut record = app.record(Action::IntegrityFailed, Phase::Outcome, origin);
    record.ending = Some(Ending::Failed);
    record.cohort = Some(file.cohort.clone());
    record.file_id = Some(file_id);
    record.sha256 = Some(file.sha256);
    record.detail = Some(format!("part {}: {}", part.part, kind.name()));
    record.error = Some(kind.sentence().to_owned());
    let found_ms = record.time_ms;
    let record = app.append(record)?;
    let row = FindingRow {
        cohort: file.cohort,
        file_id,
        found_ms,
        kind,
        object,
        part: part.part,
        record,
        v: 1,
        volume: part.volume,
    };
    app.put(&FINDINGS, &key, &row)?;
    Ok(Outcome::Recorded(record))
}

fn right(
    app: &mut Application<'_, '_>,
    origin: Origin,
    file_id: FileId,
    part: u32,
) -> Result<Outcome, CorruptError> {
    let Some(row) = against(app, file_id, part)? else { return Ok(Outcome::Known) };
    app.delete(&FINDINGS, &key(file_id, part))?;
    let mut record = app.record(Action::IntegrityRestored, Phase::Outcome, origin);
    record.ending = Some(Ending::Succeeded);
    record.cohort = Some(row.cohort);
    record.file_id = Some(file_id);
    record.detail = Some(format!("part {part}: is what was sealed, again"));
    Ok(Outcome::Recorded(app.append(record)?))
}

fn advance(app: &mut Application<'_, '_>, volume: FileId, cycle: &CycleRow) -> Result<Outcome, CorruptError> {
    let ended_before = self::cycle(app, volume)?;
    app.put(&CYCLES, volume.as_bytes(), cycle)?;
    let ends =
        cycle.ended_ms.is_some() && (ended_before.ended_ms.is_none() || ended_before.number != cycle.number);
    if !ends {
        return Ok(Outcome::Kept);
    }
    let mut record = app.record(Action::IntegrityScrubbed, Phase::Outcome, Origin::default());
    let whole = cycle.findings == 0 && cycle.cannot_tell == 0;
    record.ending = Some(if whole { Ending::Succeeded } else { Ending::Failed });
    record.size = Some(cycle.read_bytes);
    record.detail = Some(format!(
        "cycle {} of volume {volume}: {} objects, {} findings, {} could not be looked at",
        cycle.number, cycle.objects, cycle.findings, cycle.cannot_tell
    ));
    Ok(Outcome::Recorded(app.append(record)?))
}

fn key(file: FileId, part: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(file.as_bytes());
    key[16..].copy_from_slice(&part.to_be_bytes());
    key
}
