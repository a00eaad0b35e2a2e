//! A store that does not run, or a copy of one, opened to be looked at.
//!
//! **Invariant:** a storaged that runs holds the ledger, and nothing is opened beside it.

use std::path::Path;
use std::sync::Arc;

use daemon::config::ConfigError;
use receipt::note::LogKey;

use crate::config::{Config, Environment};
use crate::init::LEDGER_FILE;
use crate::keys::{KeyStore, Keys, OpenKeysError, RootKey, RootKeyError};
use crate::ledger::{self, BringError, CorruptError, OpenError, Reader, StoreId, checkpoint};

/// Why a store cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The root key.
    #[error(transparent)]
    RootKey(#[from] RootKeyError),
    /// The keys cannot be opened: another root key, damage, or a storaged that runs.
    #[error(transparent)]
    Keys(#[from] OpenKeysError),
    /// The ledger cannot be opened: damage, or a storaged that runs.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// What the ledger's file lacks cannot be brought to it.
    #[error(transparent)]
    Bring(#[from] BringError),
    /// Keys and ledger are of different stores.
    #[error("the keys are of store {keys}, the ledger is of store {ledger}")]
    Strangers {
        /// Whose keys.
        keys: StoreId,
        /// Whose ledger.
        ledger: StoreId,
    },
    /// The log's key cannot be had.
    #[error(transparent)]
    LogKey(CorruptError),
}

impl OfflineError {
    /// Whether it is the log itself that is wrong, and not only out of reach.
    pub fn is_finding(&self) -> bool {
        matches!(self, OfflineError::Ledger(OpenError::Format { .. }))
    }
}

/// What can be read of it.
#[derive(Debug)]
pub struct Offline {
    /// The ledger.
    pub reader: Reader,
    /// The key of its log.
    pub log_key: LogKey,
}

impl Offline {
    /// The store of a configuration.
    pub fn open(config: &Path, environment: &Environment) -> Result<Offline, OfflineError> {
        let (Config { fixed, .. }, _) = Config::load(config, environment)?;
        Offline::open_at(&fixed.state_dir, &fixed.root_key_file)
    }

    /// The store of a state directory, with the root key at a path or `credential:NAME`.
    pub fn open_at(state_dir: &Path, root_key: &str) -> Result<Offline, OfflineError> {
        let (opened, keys) = open(state_dir, root_key)?;
        let log_key = checkpoint::log_key(opened.store, keys.as_ref()).map_err(OfflineError::LogKey)?;
        Ok(Offline { reader: Reader::new(opened.database, keys), log_key })
    }
}

/// The ledger and the keys of a state directory, which are of one store.
pub(crate) fn open(
    state_dir: &Path,
    root_key: &str,
) -> Result<(ledger::Opened, Arc<dyn KeyStore>), OfflineError> {
    let mut opened = ledger::open(&state_dir.join(LEDGER_FILE))?;
    let keys = Keys::open(state_dir, RootKey::read(root_key)?)?;
    if keys.store() != opened.store {
        return Err(OfflineError::Strangers { keys: keys.store(), ledger: opened.store });
    }
    let keys: Arc<dyn KeyStore> = Arc::new(keys);
    // A ledger that was set back is looked at as it is.
    opened.bring_forward(&keys)?;
    Ok((opened, keys))
}
