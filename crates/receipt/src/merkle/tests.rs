//! Everything against the recursive definition of RFC 6962 §2.1, written down as it stands there.

use std::collections::HashMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::tile::{TileError, TileId, TileReader, place};
use super::*;

/// RFC 6962 §2.1, word for word.
fn mth(leaves: &[Vec<u8>]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => leaf_hash(one),
        _ => {
            let (left, right) = leaves.split_at(k(leaves.len()));
            node_hash(&mth(left), &mth(right))
        }
    }
}

/// RFC 6962 §2.1.1.
fn path(m: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(k(leaves.len()));
    if m < left.len() {
        [path(m, left), vec![mth(right)]].concat()
    } else {
        [path(m - left.len(), right), vec![mth(left)]].concat()
    }
}

/// RFC 6962 §2.1.2.
fn subproof(m: usize, leaves: &[Vec<u8>], whole: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if whole { Vec::new() } else { vec![mth(leaves)] };
    }
    let (left, right) = leaves.split_at(k(leaves.len()));
    if m <= left.len() {
        [subproof(m, left, whole), vec![mth(right)]].concat()
    } else {
        [subproof(m - left.len(), right, false), vec![mth(left)]].concat()
    }
}

/// The largest power of two below `n`.
fn k(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

fn leaves(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| format!("leaf {index}").into_bytes()).collect()
}

/// A tree that keeps all its nodes, and its tiles too.
#[derive(Default)]
struct Tree {
    edge: Edge,
    nodes: HashMap<(u8, u64), Hash>,
    tiles: HashMap<TileId, Vec<Hash>>,
}

impl Tree {
    fn of(leaves: &[Vec<u8>]) -> Tree {
        let mut tree = Tree::default();
        for leaf in leaves {
            tree.push(leaf_hash(leaf));
        }
        tree
    }

    fn push(&mut self, leaf: Hash) {
        let Tree { edge, nodes, tiles } = self;
        edge.append(leaf, |node| {
            assert!(nodes.insert((node.level, node.index), node.hash).is_none(), "a node is complete once");
            if let Some((id, at)) = place(&node) {
                let tile = tiles.entry(id).or_default();
                assert_eq!(tile.len(), at, "a tile grows at its end");
                tile.push(node.hash);
            }
        })
        .unwrap();
    }

    fn read(&self) -> impl FnMut(u8, u64) -> Result<Hash, Infallible> + '_ {
        |level, index| Ok(*self.nodes.get(&(level, index)).expect("only complete nodes are read"))
    }

    fn tile_reader(&self) -> TileReader<impl FnMut(TileId) -> Result<Vec<Hash>, Infallible> + '_> {
        TileReader::new(|id| Ok(self.tiles.get(&id).cloned().unwrap_or_default()))
    }
}

#[test]
fn the_vectors_of_certificate_transparency_hold() {
    // The reference implementation's leaves and heads (certificate-transparency, `merkle_tree_test`).
    let leaves: Vec<Vec<u8>> = ["", "00", "10", "2021", "3031", "40414243"]
        .into_iter()
        .map(unhex)
        .chain(["5051525354555657", "606162636465666768696a6b6c6d6e6f"].into_iter().map(unhex))
        .collect();
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    assert_eq!(
        empty_root().as_bytes()[..],
        unhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    );
    for (count, expected) in (1..).zip(roots) {
        let tree = Tree::of(&leaves[..count]);
        assert_eq!(tree.edge.root().as_bytes()[..], unhex(expected), "{count} leaves");
    }
    let tree = Tree::of(&leaves);
    let expect = |hashes: &[&str]| hashes.iter().map(|hash| unhex(hash)).collect::<Vec<_>>();
    let shown = |path: Vec<Hash>| path.iter().map(|hash| hash.as_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(
        shown(inclusion(0, 8, tree.read()).unwrap()),
        expect(&[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ])
    );
    assert_eq!(
        shown(inclusion(5, 8, tree.read()).unwrap()),
        expect(&[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ])
    );
    assert_eq!(
        shown(consistency(6, 8, tree.read()).unwrap()),
        expect(&[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ])
    );
    assert_eq!(
        shown(consistency(2, 5, tree.read()).unwrap()),
        expect(&[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ])
    );
}

#[test]
fn every_size_agrees_with_the_definition() {
    let leaves = leaves(520);
    let whole = Tree::of(&leaves);
    for size in 0..=leaves.len() {
        let expected = mth(&leaves[..size]);
        assert_eq!(root(size as u64, whole.read()).unwrap(), expected, "{size} leaves");
        assert_eq!(Edge::read(size as u64, whole.read()).unwrap().root(), expected);
        let mut tiles = whole.tile_reader();
        assert_eq!(root(size as u64, |level, index| tiles.node(level, index)).unwrap(), expected);
    }
}

#[test]
fn every_inclusion_up_to_130_agrees_with_the_definition() {
    let leaves = leaves(130);
    let whole = Tree::of(&leaves);
    for size in 1..=leaves.len() {
        let head = mth(&leaves[..size]);
        for index in 0..size {
            let proof = inclusion(index as u64, size as u64, whole.read()).unwrap();
            assert_eq!(proof, path(index, &leaves[..size]), "{index} in {size}");
            let leaf = leaf_hash(&leaves[index]);
            assert_eq!(verify_inclusion(&leaf, index as u64, size as u64, &proof, &head), Ok(()));
            spoiled(&proof, |proof| {
                verify_inclusion(&leaf, index as u64, size as u64, proof, &head).is_err()
            });
        }
    }
}

#[test]
fn every_consistency_up_to_130_agrees_with_the_definition() {
    let leaves = leaves(130);
    let whole = Tree::of(&leaves);
    let heads: Vec<Hash> = (0..=leaves.len()).map(|size| mth(&leaves[..size])).collect();
    for to in 1..=leaves.len() {
        for from in 1..=to {
            let proof = consistency(from as u64, to as u64, whole.read()).unwrap();
            assert_eq!(proof, subproof(from, &leaves[..to], true), "{from} to {to}");
            let check =
                |a: &Hash, b: &Hash, proof: &[Hash]| verify_consistency(from as u64, a, to as u64, b, proof);
            assert_eq!(check(&heads[from], &heads[to], &proof), Ok(()));
            spoiled(&proof, |proof| check(&heads[from], &heads[to], proof).is_err());
            assert!(check(&heads[from - 1], &heads[to], &proof).is_err(), "another start");
            assert!(check(&heads[from], &heads[to - 1], &proof).is_err(), "another end");
        }
        let from_nothing = verify_consistency(0, &heads[0], to as u64, &heads[to], &[]);
        assert_eq!(from_nothing, Ok(()));
    }
    assert!(
        verify_consistency(0, &heads[1], 5, &heads[5], &[]).is_err(),
        "a tree without leaves has one head"
    );
}

/// A changed, a missing and an additional hash are each refused.
fn spoiled(proof: &[Hash], refused: impl Fn(&[Hash]) -> bool) {
    for at in 0..proof.len() {
        let mut changed = proof.to_vec();
        let mut bytes = *changed[at].as_bytes();
        bytes[at % 32] ^= 1 << (at % 8);
        changed[at] = Hash::from_bytes(bytes);
        assert!(refused(&changed), "hash {at} changed");
    }
    if let Some((_, shorter)) = proof.split_last() {
        assert!(refused(shorter), "truncated");
        assert!(refused(&proof[1..]), "beheaded");
    }
    let longer = [proof, &[empty_root()]].concat();
    assert!(refused(&longer), "lengthened");
}

#[test]
fn what_cannot_be_proved_is_refused_with_its_numbers() {
    let tree = Tree::of(&leaves(5));
    assert_eq!(inclusion(5, 5, tree.read()), Err(ProveError::NoSuchLeaf { index: 5, size: 5 }));
    assert_eq!(inclusion(0, 0, tree.read()), Err(ProveError::NoSuchLeaf { index: 0, size: 0 }));
    assert_eq!(consistency(5, 4, tree.read()), Err(ProveError::Backwards { from: 5, to: 4 }));
    assert_eq!(root(u64::MAX, tree.read()), Err(ProveError::TooLarge(u64::MAX)));
    let head = empty_root();
    assert_eq!(verify_inclusion(&head, 7, 7, &[], &head), Err(ProofError::NoSuchLeaf { index: 7, size: 7 }));
    assert_eq!(verify_inclusion(&head, 0, u64::MAX, &[head; 64], &head), Err(ProofError::TooLarge(u64::MAX)));
    assert_eq!(verify_consistency(7, &head, 6, &head, &[]), Err(ProofError::Backwards { from: 7, to: 6 }));
}

#[test]
fn a_tile_that_ends_too_early_is_named() {
    let mut reader = TileReader::new(|_| Ok::<_, Infallible>(vec![empty_root(); 3]));
    assert_eq!(reader.node(0, 259), Err(TileError::Short { level: 0, index: 1, found: 3, needed: 4 }),);
    assert!(reader.node(1, 128).is_ok());
}

#[test]
fn tiles_are_as_wide_as_the_tree_makes_them() {
    let tile = |level, index| TileId { level, index };
    assert_eq!(tile(0, 0).width(0), 0);
    assert_eq!(tile(0, 0).width(5), 5);
    assert_eq!(tile(0, 1).width(256), 0);
    assert_eq!(tile(0, 1).width(70_000), 256);
    assert_eq!(tile(0, 273).width(70_000), 112);
    assert_eq!(tile(1, 0).width(70_000), 256);
    assert_eq!(tile(1, 1).width(70_000), 17);
    assert_eq!(tile(2, 0).width(70_000), 1);
    assert_eq!(tile(200, 7).width(u64::MAX), 0);
}

#[test]
fn hashes_have_one_spelling() {
    let hash = Hash::from_bytes([0xff; 32]);
    assert_eq!(Hash::parse(&hash.to_string()), Some(hash));
    let text = hash.to_string();
    // The last character before the padding carries two bits of nothing.
    for bad in [&text[1..], &text.replace('=', ""), &text.replace("8=", "9="), "", &format!("{text} ")] {
        assert_eq!(Hash::parse(bad), None, "{bad:?}");
    }
}

/// A node of the tree whose leaf `i` is `SHA-256(0x00 ‖ i)`, but for which no leaf was ever hashed: any function of
/// the place will do for a tree too large to exist, if a complete node is the hash of its halves on each path.
fn sparse(marks: &[u64]) -> impl FnMut(u8, u64) -> Result<Hash, Infallible> + '_ {
    fn node(level: u8, index: u64, marks: &[u64]) -> Hash {
        let (low, length) = (index << level, 1_u64 << level);
        if level == 0 || !marks.iter().any(|&mark| (low..low + length).contains(&mark)) {
            return leaf_hash(&[&[level][..], &index.to_be_bytes()].concat());
        }
        node_hash(&node(level - 1, index * 2, marks), &node(level - 1, index * 2 + 1, marks))
    }
    |level, index| Ok(node(level, index, marks))
}

proptest! {
    #[test]
    fn huge_trees_prove_inclusion_and_consistency(
        to in 1_u64..=crate::limits::MAX_TREE_SIZE,
        at in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = usize::try_from(to).unwrap();
        let index = at.index(whole) as u64;
        let from = cut.index(whole) as u64 + 1;
        // Nodes above these leaves are made of their halves; from - 1 and from stand on the two sides of the cut.
        let marks = [index, from - 1, from];
        let leaf = sparse(&marks)(0, index).unwrap();
        let head = root(to, sparse(&marks)).unwrap();
        let old = root(from, sparse(&marks)).unwrap();
        let proof = inclusion(index, to, sparse(&marks)).unwrap();
        prop_assert!(proof.len() <= crate::limits::MAX_PROOF_HASHES);
        prop_assert_eq!(verify_inclusion(&leaf, index, to, &proof, &head), Ok(()));
        let grown = consistency(from, to, sparse(&marks)).unwrap();
        prop_assert!(grown.len() <= crate::limits::MAX_PROOF_HASHES);
        prop_assert_eq!(verify_consistency(from, &old, to, &head, &grown), Ok(()));
        prop_assert_eq!(Edge::read(from, sparse(&marks)).unwrap().root(), old);
    }

    #[test]
    fn random_sizes_agree_with_the_definition(size in 1_usize..3000, at in any::<prop::sample::Index>()) {
        let leaves = leaves(size);
        let tree = Tree::of(&leaves);
        let index = at.index(size);
        let mut tiles = tree.tile_reader();
        let proof = inclusion(index as u64, size as u64, |level, index| tiles.node(level, index)).unwrap();
        prop_assert_eq!(&proof, &path(index, &leaves));
        let mut tiles = tree.tile_reader();
        let grown = consistency(index as u64 + 1, size as u64, |level, index| tiles.node(level, index)).unwrap();
        prop_assert_eq!(grown, subproof(index + 1, &leaves, true));
        for (id, tile) in &tree.tiles {
            prop_assert_eq!(id.width(size as u64), tile.len());
        }
    }

    #[test]
    fn no_proof_of_noise_is_accepted(
        index in any::<u64>(), size in any::<u64>(), from in any::<u64>(),
        noise in prop::collection::vec(any::<[u8; 32]>(), 0..70),
    ) {
        let path: Vec<Hash> = noise.into_iter().map(Hash::from_bytes).collect();
        let head = Hash::from_bytes([3; 32]);
        let other = Hash::from_bytes([4; 32]);
        prop_assert!(verify_inclusion(&other, index, size, &path, &head).is_err());
        prop_assert!(verify_consistency(from, &other, size, &head, &path).is_err() || from == 0);
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
