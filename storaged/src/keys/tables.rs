//! The tables of `keys.redb`, byte by byte.
//!
//! **Invariant:** what wraps a key is bound to where the key stands: its associated data names store, cohort,
//! version, file and slot, so no row can stand in for another.

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use store_proto::{Cohort, FileId};
use vault::wrap::{WRAPPED_BYTES, WrappedKey};

use super::{KeysError, StorePurpose};
use crate::ledger::StoreId;

/// The version of the whole layout; `meta.format_version`.
pub const FORMAT_VERSION: u32 = 1;

/// Facts about the file itself.
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Purpose → wrapped store key.
pub const STORE_KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("store_keys");
/// (cohort, version) → [`KekRow`].
pub const KEKS: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("keks");
/// (file id, slot) → [`FileKeyRow`].
pub const FILE_KEYS: TableDefinition<'_, (&[u8; 16], u32), &[u8]> = TableDefinition::new("file_keys");

pub(super) const META_FORMAT_VERSION: &str = "format_version";
pub(super) const META_STORE_ID: &str = "store_id";
pub(super) const META_EPOCH: &str = "epoch";
/// How far the log ahead of the ledger is done in these tables.
pub(super) const META_MARK: &str = "mark";

/// A version of a cohort's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KekRow {
    /// When it was made.
    pub created_ms: u64,
    /// File keys that it wraps.
    pub keys: u64,
    /// File keys that it wrapped and that were destroyed with their file.
    pub destroyed: u64,
    /// Itself, wrapped by the epoch key.
    pub wrapped: WrappedKey,
}

/// A file key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileKeyRow {
    /// Whose key wraps it.
    pub cohort: Cohort,
    /// Which version of it.
    pub kek_version: u32,
    /// Itself, wrapped by that.
    pub wrapped: WrappedKey,
}

impl KekRow {
    const BYTES: usize = 24 + WRAPPED_BYTES;

    /// The row's bytes.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.created_ms.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.keys.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.destroyed.to_be_bytes());
        bytes[24..].copy_from_slice(self.wrapped.as_bytes());
        bytes
    }

    /// Reads a row.
    pub fn parse(bytes: &[u8]) -> Result<KekRow, KeysError> {
        let damaged = || KeysError::Corrupt(format!("a row of table keks with {} bytes", bytes.len()));
        let (created_ms, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let (keys, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (destroyed, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        Ok(KekRow {
            created_ms: u64::from_be_bytes(*created_ms),
            keys: u64::from_be_bytes(*keys),
            destroyed: u64::from_be_bytes(*destroyed),
            wrapped: rest.try_into().map_err(|_| damaged())?,
        })
    }
}

impl FileKeyRow {
    /// The row's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.kek_version.to_be_bytes(), self.wrapped.as_bytes().as_slice(), self.cohort.as_str().as_bytes()]
            .concat()
    }

    /// Reads a row.
    pub fn parse(bytes: &[u8]) -> Result<FileKeyRow, KeysError> {
        let damaged = || KeysError::Corrupt(format!("a row of table file_keys with {} bytes", bytes.len()));
        let (version, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let (wrapped, rest) = rest.split_first_chunk::<WRAPPED_BYTES>().ok_or_else(damaged)?;
        let cohort = std::str::from_utf8(rest).map_err(|_| damaged())?;
        Ok(FileKeyRow {
            cohort: Cohort::parse(cohort).map_err(|_| damaged())?,
            kek_version: u32::from_be_bytes(*version),
            wrapped: (*wrapped).into(),
        })
    }
}

/// What binds a store key to its place.
pub fn store_key_aad(store: StoreId, purpose: StorePurpose) -> Vec<u8> {
    [b"culvert store key v1\0", store.0.as_bytes().as_slice(), purpose.name().as_bytes()].concat()
}

/// What binds an epoch key to its place.
pub fn epoch_key_aad(store: StoreId, epoch: u64) -> Vec<u8> {
    [b"culvert epoch key v1\0", store.0.as_bytes().as_slice(), &epoch.to_be_bytes()].concat()
}

/// What binds a cohort key to its place.
pub fn kek_aad(store: StoreId, cohort: &Cohort, version: u32) -> Vec<u8> {
    let cohort = cohort.as_str().as_bytes();
    [b"culvert cohort key v1\0", store.0.as_bytes().as_slice(), cohort, b"\0", &version.to_be_bytes()]
        .concat()
}

/// What binds a file key to its place.
pub fn file_key_aad(file: FileId, slot: u32, cohort: &Cohort, version: u32) -> Vec<u8> {
    let (slot, cohort) = (slot.to_be_bytes(), cohort.as_str().as_bytes());
    [b"culvert file key v1\0", file.as_bytes().as_slice(), &slot, cohort, b"\0", &version.to_be_bytes()]
        .concat()
}

/// The tables that change in a write transaction.
pub(super) struct Tables<'txn> {
    pub(super) keks: Table<'txn, (&'static str, u32), &'static [u8]>,
    pub(super) file_keys: Table<'txn, (&'static [u8; 16], u32), &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Tables<'txn>, KeysError> {
        Ok(Tables { keks: transaction.open_table(KEKS)?, file_keys: transaction.open_table(FILE_KEYS)? })
    }

    pub(super) fn put_kek(&mut self, cohort: &Cohort, version: u32, row: KekRow) -> Result<(), KeysError> {
        self.keks.insert((cohort.as_str(), version), row.to_bytes().as_slice())?;
        Ok(())
    }

    /// Stores a file key and counts it for the key that wraps it.
    pub(super) fn put_file_key(
        &mut self,
        file: FileId,
        slot: u32,
        row: &FileKeyRow,
    ) -> Result<(), KeysError> {
        let before = self.file_keys.insert((file.as_bytes(), slot), row.to_bytes().as_slice())?;
        let before = before.map(|bytes| FileKeyRow::parse(bytes.value())).transpose()?;
        if let Some(before) = before {
            self.count(&before, |kek| kek.keys = kek.keys.saturating_sub(1))?;
        }
        self.count(row, |kek| kek.keys += 1)
    }

    /// Removes file keys. `with_file`: the file goes with them, and the cohort wants a shred.
    pub(super) fn remove_file_keys(
        &mut self,
        file: FileId,
        slots: std::ops::RangeInclusive<u32>,
        with_file: bool,
    ) -> Result<u64, KeysError> {
        let range = (file.as_bytes(), *slots.start())..=(file.as_bytes(), *slots.end());
        let mut removed = Vec::new();
        for row in self.file_keys.range(range)? {
            let (key, value) = row?;
            removed.push((key.value().1, FileKeyRow::parse(value.value())?));
        }
        for (slot, row) in &removed {
            self.file_keys.remove((file.as_bytes(), *slot))?;
            self.count(row, |kek| {
                kek.keys = kek.keys.saturating_sub(1);
                kek.destroyed += u64::from(with_file);
            })?;
        }
        Ok(removed.len() as u64)
    }

    fn count(&mut self, row: &FileKeyRow, change: impl FnOnce(&mut KekRow)) -> Result<(), KeysError> {
        let mut kek = get_kek(&self.keks, &row.cohort, row.kek_version)?
            .ok_or_else(|| KeysError::Corrupt("a file key whose cohort key is missing".into()))?;
        change(&mut kek);
        self.put_kek(&row.cohort, row.kek_version, kek)
    }
}

/// One version of a cohort's key.
pub(super) fn get_kek(
    keks: &impl ReadableTable<(&'static str, u32), &'static [u8]>,
    cohort: &Cohort,
    version: u32,
) -> Result<Option<KekRow>, KeysError> {
    keks.get((cohort.as_str(), version))?.map(|row| KekRow::parse(row.value())).transpose()
}

/// The newest version of a cohort's key.
pub(super) fn newest_kek(
    keks: &impl ReadableTable<(&'static str, u32), &'static [u8]>,
    cohort: &Cohort,
) -> Result<Option<(u32, KekRow)>, KeysError> {
    let mut range = keks.range((cohort.as_str(), 0)..=(cohort.as_str(), u32::MAX))?;
    let Some(row) = range.next_back() else { return Ok(None) };
    let (key, value) = row?;
    Ok(Some((key.value().1, KekRow::parse(value.value())?)))
}

/// All versions of all cohorts' keys, cohorts in order and versions from old to new.
pub(super) fn all_keks(
    keks: &impl ReadableTable<(&'static str, u32), &'static [u8]>,
) -> Result<Vec<(Cohort, u32, KekRow)>, KeysError> {
    let mut all = Vec::new();
    for row in keks.iter()? {
        let (key, value) = row?;
        let (cohort, version) = key.value();
        let cohort =
            Cohort::parse(cohort).map_err(|_| KeysError::Corrupt("a cohort's name in table keks".into()))?;
        all.push((cohort, version, KekRow::parse(value.value())?));
    }
    Ok(all)
}
