//! The keys as rows, for a backup, and back.
//!
//! **Invariant:** while a copy is taken no epoch is destroyed: the pages that are being read stay what they are. Keys
//! leave wrapped, as they lie in the tables.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use redb::{Database, ReadTransaction, ReadableDatabase as _};
use store_proto::FileId;
use vault::Key256;

use super::store::{Home, KEYS_FILE, begin, new_database, unwrap_file_key};
use super::{Keys, KeysError, epoch, tables};
use crate::backup::Part;
use crate::backup::rows::{self, Each};

/// Held while a copy is taken.
#[derive(Debug)]
pub struct Standing<'a> {
    _copying: MutexGuard<'a, ()>,
}

/// The keys of one moment.
pub struct Export<'a> {
    transaction: ReadTransaction,
    /// The epoch.
    pub epoch: u64,
    /// The bytes of its file.
    pub epoch_file: Vec<u8>,
    _standing: &'a Standing<'a>,
}

impl Keys {
    /// Keeps shreds waiting until it is dropped. It waits for one that runs.
    pub fn stand_still(&self) -> Standing<'_> {
        Standing { _copying: self.copying.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The keys of this moment.
    pub fn export<'a>(&self, standing: &'a Standing<'a>) -> Result<Export<'a>, KeysError> {
        let state = self.read();
        let epoch_file = match &self.home {
            Home::Directory(directory) => {
                let path = epoch::path(directory, state.epoch);
                std::fs::read(&path).map_err(epoch::failed("read", &path))?
            }
            Home::Memory => return Err(KeysError::Corrupt("keys in memory have no epoch's file".into())),
        };
        let transaction = state.database.begin_read()?;
        Ok(Export { transaction, epoch: state.epoch, epoch_file, _standing: standing })
    }
}

impl Keys {
    /// Unwraps every file key, and says how many there are.
    pub fn open_all(&self) -> Result<u64, KeysError> {
        let state = self.read();
        let transaction = state.database.begin_read()?;
        let keks = transaction.open_table(tables::KEKS)?;
        let mut opened = 0;
        let mut last: Option<(tables::FileKeyRow, Key256)> = None;
        for row in transaction.open_table(tables::FILE_KEYS)?.range::<(&[u8; 16], u32)>(..)? {
            let (key, value) = row?;
            let (file, slot) = key.value();
            let row = tables::FileKeyRow::parse(value.value())?;
            let same = last
                .as_ref()
                .filter(|(before, _)| (&before.cohort, before.kek_version) == (&row.cohort, row.kek_version));
            let kek = match same {
                Some((_, kek)) => kek.clone(),
                None => {
                    let kek = tables::get_kek(&keks, &row.cohort, row.kek_version)?;
                    let kek = kek.ok_or_else(|| KeysError::Corrupt("a cohort key is missing".into()))?;
                    state.unwrap_kek(self.store, &row.cohort, row.kek_version, &kek.wrapped)?
                }
            };
            unwrap_file_key(&kek, FileId::from_bytes(*file), slot, &row)?;
            last = Some((row, kek));
            opened += 1;
        }
        Ok(opened)
    }
}

impl Export<'_> {
    /// Every row of one part, in order. A part that is no table of the keys has none.
    pub fn rows<E: From<KeysError>>(&self, part: Part, each: Each<'_, E>) -> Result<(), E> {
        type D = KeysError;
        let transaction = &self.transaction;
        let text = |key: &str, to: &mut Vec<u8>| to.extend_from_slice(key.as_bytes());
        match part {
            Part::KeysMeta => rows::of_table::<D, _, _, E>(transaction, tables::META, text, each),
            Part::StoreKeys => rows::of_table::<D, _, _, E>(transaction, tables::STORE_KEYS, text, each),
            Part::Keks => {
                let key = |(cohort, version): (&str, u32), to: &mut Vec<u8>| {
                    to.extend_from_slice(cohort.as_bytes());
                    to.extend_from_slice(&version.to_be_bytes());
                };
                rows::of_table::<D, _, _, E>(transaction, tables::KEKS, key, each)
            }
            Part::FileKeys => {
                let key = |(file, slot): (&[u8; 16], u32), to: &mut Vec<u8>| {
                    to.extend_from_slice(file);
                    to.extend_from_slice(&slot.to_be_bytes());
                };
                rows::of_table::<D, _, _, E>(transaction, tables::FILE_KEYS, key, each)
            }
            _file_or_ledger @ (Part::Config
            | Part::InternalKey
            | Part::NextInternalKey
            | Part::RecoveryFile
            | Part::EpochKey
            | Part::Records
            | Part::Tiles
            | Part::ByFile
            | Part::State
            | Part::Unmirrored
            | Part::LedgerMeta) => Ok(()),
        }
    }
}

impl std::fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Makes `keys.redb` from rows.
#[derive(Debug)]
pub struct Import {
    database: Database,
}

impl Import {
    /// An empty one, which nobody else may read.
    pub fn create(directory: &Path) -> Result<Import, KeysError> {
        let database = new_database(&Home::Directory(directory.to_owned()), KEYS_FILE)?;
        let transaction = begin(&database)?;
        transaction.open_table(tables::META)?;
        transaction.open_table(tables::STORE_KEYS)?;
        transaction.open_table(tables::KEKS)?;
        transaction.open_table(tables::FILE_KEYS)?;
        transaction.commit()?;
        Ok(Import { database })
    }

    /// Adds rows of a part, durably.
    pub fn rows(&mut self, part: Part, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(), KeysError> {
        let damaged = || KeysError::Corrupt(format!("a key of {}", part.name()));
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| damaged());
        let transaction = begin(&self.database)?;
        for (key, value) in rows {
            let value = value.as_slice();
            match part {
                Part::KeysMeta => drop(transaction.open_table(tables::META)?.insert(text(key)?, value)?),
                Part::StoreKeys => {
                    drop(transaction.open_table(tables::STORE_KEYS)?.insert(text(key)?, value)?);
                }
                Part::Keks => {
                    let (cohort, version) = key.split_last_chunk().ok_or_else(damaged)?;
                    let key = (text(cohort)?, u32::from_be_bytes(*version));
                    drop(transaction.open_table(tables::KEKS)?.insert(key, value)?);
                }
                Part::FileKeys => {
                    let (file, slot) = key.split_first_chunk().ok_or_else(damaged)?;
                    let slot = slot.try_into().map(u32::from_be_bytes).map_err(|_| damaged())?;
                    drop(transaction.open_table(tables::FILE_KEYS)?.insert((file, slot), value)?);
                }
                Part::Config
                | Part::InternalKey
                | Part::NextInternalKey
                | Part::RecoveryFile
                | Part::EpochKey
                | Part::Records
                | Part::Tiles
                | Part::ByFile
                | Part::State
                | Part::Unmirrored
                | Part::LedgerMeta => return Err(damaged()),
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Writes an epoch's file as it was.
pub fn write_epoch(directory: &Path, epoch: u64, bytes: &[u8]) -> io::Result<()> {
    let path = epoch::path(directory, epoch);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
