//! The stored files: their rows, by id, by name and in the listing.
//!
//! **Invariant:** each file has one row, one name and one place in its cohort's listing, made together.

use serde::{Deserialize, Serialize};
use store_proto::{Cohort, ContentDigest, FileId, FileMeta, FileType, LogicalPath, UploadReceipt};

use crate::ledger::application::Application;
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::{CorruptError, Counter, rfc3339};

/// File id → the file.
pub const FILES: StateTable<FileRow> = StateTable::new("files");
/// Blinded (cohort, path) → file id.
pub const PATHS: StateTable<FileId> = StateTable::new("paths");
/// Cohort ‖ 0 ‖ index of the arrival's record, big-endian → file id. The listing.
pub const ARRIVALS: StateTable<FileId> = StateTable::new("arrivals");

/// A stored file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRow {
    /// The cohort it belongs to.
    pub cohort: Cohort,
    /// When its arrival was recorded.
    pub created_ms: u64,
    /// Its id, which is also the object's name on the volume.
    pub file_id: FileId,
    /// What kind of data it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// The record of its arrival.
    pub ledger_index: u64,
    /// Its name in the cohort.
    pub path: LogicalPath,
    /// SHA-256 of its bytes.
    pub sha256: ContentDigest,
    /// Its length.
    pub size: u64,
    /// Whether it may be read.
    pub state: FileState,
    /// The row's version.
    pub v: u32,
    /// The volume that holds the object.
    pub volume: FileId,
}

/// Whether a file may be read. More states follow with the malware scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// It may.
    Available,
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
            created_at: rfc3339(self.created_ms),
            ledger_index: self.ledger_index,
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

/// Adds a file.
pub(crate) fn add(app: &mut Application<'_, '_>, file: &FileRow) -> Result<(), CorruptError> {
    app.put_about(&FILES, file.file_id.as_bytes(), file.file_id, file)?;
    app.put(&PATHS, &name_key(app, &file.cohort, &file.path), &file.file_id)?;
    app.put(&ARRIVALS, &arrival_key(&file.cohort, file.ledger_index), &file.file_id)?;
    app.count(Counter::Files, 1)?;
    app.count(Counter::StoredBytes, i64::try_from(file.size).unwrap_or(i64::MAX))
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

fn name_key(view: &impl View, cohort: &Cohort, path: &LogicalPath) -> [u8; 32] {
    view.blind("path", &[cohort.as_str().as_bytes(), path.as_str().as_bytes()])
}

fn arrival_key(cohort: &Cohort, index: u64) -> Vec<u8> {
    [cohort.as_str().as_bytes(), &[0], &index.to_be_bytes()].concat()
}
