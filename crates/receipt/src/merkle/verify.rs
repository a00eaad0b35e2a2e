//! What a proof proves, recomputed from its hashes alone (RFC 9162 §2.1.3.2 and §2.1.4.2).
//!
//! Invariant: a proof is accepted only if every hash of it was needed.

use super::{Hash, node_hash};
use crate::limits::MAX_TREE_SIZE;

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf is not in the tree.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    NoSuchLeaf {
        /// The leaf asked for.
        index: u64,
        /// The leaves there are.
        size: u64,
    },
    /// A tree does not grow backwards.
    #[error("a tree of {from} leaves is not the beginning of one of {to}")]
    Backwards {
        /// The size that was to be the earlier one.
        from: u64,
        /// The size that was to be the later one.
        to: u64,
    },
    /// More leaves than a tree may have.
    #[error("a tree of {0} leaves is larger than any")]
    TooLarge(u64),
    /// Hashes are missing, or there are too many.
    #[error("the proof has {found} hashes and must have {needed}")]
    Length {
        /// How many it has.
        found: usize,
        /// How many it must have.
        needed: usize,
    },
    /// The hashes lead to another head than the tree's.
    #[error("the proof leads to the tree head {computed}, and not to {expected}")]
    OtherRoot {
        /// What the proof leads to.
        computed: Hash,
        /// What it had to lead to.
        expected: Hash,
    },
    /// The earlier tree is not the one that is known.
    #[error(
        "the proof begins at the tree head {computed}, and not at {expected}: the history is another one"
    )]
    OtherStart {
        /// What the proof begins at.
        computed: Hash,
        /// What it had to begin at.
        expected: Hash,
    },
}

/// Checks that the leaf with this hash is at `index` in the tree of `size` leaves whose head is `root`.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    bounded(size)?;
    if index >= size {
        return Err(ProofError::NoSuchLeaf { index, size });
    }
    length(path, inclusion_length(index, size))?;
    let (mut node, mut last) = (index, size - 1);
    let mut computed = *leaf;
    for hash in path {
        if node & 1 == 1 || node == last {
            computed = node_hash(hash, &computed);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            computed = node_hash(&computed, hash);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 || computed != *root {
        return Err(ProofError::OtherRoot { computed, expected: *root });
    }
    Ok(())
}

/// Checks that the tree of `from` leaves with the head `from_root` is the beginning of the tree of `to` leaves with
/// the head `to_root`.
pub fn verify_consistency(
    from: u64,
    from_root: &Hash,
    to: u64,
    to_root: &Hash,
    path: &[Hash],
) -> Result<(), ProofError> {
    bounded(to)?;
    if from > to {
        return Err(ProofError::Backwards { from, to });
    }
    length(path, consistency_length(from, to))?;
    if from == to {
        return start(from_root, to_root);
    }
    if from == 0 {
        return start(&super::empty_root(), from_root);
    }
    let (mut node, mut last) = (from - 1, to - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    // A complete tree is its own first hash, and the proof leaves it out.
    let (mut old, path) = match path.split_first() {
        Some((first, rest)) if !from.is_power_of_two() => (*first, rest),
        Some(_) | None => (*from_root, path),
    };
    let mut new = old;
    for hash in path {
        if node & 1 == 1 || node == last {
            old = node_hash(hash, &old);
            new = node_hash(hash, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, hash);
        }
        node >>= 1;
        last >>= 1;
    }
    start(&old, from_root)?;
    if last != 0 || new != *to_root {
        return Err(ProofError::OtherRoot { computed: new, expected: *to_root });
    }
    Ok(())
}

fn start(computed: &Hash, expected: &Hash) -> Result<(), ProofError> {
    if computed == expected {
        return Ok(());
    }
    Err(ProofError::OtherStart { computed: *computed, expected: *expected })
}

fn bounded(size: u64) -> Result<(), ProofError> {
    if size > MAX_TREE_SIZE { Err(ProofError::TooLarge(size)) } else { Ok(()) }
}

fn length(path: &[Hash], needed: usize) -> Result<(), ProofError> {
    if path.len() == needed { Ok(()) } else { Err(ProofError::Length { found: path.len(), needed }) }
}

/// Hashes on the path of a leaf: one for each split above it.
fn inclusion_length(index: u64, size: u64) -> usize {
    let (mut low, mut high, mut splits) = (0, size, 0);
    while high - low > 1 {
        let middle = low + super::split(high - low);
        if index < middle {
            high = middle;
        } else {
            low = middle;
        }
        splits += 1;
    }
    splits
}

/// Hashes in a proof of consistency: one for each split down to the end of the old tree, and its last part where
/// that is not all of it.
fn consistency_length(from: u64, to: u64) -> usize {
    if from == 0 {
        return 0;
    }
    let (mut low, mut high, mut hashes) = (0, to, 0);
    while high != from {
        let middle = low + super::split(high - low);
        if from <= middle {
            high = middle;
        } else {
            low = middle;
        }
        hashes += 1;
    }
    hashes + usize::from(low != 0)
}
