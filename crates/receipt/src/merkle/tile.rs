//! Nodes kept in tiles of up to 256 hashes (C2SP `tlog-tiles`, height 8).
//!
//! A tile `(level, index)` holds the nodes of tree level `8 × level` from `256 × index` on. Levels between are not
//! kept: they are hashed from the tile when they are asked for, at most 255 hashes of 64 bytes.
//!
//! **Invariant:** a tile only ever grows at its end.

use super::{Hash, Node, node_hash};
use crate::limits::TILE_HASHES;

/// Levels of the tree that one tile spans.
const HEIGHT: u8 = 8;

/// Which tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// 0: its hashes are leaves'.
    pub level: u8,
    /// Counts the tiles of its level from the left.
    pub index: u64,
}

impl TileId {
    /// The hashes that this tile holds in a tree of `size` leaves; 0: it is not there.
    pub fn width(self, size: u64) -> usize {
        let nodes = size.checked_shr(u32::from(self.level) * u32::from(HEIGHT)).unwrap_or(0);
        let before = self.index.saturating_mul(TILE_HASHES as u64);
        usize::try_from(nodes.saturating_sub(before)).map_or(TILE_HASHES, |width| width.min(TILE_HASHES))
    }
}

/// The tile that keeps a node and the place in it, if tiles keep that level.
pub fn place(node: &Node) -> Option<(TileId, usize)> {
    if !node.level.is_multiple_of(HEIGHT) {
        return None;
    }
    let id = TileId { level: node.level / HEIGHT, index: node.index / TILE_HASHES as u64 };
    let place = usize::try_from(node.index % TILE_HASHES as u64).expect("below 256");
    Some((id, place))
}

/// Why a node is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TileError<E> {
    /// The tile ends before the node.
    #[error("tile {index} of level {level} holds {found} hashes, and {needed} are needed")]
    Short {
        /// The tile's level.
        level: u8,
        /// The tile's index.
        index: u64,
        /// What it holds.
        found: usize,
        /// What it must hold at least.
        needed: usize,
    },
    /// A tile could not be read.
    #[error(transparent)]
    Read(#[from] E),
}

/// Reads nodes out of tiles. The last tile of each level is remembered, for a proof asks for neighbours.
pub struct TileReader<R> {
    read: R,
    recent: [Option<(u64, Vec<Hash>)>; 8],
}

impl<E, R: FnMut(TileId) -> Result<Vec<Hash>, E>> TileReader<R> {
    /// Reads tiles with `read`.
    pub fn new(read: R) -> Self {
        TileReader { read, recent: [const { None }; 8] }
    }

    /// A complete node: what the functions of [`merkle`](super) ask for.
    pub fn node(&mut self, level: u8, index: u64) -> Result<Hash, TileError<E>> {
        let within = level % HEIGHT;
        // The node's first and last hash in its tile.
        let first = index << within;
        let count = 1_usize << within;
        let id = TileId { level: level / HEIGHT, index: first / TILE_HASHES as u64 };
        let first = usize::try_from(first % TILE_HASHES as u64).expect("below 256");
        let tile = self.tile(id)?;
        let hashes = tile.get(first..first + count).ok_or(TileError::Short {
            level: id.level,
            index: id.index,
            found: tile.len(),
            needed: first + count,
        })?;
        Ok(complete(hashes))
    }

    fn tile(&mut self, id: TileId) -> Result<&[Hash], E> {
        let recent = &mut self.recent[usize::from(id.level)];
        if recent.as_ref().is_none_or(|(index, _)| *index != id.index) {
            *recent = Some((id.index, (self.read)(id)?));
        }
        Ok(recent.as_ref().map_or(&[], |(_, hashes)| hashes))
    }
}

/// The head over a power of two of neighbours.
fn complete(hashes: &[Hash]) -> Hash {
    match hashes {
        [one] => *one,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&complete(left), &complete(right))
        }
    }
}
