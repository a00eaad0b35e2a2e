//! The shred: after it, no older copy of the keys opens a file that was deleted before it.
//!
//! Deleting a row is not enough: redb is copy-on-write, so old pages and copies of `keys.redb` still hold it,
//! under a cohort key that lives on. A shred gives each cohort that lost a file a new key, moves the files that
//! live to it, and replaces the epoch key: the old one was in one file of a hundred bytes, which is overwritten
//! and removed.
//!
//! **Invariant:** `keys.redb` always names an epoch whose file is there, whatever moment the machine stops at.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use redb::{Database, ReadableDatabase as _, ReadableTable as _};
use store_proto::Cohort;
use vault::{Key256, wrap};

use super::rewrap::CohortKeys;
use super::store::{Head, Home, KEYS_FILE, NEW_KEYS_FILE, begin, head, mark, new_database, write_head};
use super::tables::{self, KekRow, Tables};
use super::{Keys, KeysError, epoch};

/// File keys that move in one transaction on the way: others commit between two.
const STEP_KEYS: usize = 2_000;

/// What a shred did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shred {
    /// The epoch that began.
    pub epoch: u64,
    /// The cohorts that got a new key.
    pub cohorts: Vec<Cohort>,
    /// Keys of deleted files that nothing opens any more.
    pub destroyed: u64,
    /// Keys of files that live, moved to their cohort's new key.
    pub survivors: u64,
}

impl Keys {
    /// Makes the deletions so far final, for all cohorts that lost a file. None: there was nothing to do.
    ///
    /// Commits go on until the tables are copied (a second or two for a million keys); reads always.
    pub fn shred(&self) -> Result<Option<Shred>, KeysError> {
        self.erase_what_a_shred_left()?;
        let due: Vec<_> = self.cohorts()?.into_iter().filter(|keys| keys.destroyed > 0).collect();
        if due.is_empty() {
            return Ok(None);
        }
        for keys in &due {
            self.rotate(&keys.cohort)?;
        }
        let mut survivors = 0;
        let mut idle_passes = 0;
        loop {
            let step = self.step(STEP_KEYS)?;
            survivors += step.moved;
            if step.pending == 0 {
                break;
            }
            idle_passes = if step.moved > 0 { 0 } else { idle_passes + u32::from(step.looked_at_the_end) };
            if idle_passes > 1 {
                return Err(KeysError::Corrupt("table keks counts file keys that are not there".into()));
            }
        }
        let epoch = self.replace_epoch(&due)?;
        Ok(Some(Shred {
            epoch,
            destroyed: due.iter().map(|keys| keys.destroyed).sum(),
            cohorts: due.into_iter().map(|keys| keys.cohort).collect(),
            survivors,
        }))
    }

    /// The epochs before this one, if the last shred could not erase theirs: without that, what it said is not so.
    fn erase_what_a_shred_left(&self) -> Result<(), KeysError> {
        let Home::Directory(directory) = &self.home else { return Ok(()) };
        let _writing = self.write_lock();
        // First the name of the tables that name this epoch.
        epoch::sync(directory)?;
        epoch::erase_others(directory, self.epoch())
    }

    /// Copies the tables into a fresh file under a fresh epoch key, puts it in place, and erases what was.
    fn replace_epoch(&self, shredded: &[CohortKeys]) -> Result<u64, KeysError> {
        // First: whoever copies begins while it holds this, and must not wait for what waits for it.
        let _copying = self.stand_still();
        let _writing = self.write_lock();
        let new_key = Key256::generate()?;
        let (old_epoch, root) = {
            let state = self.read();
            (state.epoch, state.secrets.root())
        };
        let new_epoch = old_epoch + 1;
        if let Home::Directory(directory) = &self.home {
            epoch::erase(&directory.join(NEW_KEYS_FILE))?;
            epoch::write(directory, self.store, new_epoch, &root, &new_key)?;
        }
        let fresh = new_database(&self.home, NEW_KEYS_FILE)?;
        self.copy_into(&fresh, new_epoch, &new_key, shredded)?;
        // Opened now, for its name goes to the new one.
        let old_file = match &self.home {
            Home::Directory(directory) => Some(epoch::open_to_erase(&directory.join(KEYS_FILE))?),
            Home::Memory => None,
        };
        {
            // Nobody reads while database and epoch key change.
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if let Home::Directory(directory) = &self.home {
                let new = directory.join(NEW_KEYS_FILE);
                epoch::rename(&new, &directory.join(KEYS_FILE))?;
            }
            // The old one is closed here: it writes its last page before it is overwritten.
            state.database = fresh;
            state.epoch = new_epoch;
            state.secrets.set_epoch(&new_key);
            state.newest = Mutex::new(HashMap::new());
        }
        if let (Home::Directory(directory), Some(mut old_file)) = (&self.home, old_file) {
            // The new name first: only then may what it replaced be destroyed.
            epoch::sync(directory)?;
            epoch::erase(&epoch::path(directory, old_epoch))?;
            epoch::sync(directory)?;
            epoch::overwrite(&mut old_file).map_err(epoch::failed("erase", &directory.join(KEYS_FILE)))?;
        }
        Ok(new_epoch)
    }

    fn copy_into(
        &self,
        fresh: &Database,
        epoch: u64,
        epoch_key: &Key256,
        shredded: &[CohortKeys],
    ) -> Result<(), KeysError> {
        let state = self.read();
        let old = state.database.begin_read()?;
        let transaction = begin(fresh)?;
        let Head { store_keys, .. } = head(&state.database)?;
        write_head(&transaction, self.store, epoch, store_keys.into_iter())?;
        transaction
            .open_table(tables::META)?
            .insert(tables::META_MARK, mark(&state.database)?.to_be_bytes().as_slice())?;
        {
            let mut tables = Tables::open(&transaction)?;
            for (cohort, version, kek) in tables::all_keks(&old.open_table(tables::KEKS)?)? {
                let key = state.unwrap_kek(self.store, &cohort, version, &kek.wrapped)?;
                let wrapped = wrap::wrap(epoch_key, &tables::kek_aad(self.store, &cohort, version), &key)?;
                // What was destroyed since this shred began waits for the next one.
                let done = shredded.iter().find(|keys| keys.cohort == cohort && keys.version < version);
                let destroyed = kek.destroyed.saturating_sub(done.map_or(0, |keys| keys.destroyed));
                tables.put_kek(&cohort, version, KekRow { wrapped, destroyed, ..kek })?;
            }
            for row in old.open_table(tables::FILE_KEYS)?.iter()? {
                let (key, value) = row?;
                tables.file_keys.insert(key.value(), value.value())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}
