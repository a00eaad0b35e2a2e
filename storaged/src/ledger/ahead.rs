//! The log ahead of the databases: each group of commands, in one write and one sync.
//!
//! The databases of ledger and keys take a group in memory and are made durable together when this file is full, so
//! the pages that many groups change are written once. A start does again what they lack.
//!
//! **Invariant:** a group that anybody was told of is durable here or in both databases, and nothing here is overwritten
//! before it is durable in both. A frame opens only behind the frames before it, so nothing that an earlier round
//! left is taken for a part of this one.
//!
//! The bytes are described in `docs/formats/ledger.md`.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase as _, StorageBackend};
use sha2::{Digest as _, Sha256};
use vault::row;

use crate::database_file::DatabaseFile;
use crate::keys::{KeyChange, KeyStore, KeysError, StorePurpose};
use crate::ledger::journal::Frame;
use crate::ledger::log;
use crate::ledger::seal::Seal;
use crate::ledger::tables::{CorruptError, META, META_GROUP, StoreId, Tables};
use crate::limits::LEDGER_AHEAD_BYTES;

/// What stands at the beginning.
const MAGIC: &[u8] = b"culvert ahead 1\n";
/// Where the frames begin: in a block of their own.
const FRAMES_AT: u64 = 4096;
/// In front of what is sealed: its length and its mark.
const HEAD_BYTES: usize = 4 + 8;
/// Tests use a short one, so that each of them fills it several times.
const BYTES: u64 = if cfg!(test) { 24 * 1024 } else { LEDGER_AHEAD_BYTES };
const CHAIN_START: [u8; 32] = [0; 32];

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

/// The ledger ends before the first frame that it lacks: it was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ledger has {ledger} groups of commands, and the log ahead of it goes on with group {ahead}: the ledger was \
     restored or rolled back. `culvert restore --replay` brings it forward; nothing was changed"
)]
pub struct SetBack {
    /// The ledger's last group.
    pub ledger: u64,
    /// The first of the log ahead that is not in it.
    pub ahead: u64,
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
                "not the log ahead of a ledger, or of another version",
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
        let sealed = row::seal(wrapping.key(), &wrapping.aad(mark.0, &self.chain), plain)?;
        let bytes = (HEAD_BYTES + sealed.len()) as u64;
        if self.end + bytes > BYTES {
            return Err(NotAhead::Full);
        }
        let length = u32::try_from(sealed.len()).expect("it fits the file");
        let frame = [length.to_be_bytes().as_slice(), &mark.0.to_be_bytes(), &sealed].concat();
        self.doubtful = true;
        self.storage.write(self.end, &frame)?;
        self.storage.sync_data()?;
        self.end += bytes;
        self.chain = after(self.chain, &sealed);
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

    /// What was written for another history goes, durably.
    pub(crate) fn forget(&mut self) -> io::Result<()> {
        self.storage.write(FRAMES_AT, &[0; 512])?;
        self.storage.sync_data()?;
        self.begin_anew();
        Ok(())
    }

    /// The frame at a place. What does not open is the end: a frame that was torn was never acknowledged.
    fn frame(&self, wrapping: &Wrapping, at: u64, chain: &[u8; 32]) -> io::Result<Option<(u64, Vec<u8>)>> {
        let length = self.storage.len()?;
        let mut head = [0; HEAD_BYTES];
        if at + HEAD_BYTES as u64 > length {
            return Ok(None);
        }
        self.storage.read(at, &mut head)?;
        let (bytes, mark) = head.split_first_chunk().expect("the head has twelve bytes");
        let bytes = u32::from_be_bytes(*bytes);
        let mark = u64::from_be_bytes(mark.try_into().expect("eight are left"));
        if bytes == 0 || at + HEAD_BYTES as u64 + u64::from(bytes) > length {
            return Ok(None);
        }
        let mut sealed = vec![0; usize::try_from(bytes).expect("it fits the file")];
        self.storage.read(at + HEAD_BYTES as u64, &mut sealed)?;
        let opens = row::open(wrapping.key(), &wrapping.aad(mark, chain), &sealed).is_ok();
        Ok(opens.then_some((mark, sealed)))
    }

    /// Brings both databases to where this file ends, durably. Doing it again changes nothing.
    pub(crate) fn bring_forward(
        &mut self,
        wrapping: &Wrapping,
        database: &Database,
    ) -> Result<Option<SetBack>, BringError> {
        let keys = &wrapping.keys;
        let mut mark = keys.mark()?;
        let (mut group, mut tree) = (group_of(database)?, None);
        let before = group;
        let mut transaction = database.begin_write().map_err(redb::Error::from)?;
        transaction.set_durability(Durability::Immediate).map_err(redb::Error::from)?;
        transaction.set_quick_repair(true);
        let mut set_back = None;
        {
            let mut tables = Tables::open(&transaction).map_err(CorruptError::Table)?;
            let seal = Seal::new(Arc::clone(keys));
            let (mut at, mut chain) = (FRAMES_AT, CHAIN_START);
            while let Some((of_frame, sealed)) = self.frame(wrapping, at, &chain)? {
                let plain = row::open(wrapping.key(), &wrapping.aad(of_frame, &chain), &sealed);
                let frame = Frame::decode(&plain.map_err(|error| CorruptError::Row(error.to_string()))?)?;
                at += (HEAD_BYTES + sealed.len()) as u64;
                chain = after(chain, &sealed);
                if frame.first > group + 1 {
                    set_back = Some(SetBack { ledger: group, ahead: frame.first });
                    break;
                }
                self.mark = self.mark.max(of_frame);
                // Rows may be durable before their keys are: both databases are closed one after the other.
                let lacks = |change: &&KeyChange| match change {
                    KeyChange::Insert(_) => mark < Mark(of_frame).inserted(),
                    KeyChange::Destroy { .. } | KeyChange::DestroySlot { .. } => {
                        mark < Mark(of_frame).destroyed()
                    }
                };
                let lacking: Vec<KeyChange> = frame.redo.keys.iter().filter(lacks).cloned().collect();
                if !lacking.is_empty() {
                    mark = Mark(of_frame).destroyed();
                    keys.commit_ahead(mark, &lacking)?;
                }
                if frame.last > group {
                    for write in &frame.redo.writes {
                        tables.write(write.place, &write.key, write.value.as_deref())?;
                    }
                    tables.remember(&seal, frame.last, &frame.redo)?;
                    (group, tree) = (frame.last, Some((frame.size, frame.root)));
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
        Ok(set_back)
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

    fn key(&self) -> &vault::Key256 {
        self.keys.store_key(StorePurpose::Journal)
    }

    fn aad(&self, mark: u64, chain: &[u8; 32]) -> [u8; 62] {
        let mut aad = [0; 62];
        aad[..6].copy_from_slice(b"ahead\0");
        aad[6..22].copy_from_slice(self.store.0.as_bytes());
        aad[22..30].copy_from_slice(&mark.to_be_bytes());
        aad[30..].copy_from_slice(chain);
        aad
    }
}

fn after(chain: [u8; 32], sealed: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(chain).chain_update(sealed).finalize().into()
}

fn group_of(database: &Database) -> Result<u64, BringError> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    let meta = transaction.open_table(META).map_err(CorruptError::Table)?;
    let row = meta.get(META_GROUP).map_err(CorruptError::Storage)?;
    let group = row.and_then(|bytes| bytes.value().try_into().ok()).map(u64::from_le_bytes);
    group.ok_or_else(|| CorruptError::Row("no group".into()).into())
}
