//! A log for the fake storaged, which can be cut, forked and restored.

use std::collections::HashMap;
use std::convert::Infallible;

use receipt::{Checkpoint, Hash, LogKey, LogSigner, merkle};
use store_proto::ConsistencyProof;

pub const ORIGIN: &str = "culvert/0123456789abcdef0123456789abcdef";

pub struct FakeLog {
    /// What stands in each leaf.
    pub leaves: Vec<u64>,
    pub epoch: u64,
    /// Of the key.
    pub seed: u8,
}

impl FakeLog {
    pub fn of(leaves: impl IntoIterator<Item = u64>) -> FakeLog {
        FakeLog { leaves: leaves.into_iter().collect(), epoch: 0, seed: 7 }
    }

    pub fn key(&self) -> LogKey {
        self.signer().log_key()
    }

    pub fn checkpoint(&self) -> String {
        let (edge, _) = self.tree();
        let (size, root) = (edge.size(), edge.root());
        let checkpoint = Checkpoint { origin: ORIGIN.into(), size, root, epoch: self.epoch };
        checkpoint.sign(&self.signer()).unwrap().as_str().to_owned()
    }

    /// The answer to `from=…&to=…`.
    pub fn consistency(&self, query: &str) -> ConsistencyProof {
        let (from, to) = query.strip_prefix("from=").unwrap().split_once("&to=").unwrap();
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let (_, nodes) = self.tree();
        let read = |level, index| Ok::<_, Infallible>(nodes[&(level, index)]);
        ConsistencyProof { from, to, hashes: merkle::consistency(from, to, read).unwrap() }
    }

    fn signer(&self) -> LogSigner {
        LogSigner::from_seed(ORIGIN, &[self.seed; 32]).unwrap()
    }

    fn tree(&self) -> (merkle::Edge, HashMap<(u8, u64), Hash>) {
        let (mut edge, mut nodes) = (merkle::Edge::default(), HashMap::new());
        for leaf in &self.leaves {
            let keep = |node: merkle::Node| _ = nodes.insert((node.level, node.index), node.hash);
            edge.append(merkle::leaf_hash(&leaf.to_be_bytes()), keep).unwrap();
        }
        (edge, nodes)
    }
}
