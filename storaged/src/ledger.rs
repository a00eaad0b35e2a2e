//! The ledger: what happened, and which files exist because of it.
//!
//! **Invariant:** a change of state and the record of it stand in one transaction, and nobody is told of
//! either before that transaction is durable. One thread writes ([`writer`]); everybody reads.
//!
//! The layout is described in `docs/formats/ledger.md`.

pub mod access;
pub mod ahead;
pub mod application;
pub mod audit;
pub mod backup;
pub mod capability;
pub mod checkpoint;
pub mod cleanup;
pub mod command;
pub mod deletion;
pub mod download;
pub mod epoch;
pub mod export;
pub mod files;
pub mod hold;
pub mod integrity;
pub mod intents;
pub mod journal;
pub mod log;
pub mod moment;
pub mod note;
pub mod partial;
pub mod read;
pub mod record;
pub mod recover;
pub(crate) mod redo;
pub(crate) mod remembered;
pub mod repeat;
pub(crate) mod seal;
pub mod state;
pub mod subject;
pub mod tables;
pub mod upload;
pub mod usage;
pub mod verify;
pub mod writer;

#[cfg(test)]
mod tests;

pub use ahead::{BringError, Gap};
pub use application::Application;
pub use command::{Area, Ask, Command, Outcome};
pub use files::FileRow;
pub use log::{Content, Entry, OpenRecord};
pub use note::Note;
pub use read::{Proof, Reader, Snapshot};
pub use record::{Action, Ending, Host, Metadata, Origin, Phase, Record};
pub use state::{StateTable, View};
pub use tables::{CorruptError, StoreId};
pub use writer::{Ledger, LedgerUnavailable, MirrorPlace};

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, StorageBackend};

use crate::database_file::{self, DatabaseFile};
use crate::keys::KeyStore;
use crate::ledger::ahead::{Ahead, Wrapping};

/// The log ahead of a ledger, beside it.
pub const AHEAD_FILE: &str = "ledger.ahead";

/// Why a ledger cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is one already; it is never overwritten.
    #[error("{0}: a ledger exists already")]
    Exists(PathBuf),
    /// There is none.
    #[error("{0}: there is no ledger; `culvert init storaged` makes one")]
    Missing(PathBuf),
    /// It is there and cannot be opened.
    #[error("{path}: {error}", path = .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb says.
        error: redb::Error,
    },
    /// Its directory cannot be synced.
    #[error("sync {path}: {error}", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It holds what this version does not understand.
    #[error("{path}: {why}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A ledger whose format was checked.
#[derive(Debug)]
pub struct Opened {
    /// The database, which may lack what stands in the log ahead of it.
    pub database: Arc<Database>,
    /// Whose it is.
    pub store: StoreId,
    pub(crate) ahead: Ahead,
}

impl Opened {
    /// A ledger in memory.
    #[cfg(test)]
    pub(crate) fn in_memory(database: Arc<Database>, store: StoreId) -> Opened {
        Opened { database, store, ahead: Ahead::in_memory() }
    }

    /// Brings the databases to where the log ahead of them ends. Says so if groups are missing between the two.
    pub fn bring_forward(&mut self, keys: &Arc<dyn KeyStore>) -> Result<Option<Gap>, BringError> {
        self.ahead.bring_forward(&Wrapping::new(self.store, Arc::clone(keys)), &self.database)
    }

    /// Forgets what stands in the log ahead: it is of a history that does not count any more.
    pub fn forget_ahead(&mut self) -> std::io::Result<()> {
        self.ahead.forget()
    }
}

/// Makes the ledger of a new store, with its first record.
pub fn create(path: &Path, store: StoreId, keys: &Arc<dyn KeyStore>, first: Record) -> Result<(), OpenError> {
    if path.symlink_metadata().is_ok() {
        return Err(OpenError::Exists(path.to_owned()));
    }
    let database = make(path).map_err(|error| database_error(path, error.into()))?;
    tables::initialize(&database, store, keys, first).map_err(|error| match error {
        tables::InitializeError::Database(error) => database_error(path, error),
        tables::InitializeError::Record(error) => format_error(path, &error),
    })?;
    sync_name(path)
}

/// Opens an existing ledger and checks its format version.
pub fn open(path: &Path) -> Result<Opened, OpenError> {
    if path.symlink_metadata().is_err() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let database = DatabaseFile::open(path).and_then(|file| builder().create_with_backend(file));
    let database = database.map_err(|error| database_error(path, error.into()))?;
    let ahead = path.with_file_name(AHEAD_FILE);
    let opened = Ahead::open(&ahead, path).map_err(|error| database_error(&ahead, redb::Error::Io(error)))?;
    sync_name(path)?;
    check(path, database, opened)
}

fn make(path: &Path) -> Result<Database, redb::DatabaseError> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    builder().create_with_backend(DatabaseFile::new(file.map_err(redb::StorageError::from)?)?)
}

/// What is committed is worth nothing if the file's name is not on the disk: a start does not trust that
/// whoever made or restored the file has seen to that.
fn sync_name(path: &Path) -> Result<(), OpenError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| OpenError::Directory { path: directory.to_owned(), error })
}

/// Opens a ledger on any storage: tests put a failing disk under it.
pub fn open_on(backend: impl StorageBackend) -> Result<Database, redb::DatabaseError> {
    builder().create_with_backend(DatabaseFile::over(backend)?)
}

/// The page cache's bound; redb's own default is 1 GiB, far over a daemon of 64 MiB.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

fn builder() -> redb::Builder {
    database_file::builder("the ledger", CACHE_BYTES)
}

fn check(path: &Path, database: Database, ahead: Ahead) -> Result<Opened, OpenError> {
    let transaction = database.begin_read().map_err(|error| database_error(path, error.into()))?;
    let store = tables::check_format(&transaction).map_err(|error| format_error(path, &error))?;
    drop(transaction);
    Ok(Opened { database: Arc::new(database), store, ahead })
}

fn format_error(path: &Path, error: &CorruptError) -> OpenError {
    OpenError::Format { path: path.to_owned(), why: error.to_string() }
}

fn database_error(path: &Path, error: redb::Error) -> OpenError {
    OpenError::Database { path: path.to_owned(), error }
}
