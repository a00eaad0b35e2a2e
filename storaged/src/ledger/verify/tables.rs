//! What the walk reads of the database: once at its beginning, and then stretch by stretch.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use receipt::merkle::tile::TileId;
use receipt::merkle::{Hash, Node, empty_root, tile};
use redb::{ReadableTable as _, ReadableTableMetadata as _};
use store_proto::FileId;

use crate::ledger::intents::INTENTS;
use crate::ledger::log;
use crate::ledger::read::{LogTables, Reader, Snapshot};
use crate::ledger::state::View as _;
use crate::ledger::tables::{CorruptError, Counter, by_file_key};
use crate::ledger::{cleanup, deletion};

/// What stood beside the log at the moment of its checkpoint.
pub(super) struct Begun {
    /// Rows of `records`, …
    pub(super) records: u64,
    /// … the last one's index, …
    pub(super) last: Option<u64>,
    /// … of `tiles`, …
    pub(super) tiles: u64,
    /// … of `by_file`.
    pub(super) by_file: u64,
    /// Files, by the counter.
    pub(super) files: u64,
    /// The open operations.
    pub(super) intents: BTreeSet<u64>,
    /// What waits to be cleaned up.
    pub(super) cleanups: BTreeSet<u64>,
    /// Deletions on their way.
    pub(super) deletions: HashSet<FileId>,
}

impl Begun {
    pub(super) fn read(snapshot: &Snapshot) -> Result<Begun, CorruptError> {
        let tables = snapshot.log_tables()?;
        let mut intents = BTreeSet::new();
        for (key, _) in snapshot.scan(&INTENTS, &[], None, usize::MAX)? {
            let key = <[u8; 8]>::try_from(key.as_slice());
            intents.insert(u64::from_be_bytes(
                key.map_err(|_| CorruptError::Row("the key of an intent".into()))?,
            ));
        }
        let deletions = deletion::unfinished(snapshot, None, usize::MAX)?;
        Ok(Begun {
            records: tables.records.len()?,
            last: tables.records.last()?.map(|(index, _)| index.value()),
            tiles: tables.tiles.len()?,
            by_file: tables.by_file.len()?,
            files: snapshot.counter(Counter::Files)?,
            intents,
            cleanups: cleanup::pending(snapshot, usize::MAX)?.into_iter().map(|(id, _)| id).collect(),
            deletions: deletions.into_iter().map(|(file, _)| file).collect(),
        })
    }
}

/// What is there of one stretch of the log, at one moment.
pub(super) struct Stretch {
    pub(super) snapshot: Snapshot,
    pub(super) tables: LogTables,
    /// The last tile of each level that was asked for.
    recent: BTreeMap<u8, (u64, Vec<Hash>)>,
}

impl Stretch {
    pub(super) fn begin(reader: &Reader) -> Result<Stretch, CorruptError> {
        let snapshot = reader.snapshot_for_a_walk()?;
        let tables = snapshot.log_tables()?;
        Ok(Stretch { snapshot, tables, recent: BTreeMap::new() })
    }

    /// A node of the tree, if it is one that tiles keep and it is there.
    pub(super) fn node(&mut self, level: u8, index: u64) -> Result<Option<Hash>, CorruptError> {
        let Some((TileId { level, index }, at)) = tile::place(&Node { level, index, hash: empty_root() })
        else {
            return Ok(None);
        };
        if self.recent.get(&level).is_none_or(|(known, _)| *known != index) {
            let hashes = log::tile(&self.tables.tiles, TileId { level, index })?;
            self.recent.insert(level, (index, hashes));
        }
        Ok(self.recent.get(&level).and_then(|(_, hashes)| hashes.get(at).copied()))
    }

    /// Whether `by_file` leads from the file to the record.
    pub(super) fn is_about(&self, file: FileId, index: u64) -> Result<bool, CorruptError> {
        Ok(self.tables.by_file.get(by_file_key(file, index).as_slice())?.is_some())
    }
}

/// How many nodes tiles keep of a tree of so many leaves.
pub(super) fn kept_nodes(size: u64) -> u64 {
    std::iter::successors(Some(size), |nodes| Some(nodes >> 8)).take_while(|nodes| *nodes > 0).sum()
}
