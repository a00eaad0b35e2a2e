//! The log ahead of the databases: each group of commands, in one write and one sync.
//!
//! The databases of ledger and keys take a group in memory and are made durable together when this file is full, so
//! the pages that many groups change are written once. A start does again what they lack.
//!
//! **Invariant:** a group that anybody was told of is durable here or in both databases, and nothing here is overwritten
//! before it is durable in both. What an earlier round left is told from this one by its groups, which the databases
//! have; so a frame that they lack, behind one that does not open, is known for what it is: a frame is written only after
//! the one before it was durable, and the file is damaged.
//!
//! The bytes are described in `docs/formats/ledger.md`.

pub mod frame;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase as _, StorageBackend};

use crate::database_file::DatabaseFile;
use crate::keys::{KeyChange, KeyStore, KeysError, StorePurpose};
use crate::ledger::ahead::frame::{BLOCK_BYTES, CHAIN_START, Envelope, Walk};
use crate::ledger::journal::Frame;
use crate::ledger::log;
use crate::ledger::seal::Seal;
use crate::ledger::tables::{CorruptError, META, META_GROUP, StoreId, Tables};
use crate::limits::LEDGER_AHEAD_BYTES;

/// What stands at the beginning.
const MAGIC: &[u8] = b"culvert ahead 2\n";
/// Where the frames begin: in a block of their own.
const FRAMES_AT: u64 = BLOCK_BYTES;
/// Tests use a short one, so that each of them fills it several times.
const BYTES: u64 = if cfg!(test) { 64 * 1024 } else { LEDGER_AHEAD_BYTES };
/// What is overwritten at once.
const ZEROS: &[u8] = &[0; 64 * 1024];

/// The file, and how far it is written.
#[derive(Debug)]
pub(crate) struct Ahead {
    storage: Box<dyn StorageBackend>,
    /// Where the next frame goes.
    end: u64,
    /// The hash over the frames of this round.
    chain: [u8; 32],
    /// The mark of the next frame.
    mark: u64,
    /// The last frame may or may not stand there, or stands there and the databases do not have it.
    doubtful: bool,
}

/// What a frame is sealed with.
#[derive(Debug, Clone)]
pub(crate) struct Wrapping {
    store: StoreId,
    keys: Arc<dyn KeyStore>,
}

/// The marks of one group: the keys' tables say with them how far they are, so that what they have is not done to them
/// again after they were changed otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    /// The new keys of the group are there.
    pub(crate) fn inserted(self) -> u64 {
        self.0
    }

    /// And what it destroys is gone.
    pub(crate) fn destroyed(self) -> u64 {
        self.0 + 1
    }
}

/// Between the ledger's last group and the next that stands in the log ahead, some are in neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// The log ahead can be read, and begins later.
    #[error(
        "the ledger has {ledger} groups of commands, and the log ahead of it goes on with group {ahead}: the ledger was \
         restored or rolled back. `culvert restore --replay` brings it forward; nothing was changed"
    )]
    SetBack {
        /// The ledger's last group.
        ledger: u64,
        /// The first of the log ahead that is not in it.
        ahead: u64,
    },
    /// It cannot be read at one place, and can behind it.
    #[error(
        "{file}: what stands at byte {at} cannot be read, and behind it stands group {ahead} of the ledger's commands, which \
         has {ledger}: the file is damaged, and what is lacking was acknowledged. `culvert restore --replay` brings it back \
         from the journal mirror, and then what stands behind the damage; nothing behind it was taken or overwritten",
        file = super::AHEAD_FILE
    )]
    Damaged {
        /// Where.
        at: u64,
        /// The ledger's last group.
        ledger: u64,
        /// The next that opens.
        ahead: u64,
    },
}

/// Why a group is not in the log ahead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAhead {
    /// There is no room for it, or what stands here is not certain: the databases must be made durable.
    #[error("it is to be begun anew")]
    Full,
    #[error(transparent)]
    Random(#[from] vault::RandomError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Ahead {
    /// Opens the file beside a ledger, or makes it: for whoever the ledger belongs to, for an operator may be the first
    /// to look at what came out of a backup.
    pub(crate) fn open(path: &Path, ledger: &Path) -> io::Result<Ahead> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (file, owner) = (options.create_new(true).open(path)?, ledger.metadata()?);
                let made = file.metadata()?;
                if (made.uid(), made.gid()) != (owner.uid(), owner.gid()) {
                    fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
                }
                file
            }
            opened => opened?,
        };
        Ahead::over(DatabaseFile::new(file).map_err(io::Error::other)?)
    }

    /// On any storage: tests put a failing disk under it.
    pub(crate) fn over(storage: impl StorageBackend) -> io::Result<Ahead> {
        if storage.len()? < BYTES {
            storage.set_len(BYTES)?;
        }
        let mut magic = [0; MAGIC.len()];
        storage.read(0, &mut magic)?;
        if magic == [0; MAGIC.len()] {
            // Durable with the first frame.
            storage.write(0, MAGIC)?;
        } else if magic != *MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not the log ahead of a ledger, or of another version: let the storaged that wrote it start and end in order, \
                 then move the file away",
            ));
        }
        Ok(Ahead { storage: Box::new(storage), end: FRAMES_AT, chain: CHAIN_START, mark: 0, doubtful: false })
    }

    #[cfg(test)]
    pub(crate) fn in_memory() -> Ahead {
        Ahead::over(redb::backends::InMemoryBackend::new()).expect("memory has room")
    }

    /// The mark for the next group that is tried.
    pub(crate) fn next_mark(&mut self) -> Mark {
        self.mark += 2;
        Mark(self.mark)
    }

    /// Makes a group durable. On an error nothing is known of it.
    pub(crate) fn append(&mut self, wrapping: &Wrapping, mark: Mark, plain: &[u8]) -> Result<(), NotAhead> {
        if self.doubtful {
            return Err(NotAhead::Full);
        }
        let (frame, chain) = wrapping.envelope().seal(mark.0, &self.chain, plain)?;
        let end = self.end + frame.len() as u64;
        if end > BYTES {
            return Err(NotAhead::Full);
        }
        self.doubtful = true;
        self.storage.write(self.end, &frame)?;
        self.storage.sync_data()?;
        (self.end, self.chain) = (end, chain);
        Ok(())
    }

    /// The databases have what was appended.
    pub(crate) fn taken(&mut self) {
        self.doubtful = false;
    }

    /// The databases are durable: the next frame takes the first one's place.
    pub(crate) fn begin_anew(&mut self) {
        (self.end, self.chain, self.doubtful) = (FRAMES_AT, CHAIN_START, false);
    }

    /// Whether a frame stands here that the databases need after a crash.
    pub(crate) fn is_needed(&self) -> bool {
        self.end > FRAMES_AT || self.doubtful
    }

    /// What was written for another history goes, durably: its groups have numbers that come again.
    pub(crate) fn forget(&mut self) -> io::Result<()> {
        let mut at = FRAMES_AT;
        while at < self.storage.len()? {
            let piece = (self.storage.len()? - at).min(ZEROS.len() as u64);
            self.storage
                .write(at, &ZEROS[..usize::try_from(piece).expect("at most the length of a slice")])?;
            at += piece;
        }
        self.storage.sync_data()?;
        self.begin_anew();
        Ok(())
    }

    /// Brings both databases to where this file ends, durably. Doing it again changes nothing.
    ///
    /// Where a frame of this round should stand and none opens, the round ends, or the frame was torn and nobody was told of
    /// its group, or it is damaged. Behind a torn one there is only what earlier rounds left, of groups that the databases
    /// have. So whatever opens behind it is looked at: what the ledger lacks is taken if it follows, and else it is said
    /// that something is missing. Of the last frame of all a damaged one and a torn one look the same: the journal mirror,
    /// which has its group, tells them apart when it is opened.
    pub(crate) fn bring_forward(
        &mut self,
        wrapping: &Wrapping,
        database: &Database,
    ) -> Result<Option<Gap>, BringError> {
        let keys = &wrapping.keys;
        let mut mark = keys.mark()?;
        let (mut group, mut tree) = (group_of(database)?, None);
        let before = group;
        let mut transaction = database.begin_write().map_err(redb::Error::from)?;
        transaction.set_durability(Durability::Immediate).map_err(redb::Error::from)?;
        transaction.set_quick_repair(true);
        let mut gap = None;
        {
            let mut tables = Tables::open(&transaction).map_err(CorruptError::Table)?;
            let seal = Seal::new(Arc::clone(keys));
            let mut walk = Walk::new(self.storage.as_ref(), wrapping.envelope())?;
            while let Some(found) = walk.next_frame()? {
                self.mark = self.mark.max(found.mark);
                let (first, last) = found.groups()?;
                if walk.broken_at().is_some() && last <= group {
                    continue;
                }
                if first > group + 1 {
                    gap = Some(match walk.broken_at() {
                        None => Gap::SetBack { ledger: group, ahead: first },
                        Some(at) => Gap::Damaged { at, ledger: group, ahead: first },
                    });
                    break;
                }
                let frame = Frame::decode(&found.plain)?;
                // Rows may be durable before their keys are: both databases are closed one after the other.
                let lacks = |change: &&KeyChange| match change {
                    KeyChange::Insert(_) => mark < Mark(found.mark).inserted(),
                    KeyChange::Destroy { .. } | KeyChange::DestroySlot { .. } => {
                        mark < Mark(found.mark).destroyed()
                    }
                };
                let lacking: Vec<KeyChange> = frame.redo.keys.iter().filter(lacks).cloned().collect();
                if !lacking.is_empty() {
                    mark = Mark(found.mark).destroyed();
                    keys.commit_ahead(mark, &lacking)?;
                }
                if last > group {
                    for write in &frame.redo.writes {
                        tables.write(write.place, &write.key, write.value.as_deref())?;
                    }
                    tables.remember(&seal, last, &frame.redo)?;
                    (group, tree) = (last, Some((frame.size, frame.root)));
                }
            }
            if let Some((size, root)) = tree
                && log::edge(&tables.tiles, size)?.root() != root
            {
                return Err(BringError::Differs { group });
            }
        }
        self.mark = self.mark.max(mark);
        keys.settle()?;
        if group > before {
            transaction.commit().map_err(redb::Error::from)?;
            tracing::info!(
                groups = group - before,
                "did again what the last process had not brought to the ledger's file"
            );
        } else {
            transaction.abort().map_err(redb::Error::from)?;
        }
        self.begin_anew();
        Ok(gap)
    }
}

/// Why the databases are not brought forward.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// It cannot be read.
    #[error("read the log ahead of the ledger: {0}")]
    Io(#[from] io::Error),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] CorruptError),
    /// The ledger's file.
    #[error(transparent)]
    Database(#[from] redb::Error),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// It does not follow.
    #[error(
        "the log ahead of the ledger is of another history: group {group} does not give the tree that it should"
    )]
    Differs {
        /// Where.
        group: u64,
    },
}

impl Wrapping {
    pub(crate) fn new(store: StoreId, keys: Arc<dyn KeyStore>) -> Wrapping {
        Wrapping { store, keys }
    }

    fn envelope(&self) -> Envelope<'_> {
        Envelope { store: self.store, key: self.keys.store_key(StorePurpose::Journal) }
    }
}

fn group_of(database: &Database) -> Result<u64, BringError> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    let meta = transaction.open_table(META).map_err(CorruptError::Table)?;
    let row = meta.get(META_GROUP).map_err(CorruptError::Storage)?;
    let group = row.and_then(|bytes| bytes.value().try_into().ok()).map(u64::from_le_bytes);
    group.ok_or_else(|| CorruptError::Row("no group".into()).into())
}
