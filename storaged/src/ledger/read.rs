//! Reading the ledger: snapshots that never wait for the writer.

use std::sync::Arc;

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _,
};
use serde::de::DeserializeOwned;
use store_proto::{Cohort, FileId, LogicalPath};

use crate::ledger::files::{self, FileRow};
use crate::ledger::intents::{INTENTS, IntentRow};
use crate::ledger::record::Record;
use crate::ledger::state::{self, Entry, StateTable, View};
use crate::ledger::tables::{CorruptError, Counter, META, RECORDS, STATE, decode};

/// Reads what is durable; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    database: Arc<Database>,
}

/// The state as it was at one moment; it never waits for the writer and never changes.
pub struct Snapshot {
    transaction: ReadTransaction,
    state: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

/// Sizes, for metrics and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Records.
    pub records: u64,
    /// Files.
    pub files: u64,
    /// Operations that have not ended.
    pub open_intents: u64,
    /// Bytes of all files.
    pub stored_bytes: u64,
}

impl Reader {
    /// Reads this database.
    pub fn new(database: Arc<Database>) -> Reader {
        Reader { database }
    }

    /// The state of this moment, for several questions with one answer.
    pub fn snapshot(&self) -> Result<Snapshot, CorruptError> {
        let transaction = self.begin()?;
        let state = transaction.open_table(STATE)?;
        Ok(Snapshot { transaction, state })
    }

    /// The file with this id.
    pub fn file(&self, id: FileId) -> Result<Option<FileRow>, CorruptError> {
        files::find(&self.snapshot()?, id)
    }

    /// The file at this path.
    pub fn file_at(&self, cohort: &Cohort, path: &LogicalPath) -> Result<Option<FileRow>, CorruptError> {
        files::at(&self.snapshot()?, cohort, path)
    }

    /// At most `limit` files of a cohort, by path, from behind `after`. The flag: there are more.
    pub fn list(
        &self,
        cohort: &Cohort,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<FileRow>, bool), CorruptError> {
        files::list(&self.snapshot()?, cohort, after, limit)
    }

    /// The newest record.
    pub fn last_record(&self) -> Result<Option<Record>, CorruptError> {
        let records = self.begin()?.open_table(RECORDS)?;
        records.last()?.map(|(_, bytes)| decode("record", bytes.value())).transpose()
    }

    /// The record with this index.
    pub fn record(&self, index: u64) -> Result<Option<Record>, CorruptError> {
        let records = self.begin()?.open_table(RECORDS)?;
        records.get(index)?.map(|bytes| decode("record", bytes.value())).transpose()
    }

    /// At most `limit` records from `first` on.
    pub fn records(&self, first: u64, limit: usize) -> Result<Vec<Record>, CorruptError> {
        let records = self.begin()?.open_table(RECORDS)?;
        let mut found = Vec::new();
        for entry in records.range(first..)?.take(limit) {
            found.push(decode("record", entry?.1.value())?);
        }
        Ok(found)
    }

    /// The operations that have not ended.
    pub fn open_intents(&self) -> Result<Vec<(u64, IntentRow)>, CorruptError> {
        let open = self.snapshot()?.scan(&INTENTS, &[], None, usize::MAX)?;
        open.into_iter().map(|(key, row)| Ok((index_of(&key)?, row))).collect()
    }

    /// Sizes.
    pub fn totals(&self) -> Result<Totals, CorruptError> {
        let snapshot = self.snapshot()?;
        Ok(Totals {
            records: snapshot.transaction.open_table(RECORDS)?.len()?,
            files: snapshot.counter(Counter::Files)?,
            open_intents: snapshot.scan(&INTENTS, &[], None, usize::MAX)?.len() as u64,
            stored_bytes: snapshot.counter(Counter::StoredBytes)?,
        })
    }

    fn begin(&self) -> Result<ReadTransaction, CorruptError> {
        self.database.begin_read().map_err(|error| CorruptError::Row(error.to_string()))
    }
}

fn index_of(key: &[u8]) -> Result<u64, CorruptError> {
    let bytes = key.try_into().map_err(|_| CorruptError::Row("the key of an intent".into()))?;
    Ok(u64::from_be_bytes(bytes))
}

impl Snapshot {
    /// A number that the ledger keeps.
    pub fn counter(&self, counter: Counter) -> Result<u64, CorruptError> {
        let meta = self.transaction.open_table(META)?;
        let bytes = meta.get(counter.name())?.and_then(|bytes| bytes.value().try_into().ok());
        Ok(bytes.map_or(0, u64::from_le_bytes))
    }
}

impl View for Snapshot {
    fn get<V: DeserializeOwned>(&self, table: &StateTable<V>, key: &[u8]) -> Result<Option<V>, CorruptError> {
        state::get(&self.state, table, key)
    }

    fn scan<V: DeserializeOwned>(
        &self,
        table: &StateTable<V>,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry<V>>, CorruptError> {
        state::scan(&self.state, table, prefix, after, limit)
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}
