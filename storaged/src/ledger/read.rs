//! Reading the ledger: snapshots that never wait for the writer.

use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _};
use store_proto::{Cohort, FileId, LogicalPath};

use crate::ledger::record::Record;
use crate::ledger::tables::{
    CorruptError, FILES, FileRow, INTENTS, IntentRow, META, META_STORED_BYTES, PATHS, RECORDS, decode,
};

/// Reads what is durable; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    database: Arc<Database>,
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

    /// The file with this id.
    pub fn file(&self, id: FileId) -> Result<Option<FileRow>, CorruptError> {
        let files = self.begin()?.open_table(FILES)?;
        files.get(id.as_bytes())?.map(|row| decode("file", row.value())).transpose()
    }

    /// The file at this path.
    pub fn file_at(&self, cohort: &Cohort, path: &LogicalPath) -> Result<Option<FileRow>, CorruptError> {
        let transaction = self.begin()?;
        let paths = transaction.open_table(PATHS)?;
        let Some(id) = paths.get((cohort.as_str(), path.as_str()))?.map(|id| *id.value()) else {
            return Ok(None);
        };
        let files = transaction.open_table(FILES)?;
        let row = files.get(&id)?.ok_or_else(|| CorruptError::Row("a path leads to no file".into()))?;
        decode("file", row.value()).map(Some)
    }

    /// At most `limit` files of a cohort, by path, from behind `after`. The flag: there are more.
    pub fn list(
        &self,
        cohort: &Cohort,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<FileRow>, bool), CorruptError> {
        let transaction = self.begin()?;
        let paths = transaction.open_table(PATHS)?;
        let files = transaction.open_table(FILES)?;
        let mut rows = Vec::new();
        for entry in paths.range((cohort.as_str(), after.unwrap_or(""))..)? {
            let (key, id) = entry?;
            let (of_cohort, path) = key.value();
            if of_cohort != cohort.as_str() {
                break;
            }
            if after == Some(path) {
                continue;
            }
            if rows.len() == limit {
                return Ok((rows, true));
            }
            let row =
                files.get(id.value())?.ok_or_else(|| CorruptError::Row("a path leads to no file".into()))?;
            rows.push(decode("file", row.value())?);
        }
        Ok((rows, false))
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
        let intents = self.begin()?.open_table(INTENTS)?;
        let mut open = Vec::new();
        for entry in intents.iter()? {
            let (index, row) = entry?;
            open.push((index.value(), decode("intent", row.value())?));
        }
        Ok(open)
    }

    /// Sizes.
    pub fn totals(&self) -> Result<Totals, CorruptError> {
        let transaction = self.begin()?;
        let meta = transaction.open_table(META)?;
        let stored_bytes = meta
            .get(META_STORED_BYTES)?
            .and_then(|bytes| bytes.value().try_into().ok())
            .map_or(0, u64::from_le_bytes);
        Ok(Totals {
            records: transaction.open_table(RECORDS)?.len()?,
            files: transaction.open_table(FILES)?.len()?,
            open_intents: transaction.open_table(INTENTS)?.len()?,
            stored_bytes,
        })
    }

    fn begin(&self) -> Result<redb::ReadTransaction, CorruptError> {
        self.database.begin_read().map_err(|error| CorruptError::Row(error.to_string()))
    }
}
