//! The right edge of a growing tree.
//!
//! Invariant: `complete[l]` is there exactly where bit `l` of `size` is set, and is then the last complete node of
//! that level that is not part of a higher complete one.

use super::{Hash, empty_root, node_hash};
use crate::limits::MAX_TREE_SIZE;

/// A node that became complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// 0: a leaf.
    pub level: u8,
    /// Counts the nodes of its level from the left.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// Why a tree does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    /// It is as large as a tree may be.
    #[error("the tree has as many leaves as a tree may have")]
    Full,
}

/// What a tree must remember of its leaves to take the next one and to know its head: a hash for each bit of its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    complete: [Option<Hash>; 64],
}

impl Default for Edge {
    fn default() -> Self {
        Edge { size: 0, complete: [None; 64] }
    }
}

impl Edge {
    /// The edge of a tree that a store holds.
    pub fn read<E>(size: u64, mut read: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Edge, E> {
        let mut edge = Edge { size, ..Edge::default() };
        for level in (0_u8..64).filter(|level| size >> level & 1 == 1) {
            edge.complete[usize::from(level)] = Some(read(level, (size >> level) - 1)?);
        }
        Ok(edge)
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The tree's head.
    pub fn root(&self) -> Hash {
        let parts = self.complete.iter().flatten().copied();
        parts.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
    }

    /// Adds a leaf and tells `complete` every node that thereby became complete, the leaf itself first. No node is
    /// read, and over time there are two for each leaf.
    pub fn append(&mut self, leaf: Hash, mut complete: impl FnMut(Node)) -> Result<(), EdgeError> {
        if self.size >= MAX_TREE_SIZE {
            return Err(EdgeError::Full);
        }
        let mut node = Node { level: 0, index: self.size, hash: leaf };
        complete(node);
        while let Some(left) = self.complete[usize::from(node.level)].take() {
            node = Node { level: node.level + 1, index: node.index >> 1, hash: node_hash(&left, &node.hash) };
            complete(node);
        }
        self.complete[usize::from(node.level)] = Some(node.hash);
        self.size += 1;
        Ok(())
    }
}
