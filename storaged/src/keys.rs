//! The keys: what opens a file, and who holds that.
//!
//! The root key (outside: a file or a credential) wraps the store keys and the epoch key; the epoch key wraps
//! the cohorts' versioned keys; those wrap file keys. Layout and crash argument: `docs/formats/keys.md`.
//!
//! **Invariant:** a key is durable here before anything sealed with it is acknowledged, and a key that was
//! destroyed comes back from nothing that this store still holds. No key lies in the clear outside memory.

pub mod change;
pub mod epoch;
pub mod export;
pub mod recovery;
pub mod rewrap;
pub mod root;
pub mod shred;
pub mod store;
pub mod tables;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use store_proto::{Cohort, FileId};
use vault::Key256;

pub use self::change::{Insertion, KeyChange};
pub use self::root::{RootKey, RootKeyError};
pub use self::store::Keys;

/// The slot of a file's record key: what is recorded about the file is sealed with it.
pub const RECORD_SLOT: u32 = 0;
/// Slots from here on are keys of partial uploads' tails; those below are keys of parts.
pub const FIRST_TAIL_SLOT: u32 = 1 << 31;

/// What a store key is for. Each purpose has a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorePurpose {
    /// Rows and records that are about no file.
    Rows,
    /// Names as look-up keys.
    Index,
    /// Frames of the journal mirror.
    Journal,
    /// The seed of the signatures under capability URLs.
    Capabilities,
    /// The seed of the signatures under checkpoints.
    Log,
}

impl StorePurpose {
    /// All of them, in the order of `index`.
    pub const ALL: [StorePurpose; 5] = [
        StorePurpose::Rows,
        StorePurpose::Index,
        StorePurpose::Journal,
        StorePurpose::Capabilities,
        StorePurpose::Log,
    ];

    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            StorePurpose::Rows => "rows",
            StorePurpose::Index => "index",
            StorePurpose::Journal => "journal",
            StorePurpose::Capabilities => "capabilities",
            StorePurpose::Log => "log",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// The keys of a store, as the ledger and the transfers see them.
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// The key for one purpose of the whole store.
    fn store_key(&self, purpose: StorePurpose) -> &Key256;

    /// Draws a key for a slot of a file. Nothing is durable yet: the change that comes with it must be
    /// committed before anything that is sealed with the key counts.
    fn new_file_key(
        &self,
        cohort: &Cohort,
        file: FileId,
        slot: u32,
    ) -> Result<(Key256, KeyChange), KeysError>;

    /// Makes a group of changes, all or none; until [`settle`](Self::settle) they are in memory alone, and whoever calls
    /// this has them elsewhere, with this mark. Marks grow. Committing a change again changes nothing.
    fn commit_ahead(&self, mark: u64, changes: &[KeyChange]) -> Result<(), KeysError>;

    /// The mark of the last changes that are here.
    fn mark(&self) -> Result<u64, KeysError>;

    /// Makes durable what is in memory alone.
    fn settle(&self) -> Result<(), KeysError>;

    /// Both.
    #[cfg(test)]
    fn commit(&self, changes: &[KeyChange]) -> Result<(), KeysError> {
        self.commit_ahead(self.mark()?, changes)?;
        self.settle()
    }

    /// The key in a slot of a file. None: destroyed, or never there.
    fn file_key(&self, file: FileId, slot: u32) -> Result<Option<Key256>, KeysError>;
}

/// Why a key cannot be had, or a change not be made. None of them names a file or a cohort's content.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The kernel gives no random bytes.
    #[error(transparent)]
    Random(#[from] vault::RandomError),
    /// A row is not what was written, or a key does not open it.
    #[error("keys.redb is damaged: {0}")]
    Corrupt(String),
    /// A change that was made under another epoch's key.
    #[error(
        "an inserted key of an epoch that is not this one: it was destroyed, or is newer than these keys"
    )]
    EpochGone,
    /// redb cannot read or write.
    #[error("keys.redb: {0}")]
    Database(#[source] Box<redb::Error>),
    /// A file beside it cannot be written.
    #[error("{step} {path}: {error}", path = .path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// There is no such cohort here.
    #[error("no key of cohort {0}: nothing was ever stored in it")]
    NoCohort(Cohort),
}

/// Why the keys cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenKeysError {
    /// There is a file already; it is never overwritten.
    #[error("{path} exists already; nothing is overwritten", path = .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{path}: there are no keys; `culvert init storaged` makes them", path = .0.display())]
    Missing(PathBuf),
    /// Others than its owner may read or write it.
    #[error("{path} has mode {mode:04o}: only its owner may read or write it (chmod 0600)", path = .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The keys must be on a local file system.
    #[error("{path} is on a network file system ({kind}); the keys must be on a local one", path = .path.display())]
    Network {
        /// The directory.
        path: PathBuf,
        /// The file system.
        kind: &'static str,
    },
    /// Written by another version.
    #[error("{path}: format version {version}, this program reads {known}", path = .path.display(), known = tables::FORMAT_VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// What stands in it.
        version: u32,
    },
    /// The root key is not the one that wrapped them.
    #[error(
        "{path}: not wrapped by the key that root_key_file names. Is it another store's, or the one from before \
         `culvert kek rotate --root`?",
        path = .0.display()
    )]
    RootKey(PathBuf),
    /// Something else about them.
    #[error("{path}: {error}", path = .path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: KeysError,
    },
}

/// What redb's steps can answer, each of which is one kind of [`redb::Error`].
macro_rules! database_errors {
    ($($kind:ty),*) => {$(
        impl From<$kind> for KeysError {
            fn from(error: $kind) -> KeysError {
                KeysError::Database(Box::new(error.into()))
            }
        }
    )*};
}

database_errors!(
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);
