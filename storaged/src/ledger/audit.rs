//! Questions to the trail.
//!
//! **Invariant:** records never go back in time, so "since" is found by bisection. Records whose keys were
//! destroyed are passed over: nothing in them can be asked for.

use std::ops::{ControlFlow, Range};

use store_proto::{Cohort, FileId, RequestId, UserName};

use crate::ledger::log::Entry;
use crate::ledger::read::Reader;
use crate::ledger::record::{Action, Record};
use crate::ledger::tables::CorruptError;

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Only those about this cohort.
    pub cohort: Option<Cohort>,
    /// Only those of this user.
    pub user: Option<UserName>,
    /// Only this action.
    pub action: Option<Action>,
    /// Only those about this file.
    pub file: Option<FileId>,
    /// Only those of this request.
    pub request: Option<RequestId>,
    /// Only those that the WireGuard peer with this public key delivered, or that are about it.
    pub peer_public_key: Option<String>,
    /// Only from this time on, milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Only before this time, milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// At most so many, the newest.
    pub limit: Option<usize>,
}

/// Records read from the table at once.
const BATCH: usize = 512;

impl Question {
    /// Whether the record is wanted; `since` and `limit` aside.
    pub fn matches(&self, record: &Record) -> bool {
        self.cohort.as_ref().is_none_or(|cohort| record.cohort.as_ref() == Some(cohort))
            && self.user.as_ref().is_none_or(|user| record.origin.user.as_ref() == Some(user))
            && self.action.is_none_or(|action| record.action == action)
            && self.file.is_none_or(|file| record.file_id == Some(file))
            && self.request.as_ref().is_none_or(|request| record.origin.request_id.as_ref() == Some(request))
            && (self.peer_public_key.is_none() || self.peer_public_key == record.origin.peer_public_key)
    }

    /// The answer, oldest first, a batch at a time; each batch is handed to `on_record` and forgotten.
    /// It may break off.
    pub fn ask(
        &self,
        reader: &Reader,
        mut on_record: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<u64, CorruptError> {
        let size = reader.size()?;
        let end = self.until_ms.map_or(Ok(size), |until| index_at(reader, size, until))?;
        let first = self.since_ms.map_or(Ok(0), |since| index_at(reader, end, since))?;
        if let Some(file) = self.file {
            return self.ask_about(reader, file, first..end, on_record);
        }
        let start = match self.limit {
            Some(limit) => self.start_of_newest(reader, first, end, limit)?,
            None => first,
        };
        let mut found = 0;
        let mut next = start;
        while next < end {
            let batch = reader.entries(next, BATCH)?;
            let Some(last) = batch.last() else { break };
            next = last.index + 1;
            for record in batch.into_iter().filter_map(Entry::into_record) {
                if record.index < end && self.matches(&record) {
                    found += 1;
                    if on_record(record).is_break() {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(found)
    }

    /// One file's records are found by their index, so a long trail costs nothing.
    fn ask_about(
        &self,
        reader: &Reader,
        file: FileId,
        range: Range<u64>,
        mut on_record: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<u64, CorruptError> {
        let mut indices = reader.about(file, range.start, usize::MAX)?;
        indices.retain(|index| range.contains(index));
        let wanted = |index: &u64| -> Result<Option<Record>, CorruptError> {
            let record = reader.entry(*index)?.and_then(Entry::into_record);
            Ok(record.filter(|record| self.matches(record)))
        };
        if let Some(limit) = self.limit {
            let (mut from, mut left) = (indices.len(), limit);
            while from > 0 && left > 0 {
                from -= 1;
                left -= usize::from(wanted(&indices[from])?.is_some());
            }
            indices.drain(..from);
        }
        let mut found = 0;
        for index in &indices {
            if let Some(record) = wanted(index)? {
                found += 1;
                if on_record(record).is_break() {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Walks back until `limit` records match: memory stays bounded whatever the limit.
    fn start_of_newest(
        &self,
        reader: &Reader,
        first: u64,
        end: u64,
        limit: usize,
    ) -> Result<u64, CorruptError> {
        let mut wanted = limit;
        let mut high = end;
        while high > first && wanted > 0 {
            let low = high.saturating_sub(BATCH as u64).max(first);
            let count = usize::try_from(high - low).unwrap_or(BATCH);
            for record in reader.records(low, count)?.iter().rev() {
                if self.matches(record) {
                    wanted -= 1;
                    if wanted == 0 {
                        return Ok(record.index);
                    }
                }
            }
            high = low;
        }
        Ok(if limit == 0 { end } else { first })
    }
}

/// The first of the `end` first records that is not older than `time_ms`; `end` if there is none.
fn index_at(reader: &Reader, end: u64, time_ms: u64) -> Result<u64, CorruptError> {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let time = reader.time_of(middle)?;
        let time = time.ok_or_else(|| CorruptError::Row(format!("record {middle} of {end} is missing")))?;
        if time < time_ms {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
