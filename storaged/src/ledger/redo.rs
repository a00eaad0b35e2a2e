//! What a group of commands changed, to be done again elsewhere.
//!
//! **Invariant:** every write of a transaction goes through `Application::write`, so the
//! list is whole; doing it again in order onto the state before the group gives the state after it.

use redb::StorageError;

use crate::keys::KeyChange;
use crate::ledger::tables::{CorruptError, Tables};

/// Which table, as one byte in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Records,
    Tiles,
    ByFile,
    State,
    Meta,
}

impl Place {
    const ALL: [Place; 5] = [Place::Records, Place::Tiles, Place::ByFile, Place::State, Place::Meta];

    fn byte(self) -> u8 {
        match self {
            Place::Records => 0,
            Place::Tiles => 1,
            Place::ByFile => 2,
            Place::State => 3,
            Place::Meta => 4,
        }
    }
}

/// One write: the row's new value, or that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) place: Place,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

/// All that a group changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Redo {
    pub(crate) writes: Vec<Write>,
    pub(crate) keys: Vec<KeyChange>,
}

impl Write {
    /// About what it takes in memory and in a frame.
    pub(crate) fn bytes(&self) -> usize {
        16 + self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

impl Redo {
    /// About what it takes in memory and in a frame.
    pub(crate) fn bytes(&self) -> usize {
        512 * self.keys.len() + self.writes.iter().map(Write::bytes).sum::<usize>()
    }
}

/// What a group changed, without the values: what the ledger remembers until the mirror has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) places: Vec<(Place, Vec<u8>)>,
    pub(crate) keys: Vec<KeyChange>,
}

impl Changed {
    pub(crate) fn of(redo: Redo) -> Changed {
        let places = redo.writes.into_iter().map(|write| (write.place, write.key)).collect();
        Changed { places, keys: redo.keys }
    }

    pub(crate) fn encode(redo: &Redo) -> Vec<u8> {
        let mut to = Encoder::default();
        to.keys(&redo.keys);
        for write in &redo.writes {
            to.place(write.place, &write.key);
        }
        to.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Changed, CorruptError> {
        let mut from = Decoder(bytes);
        let mut changed = Changed { places: Vec::new(), keys: from.keys()? };
        while !from.is_empty() {
            let (place, key) = from.place()?;
            changed.places.push((place, key.to_vec()));
        }
        Ok(changed)
    }
}

impl Tables<'_> {
    /// Does one write.
    pub(crate) fn write(
        &mut self,
        place: Place,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), CorruptError> {
        let written: Result<(), StorageError> = match (place, value) {
            (Place::Records, Some(row)) => self.records.insert(index_key(key)?, row).map(drop),
            (Place::Records, None) => self.records.remove(index_key(key)?).map(drop),
            (Place::Tiles, Some(hash)) => {
                let hash: &[u8; 32] = hash.try_into().map_err(|_| damaged("a hash"))?;
                self.tiles.insert(key, hash).map(drop)
            }
            (Place::Tiles, None) => self.tiles.remove(key).map(drop),
            (Place::ByFile, Some(_)) => self.by_file.insert(key, ()).map(drop),
            (Place::ByFile, None) => self.by_file.remove(key).map(drop),
            (Place::State, Some(row)) => self.state.insert(key, row).map(drop),
            (Place::State, None) => self.state.remove(key).map(drop),
            (Place::Meta, Some(fact)) => self.meta.insert(name_key(key)?, fact).map(drop),
            (Place::Meta, None) => self.meta.remove(name_key(key)?).map(drop),
        };
        Ok(written?)
    }
}

pub(crate) fn index_key(key: &[u8]) -> Result<u64, CorruptError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| damaged("an index"))
}

pub(crate) fn name_key(key: &[u8]) -> Result<&str, CorruptError> {
    std::str::from_utf8(key).map_err(|_| damaged("a name"))
}

fn damaged(what: &str) -> CorruptError {
    CorruptError::Row(format!("{what} in the journal is none"))
}

/// Puts numbers and byte strings behind each other.
#[derive(Debug, Default)]
pub(crate) struct Encoder(pub(crate) Vec<u8>);

impl Encoder {
    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("rows are far below 4 GiB");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn write(&mut self, write: &Write) {
        self.place(write.place, &write.key);
        match &write.value {
            Some(value) => {
                self.0.push(1);
                self.bytes(value);
            }
            None => self.0.push(0),
        }
    }

    pub(crate) fn place(&mut self, place: Place, key: &[u8]) {
        self.0.push(place.byte());
        self.bytes(key);
    }

    pub(crate) fn keys(&mut self, keys: &[KeyChange]) {
        self.bytes(&serde_json::to_vec(keys).expect("changes of keys are strings and numbers"));
    }
}

/// Takes apart what an [`Encoder`] put together.
#[derive(Debug)]
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CorruptError> {
        let (first, rest) = self.0.split_first().ok_or_else(|| damaged("a byte"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn number(&mut self) -> Result<u64, CorruptError> {
        let (number, rest) = self.0.split_first_chunk().ok_or_else(|| damaged("a number"))?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*number))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CorruptError> {
        let (length, rest) = self.0.split_first_chunk().ok_or_else(|| damaged("a length"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| damaged("a length"))?;
        let (bytes, rest) = rest.split_at_checked(length).ok_or_else(|| damaged("a row"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn place(&mut self) -> Result<(Place, &'a [u8]), CorruptError> {
        let byte = self.byte()?;
        let place = Place::ALL.into_iter().find(|place| place.byte() == byte);
        Ok((place.ok_or_else(|| damaged("a table"))?, self.bytes()?))
    }

    pub(crate) fn write(&mut self) -> Result<Write, CorruptError> {
        let (place, key) = self.place()?;
        let value = match self.byte()? {
            0 => None,
            1 => Some(self.bytes()?.to_vec()),
            _ => return Err(damaged("a write")),
        };
        Ok(Write { place, key: key.to_vec(), value })
    }

    pub(crate) fn keys(&mut self) -> Result<Vec<KeyChange>, CorruptError> {
        serde_json::from_slice(self.bytes()?).map_err(|error| CorruptError::Row(format!("keys: {error}")))
    }
}
