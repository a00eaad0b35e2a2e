//! What a command sees while it is carried out: the state, the trail and the time.
//!
//! **Invariant:** nothing here reads a clock, draws an id or does IO but to the tables of one transaction.
//! A command that cannot be done is an outcome; an error means that the transaction is lost.

use receipt::merkle::Edge;
use redb::ReadableTable as _;
use serde::de::DeserializeOwned;
use store_proto::FileId;

use crate::keys::KeyChange;
use crate::ledger::access::Book;
use crate::ledger::checkpoint::Signer;
use crate::ledger::log;
use crate::ledger::record::{Action, Host, Origin, Phase, Record};
use crate::ledger::redo::{Place, Redo, Write};
use crate::ledger::seal::{Seal, Under};
use crate::ledger::state::{Keyed, Row, Rows, StateTable, View};
use crate::ledger::tables::{
    CorruptError, Counter, META_CHECKPOINT, META_GROUP, Tables, by_file_key, encode,
};

/// Where the next record goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The right edge of the Merkle tree; its size is the next record's index.
    pub(crate) edge: Edge,
    /// The last record's time.
    pub(crate) last_time_ms: u64,
    /// How often the store was restored; checkpoints carry it.
    pub(crate) epoch: u64,
}

/// One transaction's view: its tables, its place in the trail and its time.
pub struct Application<'a, 'txn> {
    pub(crate) tables: &'a mut Tables<'txn>,
    pub(crate) position: &'a mut Position,
    pub(crate) seal: &'a Seal,
    pub(crate) host: &'a Host,
    pub(crate) now_ms: u64,
    /// Keys that this transaction destroys.
    pub(crate) destroyed: Vec<KeyChange>,
    /// What was changed so far.
    pub(crate) redo: Redo,
    /// The book of access, once it was read: thousands of rows that each change would read again.
    pub(crate) book: Option<Book>,
}

impl<'a, 'txn> Application<'a, 'txn> {
    pub(crate) fn new(
        tables: &'a mut Tables<'txn>,
        position: &'a mut Position,
        seal: &'a Seal,
        host: &'a Host,
        now_ms: u64,
    ) -> Self {
        Application {
            tables,
            position,
            seal,
            host,
            now_ms,
            destroyed: Vec::new(),
            redo: Redo::default(),
            book: None,
        }
    }

    /// The time of the next record: the wall clock, but never before the last record.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.max(self.position.last_time_ms)
    }

    /// A record of this moment, to be filled in and appended.
    pub fn record(&self, action: Action, phase: Phase, origin: Origin) -> Record {
        let mut record = Record::new(action, phase, self.host.clone(), origin);
        record.time_ms = self.now_ms();
        record
    }

    /// The index that the next appended record gets.
    pub fn next_index(&self) -> u64 {
        self.position.edge.size()
    }

    /// Makes the record part of the trail, and says under which index. A record about a file is sealed under
    /// the file's record key as long as there is one, and falls with it. Any other names no file and no content, for
    /// nobody could take that back: what is refused before there is a file, or ends after it was deleted.
    pub fn append(&mut self, mut record: Record) -> Result<u64, CorruptError> {
        let under = self.seal.about(record.file_id)?;
        if under == Under::Store {
            (record.path, record.sha256) = (None, None);
        }
        self.append_under(under, record)
    }

    /// As [`append`](Self::append), for a record that outlives the keys of its file: what is said of a
    /// deletion. It should name no more than the file's id.
    pub fn append_lasting(&mut self, record: Record) -> Result<u64, CorruptError> {
        self.append_under(Under::Store, record)
    }

    fn append_under(&mut self, under: Under, mut record: Record) -> Result<u64, CorruptError> {
        record.index = self.position.edge.size();
        record.time_ms = self.now_ms();
        let composed = log::compose(&mut self.position.edge, self.seal, under, &record)?;
        self.write(Place::Records, record.index.to_be_bytes().to_vec(), Some(composed.row))?;
        for (key, hash) in composed.nodes {
            self.write(Place::Tiles, key.to_vec(), Some(hash.as_bytes().to_vec()))?;
        }
        if let Some(file) = record.file_id {
            self.write(Place::ByFile, by_file_key(file, record.index).to_vec(), Some(Vec::new()))?;
        }
        self.position.last_time_ms = record.time_ms;
        Ok(record.index)
    }

    /// Writes a row, sealed under the store's key.
    pub fn put<V: Row>(&mut self, table: &StateTable<V>, key: &[u8], row: &V) -> Result<(), CorruptError> {
        self.put_under(Under::Store, table, key, row)
    }

    /// Writes a row that is about one file, sealed under its record key: it falls with it, and must be removed
    /// by the command that destroys the file's keys.
    pub fn put_about<V: Row>(
        &mut self,
        table: &StateTable<V>,
        key: &[u8],
        file: FileId,
        row: &V,
    ) -> Result<(), CorruptError> {
        let under = self.seal.about(Some(file))?;
        self.put_under(under, table, key, row)
    }

    fn put_under<V: Row>(
        &mut self,
        under: Under,
        table: &StateTable<V>,
        key: &[u8],
        row: &V,
    ) -> Result<(), CorruptError> {
        let place = table.place(key);
        let sealed = self.seal.seal(under, &place, &encode(row))?;
        self.write(Place::State, place, Some(sealed))
    }

    /// Destroys keys, durably before this transaction is: so what its records say of it is true. Whoever
    /// calls this has an open intent, for a crash in between leaves the keys gone and this command undone.
    pub fn destroy_keys(&mut self, change: KeyChange) {
        self.redo.keys.push(change.clone());
        self.destroyed.push(change);
    }

    /// Removes a row, and says whether there was one.
    pub fn delete<V: Row>(&mut self, table: &StateTable<V>, key: &[u8]) -> Result<bool, CorruptError> {
        let place = table.place(key);
        let there = self.tables.state.get(place.as_slice())?.is_some();
        if there {
            self.write(Place::State, place, None)?;
        }
        Ok(there)
    }

    /// Adds to a counter; it stays between 0 and the largest number.
    pub fn count(&mut self, counter: Counter, change: i64) -> Result<(), CorruptError> {
        let now = self
            .tables
            .meta
            .get(counter.name())?
            .and_then(|bytes| bytes.value().try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let then = now.saturating_add_signed(change);
        self.fact(counter.name(), &then.to_le_bytes())
    }

    /// Writes a fact about the ledger itself.
    pub(crate) fn fact(&mut self, name: &str, value: &[u8]) -> Result<(), CorruptError> {
        self.write(Place::Meta, name.as_bytes().to_vec(), Some(value.to_vec()))
    }

    /// Signs the tree as it is now, and says what was changed.
    pub(crate) fn end_group(&mut self, group: u64, signer: &Signer) -> Result<Redo, CorruptError> {
        let checkpoint = signer.sign(&self.position.edge, self.position.epoch)?;
        self.fact(META_CHECKPOINT, checkpoint.as_str().as_bytes())?;
        self.fact(META_GROUP, &group.to_le_bytes())?;
        Ok(std::mem::take(&mut self.redo))
    }

    /// Begins the next epoch: the checkpoint of this group carries it.
    pub(crate) fn next_epoch(&mut self) -> u64 {
        self.position.epoch += 1;
        self.position.epoch
    }

    /// The one door through which anything is written.
    fn write(&mut self, place: Place, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), CorruptError> {
        self.tables.write(place, &key, value.as_deref())?;
        self.redo.writes.push(Write { place, key, value });
        Ok(())
    }
}

impl<'txn> Application<'_, 'txn> {
    fn rows(&self) -> Rows<'_, redb::Table<'txn, &'static [u8], &'static [u8]>> {
        Rows { rows: &self.tables.state, seal: self.seal }
    }
}

impl View for Application<'_, '_> {
    fn get<V: DeserializeOwned>(&self, table: &StateTable<V>, key: &[u8]) -> Result<Option<V>, CorruptError> {
        self.rows().get(table, key)
    }

    fn scan<V: DeserializeOwned>(
        &self,
        table: &StateTable<V>,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Keyed<V>>, CorruptError> {
        self.rows().scan(table, prefix, after, limit)
    }

    fn blind(&self, domain: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.rows().blind(domain, parts)
    }
}

impl std::fmt::Debug for Application<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Application").field("position", &self.position).finish_non_exhaustive()
    }
}
