//! What a command sees while it is carried out: the state, the trail and the time.
//!
//! **Invariant:** nothing here reads a clock, draws an id or does IO but to the tables of one transaction.
//! A command that cannot be done is an outcome; an error means that the transaction is lost.

use redb::ReadableTable as _;

use crate::ledger::record::{Action, Host, Origin, Phase, Record};
use crate::ledger::state::{self, Entry, Row, StateTable, View};
use crate::ledger::tables::{CorruptError, Counter, Tables, encode};

/// Where the next record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) next_index: u64,
    pub(crate) last_time_ms: u64,
}

impl Position {
    pub(crate) fn after(last: Option<&Record>) -> Position {
        last.map_or(Position { next_index: 0, last_time_ms: 0 }, |record| Position {
            next_index: record.index + 1,
            last_time_ms: record.time_ms,
        })
    }
}

/// One transaction's view: its tables, its place in the trail and its time.
pub struct Application<'a, 'txn> {
    pub(crate) tables: &'a mut Tables<'txn>,
    pub(crate) position: &'a mut Position,
    pub(crate) host: &'a Host,
    pub(crate) now_ms: u64,
}

impl Application<'_, '_> {
    /// The time of the next record: the wall clock, but never before the last record.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.max(self.position.last_time_ms)
    }

    /// A record of this moment, to be filled in and appended.
    pub fn record(&self, action: Action, phase: Phase, origin: Origin) -> Record {
        let mut record = Record::new(action, phase, self.host.clone(), origin);
        record.time_ms = self.now_ms();
        record
    }

    /// The index that the next appended record gets.
    pub fn next_index(&self) -> u64 {
        self.position.next_index
    }

    /// Makes the record part of the trail, and says under which index.
    pub fn append(&mut self, mut record: Record) -> Result<u64, CorruptError> {
        record.index = self.position.next_index;
        record.time_ms = self.now_ms();
        self.tables.records.insert(record.index, record.to_bytes().as_slice())?;
        self.position.next_index += 1;
        self.position.last_time_ms = record.time_ms;
        Ok(record.index)
    }

    /// Writes a row.
    pub fn put<V: Row>(&mut self, table: &StateTable<V>, key: &[u8], row: &V) -> Result<(), CorruptError> {
        self.tables.state.insert(table.place(key).as_slice(), encode(row).as_slice())?;
        Ok(())
    }

    /// Removes a row, and says whether there was one.
    pub fn delete<V: Row>(&mut self, table: &StateTable<V>, key: &[u8]) -> Result<bool, CorruptError> {
        Ok(self.tables.state.remove(table.place(key).as_slice())?.is_some())
    }

    /// Adds to a counter; it stays between 0 and the largest number.
    pub fn count(&mut self, counter: Counter, change: i64) -> Result<(), CorruptError> {
        let now = self
            .tables
            .meta
            .get(counter.name())?
            .and_then(|bytes| bytes.value().try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let then = now.saturating_add_signed(change);
        self.tables.meta.insert(counter.name(), then.to_le_bytes().as_slice())?;
        Ok(())
    }
}

impl View for Application<'_, '_> {
    fn get<V: serde::de::DeserializeOwned>(
        &self,
        table: &StateTable<V>,
        key: &[u8],
    ) -> Result<Option<V>, CorruptError> {
        state::get(&self.tables.state, table, key)
    }

    fn scan<V: serde::de::DeserializeOwned>(
        &self,
        table: &StateTable<V>,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry<V>>, CorruptError> {
        state::scan(&self.tables.state, table, prefix, after, limit)
    }
}

impl std::fmt::Debug for Application<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Application").field("position", &self.position).finish_non_exhaustive()
    }
}
