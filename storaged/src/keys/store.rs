//! The keys in `keys.redb`, or in memory for who needs no disk.
//!
//! **Invariant:** one change of the tables at a time, each group in one transaction, which is durable or which the log
//! ahead of the ledger repeats; the database and the epoch key that opens it are swapped together, behind one lock
//! that every reader holds while it reads.

use std::collections::HashMap;
use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use daemon::Clock;
use linux::secret_memory::Protection;
use redb::backends::InMemoryBackend;
use redb::{Database, Durability, ReadableDatabase as _, WriteTransaction};
use store_proto::{Cohort, FileId};
use vault::Key256;
use vault::wrap::{self, WrappedKey};

use super::change::{Fresh, Insertion};
use super::root::Secrets;
use super::tables::{self, FileKeyRow, KekRow, Tables};
use super::{KeyChange, KeyStore, KeysError, OpenKeysError, RootKey, StorePurpose, epoch};
use crate::database_file::{self, DatabaseFile};
use crate::ledger::StoreId;
use crate::objects::network_fs::network_file_system;

/// The name in the state directory.
pub const KEYS_FILE: &str = "keys.redb";
/// What a shred writes before it takes the place of [`KEYS_FILE`].
pub(super) const NEW_KEYS_FILE: &str = "keys.redb.new";
/// The page cache's bound. A row has about 130 bytes, so this holds the keys of the last tens of thousands.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// The epoch of a new store.
const FIRST_EPOCH: u64 = 1;

/// The keys of one store.
pub struct Keys {
    pub(super) home: Home,
    pub(super) store: StoreId,
    store_keys: [Key256; StorePurpose::ALL.len()],
    pub(super) clock: Clock,
    protection: Protection,
    /// Held by whoever changes the tables, for the whole change.
    writing: Mutex<()>,
    /// Something is in memory alone.
    unsettled: AtomicBool,
    pub(super) state: RwLock<State>,
    /// Where the next batch of re-wrapping looks first.
    pub(super) cursor: Mutex<[u8; 16]>,
    /// Held by whoever copies the tables for a backup, and by whoever is about to destroy an epoch.
    pub(super) copying: Mutex<()>,
}

/// Where the database is.
#[derive(Debug)]
pub(super) enum Home {
    /// In this directory.
    Directory(PathBuf),
    /// Nowhere.
    Memory,
}

/// What a shred swaps.
pub(super) struct State {
    pub(super) database: Database,
    pub(super) epoch: u64,
    pub(super) secrets: Secrets,
    /// The newest key of each cohort that was asked for. One that no commit has brought yet stands here alone.
    pub(super) newest: Mutex<HashMap<Cohort, (u32, KekRow)>>,
}

impl Keys {
    /// Makes the keys of a new store in `directory`.
    pub fn create(directory: &Path, store: StoreId, root: RootKey) -> Result<Keys, OpenKeysError> {
        refuse_network(directory)?;
        let path = directory.join(KEYS_FILE);
        if path.symlink_metadata().is_ok() {
            return Err(OpenKeysError::Exists(path));
        }
        let make = || -> Result<Keys, KeysError> {
            let keys = Keys::make(Home::Directory(directory.to_owned()), store, root)?;
            epoch::sync(directory)?;
            Ok(keys)
        };
        make().map_err(|error| OpenKeysError::Keys { path: path.clone(), error })
    }

    /// Keys that end with the process: for tests and benches of what uses keys.
    pub fn in_memory(store: StoreId) -> Result<Keys, KeysError> {
        let root = RootKey::generate().map_err(|error| KeysError::Corrupt(error.to_string()))?;
        Keys::make(Home::Memory, store, root)
    }

    fn make(home: Home, store: StoreId, root: RootKey) -> Result<Keys, KeysError> {
        let root_key = root.key();
        let epoch_key = Key256::generate()?;
        let mut secrets = root.into_secrets();
        secrets.set_epoch(&epoch_key);
        if let Home::Directory(directory) = &home {
            epoch::write(directory, store, FIRST_EPOCH, &root_key, &epoch_key)?;
        }
        let mut store_keys = Vec::new();
        for purpose in StorePurpose::ALL {
            let key = Key256::generate()?;
            let wrapped = wrap::wrap(&root_key, &tables::store_key_aad(store, purpose), &key)?;
            store_keys.push((purpose, key, wrapped));
        }
        let database = new_database(&home, KEYS_FILE)?;
        let transaction = begin(&database)?;
        write_head(&transaction, store, FIRST_EPOCH, store_keys.iter().map(|(p, _, w)| (*p, *w)))?;
        drop(Tables::open(&transaction)?);
        transaction.commit()?;
        let store_keys: Vec<Key256> = store_keys.into_iter().map(|(_, key, _)| key).collect();
        Ok(Keys::assemble(home, store, store_keys, database, FIRST_EPOCH, secrets))
    }

    /// Opens the keys in `directory` and erases what a crash left beside them.
    pub fn open(directory: &Path, root: RootKey) -> Result<Keys, OpenKeysError> {
        refuse_network(directory)?;
        let path = directory.join(KEYS_FILE);
        let keys = |error: KeysError| OpenKeysError::Keys { path: path.clone(), error };
        match path.symlink_metadata() {
            Err(_) => return Err(OpenKeysError::Missing(path)),
            Ok(found) if found.mode() & 0o077 != 0 => {
                return Err(OpenKeysError::Mode { path, mode: found.mode() & 0o7777 });
            }
            Ok(_) => {}
        }
        let database = DatabaseFile::open(&path).and_then(|file| builder().create_with_backend(file));
        let database = database.map_err(|error| keys(error.into()))?;
        let head = read_head(&database, &path)?;
        let root_key = root.key();
        let mut store_keys = Vec::new();
        for (purpose, wrapped) in &head.store_keys {
            let key = wrap::unwrap(&root_key, &tables::store_key_aad(head.store, *purpose), wrapped);
            store_keys.push(key.map_err(|_| OpenKeysError::RootKey(path.clone()))?);
        }
        let epoch_key = epoch::read(directory, head.store, head.epoch, &root_key)?;
        // Only now, when this epoch is known to open.
        epoch::erase(&directory.join(NEW_KEYS_FILE)).map_err(keys)?;
        epoch::erase_others(directory, head.epoch).map_err(keys)?;
        let mut secrets = root.into_secrets();
        secrets.set_epoch(&epoch_key);
        let home = Home::Directory(directory.to_owned());
        Ok(Keys::assemble(home, head.store, store_keys, database, head.epoch, secrets))
    }

    fn assemble(
        home: Home,
        store: StoreId,
        store_keys: Vec<Key256>,
        database: Database,
        epoch: u64,
        secrets: Secrets,
    ) -> Keys {
        let store_keys = store_keys.try_into().map_err(|_| ()).expect("one key for each purpose");
        Keys {
            home,
            store,
            store_keys,
            clock: Clock,
            protection: secrets.protection().clone(),
            writing: Mutex::new(()),
            unsettled: AtomicBool::new(false),
            state: RwLock::new(State { database, epoch, secrets, newest: Mutex::default() }),
            cursor: Mutex::default(),
            copying: Mutex::default(),
        }
    }

    /// The store that these keys belong to.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// What keeps the root key from others.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// The epoch: how many shreds and root keys there were, and one.
    pub fn epoch(&self) -> u64 {
        self.read().epoch
    }

    /// The files to copy for a backup at one moment: `keys.redb` and the epoch's. None: they are in memory.
    pub fn files(&self) -> Option<[PathBuf; 2]> {
        match &self.home {
            Home::Directory(directory) => {
                Some([directory.join(KEYS_FILE), epoch::path(directory, self.epoch())])
            }
            Home::Memory => None,
        }
    }

    /// A poisoned lock is taken all the same: what it guards changes by one assignment or by redb.
    pub(super) fn write_lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyStore for Keys {
    fn store_key(&self, purpose: StorePurpose) -> &Key256 {
        &self.store_keys[purpose.index()]
    }

    fn new_file_key(
        &self,
        cohort: &Cohort,
        file: FileId,
        slot: u32,
    ) -> Result<(Key256, KeyChange), KeysError> {
        let key = Key256::generate()?;
        let state = self.read();
        let (version, row) = state.newest_kek(self.store, cohort, self.clock)?;
        let kek = state.unwrap_kek(self.store, cohort, version, &row.wrapped)?;
        let wrapped = wrap::wrap(&kek, &tables::file_key_aad(file, slot, cohort, version), &key)?;
        let insertion = Insertion {
            file,
            slot,
            cohort: cohort.clone(),
            kek_version: version,
            kek_created_ms: row.created_ms,
            kek: row.wrapped,
            wrapped,
            fresh: Fresh(Some(key.clone())),
        };
        Ok((key, KeyChange::Insert(Box::new(insertion))))
    }

    fn commit_ahead(&self, mark: u64, changes: &[KeyChange]) -> Result<(), KeysError> {
        let _writing = self.write_lock();
        let state = self.read();
        let mut transaction = state.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        self.change(&state, &transaction, changes)?;
        transaction.open_table(tables::META)?.insert(tables::META_MARK, mark.to_be_bytes().as_slice())?;
        self.unsettled.store(true, Ordering::Relaxed);
        transaction.commit()?;
        Ok(())
    }

    fn mark(&self) -> Result<u64, KeysError> {
        mark(&self.read().database)
    }

    fn settle(&self) -> Result<(), KeysError> {
        let _writing = self.write_lock();
        if self.unsettled.load(Ordering::Relaxed) {
            begin(&self.read().database)?.commit()?;
            self.unsettled.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn file_key(&self, file: FileId, slot: u32) -> Result<Option<Key256>, KeysError> {
        let state = self.read();
        let transaction = state.database.begin_read()?;
        let found = transaction.open_table(tables::FILE_KEYS)?.get((file.as_bytes(), slot))?;
        let Some(row) = found.map(|row| FileKeyRow::parse(row.value())).transpose()? else { return Ok(None) };
        let keks = transaction.open_table(tables::KEKS)?;
        let kek = tables::get_kek(&keks, &row.cohort, row.kek_version)?
            .ok_or_else(|| KeysError::Corrupt("a file key whose cohort key is missing".into()))?;
        let kek = state.unwrap_kek(self.store, &row.cohort, row.kek_version, &kek.wrapped)?;
        unwrap_file_key(&kek, file, slot, &row).map(Some)
    }
}

impl Keys {
    fn change(
        &self,
        state: &State,
        transaction: &WriteTransaction,
        changes: &[KeyChange],
    ) -> Result<(), KeysError> {
        let mut tables = Tables::open(transaction)?;
        for change in changes {
            match change {
                KeyChange::Insert(insertion) => self.insert(state, &mut tables, insertion)?,
                KeyChange::Destroy { file } => {
                    tables.remove_file_keys(*file, 0..=u32::MAX, true)?;
                }
                KeyChange::DestroySlot { file, slot } => {
                    tables.remove_file_keys(*file, *slot..=*slot, false)?;
                }
            }
        }
        Ok(())
    }

    /// Usually one row. When the cohort's key was replaced since the key was drawn, or this is another copy of
    /// the keys than the one it was drawn for, the key is wrapped anew under what counts here.
    fn insert(&self, state: &State, tables: &mut Tables<'_>, new: &Insertion) -> Result<(), KeysError> {
        let Insertion { file, slot, cohort, kek_version: version, .. } = new;
        let as_it_is = FileKeyRow { cohort: cohort.clone(), kek_version: *version, wrapped: new.wrapped };
        let known = tables::get_kek(&tables.keks, cohort, *version)?;
        if known.is_some_and(|known| known.wrapped == new.kek) {
            return tables.put_file_key(*file, *slot, &as_it_is);
        }
        let newest = tables::newest_kek(&tables.keks, cohort)?;
        let brought = state.unwrap_kek(self.store, cohort, *version, &new.kek).ok();
        if known.is_none() && brought.is_some() && newest.is_none_or(|(newest, _)| newest < *version) {
            tables.put_kek(cohort, *version, KekRow::new(new.kek_created_ms, new.kek))?;
            state.forget_newest(cohort);
            return tables.put_file_key(*file, *slot, &as_it_is);
        }
        let key = self.key_of(state, known, brought, new, &as_it_is)?;
        let (version, row) = match newest {
            Some(newest) => newest,
            None => {
                let row = state.draw_kek(self.store, cohort, *version, self.clock)?;
                tables.put_kek(cohort, *version, row)?;
                state.forget_newest(cohort);
                (*version, row)
            }
        };
        let kek = state.unwrap_kek(self.store, cohort, version, &row.wrapped)?;
        let wrapped = wrap::wrap(&kek, &tables::file_key_aad(*file, *slot, cohort, version), &key)?;
        let row = FileKeyRow { cohort: cohort.clone(), kek_version: version, wrapped };
        tables.put_file_key(*file, *slot, &row)
    }

    /// The key that an insertion brings: in the clear, under the cohort key that it brings, or under the one of
    /// the same version here.
    fn key_of(
        &self,
        state: &State,
        known: Option<KekRow>,
        brought: Option<Key256>,
        new: &Insertion,
        row: &FileKeyRow,
    ) -> Result<Key256, KeysError> {
        if let Some(key) = &new.fresh.0 {
            return Ok(key.clone());
        }
        let known = known.map(|kek| state.unwrap_kek(self.store, &new.cohort, new.kek_version, &kek.wrapped));
        let known = known.transpose()?;
        let opened =
            known.iter().chain(&brought).find_map(|kek| unwrap_file_key(kek, new.file, new.slot, row).ok());
        opened.ok_or_else(|| KeysError::EpochGone)
    }
}

impl State {
    /// The key that new file keys of a cohort are wrapped with; drawn when there is none.
    pub(super) fn newest_kek(
        &self,
        store: StoreId,
        cohort: &Cohort,
        clock: Clock,
    ) -> Result<(u32, KekRow), KeysError> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kek) = newest.get(cohort) {
            return Ok(*kek);
        }
        let transaction = self.database.begin_read()?;
        let kek = match tables::newest_kek(&transaction.open_table(tables::KEKS)?, cohort)? {
            Some(kek) => kek,
            None => (1, self.draw_kek(store, cohort, 1, clock)?),
        };
        newest.insert(cohort.clone(), kek);
        Ok(kek)
    }

    /// The next question looks into the table.
    pub(super) fn forget_newest(&self, cohort: &Cohort) {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).remove(cohort);
    }

    /// A new cohort key.
    pub(super) fn draw_kek(
        &self,
        store: StoreId,
        cohort: &Cohort,
        version: u32,
        clock: Clock,
    ) -> Result<KekRow, KeysError> {
        let aad = tables::kek_aad(store, cohort, version);
        let wrapped = wrap::wrap(&self.secrets.epoch(), &aad, &Key256::generate()?)?;
        Ok(KekRow::new(clock.unix_milliseconds(), wrapped))
    }

    pub(super) fn unwrap_kek(
        &self,
        store: StoreId,
        cohort: &Cohort,
        version: u32,
        wrapped: &WrappedKey,
    ) -> Result<Key256, KeysError> {
        wrap::unwrap(&self.secrets.epoch(), &tables::kek_aad(store, cohort, version), wrapped)
            .map_err(|error| KeysError::Corrupt(format!("a cohort key is {error}")))
    }
}

impl KekRow {
    pub(super) fn new(created_ms: u64, wrapped: WrappedKey) -> KekRow {
        KekRow { created_ms, keys: 0, destroyed: 0, wrapped }
    }
}

pub(super) fn unwrap_file_key(
    kek: &Key256,
    file: FileId,
    slot: u32,
    row: &FileKeyRow,
) -> Result<Key256, KeysError> {
    wrap::unwrap(kek, &tables::file_key_aad(file, slot, &row.cohort, row.kek_version), &row.wrapped)
        .map_err(|error| KeysError::Corrupt(format!("a file key is {error}")))
}

pub(super) fn begin(database: &Database) -> Result<WriteTransaction, KeysError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // A start after a crash then need not read all of it.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// How far these tables are.
pub(super) fn mark(database: &Database) -> Result<u64, KeysError> {
    let meta = database.begin_read()?.open_table(tables::META)?;
    let Some(row) = meta.get(tables::META_MARK)? else { return Ok(0) };
    let bytes = row.value().try_into().map_err(|_| KeysError::Corrupt("the mark".into()))?;
    Ok(u64::from_be_bytes(bytes))
}

fn builder() -> redb::Builder {
    database_file::builder("the keys", CACHE_BYTES)
}

/// An empty database: a file that only its owner may read, or memory.
pub(super) fn new_database(home: &Home, name: &str) -> Result<Database, KeysError> {
    match home {
        Home::Memory => Ok(builder().create_with_backend(InMemoryBackend::new())?),
        Home::Directory(directory) => {
            let path = directory.join(name);
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = file.map_err(epoch::failed("make", &path))?;
            Ok(builder().create_with_backend(DatabaseFile::new(file)?)?)
        }
    }
}

/// What a database says about itself.
pub(super) struct Head {
    pub(super) store: StoreId,
    pub(super) epoch: u64,
    pub(super) store_keys: Vec<(StorePurpose, WrappedKey)>,
}

pub(super) fn write_head(
    transaction: &WriteTransaction,
    store: StoreId,
    epoch: u64,
    store_keys: impl Iterator<Item = (StorePurpose, WrappedKey)>,
) -> Result<(), KeysError> {
    let mut meta = transaction.open_table(tables::META)?;
    meta.insert(tables::META_FORMAT_VERSION, tables::FORMAT_VERSION.to_be_bytes().as_slice())?;
    meta.insert(tables::META_STORE_ID, store.0.as_bytes().as_slice())?;
    meta.insert(tables::META_EPOCH, epoch.to_be_bytes().as_slice())?;
    let mut table = transaction.open_table(tables::STORE_KEYS)?;
    for (purpose, wrapped) in store_keys {
        table.insert(purpose.name(), wrapped.as_bytes().as_slice())?;
    }
    Ok(())
}

fn read_head(database: &Database, path: &Path) -> Result<Head, OpenKeysError> {
    let version =
        format_version(database).map_err(|error| OpenKeysError::Keys { path: path.to_owned(), error })?;
    if version != tables::FORMAT_VERSION {
        return Err(OpenKeysError::Version { path: path.to_owned(), version });
    }
    head(database).map_err(|error| OpenKeysError::Keys { path: path.to_owned(), error })
}

fn format_version(database: &Database) -> Result<u32, KeysError> {
    let meta = database.begin_read()?.open_table(tables::META)?;
    let version = meta.get(tables::META_FORMAT_VERSION)?.and_then(|row| row.value().try_into().ok());
    version.map(u32::from_be_bytes).ok_or_else(|| KeysError::Corrupt("no format version".into()))
}

/// Reads what the version that this program knows has written.
pub(super) fn head(database: &Database) -> Result<Head, KeysError> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(tables::META)?;
    let missing = |what: &str| KeysError::Corrupt(format!("no {what}"));
    let store = meta.get(tables::META_STORE_ID)?.and_then(|row| <[u8; 16]>::try_from(row.value()).ok());
    let epoch = meta.get(tables::META_EPOCH)?.and_then(|row| row.value().try_into().ok());
    let table = transaction.open_table(tables::STORE_KEYS)?;
    let mut store_keys = Vec::new();
    for purpose in StorePurpose::ALL {
        let wrapped = table.get(purpose.name())?.and_then(|row| WrappedKey::try_from(row.value()).ok());
        store_keys.push((purpose, wrapped.ok_or_else(|| missing("store key"))?));
    }
    transaction.open_table(tables::KEKS)?;
    transaction.open_table(tables::FILE_KEYS)?;
    Ok(Head {
        store: StoreId(FileId::from_bytes(store.ok_or_else(|| missing("store id"))?)),
        epoch: u64::from_be_bytes(epoch.ok_or_else(|| missing("epoch"))?),
        store_keys,
    })
}

fn refuse_network(directory: &Path) -> Result<(), OpenKeysError> {
    match network_file_system(directory) {
        Ok(None) => Ok(()),
        Ok(Some(kind)) => Err(OpenKeysError::Network { path: directory.to_owned(), kind }),
        Err(error) => Err(OpenKeysError::Keys {
            path: directory.to_owned(),
            error: epoch::failed("look at", directory)(error),
        }),
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("home", &self.home).field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Keys {
    /// The same keys over another storage: a new one, or what a crash has left of it.
    pub(crate) fn over(&self, database: Database) -> Result<Keys, KeysError> {
        let (root, epoch, number) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.secrets.root(), state.secrets.epoch(), state.epoch)
        };
        if head(&database).is_err() {
            let transaction = begin(&database)?;
            let mut wrapped = Vec::new();
            for (purpose, key) in StorePurpose::ALL.into_iter().zip(&self.store_keys) {
                wrapped.push((purpose, wrap::wrap(&root, &tables::store_key_aad(self.store, purpose), key)?));
            }
            write_head(&transaction, self.store, number, wrapped.into_iter())?;
            drop(Tables::open(&transaction)?);
            transaction.commit()?;
        }
        let head = head(&database)?;
        for ((purpose, wrapped), key) in head.store_keys.iter().zip(&self.store_keys) {
            let opened = wrap::unwrap(&root, &tables::store_key_aad(head.store, *purpose), wrapped);
            assert_eq!(opened.expect("the root key opens it").as_bytes(), key.as_bytes());
        }
        let root = RootKey::generate().map_err(|error| KeysError::Corrupt(error.to_string()))?;
        let mut secrets = root.into_secrets();
        secrets.set_root(&self.state.read().unwrap_or_else(PoisonError::into_inner).secrets.root());
        secrets.set_epoch(&epoch);
        Ok(Keys::assemble(Home::Memory, self.store, self.store_keys.to_vec(), database, number, secrets))
    }
}
