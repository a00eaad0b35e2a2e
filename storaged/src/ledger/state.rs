//! The state beside the records: typed tables that lie in one table of the database.
//!
//! **Invariant:** a row's place in the database is its table's name ‖ 0 ‖ its key, so no two tables can
//! touch, and it is sealed for that place; a row that does not open or parse is damage, never an absent row.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;

use redb::ReadableTable;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::keys::StorePurpose;
use crate::ledger::seal::{Opened, Seal};
use crate::ledger::tables::{CorruptError, decode};

/// A table of rows `V` under keys of bytes. Made as a constant by the area that owns it.
pub struct StateTable<V> {
    name: &'static str,
    row: PhantomData<fn() -> V>,
}

impl<V> StateTable<V> {
    /// The table with this name; no other may have it.
    pub const fn new(name: &'static str) -> StateTable<V> {
        StateTable { name, row: PhantomData }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where the row with this key lies.
    pub(crate) fn place(&self, key: &[u8]) -> Vec<u8> {
        let mut place = Vec::with_capacity(self.name.len() + 1 + key.len());
        place.extend_from_slice(self.name.as_bytes());
        place.push(0);
        place.extend_from_slice(key);
        place
    }
}

impl<V> fmt::Debug for StateTable<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateTable").field(&self.name).finish()
    }
}

/// A row's key and the row.
pub type Keyed<V> = (Vec<u8>, V);

/// Reading state: within a command, or in a snapshot.
pub trait View {
    /// The row with this key.
    fn get<V: DeserializeOwned>(&self, table: &StateTable<V>, key: &[u8]) -> Result<Option<V>, CorruptError>;

    /// At most `limit` rows whose keys begin with `prefix`, in the order of the keys, from behind `after`.
    fn scan<V: DeserializeOwned>(
        &self,
        table: &StateTable<V>,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Keyed<V>>, CorruptError>;

    /// A name as part of a key: equal for equal names, and telling nothing else. `domain` keeps the names of
    /// one table apart from those of another.
    fn blind(&self, domain: &str, parts: &[&[u8]]) -> [u8; 32];
}

/// State rows of one transaction, sealed.
#[derive(Debug)]
pub(crate) struct Rows<'a, T> {
    pub(crate) rows: &'a T,
    pub(crate) seal: &'a Seal,
}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> Rows<'_, T> {
    pub(crate) fn get<V: DeserializeOwned>(
        &self,
        table: &StateTable<V>,
        key: &[u8],
    ) -> Result<Option<V>, CorruptError> {
        let place = table.place(key);
        self.rows.get(place.as_slice())?.map(|row| self.open(table, &place, row.value())).transpose()
    }

    pub(crate) fn scan<V: DeserializeOwned>(
        &self,
        table: &StateTable<V>,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Keyed<V>>, CorruptError> {
        let wanted = table.place(prefix);
        let after = after.map(|after| table.place(after));
        let begin = match &after {
            Some(after) => Bound::Excluded(after.as_slice()),
            None => Bound::Included(wanted.as_slice()),
        };
        let mut found = Vec::new();
        for entry in self.rows.range::<&[u8]>((begin, Bound::Unbounded))? {
            let (place, row) = entry?;
            let place = place.value();
            if !place.starts_with(&wanted) || found.len() == limit {
                break;
            }
            found.push((place[table.name.len() + 1..].to_vec(), self.open(table, place, row.value())?));
        }
        Ok(found)
    }

    /// How many rows a table has: none of them is opened.
    pub(crate) fn count<V>(&self, table: &StateTable<V>) -> Result<u64, CorruptError> {
        let (begin, mut end) = (table.place(&[]), table.place(&[]));
        // Behind the name stands a 0, so this is the first place behind the table.
        *end.last_mut().expect("a place ends with a 0") = 1;
        let mut count = 0;
        for entry in self.rows.range::<&[u8]>(begin.as_slice()..end.as_slice())? {
            entry?;
            count += 1;
        }
        Ok(count)
    }

    pub(crate) fn blind(&self, domain: &str, parts: &[&[u8]]) -> [u8; 32] {
        vault::blind::blind(self.seal.keys().store_key(StorePurpose::Index), domain, parts)
    }

    fn open<V: DeserializeOwned>(
        &self,
        table: &StateTable<V>,
        place: &[u8],
        row: &[u8],
    ) -> Result<V, CorruptError> {
        match self.seal.open(table.name, place, row)? {
            Opened::Plain(plain) => decode(table.name, &plain),
            Opened::Destroyed(file) => Err(CorruptError::KeyGone(file)),
        }
    }
}

/// What a row can be.
pub trait Row: Serialize + DeserializeOwned {}

impl<V: Serialize + DeserializeOwned> Row for V {}
