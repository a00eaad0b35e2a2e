//! The tables of `ledger.redb`, and the rows that are not records.
//!
//! **Invariant:** every row carries its own version, and a ledger of another version is refused at start.

use std::sync::Arc;

use receipt::merkle::Edge;
use redb::{
    Database, Durability, ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, Table,
    TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use store_proto::FileId;

use crate::keys::{KeyStore, KeysError};
use crate::ledger::application::{Application, Position};
use crate::ledger::checkpoint::Signer;
use crate::ledger::record::Record;
use crate::ledger::redo::{Changed, Redo};
use crate::ledger::seal::{Seal, Under};

/// The version of the whole layout; `meta.format_version`.
pub const FORMAT_VERSION: u32 = 3;

/// Record index → the sealed record; see [`log`](crate::ledger::log).
pub const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// The Merkle tree's kept nodes; see [`log`](crate::ledger::log).
pub const TILES: TableDefinition<'_, &[u8], &[u8; 32]> = TableDefinition::new("tiles");
/// File id ‖ index, big-endian: the records about each file.
pub const BY_FILE: TableDefinition<'_, &[u8], ()> = TableDefinition::new("by_file");
/// Every row of every [`StateTable`](crate::ledger::state::StateTable).
pub const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
/// Group → which places it changed, sealed; until the journal mirror has the group.
pub const UNMIRRORED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("unmirrored");
/// Facts about the ledger itself.
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

pub(crate) const META_FORMAT_VERSION: &str = "format_version";
pub(crate) const META_STORE_ID: &str = "store_id";
/// The newest signed checkpoint: it is over all records.
pub(crate) const META_CHECKPOINT: &str = "checkpoint";
/// How many groups of commands there were; little-endian.
pub(crate) const META_GROUP: &str = "group";

/// A number that is kept rather than counted each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Files.
    Files,
    /// Bytes of all files.
    StoredBytes,
    /// Files that wait for a scanner.
    HeldFiles,
    /// Uploads that can be resumed and are no file yet.
    PartialUploads,
}

impl Counter {
    /// Its name in `meta`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Counter::Files => "files",
            Counter::StoredBytes => "stored_bytes",
            Counter::HeldFiles => "held_files",
            Counter::PartialUploads => "partial_uploads",
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
    pub(crate) tiles: Table<'txn, &'static [u8], &'static [u8; 32]>,
    pub(crate) by_file: Table<'txn, &'static [u8], ()>,
    pub(crate) state: Table<'txn, &'static [u8], &'static [u8]>,
    pub(crate) unmirrored: Table<'txn, u64, &'static [u8]>,
    pub(crate) meta: Table<'txn, &'static str, &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    pub(crate) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::TableError> {
        Ok(Tables {
            records: transaction.open_table(RECORDS)?,
            tiles: transaction.open_table(TILES)?,
            by_file: transaction.open_table(BY_FILE)?,
            state: transaction.open_table(STATE)?,
            unmirrored: transaction.open_table(UNMIRRORED)?,
            meta: transaction.open_table(META)?,
        })
    }

    /// Remembers for the mirror what a group changed.
    pub(crate) fn remember(&mut self, seal: &Seal, group: u64, redo: &Redo) -> Result<(), CorruptError> {
        let row = seal.seal(Under::Store, &unmirrored_aad(group), &Changed::encode(redo))?;
        self.unmirrored.insert(group, row.as_slice())?;
        Ok(())
    }

    /// Forgets what the journal mirror has, and says whether it lacks something.
    pub(crate) fn forget_mirrored(&mut self, group: u64) -> Result<bool, CorruptError> {
        loop {
            let first = self.unmirrored.first()?.map(|(first, _)| first.value());
            match first {
                Some(mirrored) if mirrored <= group => drop(self.unmirrored.remove(mirrored)?),
                Some(_) => return Ok(true),
                None => return Ok(false),
            }
        }
    }
}

/// Makes all tables of a new ledger, with its id, its first record and the checkpoint over it.
pub(crate) fn initialize(
    database: &Database,
    store: StoreId,
    keys: &Arc<dyn KeyStore>,
    first: Record,
) -> Result<(), InitializeError> {
    let signer = Signer::new(store, keys.as_ref())?;
    let seal = Seal::new(Arc::clone(keys));
    let mut transaction = database.begin_write().map_err(redb::Error::from)?;
    transaction.set_durability(Durability::Immediate).map_err(redb::Error::from)?;
    {
        let mut tables = Tables::open(&transaction).map_err(redb::Error::from)?;
        let mut position = Position { edge: Edge::default(), last_time_ms: first.time_ms, epoch: 0 };
        let host = first.host.clone();
        let now_ms = first.time_ms;
        let mut app = Application::new(&mut tables, &mut position, &seal, &host, now_ms);
        app.fact(META_FORMAT_VERSION, &FORMAT_VERSION.to_le_bytes())?;
        app.fact(META_STORE_ID, store.0.as_bytes())?;
        app.append(first)?;
        let redo = app.end_group(1, &signer)?;
        tables.remember(&seal, 1, &redo)?;
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}

/// Why a new ledger is not made.
#[derive(Debug, thiserror::Error)]
pub enum InitializeError {
    /// redb cannot.
    #[error(transparent)]
    Database(#[from] redb::Error),
    /// The first record cannot be written.
    #[error(transparent)]
    Record(#[from] CorruptError),
}

/// The key of `by_file`.
pub(crate) fn by_file_key(file: FileId, index: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(file.as_bytes());
    key[16..].copy_from_slice(&index.to_be_bytes());
    key
}

/// What a row of `unmirrored` is bound to.
pub(crate) fn unmirrored_aad(group: u64) -> Vec<u8> {
    [b"unmirrored\0".as_slice(), &group.to_be_bytes()].concat()
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
    /// A row's file has no keys any more, and the row is still there.
    #[error("the keys of file {0} were destroyed, and a row about it was not")]
    KeyGone(FileId),
    /// The keys cannot be had.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] vault::RandomError),
    /// The log's key does not sign.
    #[error("sign the checkpoint: {0}")]
    Sign(String),
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
    transaction.open_table(TILES)?;
    transaction.open_table(BY_FILE)?;
    transaction.open_table(STATE)?;
    transaction.open_table(UNMIRRORED)?;
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
