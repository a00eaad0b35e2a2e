//! Questions to the trail.
//!
//! **Invariant:** records never go back in time, so "since" is found by bisection. Records whose keys were
//! destroyed are passed over: nothing in them can be asked for.

use std::ops::ControlFlow;

use store_proto::{Cohort, UserName};

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
    /// Only from this time on, milliseconds since 1970.
    pub since_ms: Option<u64>,
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
    }

    /// The answer, oldest first, a batch at a time; each batch is handed to `on_record` and forgotten.
    /// It may break off.
    pub fn ask(
        &self,
        reader: &Reader,
        mut on_record: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<u64, CorruptError> {
        let end = reader.size()?;
        let first = self.first_index(reader, end)?;
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

    /// The first record that is not older than `since_ms`.
    fn first_index(&self, reader: &Reader, end: u64) -> Result<u64, CorruptError> {
        let Some(since) = self.since_ms else { return Ok(0) };
        let (mut low, mut high) = (0, end);
        while low < high {
            let middle = low + (high - low) / 2;
            let time = reader.time_of(middle)?;
            let time =
                time.ok_or_else(|| CorruptError::Row(format!("record {middle} of {end} is missing")))?;
            if time < since {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
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
