//! The log: each record as a sealed row, its commitment as a leaf of a Merkle tree.
//!
//! **Invariant:** the leaf is a salted commitment and stays when the record's key is destroyed; record, leaf
//! and the nodes that became complete with it are written together.
//!
//! ```text
//! records   index → 1 ‖ time_ms (u64 big-endian) ‖ which key ‖ sealed(salt (32) ‖ JSON)
//! tiles     tile level (u8) ‖ index in that level (u64 big-endian) → hash (32), for tree levels 0, 8, 16 …
//! ```

use receipt::merkle::tile::{TileId, TileReader, place};
use receipt::merkle::{Edge, Hash};
use redb::ReadableTable;
use store_proto::FileId;

use crate::ledger::record::Record;
use crate::ledger::seal::{Opened, Seal, Under};
use crate::ledger::tables::CorruptError;

/// Bytes that make a commitment unguessable.
pub const SALT_BYTES: usize = 32;
/// Hashes in a full tile.
const TILE_HASHES: usize = 256;

const ROW_VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 8;

/// One place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its index.
    pub index: u64,
    /// When.
    pub time_ms: u64,
    /// What.
    pub content: Content,
}

/// What is left of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// All of it.
    Record(Box<OpenRecord>),
    /// The leaf; the keys of this file were destroyed.
    Destroyed(FileId),
}

/// A record with what its commitment was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRecord {
    /// The record.
    pub record: Record,
    /// Its bytes, as they were committed to.
    pub bytes: Vec<u8>,
    /// The salt.
    pub salt: [u8; SALT_BYTES],
}

impl Entry {
    /// The record, if its keys are still there.
    pub fn record(&self) -> Option<&Record> {
        match &self.content {
            Content::Record(open) => Some(&open.record),
            Content::Destroyed(_) => None,
        }
    }

    /// As [`record`](Self::record), taken out.
    pub fn into_record(self) -> Option<Record> {
        match self.content {
            Content::Record(open) => Some(open.record),
            Content::Destroyed(_) => None,
        }
    }
}

impl OpenRecord {
    /// Its leaf in the tree.
    pub fn leaf(&self) -> Hash {
        receipt::commitment_leaf(&receipt::commitment(&self.salt, &self.bytes))
    }
}

/// A record as the tables take it.
pub(crate) struct Composed {
    /// For `records`.
    pub(crate) row: Vec<u8>,
    /// For `tiles`.
    pub(crate) nodes: Vec<([u8; 9], Hash)>,
}

/// Seals a record and grows the tree by its leaf.
pub(crate) fn compose(
    edge: &mut Edge,
    seal: &Seal,
    under: Under,
    record: &Record,
) -> Result<Composed, CorruptError> {
    let mut plain = zeroize::Zeroizing::new(vec![0; SALT_BYTES]);
    vault::provider::random(&mut plain[..])?;
    plain.extend_from_slice(&record.to_bytes());
    let (salt, bytes) = plain.split_first_chunk::<SALT_BYTES>().expect("the salt stands first");
    let leaf = receipt::commitment_leaf(&receipt::commitment(salt, bytes));
    let sealed = seal.seal(under, &aad(record.index, record.time_ms), &plain)?;
    let mut row = Vec::with_capacity(HEAD_BYTES + sealed.len());
    row.push(ROW_VERSION);
    row.extend_from_slice(&record.time_ms.to_be_bytes());
    row.extend_from_slice(&sealed);
    let mut nodes = Vec::new();
    let grown = edge.append(leaf, |node| {
        if place(&node).is_some() {
            nodes.push((tile_key(node.level / 8, node.index), node.hash));
        }
    });
    grown.map_err(|error| CorruptError::Row(error.to_string()))?;
    Ok(Composed { row, nodes })
}

/// When a record was written, without opening it.
pub(crate) fn time_of(row: &[u8]) -> Result<u64, CorruptError> {
    let head = row.split_first_chunk::<HEAD_BYTES>();
    match head {
        Some(([ROW_VERSION, time @ ..], _)) => Ok(u64::from_be_bytes(*time)),
        Some(([version, ..], _)) => Err(CorruptError::Row(format!("a record of version {version}"))),
        None => Err(CorruptError::Row("a record without a time".into())),
    }
}

/// Opens what stands at an index.
pub(crate) fn open(seal: &Seal, index: u64, row: &[u8]) -> Result<Entry, CorruptError> {
    let time_ms = time_of(row)?;
    let what = || format!("record {index}");
    let content = match seal.open(&what(), &aad(index, time_ms), &row[HEAD_BYTES..])? {
        Opened::Destroyed(file) => Content::Destroyed(file),
        Opened::Plain(plain) => {
            let (salt, bytes) = plain
                .split_first_chunk::<SALT_BYTES>()
                .ok_or_else(|| CorruptError::Row(format!("{}: no salt", what())))?;
            let record = Record::from_bytes(bytes)
                .map_err(|error| CorruptError::Row(format!("{}: {error}", what())))?;
            if record.index != index || record.time_ms != time_ms {
                return Err(CorruptError::Row(format!("{} says that it is another", what())));
            }
            Content::Record(Box::new(OpenRecord { record, bytes: bytes.to_vec(), salt: *salt }))
        }
    };
    Ok(Entry { index, time_ms, content })
}

/// The hashes of a tile, as many as there are.
pub(crate) fn tile(
    tiles: &impl ReadableTable<&'static [u8], &'static [u8; 32]>,
    id: TileId,
) -> Result<Vec<Hash>, CorruptError> {
    let first = id.index.saturating_mul(TILE_HASHES as u64);
    let (begin, end) = (tile_key(id.level, first), tile_key(id.level, first + (TILE_HASHES as u64 - 1)));
    let mut hashes = Vec::with_capacity(TILE_HASHES);
    for entry in tiles.range::<&[u8]>(begin.as_slice()..=end.as_slice())? {
        hashes.push(Hash::from_bytes(*entry?.1.value()));
    }
    Ok(hashes)
}

/// The right edge of a tree of this size.
pub(crate) fn edge(
    tiles: &impl ReadableTable<&'static [u8], &'static [u8; 32]>,
    size: u64,
) -> Result<Edge, CorruptError> {
    let mut reader = TileReader::new(|id| tile(tiles, id));
    Edge::read(size, |level, index| reader.node(level, index))
        .map_err(|error| CorruptError::Row(error.to_string()))
}

fn tile_key(level: u8, index: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = level;
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn aad(index: u64, time_ms: u64) -> [u8; 24] {
    let mut aad = [0; 24];
    aad[..8].copy_from_slice(b"records\0");
    aad[8..16].copy_from_slice(&index.to_be_bytes());
    aad[16..].copy_from_slice(&time_ms.to_be_bytes());
    aad
}
