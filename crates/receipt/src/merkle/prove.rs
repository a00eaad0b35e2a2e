//! Heads and proofs, made from the nodes of a store.

use super::{Hash, empty_root, node_hash, split};
use crate::limits::MAX_TREE_SIZE;

/// Why there is no such proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProveError<E> {
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
    /// A node could not be read.
    #[error(transparent)]
    Read(#[from] E),
}

/// The head of the first `size` leaves.
pub fn root<E>(size: u64, mut read: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Hash, ProveError<E>> {
    bounded(size)?;
    if size == 0 {
        return Ok(empty_root());
    }
    Ok(subtree(0, size, &mut read)?)
}

/// The audit path of leaf `index` in the tree of the first `size` leaves, from the leaf upwards (RFC 6962 §2.1.1).
pub fn inclusion<E>(
    index: u64,
    size: u64,
    mut read: impl FnMut(u8, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, ProveError<E>> {
    bounded(size)?;
    if index >= size {
        return Err(ProveError::NoSuchLeaf { index, size });
    }
    let (mut low, mut high) = (0, size);
    let mut path = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(subtree(middle, high, &mut read)?);
            high = middle;
        } else {
            path.push(subtree(low, middle, &mut read)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `from` leaves is the beginning of the tree of `to` leaves (RFC 6962 §2.1.2). It is
/// empty where there is nothing to prove: from no leaf, or to the same tree.
pub fn consistency<E>(
    from: u64,
    to: u64,
    mut read: impl FnMut(u8, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, ProveError<E>> {
    bounded(to)?;
    if from > to {
        return Err(ProveError::Backwards { from, to });
    }
    if from == 0 || from == to {
        return Ok(Vec::new());
    }
    let (mut low, mut high) = (0, to);
    let mut path = Vec::new();
    while high != from {
        let middle = low + split(high - low);
        if from <= middle {
            path.push(subtree(middle, high, &mut read)?);
            high = middle;
        } else {
            path.push(subtree(low, middle, &mut read)?);
            low = middle;
        }
    }
    // A whole tree that stands at the very beginning is the old head, which the verifier has.
    if low != 0 {
        path.push(subtree(low, high, &mut read)?);
    }
    path.reverse();
    Ok(path)
}

fn bounded<E>(size: u64) -> Result<(), ProveError<E>> {
    if size > MAX_TREE_SIZE { Err(ProveError::TooLarge(size)) } else { Ok(()) }
}

/// The hash over the leaves from `low` up to, without, `high`, where `low` is a multiple of a power of two that is
/// not below their number: true of every range that splitting a tree brings forth.
fn subtree<E>(low: u64, high: u64, read: &mut impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    let mut length = high - low;
    let mut end = high;
    let mut hash: Option<Hash> = None;
    // Complete trees from the right, the smallest first: one for each bit of the length.
    while length > 0 {
        let level = length.trailing_zeros();
        end -= 1 << level;
        let level = u8::try_from(level).expect("a u64 has 64 bits");
        let left = read(level, end >> level)?;
        hash = Some(match hash {
            Some(right) => node_hash(&left, &right),
            None => left,
        });
        length &= length - 1;
    }
    Ok(hash.expect("a range has a leaf"))
}
