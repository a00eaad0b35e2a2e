//! The stored files: their rows, by id, by name and in the listing; and area *file*: what becomes of them.
//!
//! **Invariant:** each file has one row; a name leads to its newest version, each version to the one before.
//! A file is made in one transaction: its row, its name, the objects it claims, what it adds to the usage.
//! A state changes once: held → available or rejected.

use serde::{Deserialize, Serialize};
pub use store_proto::FileState;
use store_proto::{
    Attributes, Cohort, ContentDigest, FileId, FileMeta, FileType, LogicalPath, UploadReceipt,
};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::{CorruptError, Counter, rfc3339};
use crate::ledger::usage;

/// File id → the file.
pub const FILES: StateTable<FileRow> = StateTable::new("files");
/// Blinded (cohort, path) → file id.
pub const PATHS: StateTable<FileId> = StateTable::new("paths");
/// Cohort ‖ 0 ‖ index of the arrival's record, big-endian → file id. The listing.
pub const ARRIVALS: StateTable<FileId> = StateTable::new("arrivals");
/// Object → the file whose part it is.
pub const OBJECTS: StateTable<FileId> = StateTable::new("objects");

/// A stored file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRow {
    /// What its sender said beside name and type.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// The cohort it belongs to.
    pub cohort: Cohort,
    /// When its arrival was recorded.
    pub created_ms: u64,
    /// Its id.
    pub file_id: FileId,
    /// What kind of data it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// The record of its arrival.
    pub ledger_index: u64,
    /// Where its bytes are, in their order.
    pub parts: Vec<PartRow>,
    /// Its name in the cohort.
    pub path: LogicalPath,
    /// The version before, which stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<FileId>,
    /// SHA-256 of its bytes.
    pub sha256: ContentDigest,
    /// Its length.
    pub size: u64,
    /// Whether it may be read.
    pub state: FileState,
    /// The row's format.
    pub v: u32,
    /// Which version of the name it is, from 1.
    pub version: u32,
}

/// A stretch of a file, sealed by itself under its own key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartRow {
    /// BLAKE3 of the object's bytes, which a scrub compares without any key.
    pub blake3: SealedDigest,
    /// The object's name on the volume.
    pub object: FileId,
    /// The part's number and the slot of its key: counts up from 1; one that failed leaves a gap.
    pub part: u32,
    /// The object's bytes.
    pub sealed_size: u64,
    /// The file's bytes in it.
    pub size: u64,
    /// The volume that holds the object.
    pub volume: FileId,
}

/// BLAKE3 of an object's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SealedDigest(pub [u8; 32]);

impl TryFrom<String> for SealedDigest {
    type Error = store_proto::DigestError;

    fn try_from(text: String) -> Result<SealedDigest, Self::Error> {
        // The same spelling as every digest: 64 lower-case digits.
        ContentDigest::parse(&text).map(|digest| SealedDigest(*digest.as_bytes()))
    }
}

impl From<SealedDigest> for String {
    fn from(digest: SealedDigest) -> String {
        ContentDigest::from_bytes(digest.0).to_string()
    }
}

/// A file whose bytes are durable.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) cohort: Cohort,
    pub(crate) path: LogicalPath,
    pub(crate) file_id: FileId,
    pub(crate) file_type: Option<FileType>,
    pub(crate) attributes: Attributes,
    pub(crate) parts: Vec<PartRow>,
    pub(crate) sha256: ContentDigest,
    /// Replace this content by a new version; none: the name must be free.
    pub(crate) replaces: Option<ContentDigest>,
    pub(crate) scan_required: bool,
}

/// What stands against an arrival.
#[derive(Debug)]
pub(crate) enum Place {
    /// Nothing: it is this version, behind that one.
    Free(u32, Option<FileId>),
    /// The name has a file, this content or another.
    Taken(Box<FileRow>),
    /// The content to be replaced is not there.
    NotThere,
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// A scanner has looked at a held file.
    Judge {
        /// Who asked.
        origin: Origin,
        /// Which.
        file_id: FileId,
        /// Whether it may be read from now on.
        clean: bool,
        /// What was found: a closed word of the scanner.
        detail: Option<String>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The file as it is now.
    Judged(Box<FileRow>),
    /// It is not held, or no longer.
    NotHeld(FileState),
    /// There is no such file.
    UnknownFile,
}

impl Area for Command {
    /// What is rejected stays rejected.
    fn waits_for_mirror(&self) -> bool {
        true
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        let Command::Judge { origin, file_id, clean, detail } = self;
        let Some(mut file) = find(app, file_id)? else { return Ok(Outcome::UnknownFile) };
        if file.state != FileState::Held {
            return Ok(Outcome::NotHeld(file.state));
        }
        file.state = if clean { FileState::Available } else { FileState::Rejected };
        let action = if clean { Action::AccessReleased } else { Action::AccessRejected };
        let mut record = app.record(action, Phase::Outcome, origin);
        record.ending = Some(Ending::Succeeded);
        record.cohort = Some(file.cohort.clone());
        record.path = Some(file.path.clone());
        record.file_id = Some(file_id);
        record.sha256 = Some(file.sha256);
        record.detail = detail;
        app.append(record)?;
        app.put_about(&FILES, file_id.as_bytes(), file_id, &file)?;
        app.count(Counter::HeldFiles, -1)?;
        Ok(Outcome::Judged(Box::new(file)))
    }
}

impl FileRow {
    /// What edge is told.
    pub fn to_meta(&self) -> FileMeta {
        FileMeta {
            file_id: self.file_id,
            cohort: self.cohort.clone(),
            path: self.path.clone(),
            size: self.size,
            sha256: self.sha256,
            etag: self.sha256.to_etag(),
            file_type: self.file_type.clone(),
            attributes: self.attributes.clone(),
            created_at: rfc3339(self.created_ms),
            ledger_index: self.ledger_index,
            version: self.version,
            state: self.state,
        }
    }

    /// What an upload is answered with.
    pub fn to_receipt(&self) -> UploadReceipt {
        UploadReceipt {
            file_id: self.file_id,
            cohort: self.cohort.clone(),
            size: self.size,
            sha256: self.sha256,
            etag: self.sha256.to_etag(),
            ledger_index: self.ledger_index,
            stored_at: rfc3339(self.created_ms),
            receipt: None,
        }
    }
}

/// The file with this id.
pub(crate) fn find(view: &impl View, id: FileId) -> Result<Option<FileRow>, CorruptError> {
    view.get(&FILES, id.as_bytes())
}

/// The file with this name.
pub(crate) fn at(
    view: &impl View,
    cohort: &Cohort,
    path: &LogicalPath,
) -> Result<Option<FileRow>, CorruptError> {
    let Some(id) = view.get(&PATHS, &name_key(view, cohort, path))? else { return Ok(None) };
    find(view, id)?
        .map(Some)
        .ok_or_else(|| CorruptError::Row(format!("a path leads to {id}, which is no file")))
}

/// Whether this content may have this name.
pub(crate) fn place(view: &impl View, arrival: &Arrival) -> Result<Place, CorruptError> {
    match (at(view, &arrival.cohort, &arrival.path)?, arrival.replaces) {
        (None, None) => Ok(Place::Free(1, None)),
        (None, Some(_)) => Ok(Place::NotThere),
        (Some(existing), _) if existing.sha256 == arrival.sha256 => Ok(Place::Taken(Box::new(existing))),
        (Some(existing), None) => Ok(Place::Taken(Box::new(existing))),
        (Some(existing), Some(replaced)) if existing.sha256 == replaced => {
            Ok(Place::Free(existing.version + 1, Some(existing.file_id)))
        }
        (Some(_), Some(_)) => Ok(Place::NotThere),
    }
}

/// Makes an arrival a file.
pub(crate) fn add(
    app: &mut Application<'_, '_>,
    arrival: Arrival,
    (version, previous): (u32, Option<FileId>),
    ledger_index: u64,
) -> Result<FileRow, CorruptError> {
    let size = arrival.parts.iter().map(|part| part.size).sum();
    let file = FileRow {
        attributes: arrival.attributes,
        cohort: arrival.cohort,
        created_ms: app.now_ms(),
        file_id: arrival.file_id,
        file_type: arrival.file_type,
        ledger_index,
        parts: arrival.parts,
        path: arrival.path,
        previous,
        sha256: arrival.sha256,
        size,
        state: if arrival.scan_required { FileState::Held } else { FileState::Available },
        v: 1,
        version,
    };
    app.put_about(&FILES, file.file_id.as_bytes(), file.file_id, &file)?;
    app.put(&PATHS, &name_key(app, &file.cohort, &file.path), &file.file_id)?;
    app.put(&ARRIVALS, &arrival_key(&file.cohort, file.ledger_index), &file.file_id)?;
    for part in &file.parts {
        app.put(&OBJECTS, part.object.as_bytes(), &file.file_id)?;
    }
    usage::add_file(app, &file)?;
    app.count(Counter::Files, 1)?;
    app.count(Counter::HeldFiles, i64::from(file.state == FileState::Held))?;
    app.count(Counter::StoredBytes, i64::try_from(file.size).unwrap_or(i64::MAX))?;
    Ok(file)
}

/// Takes a file out of sight: its row, its place in the listing, what it adds to the usage. Its name leads to
/// the version before it, if there is one. Its objects stay claimed until they are gone.
pub(crate) fn forget(app: &mut Application<'_, '_>, file: &FileRow) -> Result<(), CorruptError> {
    let name = name_key(app, &file.cohort, &file.path);
    let newest = app.get(&PATHS, &name)?;
    if newest == Some(file.file_id) {
        match file.previous {
            Some(previous) => app.put(&PATHS, &name, &previous)?,
            None => drop(app.delete(&PATHS, &name)?),
        }
    } else {
        let mut next = newest;
        while let Some(id) = next {
            let Some(mut newer) = find(app, id)? else { break };
            if newer.previous == Some(file.file_id) {
                newer.previous = file.previous;
                app.put_about(&FILES, id.as_bytes(), id, &newer)?;
                break;
            }
            next = newer.previous;
        }
    }
    app.delete(&FILES, file.file_id.as_bytes())?;
    app.delete(&ARRIVALS, &arrival_key(&file.cohort, file.ledger_index))?;
    usage::remove_file(app, file)?;
    app.count(Counter::Files, -1)?;
    app.count(Counter::HeldFiles, -i64::from(file.state == FileState::Held))?;
    app.count(Counter::StoredBytes, -i64::try_from(file.size).unwrap_or(i64::MAX))
}

/// An object of a file that was forgotten is gone from its volume.
pub(crate) fn release_object(app: &mut Application<'_, '_>, object: FileId) -> Result<(), CorruptError> {
    app.delete(&OBJECTS, object.as_bytes()).map(drop)
}

/// The versions of a name, the newest first, at most `limit`.
pub(crate) fn versions(
    view: &impl View,
    cohort: &Cohort,
    path: &LogicalPath,
    limit: usize,
) -> Result<Vec<FileRow>, CorruptError> {
    let mut found = Vec::new();
    let mut next = at(view, cohort, path)?;
    while let Some(file) = next {
        next = match file.previous {
            Some(previous) if found.len() + 1 < limit => find(view, previous)?,
            _ => None,
        };
        found.push(file);
    }
    Ok(found)
}

/// At most `limit` files of a cohort in the order of their arrival, from behind the one whose record is
/// `after`. The flag: there are more.
pub(crate) fn list(
    view: &impl View,
    cohort: &Cohort,
    after: Option<u64>,
    limit: usize,
) -> Result<(Vec<FileRow>, bool), CorruptError> {
    let after = after.map(|index| arrival_key(cohort, index));
    let prefix = [cohort.as_str().as_bytes(), &[0]].concat();
    let mut ids = view.scan(&ARRIVALS, &prefix, after.as_deref(), limit + 1)?;
    let more = ids.len() > limit;
    ids.truncate(limit);
    let mut rows = Vec::with_capacity(ids.len());
    for (_, id) in ids {
        let row = find(view, id)?;
        rows.push(row.ok_or_else(|| CorruptError::Row(format!("{id} is listed and is no file")))?);
    }
    Ok((rows, more))
}

/// Whether its name leads to it or a newer version, and the listing has it where its record stands.
pub(crate) fn is_listed(view: &impl View, file: &FileRow) -> Result<bool, CorruptError> {
    let listed = view.get(&ARRIVALS, &arrival_key(&file.cohort, file.ledger_index))?;
    let newest = view.get(&PATHS, &name_key(view, &file.cohort, &file.path))?;
    let newest = match newest {
        Some(id) if id != file.file_id => find(view, id)?.is_some_and(|newer| newer.version > file.version),
        found => found.is_some(),
    };
    Ok(newest && listed == Some(file.file_id))
}

fn name_key(view: &impl View, cohort: &Cohort, path: &LogicalPath) -> [u8; 32] {
    view.blind("path", &[cohort.as_str().as_bytes(), path.as_str().as_bytes()])
}

fn arrival_key(cohort: &Cohort, index: u64) -> Vec<u8> {
    [cohort.as_str().as_bytes(), &[0], &index.to_be_bytes()].concat()
}
