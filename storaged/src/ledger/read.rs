//! Reading the ledger: snapshots that never wait for the writer.

use std::sync::{Arc, Mutex, PoisonError};

use receipt::checkpoint::SignedCheckpoint;
use receipt::merkle::tile::{TileId, TileReader};
use receipt::merkle::{self, Hash};
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _,
};
use serde::de::DeserializeOwned;
use store_proto::{Cohort, FileId, LogicalPath, UserName};

use crate::keys::KeyStore;
use crate::ledger::application::Position;
use crate::ledger::checkpoint;
use crate::ledger::files::{self, FileRow, OBJECTS, PartRow};
use crate::ledger::intents::{self, INTENTS, IntentKind, IntentRow};
use crate::ledger::journal::Coded;
use crate::ledger::log::{self, Content, Entry, OpenRecord};
use crate::ledger::moment::{self, TimeHold};
use crate::ledger::partial::{self, PARTIAL, PartialRow};
use crate::ledger::record::Record;
use crate::ledger::redo::{Changed, Place, index_key, name_key};
use crate::ledger::remembered::Remembered;
use crate::ledger::repeat::{self, Blinded};
use crate::ledger::seal::{Opened, Seal};
use crate::ledger::state::{Keyed, Rows, StateTable, View};
use crate::ledger::tables::{
    BY_FILE, CorruptError, Counter, META, META_GROUP, RECORDS, STATE, TILES, UNMIRRORED, by_file_key,
    unmirrored_aad,
};
use crate::ledger::usage::{self, UsageRow, VOLUME_USAGE, VolumeUsageRow};
use crate::limits::{MAX_VERSIONS, UPLOADS_BATCH};

/// Reads what is durable; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    database: Arc<Database>,
    seal: Seal,
    remembered: Arc<Remembered>,
    /// Held while a group goes from its keys to its rows.
    whole_group: Arc<Mutex<()>>,
}

/// The state as it was at one moment; it never waits for the writer and never changes.
pub struct Snapshot {
    pub(super) transaction: ReadTransaction,
    state: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub(super) seal: Seal,
    /// Of a whole one: what is not in `unmirrored` yet.
    remembered: Vec<Arc<Coded>>,
}

/// The log's own tables at one moment.
pub(crate) struct LogTables {
    pub(crate) records: ReadOnlyTable<u64, &'static [u8]>,
    pub(crate) tiles: ReadOnlyTable<&'static [u8], &'static [u8; 32]>,
    pub(crate) by_file: ReadOnlyTable<&'static [u8], ()>,
}

/// An upload that can be resumed.
#[derive(Debug, Clone)]
pub struct Resumable {
    /// Its id.
    pub upload: FileId,
    /// How far it is.
    pub row: PartialRow,
    /// What it will be; none when it is finished.
    pub intent: Option<IntentRow>,
    /// What is published of it.
    pub parts: Vec<PartRow>,
}

/// Sizes, for metrics and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Records.
    pub records: u64,
    /// Files.
    pub files: u64,
    /// Operations that have not ended.
    pub open_intents: u64,
    /// Bytes of all files.
    pub stored_bytes: u64,
    /// Files that wait for a scanner.
    pub held_files: u64,
    /// Uploads that can be resumed.
    pub partial_uploads: u64,
}

impl Reader {
    /// Reads this database.
    pub fn new(database: Arc<Database>, keys: Arc<dyn KeyStore>) -> Reader {
        Reader { database, seal: Seal::new(keys), remembered: Arc::default(), whole_group: Arc::default() }
    }

    /// What the writer remembers for the mirror.
    pub(crate) fn remembered(&self) -> &Arc<Remembered> {
        &self.remembered
    }

    /// What the writer holds while it writes a group.
    pub(crate) fn whole_group(&self) -> &Arc<Mutex<()>> {
        &self.whole_group
    }

    /// Runs `look` while no group is under way, so that ledger and keys are those of one moment. The writer waits
    /// for it: it should do no more than begin to read.
    pub fn between_groups<T>(&self, look: impl FnOnce() -> T) -> T {
        let _whole = self.whole_group.lock().unwrap_or_else(PoisonError::into_inner);
        look()
    }

    /// The state of this moment, for several questions with one answer.
    pub fn snapshot(&self) -> Result<Snapshot, CorruptError> {
        let transaction = self.begin()?;
        let state = transaction.open_table(STATE)?;
        Ok(Snapshot { transaction, state, seal: self.seal.clone(), remembered: Vec::new() })
    }

    /// The same, for whoever asks what the mirror lacks.
    pub(crate) fn whole_snapshot(&self) -> Result<Snapshot, CorruptError> {
        let (snapshot, remembered) = self.remembered.with(|| self.snapshot());
        Ok(Snapshot { remembered, ..snapshot? })
    }

    /// The same, for whoever reads many records in a row: keys of files are asked for once.
    pub(crate) fn snapshot_for_a_walk(&self) -> Result<Snapshot, CorruptError> {
        let snapshot = self.snapshot()?;
        let seal = snapshot.seal.remembering();
        Ok(Snapshot { seal, ..snapshot })
    }

    /// The file with this id.
    pub fn file(&self, id: FileId) -> Result<Option<FileRow>, CorruptError> {
        files::find(&self.snapshot()?, id)
    }

    /// The file at this path.
    pub fn file_at(&self, cohort: &Cohort, path: &LogicalPath) -> Result<Option<FileRow>, CorruptError> {
        files::at(&self.snapshot()?, cohort, path)
    }

    /// The versions of a name, the newest first.
    pub fn versions(&self, cohort: &Cohort, path: &LogicalPath) -> Result<Vec<FileRow>, CorruptError> {
        files::versions(&self.snapshot()?, cohort, path, MAX_VERSIONS)
    }

    /// Whether an object is part of a file, or of what arrived of one.
    pub fn is_claimed(&self, object: FileId) -> Result<bool, CorruptError> {
        Ok(self.snapshot()?.get(&OBJECTS, object.as_bytes())?.is_some())
    }

    /// An upload that can be resumed, and its intent.
    pub fn partial(&self, upload: FileId) -> Result<Option<Resumable>, CorruptError> {
        let snapshot = self.snapshot()?;
        let Some(row) = snapshot.get(&PARTIAL, upload.as_bytes())? else { return Ok(None) };
        let intent = intents::find(&snapshot, row.intent, IntentKind::Partial)?;
        Ok(Some(Resumable { upload, row, intent, parts: partial::parts(&snapshot, upload)? }))
    }

    /// The next of them behind `after`, ended or not: some at a time, for each may hold a segment's tail.
    pub fn partials(&self, after: Option<FileId>) -> Result<Vec<(FileId, PartialRow)>, CorruptError> {
        partial::some(&self.snapshot()?, after, UPLOADS_BATCH)
    }

    /// Those of a user that have not ended, without their tails.
    pub fn partials_of(&self, user: &UserName) -> Result<Vec<(FileId, PartialRow)>, CorruptError> {
        partial::of_user(&self.snapshot()?, user)
    }

    /// At most `limit` keys of requests from behind `after`: the last of them, and those that are over.
    pub fn repeats(
        &self,
        after: Option<&[u8]>,
        limit: usize,
        now_ms: u64,
    ) -> Result<(Option<Vec<u8>>, Vec<Blinded>), CorruptError> {
        repeat::some(&self.snapshot()?, after, limit, now_ms)
    }

    /// What a cohort uses.
    pub fn usage(&self, cohort: &Cohort) -> Result<UsageRow, CorruptError> {
        usage::of(&self.snapshot()?, cohort)
    }

    /// What each cohort uses on each volume.
    pub fn usage_by_volume(&self) -> Result<Vec<(Cohort, FileId, VolumeUsageRow)>, CorruptError> {
        let found = self.snapshot()?.scan(&VOLUME_USAGE, &[], None, usize::MAX)?;
        found
            .into_iter()
            .map(|(key, row)| {
                let (cohort, volume) = usage::parse_volume_key(&key)
                    .ok_or_else(|| CorruptError::Row("the key of a volume's usage".into()))?;
                Ok((cohort, volume, row))
            })
            .collect()
    }

    /// At most `limit` files of a cohort in the order of their arrival, from behind the one whose record is
    /// `after`. The flag: there are more.
    pub fn list(
        &self,
        cohort: &Cohort,
        after: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<FileRow>, bool), CorruptError> {
        files::list(&self.snapshot()?, cohort, after, limit)
    }

    /// How many records there are.
    pub fn size(&self) -> Result<u64, CorruptError> {
        Ok(self.begin()?.open_table(RECORDS)?.len()?)
    }

    /// When a record was written.
    pub fn time_of(&self, index: u64) -> Result<Option<u64>, CorruptError> {
        let records = self.begin()?.open_table(RECORDS)?;
        records.get(index)?.map(|row| log::time_of(row.value())).transpose()
    }

    /// What stands at this index.
    pub fn entry(&self, index: u64) -> Result<Option<Entry>, CorruptError> {
        let records = self.begin()?.open_table(RECORDS)?;
        records.get(index)?.map(|row| log::open(&self.seal, index, row.value())).transpose()
    }

    /// At most `limit` entries from `first` on.
    pub fn entries(&self, first: u64, limit: usize) -> Result<Vec<Entry>, CorruptError> {
        let records = self.begin()?.open_table(RECORDS)?;
        let mut found = Vec::new();
        for entry in records.range(first..)?.take(limit) {
            let (index, row) = entry?;
            found.push(log::open(&self.seal, index.value(), row.value())?);
        }
        Ok(found)
    }

    /// The record with this index, if it can still be read.
    pub fn record(&self, index: u64) -> Result<Option<Record>, CorruptError> {
        Ok(self.entry(index)?.and_then(Entry::into_record))
    }

    /// Those of the `limit` records from `first` on that can still be read.
    pub fn records(&self, first: u64, limit: usize) -> Result<Vec<Record>, CorruptError> {
        Ok(self.entries(first, limit)?.into_iter().filter_map(Entry::into_record).collect())
    }

    /// The indices of the records about a file, from `first` on.
    pub fn about(&self, file: FileId, first: u64, limit: usize) -> Result<Vec<u64>, CorruptError> {
        let by_file = self.begin()?.open_table(BY_FILE)?;
        let (begin, end) = (by_file_key(file, first), by_file_key(file, u64::MAX));
        let mut found = Vec::new();
        for entry in by_file.range::<&[u8]>(begin.as_slice()..=end.as_slice())?.take(limit) {
            let (key, _) = entry?;
            let index = key.value().last_chunk().ok_or_else(|| CorruptError::Row("by_file".into()))?;
            found.push(u64::from_be_bytes(*index));
        }
        Ok(found)
    }

    /// The newest checkpoint. It is over all records of its moment, and durable.
    pub fn checkpoint(&self) -> Result<SignedCheckpoint, CorruptError> {
        self.snapshot()?.checkpoint()
    }

    /// The hashes of a tile, as many as there are.
    pub fn tile(&self, id: TileId) -> Result<Vec<Hash>, CorruptError> {
        log::tile(&self.begin()?.open_table(TILES)?, id)
    }

    /// What proves a record: its bytes and salt, the newest checkpoint, and the path between them. `None`
    /// where there is no such record, or its keys were destroyed.
    pub fn proof(&self, index: u64) -> Result<Option<Proof>, CorruptError> {
        let snapshot = self.snapshot()?;
        let records = snapshot.transaction.open_table(RECORDS)?;
        let Some(row) = records.get(index)? else { return Ok(None) };
        let Content::Record(record) = log::open(&self.seal, index, row.value())?.content else {
            return Ok(None);
        };
        let checkpoint = snapshot.checkpoint()?;
        let inclusion = snapshot.inclusion(index, checkpoint.unverified().size)?;
        Ok(Some(Proof { index, record: *record, inclusion, checkpoint }))
    }

    /// The hold that stands because the clock went forward.
    pub fn time_hold(&self) -> Result<Option<TimeHold>, CorruptError> {
        moment::hold(&self.snapshot()?)
    }

    /// The operations that have not ended.
    pub fn open_intents(&self) -> Result<Vec<(u64, IntentRow)>, CorruptError> {
        let open = self.snapshot()?.scan(&INTENTS, &[], None, usize::MAX)?;
        open.into_iter().map(|(key, row)| Ok((index_of(&key)?, row))).collect()
    }

    /// Sizes.
    pub fn totals(&self) -> Result<Totals, CorruptError> {
        let snapshot = self.snapshot()?;
        Ok(Totals {
            records: snapshot.transaction.open_table(RECORDS)?.len()?,
            files: snapshot.counter(Counter::Files)?,
            open_intents: snapshot.rows().count(&INTENTS)?,
            stored_bytes: snapshot.counter(Counter::StoredBytes)?,
            held_files: snapshot.counter(Counter::HeldFiles)?,
            partial_uploads: snapshot.counter(Counter::PartialUploads)?,
        })
    }

    fn begin(&self) -> Result<ReadTransaction, CorruptError> {
        self.database.begin_read().map_err(|error| CorruptError::Row(error.to_string()))
    }
}

fn index_of(key: &[u8]) -> Result<u64, CorruptError> {
    let bytes = key.try_into().map_err(|_| CorruptError::Row("the key of an intent".into()))?;
    Ok(u64::from_be_bytes(bytes))
}

/// What proves a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The record's index.
    pub index: u64,
    /// The record, its bytes and its salt.
    pub record: OpenRecord,
    /// From its leaf to the head of the checkpoint's tree.
    pub inclusion: Vec<Hash>,
    /// The log's word.
    pub checkpoint: SignedCheckpoint,
}

impl Snapshot {
    /// The checkpoint over the records of this moment.
    pub fn checkpoint(&self) -> Result<SignedCheckpoint, CorruptError> {
        checkpoint::read(&self.transaction.open_table(META)?)
    }

    /// The path from a leaf to the head of the tree of `size` leaves.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, CorruptError> {
        let tiles = self.transaction.open_table(TILES)?;
        let mut reader = TileReader::new(|id| log::tile(&tiles, id));
        merkle::inclusion(index, size, |level, index| reader.node(level, index)).map_err(row_error)
    }

    /// The tables of the log, for whoever walks over all of it.
    pub(crate) fn log_tables(&self) -> Result<LogTables, CorruptError> {
        Ok(LogTables {
            records: self.transaction.open_table(RECORDS)?,
            tiles: self.transaction.open_table(TILES)?,
            by_file: self.transaction.open_table(BY_FILE)?,
        })
    }

    /// What opens its rows.
    pub(crate) fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The proof that the tree of `to` leaves begins with that of `from`.
    pub fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, CorruptError> {
        let tiles = self.transaction.open_table(TILES)?;
        let mut reader = TileReader::new(|id| log::tile(&tiles, id));
        merkle::consistency(from, to, |level, index| reader.node(level, index)).map_err(row_error)
    }

    /// The head of the tree of the first `size` records.
    pub fn root(&self, size: u64) -> Result<Hash, CorruptError> {
        let tiles = self.transaction.open_table(TILES)?;
        let mut reader = TileReader::new(|id| log::tile(&tiles, id));
        merkle::root(size, |level, index| reader.node(level, index)).map_err(row_error)
    }

    /// How many groups of commands there were.
    pub fn group(&self) -> Result<u64, CorruptError> {
        let meta = self.transaction.open_table(META)?;
        let bytes = meta.get(META_GROUP)?.and_then(|bytes| bytes.value().try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or_else(|| CorruptError::Row("no group".into()))
    }

    /// The oldest group that is remembered for the mirror.
    pub(crate) fn first_unmirrored(&self) -> Result<Option<u64>, CorruptError> {
        let unmirrored = self.transaction.open_table(UNMIRRORED)?;
        let in_table = unmirrored.first()?.map(|(group, _)| group.value());
        Ok(in_table.or_else(|| self.remembered.first().map(|frame| frame.last)))
    }

    /// What is remembered of these groups.
    pub(crate) fn unmirrored(&self, first: u64, last: u64) -> Result<Vec<(u64, Changed)>, CorruptError> {
        let unmirrored = self.transaction.open_table(UNMIRRORED)?;
        let mut found = Vec::new();
        for entry in unmirrored.range(first..=last)? {
            let (group, row) = entry?;
            match self.seal.open("unmirrored", &unmirrored_aad(group.value()), row.value())? {
                Opened::Plain(plain) => found.push((group.value(), Changed::decode(&plain)?)),
                Opened::Destroyed(file) => return Err(CorruptError::KeyGone(file)),
            }
        }
        let in_table = found.last().map(|(group, _)| *group);
        for frame in self.remembered_behind(in_table).filter(|frame| (first..=last).contains(&frame.last)) {
            found.push((frame.last, Changed::of(frame.redo()?)));
        }
        Ok(found)
    }

    /// What is remembered behind the last row of `unmirrored`, up to this snapshot.
    pub(crate) fn remembered_behind(&self, in_table: Option<u64>) -> impl Iterator<Item = &Coded> {
        let behind = move |frame: &&Coded| in_table.is_none_or(|last| frame.last > last);
        self.remembered.iter().map(Arc::as_ref).filter(behind)
    }

    /// The bytes of any row.
    pub(crate) fn value(&self, place: Place, key: &[u8]) -> Result<Option<Vec<u8>>, CorruptError> {
        let found = match place {
            Place::Records => {
                let records = self.transaction.open_table(RECORDS)?;
                records.get(index_key(key)?)?.map(|row| row.value().to_vec())
            }
            Place::Tiles => {
                let tiles = self.transaction.open_table(TILES)?;
                tiles.get(key)?.map(|hash| hash.value().to_vec())
            }
            Place::ByFile => self.transaction.open_table(BY_FILE)?.get(key)?.map(|_| Vec::new()),
            Place::State => self.state.get(key)?.map(|row| row.value().to_vec()),
            Place::Meta => {
                let meta = self.transaction.open_table(META)?;
                meta.get(name_key(key)?)?.map(|fact| fact.value().to_vec())
            }
        };
        Ok(found)
    }

    /// The right edge of the tree over all records, and the last record's time.
    pub(crate) fn position(&self) -> Result<Position, CorruptError> {
        let records = self.transaction.open_table(RECORDS)?;
        let (size, last) = (records.len()?, records.last()?);
        let last_time_ms = last.map(|(_, row)| log::time_of(row.value())).transpose()?.unwrap_or(0);
        let edge = log::edge(&self.transaction.open_table(TILES)?, size)?;
        let epoch = self.checkpoint()?.unverified().epoch;
        Ok(Position { edge, last_time_ms, epoch })
    }

    /// A number that the ledger keeps.
    pub fn counter(&self, counter: Counter) -> Result<u64, CorruptError> {
        let meta = self.transaction.open_table(META)?;
        let bytes = meta.get(counter.name())?.and_then(|bytes| bytes.value().try_into().ok());
        Ok(bytes.map_or(0, u64::from_le_bytes))
    }
}

impl View for Snapshot {
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

impl Snapshot {
    fn rows(&self) -> Rows<'_, ReadOnlyTable<&'static [u8], &'static [u8]>> {
        Rows { rows: &self.state, seal: &self.seal }
    }
}

fn row_error(error: impl std::fmt::Display) -> CorruptError {
    CorruptError::Row(error.to_string())
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}
