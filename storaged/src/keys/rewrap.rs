//! New versions of cohort keys, and a new root key.
//!
//! **Invariant:** a file key is always under a version that is there: an old version goes in the transaction
//! that moves its last file key. No object is touched. What is left to do stands in the tables, so it goes on
//! after a crash.

use redb::ReadableDatabase as _;
use store_proto::{Cohort, FileId};
use vault::{Key256, wrap};

use super::store::{Head, Home, begin, head, unwrap_file_key, write_head};
use super::tables::{self, FileKeyRow, KekRow, Tables};
use super::{Keys, KeysError, epoch};

/// Rows that one step looks at, at most: some milliseconds.
const SCAN_ROWS: usize = 20_000;

/// A file key under an older version: file, slot, row.
type StaleKey = (FileId, u32, FileKeyRow);

/// The keys of one cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CohortKeys {
    /// The cohort.
    pub cohort: Cohort,
    /// The version that new file keys are wrapped with.
    pub version: u32,
    /// When it was made.
    pub created_ms: u64,
    /// File keys in the cohort.
    pub keys: u64,
    /// Those that are still under an older version.
    pub pending: u64,
    /// Keys of deleted files that an older copy of the keys still holds: a shred ends that.
    pub destroyed: u64,
}

/// What one step of re-wrapping did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// File keys that moved.
    pub moved: u64,
    /// Versions that wrapped nothing any more and are gone.
    pub retired: u64,
    /// File keys that are left.
    pub pending: u64,
    /// Whether this step came to the last file key, so that the next one begins anew.
    pub looked_at_the_end: bool,
}

impl Keys {
    /// All cohorts that ever had a key, in order.
    pub fn cohorts(&self) -> Result<Vec<CohortKeys>, KeysError> {
        let state = self.read();
        let keks = state.database.begin_read()?.open_table(tables::KEKS)?;
        Ok(summarize(tables::all_keks(&keks)?))
    }

    /// Gives a cohort a new key, for all file keys from now on. The older ones follow by [`Keys::step`].
    pub fn rotate(&self, cohort: &Cohort) -> Result<CohortKeys, KeysError> {
        let _writing = self.write_lock();
        let state = self.read();
        let transaction = begin(&state.database)?;
        {
            let mut tables = Tables::open(&transaction)?;
            let (version, _) = tables::newest_kek(&tables.keks, cohort)?
                .ok_or_else(|| KeysError::NoCohort(cohort.clone()))?;
            let row = state.draw_kek(self.store, cohort, version + 1, self.clock)?;
            tables.put_kek(cohort, version + 1, row)?;
        }
        transaction.commit()?;
        state.forget_newest(cohort);
        let keks = state.database.begin_read()?.open_table(tables::KEKS)?;
        let found = summarize(tables::all_keks(&keks)?).into_iter().find(|keys| keys.cohort == *cohort);
        found.ok_or_else(|| KeysError::Corrupt("the cohort key that was just written".into()))
    }

    /// Moves at most `limit` file keys to the newest version of their cohort. Nothing is pending: done.
    pub fn step(&self, limit: usize) -> Result<Step, KeysError> {
        let _writing = self.write_lock();
        let state = self.read();
        let keks = tables::all_keks(&state.database.begin_read()?.open_table(tables::KEKS)?)?;
        let newest = summarize(keks.clone());
        let is_newest = |cohort: &Cohort, version: u32| {
            newest.iter().any(|keys| keys.cohort == *cohort && keys.version == version)
        };
        if !keks.iter().any(|(cohort, version, _)| !is_newest(cohort, *version)) {
            return Ok(Step::default());
        }
        let (stale, at_the_end) = self.stale_keys(&state.database, limit, is_newest)?;
        let mut step = Step { moved: stale.len() as u64, looked_at_the_end: at_the_end, ..Step::default() };
        let transaction = begin(&state.database)?;
        {
            let mut tables = Tables::open(&transaction)?;
            for (file, slot, row) in stale {
                let missing = || KeysError::Corrupt("a file key whose cohort key is missing".into());
                let old = tables::get_kek(&tables.keks, &row.cohort, row.kek_version)?.ok_or_else(missing)?;
                let (version, new) = tables::newest_kek(&tables.keks, &row.cohort)?.ok_or_else(missing)?;
                let old = state.unwrap_kek(self.store, &row.cohort, row.kek_version, &old.wrapped)?;
                let new = state.unwrap_kek(self.store, &row.cohort, version, &new.wrapped)?;
                let key = unwrap_file_key(&old, file, slot, &row)?;
                let aad = tables::file_key_aad(file, slot, &row.cohort, version);
                let wrapped = wrap::wrap(&new, &aad, &key)?;
                let row = FileKeyRow { kek_version: version, wrapped, ..row };
                tables.put_file_key(file, slot, &row)?;
            }
            for (cohort, version, kek) in tables::all_keks(&tables.keks)? {
                if is_newest(&cohort, version) {
                    continue;
                }
                step.pending += kek.keys;
                if kek.keys == 0 {
                    step.retired += 1;
                    retire(&mut tables, &cohort, version, kek)?;
                }
            }
        }
        transaction.commit()?;
        Ok(step)
    }

    /// File keys under an older version, from where the last step stopped, and whether these are the last of the table.
    fn stale_keys(
        &self,
        database: &redb::Database,
        limit: usize,
        is_newest: impl Fn(&Cohort, u32) -> bool,
    ) -> Result<(Vec<StaleKey>, bool), KeysError> {
        let mut cursor = self.cursor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let table = database.begin_read()?.open_table(tables::FILE_KEYS)?;
        let mut stale = Vec::new();
        for (looked_at, row) in table.range((&*cursor, 0)..)?.enumerate() {
            let (key, value) = row?;
            let (file, slot) = key.value();
            if looked_at >= SCAN_ROWS || stale.len() >= limit {
                *cursor = *file;
                return Ok((stale, false));
            }
            let row = FileKeyRow::parse(value.value())?;
            if !is_newest(&row.cohort, row.kek_version) {
                stale.push((FileId::from_bytes(*file), slot, row));
            }
        }
        *cursor = [0; 16];
        Ok((stale, true))
    }

    /// Wraps everything that the root key wraps with another one, which the next start needs. The epoch's key
    /// stays and its number moves on, so that file and table change together.
    pub fn rotate_root(&self, new_root: &Key256) -> Result<(), KeysError> {
        let _writing = self.write_lock();
        let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let old_root = state.secrets.root();
        let (old_epoch, new_epoch) = (state.epoch, state.epoch + 1);
        let Head { store_keys, .. } = head(&state.database)?;
        let mut wrapped = Vec::new();
        for (purpose, old) in store_keys {
            let aad = tables::store_key_aad(self.store, purpose);
            let key = wrap::unwrap(&old_root, &aad, &old)
                .map_err(|error| KeysError::Corrupt(format!("a store key is {error}")))?;
            wrapped.push((purpose, wrap::wrap(new_root, &aad, &key)?));
        }
        if let Home::Directory(directory) = &self.home {
            epoch::write(directory, self.store, new_epoch, new_root, &state.secrets.epoch())?;
        }
        let transaction = begin(&state.database)?;
        write_head(&transaction, self.store, new_epoch, wrapped.into_iter())?;
        transaction.commit()?;
        state.epoch = new_epoch;
        state.secrets.set_root(new_root);
        if let Home::Directory(directory) = &self.home {
            epoch::erase(&epoch::path(directory, old_epoch))?;
            epoch::sync(directory)?;
        }
        Ok(())
    }
}

/// Removes a version that wraps nothing. What it counted of deleted files goes on to the newest one, until a
/// shred has rewritten the file.
fn retire(tables: &mut Tables<'_>, cohort: &Cohort, version: u32, kek: KekRow) -> Result<(), KeysError> {
    tables.keks.remove((cohort.as_str(), version))?;
    if kek.destroyed > 0
        && let Some((newest, row)) = tables::newest_kek(&tables.keks, cohort)?
    {
        tables.put_kek(cohort, newest, KekRow { destroyed: row.destroyed + kek.destroyed, ..row })?;
    }
    Ok(())
}

/// One line for each cohort from all its versions, which stand together, the newest last.
fn summarize(keks: Vec<(Cohort, u32, KekRow)>) -> Vec<CohortKeys> {
    let mut cohorts: Vec<CohortKeys> = Vec::new();
    for (cohort, version, kek) in keks {
        let before = cohorts.pop_if(|keys| keys.cohort == cohort);
        let (keys, destroyed) = before.map_or((0, 0), |before| (before.keys, before.destroyed));
        cohorts.push(CohortKeys {
            cohort,
            version,
            created_ms: kek.created_ms,
            keys: keys + kek.keys,
            pending: keys,
            destroyed: destroyed + kek.destroyed,
        });
    }
    cohorts
}
