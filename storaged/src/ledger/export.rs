//! The ledger as rows, for a backup, and back.
//!
//! **Invariant:** rows leave as they lie in the tables, sealed; a ledger that is made of them is checked as any other
//! when it is opened.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, Durability};

use super::read::Snapshot;
use super::redo::{Changed, Place};
use super::seal::{Opened, Under};
use super::tables::{BY_FILE, CorruptError, META, RECORDS, STATE, TILES, Tables, UNMIRRORED, unmirrored_aad};
use super::{OpenError, builder, database_error};
use crate::backup::Part;
use crate::backup::rows::{self, Each};

impl Snapshot {
    /// Every row of one part, in order. A part that is no table of the ledger has none.
    pub fn rows_of<E: From<CorruptError>>(&self, part: Part, each: Each<'_, E>) -> Result<(), E> {
        type D = CorruptError;
        let transaction = &self.transaction;
        let bytes = |key: &[u8], to: &mut Vec<u8>| to.extend_from_slice(key);
        let number = |key: u64, to: &mut Vec<u8>| to.extend_from_slice(&key.to_be_bytes());
        match part {
            Part::Records => rows::of_table::<D, _, _, E>(transaction, RECORDS, number, each),
            Part::Tiles => rows::of_table::<D, _, _, E>(transaction, TILES, bytes, each),
            Part::ByFile => rows::of_table::<D, _, _, E>(transaction, BY_FILE, bytes, each),
            Part::State => rows::of_table::<D, _, _, E>(transaction, STATE, bytes, each),
            Part::LedgerMeta => {
                let text = |key: &str, to: &mut Vec<u8>| to.extend_from_slice(key.as_bytes());
                rows::of_table::<D, _, _, E>(transaction, META, text, each)
            }
            Part::Unmirrored => {
                let mut last = None;
                rows::of_table::<D, _, _, E>(transaction, UNMIRRORED, number, &mut |group, row| {
                    last = group.try_into().ok().map(u64::from_be_bytes);
                    each(group, row)
                })?;
                self.rows_to_be(last, each)
            }
            _file_or_keys @ (Part::Config
            | Part::InternalKey
            | Part::NextInternalKey
            | Part::RecoveryFile
            | Part::EpochKey
            | Part::KeysMeta
            | Part::StoreKeys
            | Part::Keks
            | Part::FileKeys) => Ok(()),
        }
    }

    /// The rows of `unmirrored` that the writer has in memory.
    fn rows_to_be<E: From<CorruptError>>(&self, last: Option<u64>, each: Each<'_, E>) -> Result<(), E> {
        let group = self.group()?;
        for frame in self.remembered_behind(last).filter(|frame| frame.last <= group) {
            let changed = Changed::encode(&frame.redo()?);
            let row = self.seal.seal(Under::Store, &unmirrored_aad(frame.last), &changed)?;
            each(&frame.last.to_be_bytes(), &row)?;
        }
        Ok(())
    }

    /// Opens every sealed row beside the records, and says how many there are.
    pub fn open_all_rows(&self) -> Result<u64, CorruptError> {
        let mut rows = 0;
        self.rows_of(Part::State, &mut |place, row| {
            rows += 1;
            let end = place.iter().position(|byte| *byte == 0).unwrap_or(place.len());
            let name = String::from_utf8_lossy(&place[..end]);
            match self.seal.open(&name, place, row)? {
                Opened::Plain(_) => Ok(()),
                Opened::Destroyed(file) => Err(CorruptError::KeyGone(file)),
            }
        })?;
        self.rows_of(Part::Unmirrored, &mut |group, row| {
            rows += 1;
            let group = group.try_into().map(u64::from_be_bytes).unwrap_or_default();
            match self.seal.open("unmirrored", &unmirrored_aad(group), row)? {
                Opened::Plain(_) => Ok(()),
                Opened::Destroyed(file) => Err(CorruptError::KeyGone(file)),
            }
        })?;
        Ok(rows)
    }
}

/// Makes `ledger.redb` from rows.
#[derive(Debug)]
pub struct Import {
    database: Database,
}

impl Import {
    /// An empty one, which nobody else may read.
    pub fn create(path: &Path) -> Result<Import, OpenError> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| database_error(path, redb::Error::Io(error)))?;
        let backend = FileBackend::new(file).map_err(|error| database_error(path, error.into()))?;
        let database =
            builder().create_with_backend(backend).map_err(|error| database_error(path, error.into()))?;
        let mut import = Import { database };
        import.rows(Part::ByFile, &[]).map_err(|error| super::format_error(path, &error))?;
        Ok(import)
    }

    /// Adds rows of a part, durably.
    pub fn rows(&mut self, part: Part, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(), CorruptError> {
        let lost = |error: redb::Error| CorruptError::Row(error.to_string());
        let place = match part {
            Part::Records => Some(Place::Records),
            Part::Tiles => Some(Place::Tiles),
            Part::ByFile => Some(Place::ByFile),
            Part::State => Some(Place::State),
            Part::LedgerMeta => Some(Place::Meta),
            Part::Unmirrored => None,
            Part::Config
            | Part::InternalKey
            | Part::NextInternalKey
            | Part::RecoveryFile
            | Part::EpochKey
            | Part::KeysMeta
            | Part::StoreKeys
            | Part::Keks
            | Part::FileKeys => {
                return Err(CorruptError::Row(format!("{} is no table of the ledger", part.name())));
            }
        };
        let mut transaction = self.database.begin_write().map_err(|error| lost(error.into()))?;
        transaction.set_durability(Durability::Immediate).map_err(|error| lost(error.into()))?;
        {
            let mut tables = Tables::open(&transaction)?;
            for (key, value) in rows {
                match place {
                    Some(place) => tables.write(place, key, Some(value))?,
                    None => {
                        let group = key.as_slice().try_into().map(u64::from_be_bytes);
                        let group = group.map_err(|_| CorruptError::Row("the number of a group".into()))?;
                        tables.unmirrored.insert(group, value.as_slice())?;
                    }
                }
            }
        }
        transaction.commit().map_err(|error| lost(error.into()))
    }
}
