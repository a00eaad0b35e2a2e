//! How what the ledger holds is sealed, and what each row says about its key.
//!
//! **Invariant:** a row opens only in its own place; whether it is sealed under the store's key or a file's
//! stands in front of it, so that a row whose file's keys were destroyed is told from a damaged one.
//!
//! ```text
//! 0                  ‖ sealed      under the store's key `rows`
//! 1 ‖ file id (16)   ‖ sealed      under the file's record key, its slot 0
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use store_proto::FileId;
use vault::{Key256, row};
use zeroize::Zeroizing;

use crate::keys::{KeyStore, RECORD_SLOT, StorePurpose};
use crate::ledger::tables::CorruptError;

const OF_STORE: u8 = 0;
const OF_FILE: u8 = 1;

/// Seals and opens rows.
#[derive(Debug, Clone)]
pub(crate) struct Seal {
    keys: Arc<dyn KeyStore>,
    /// Record keys that were asked for: within one group of commands none is destroyed before its end, and each file
    /// is written about several times.
    recent: Option<Recent>,
}

type Recent = Arc<Mutex<HashMap<FileId, Option<Key256>>>>;

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Under {
    /// The store's `rows`.
    Store,
    /// The file's record key.
    File(FileId),
}

/// What was sealed.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The bytes.
    Plain(Zeroizing<Vec<u8>>),
    /// The keys of this file were destroyed.
    Destroyed(FileId),
}

impl Seal {
    pub(crate) fn new(keys: Arc<dyn KeyStore>) -> Seal {
        Seal { keys, recent: None }
    }

    /// The same, for one group of commands, whose new keys are durable already.
    pub(crate) fn remembering(&self) -> Seal {
        Seal { keys: Arc::clone(&self.keys), recent: Some(Recent::default()) }
    }

    fn record_key(&self, file: FileId) -> Result<Option<Key256>, CorruptError> {
        let Some(recent) = &self.recent else { return Ok(self.keys.file_key(file, RECORD_SLOT)?) };
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = recent.get(&file) {
            return Ok(key.clone());
        }
        let key = self.keys.file_key(file, RECORD_SLOT)?;
        recent.insert(file, key.clone());
        Ok(key)
    }

    pub(crate) fn keys(&self) -> &Arc<dyn KeyStore> {
        &self.keys
    }

    /// The key for what is about this file, or the store's where it has none.
    pub(crate) fn about(&self, file: Option<FileId>) -> Result<Under, CorruptError> {
        let Some(file) = file else { return Ok(Under::Store) };
        Ok(if self.record_key(file)?.is_some() { Under::File(file) } else { Under::Store })
    }

    pub(crate) fn seal(&self, under: Under, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, CorruptError> {
        let mut whole = Vec::with_capacity(plain.len() + row::OVERHEAD_BYTES + 1 + 16);
        let sealed = match under {
            Under::Store => {
                whole.push(OF_STORE);
                row::seal(self.keys.store_key(StorePurpose::Rows), aad, plain)?
            }
            Under::File(file) => {
                whole.push(OF_FILE);
                whole.extend_from_slice(file.as_bytes());
                let key = self.record_key(file)?;
                row::seal(&key.ok_or(CorruptError::KeyGone(file))?, aad, plain)?
            }
        };
        whole.extend_from_slice(&sealed);
        Ok(whole)
    }

    pub(crate) fn open(&self, what: &str, aad: &[u8], whole: &[u8]) -> Result<Opened, CorruptError> {
        let refused = |error: row::OpenError| CorruptError::Row(format!("{what}: {error}"));
        let (key, sealed) = whole.split_first().ok_or(row::OpenError::Length).map_err(refused)?;
        let open = |key: &Key256, sealed| row::open(key, aad, sealed).map(Opened::Plain).map_err(refused);
        match *key {
            OF_STORE => open(self.keys.store_key(StorePurpose::Rows), sealed),
            OF_FILE => {
                let (file, sealed) =
                    sealed.split_first_chunk::<16>().ok_or(row::OpenError::Length).map_err(refused)?;
                let file = FileId::from_bytes(*file);
                match self.record_key(file)? {
                    Some(key) => open(&key, sealed),
                    None => Ok(Opened::Destroyed(file)),
                }
            }
            other => Err(CorruptError::Row(format!("{what}: there is no key of kind {other}"))),
        }
    }
}
