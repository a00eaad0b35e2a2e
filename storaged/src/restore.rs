//! Bringing a stopped store whose ledger and keys are older than its journal mirror forward to where it was.
//!
//! **Invariant:** each change of the journal is done once, in its order, and is kept only if the log then has the
//! head that was signed at the time. A storaged that runs holds the ledger, and nothing is done beside it.

use std::path::Path;
use std::sync::Arc;

use daemon::config::ConfigError;

use crate::config::{Config, Environment};
use crate::init::LEDGER_FILE;

use crate::keys::{KeyStore, Keys, OpenKeysError, RootKey, RootKeyError};
use crate::ledger::journal::JournalError;
use crate::ledger::journal::replay::{Replayed, replay};
use crate::ledger::{self, OpenError};

/// Why a store was not brought forward.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
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
    /// The journal cannot be read, or does not follow this ledger.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Replays the journal mirror that a configuration names onto the ledger and keys that it names.
pub fn replay_mirror(config: &Path, environment: &Environment) -> Result<Replayed, RestoreError> {
    let (Config { fixed, .. }, _) = Config::load(config, environment)?;
    let opened = ledger::open(&fixed.state_dir.join(LEDGER_FILE))?;
    let keys = Keys::open(&fixed.state_dir, RootKey::read(&fixed.root_key_file)?)?;
    let keys: Arc<dyn KeyStore> = Arc::new(keys);
    Ok(replay(&fixed.journal_mirror, &opened.database, opened.store, &keys)?)
}
