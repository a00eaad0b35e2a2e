//! The tables of `ledger.redb`, and the rows that are not records.
//!
//! **Invariant:** every row carries its own version, and a ledger of another version is refused at start.

use redb::{
    Database, Durability, ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, Table,
    TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use store_proto::FileId;

use crate::ledger::record::Record;

/// The version of the whole layout; `meta.format_version`.
pub const FORMAT_VERSION: u32 = 2;

/// Record index → canonical JSON of the record.
pub const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// Every row of every [`StateTable`](crate::ledger::state::StateTable).
pub const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
/// Facts about the ledger itself.
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

pub(crate) const META_FORMAT_VERSION: &str = "format_version";
pub(crate) const META_STORE_ID: &str = "store_id";

/// A number that is kept rather than counted each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Files.
    Files,
    /// Bytes of all files.
    StoredBytes,
}

impl Counter {
    /// Its name in `meta`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Counter::Files => "files",
            Counter::StoredBytes => "stored_bytes",
        }
    }
}

/// Names a store, in its ledger and on each of its volumes: 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub FileId);

impl StoreId {
    /// Draws one.
    pub fn random() -> Result<StoreId, getrandom::Error> {
        Ok(StoreId(random_id()?))
    }
}

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Draws 128 random bits.
pub fn random_id() -> Result<FileId, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(FileId::from_bytes(bytes))
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{unix_ms} ms"), |time| format!("{time:.3}"))
}

/// The tables of one write transaction.
pub(crate) struct Tables<'txn> {
    pub(crate) records: Table<'txn, u64, &'static [u8]>,
    pub(crate) state: Table<'txn, &'static [u8], &'static [u8]>,
    pub(crate) meta: Table<'txn, &'static str, &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    pub(crate) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::TableError> {
        Ok(Tables {
            records: transaction.open_table(RECORDS)?,
            state: transaction.open_table(STATE)?,
            meta: transaction.open_table(META)?,
        })
    }
}

/// Makes all tables of a new ledger, with its id and first record.
pub(crate) fn initialize(database: &Database, store: StoreId, first: &Record) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut tables = Tables::open(&transaction)?;
        tables.meta.insert(META_FORMAT_VERSION, FORMAT_VERSION.to_le_bytes().as_slice())?;
        tables.meta.insert(META_STORE_ID, store.0.as_bytes().as_slice())?;
        tables.records.insert(first.index, first.to_bytes().as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

/// What is wrong with what was read.
#[derive(Debug, thiserror::Error)]
pub enum CorruptError {
    /// redb cannot read.
    #[error(transparent)]
    Storage(#[from] redb::StorageError),
    /// A table is missing.
    #[error(transparent)]
    Table(#[from] redb::TableError),
    /// A row does not parse, or contradicts another.
    #[error("the ledger is damaged: {0}")]
    Row(String),
    /// Another format.
    #[error("the ledger has format version {0}, this program reads {FORMAT_VERSION}")]
    Version(u32),
}

/// Checks the version and reads the store's id.
pub(crate) fn check_format(transaction: &ReadTransaction) -> Result<StoreId, CorruptError> {
    let meta = transaction.open_table(META)?;
    let version = meta
        .get(META_FORMAT_VERSION)?
        .and_then(|bytes| bytes.value().try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or_else(|| CorruptError::Row("no format version".into()))?;
    if version != FORMAT_VERSION {
        return Err(CorruptError::Version(version));
    }
    let store = meta
        .get(META_STORE_ID)?
        .and_then(|bytes| <[u8; 16]>::try_from(bytes.value()).ok())
        .ok_or_else(|| CorruptError::Row("no store id".into()))?;
    // Opening them proves that they have the types that this version expects.
    let records = transaction.open_table(RECORDS)?;
    transaction.open_table(STATE)?;
    let (count, last) = (records.len()?, records.last()?);
    let last = last.map(|(index, _)| index.value());
    if last.is_none_or(|last| last + 1 != count) {
        return Err(CorruptError::Row(format!("{count} records, the last has index {last:?}")));
    }
    Ok(StoreId(FileId::from_bytes(store)))
}

pub(crate) fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows are strings, numbers and unit variants")
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, CorruptError> {
    serde_json::from_slice(bytes).map_err(|error| CorruptError::Row(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_790_000_000_123), "2026-09-21T14:13:20.123Z");
        assert_eq!(rfc3339(u64::MAX), format!("{} ms", u64::MAX));
    }
}
