//! What we prove is accepted by a verifier that shares no code with us, and with one bit flipped it is refused: the
//! Python library `aics-tlog` (RFC 6962 proofs, C2SP tiles, notes and checkpoints), by `log_verifier.py`.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use receipt::merkle::tile::{TileId, place};
use receipt::merkle::{self, Edge, Hash, Node};
use receipt::{Checkpoint, LogSigner, Parts, Receipt, commitment, commitment_leaf};
use serde_json::{Value, json};

const ORIGIN: &str = "culvert/0123456789abcdef0123456789abcdef";

/// More than one tile, and not a power of two.
const RECORDS: u64 = 521;
/// Sizes of which a checkpoint is signed: around powers of two, around a tile, and the last one.
const SIZES: [u64; 12] = [1, 2, 3, 7, 8, 9, 255, 256, 257, 300, 512, RECORDS];

#[test]
fn an_independent_verifier_takes_our_proofs_and_no_flipped_bit() {
    let output = verifier(&Log::new().document().to_string());
    let expected = [
        "checkpoints: 12 accepted, each flipped bit refused",
        "inclusion: 72 accepted, each flipped bit refused",
        "consistency: 66 accepted, each flipped bit refused",
        "tiles: 1 accepted, 0",
        "receipts: 1 accepted, each flipped bit refused",
    ];
    assert!(output.lines().eq(expected), "the verifier says:\n{output}");
}

/// What the script says to this log.
fn verifier(log: &str) -> String {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools"));
    let python = std::env::var_os("CULVERT_TOOLS").map_or(own, PathBuf::from).join("tlog/bin/python");
    assert!(python.exists(), "{} is missing: `cargo xtask test` provides it", python.display());
    let mut script = Command::new(python)
        .arg("-B")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/log_verifier.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It reads all before it says anything.
    script.stdin.take().unwrap().write_all(log.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    assert!(output.status.success(), "the verifier ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A log of salted commitments, with all that is kept of it.
struct Log {
    signer: LogSigner,
    commitments: Vec<[u8; 32]>,
    nodes: HashMap<(u8, u64), Hash>,
    tiles: BTreeMap<TileId, Vec<u8>>,
}

impl Log {
    fn new() -> Log {
        let signer = LogSigner::from_seed(ORIGIN, &[7; 32]).unwrap();
        let mut log = Log { signer, commitments: Vec::new(), nodes: HashMap::new(), tiles: BTreeMap::new() };
        let mut edge = Edge::default();
        for index in 0..RECORDS {
            let leaf = commitment(&salt(index), record(index).as_bytes());
            log.commitments.push(leaf);
            let (nodes, tiles) = (&mut log.nodes, &mut log.tiles);
            edge.append(commitment_leaf(&leaf), |node: Node| {
                nodes.insert((node.level, node.index), node.hash);
                if let Some((tile, _)) = place(&node) {
                    tiles.entry(tile).or_default().extend_from_slice(node.hash.as_bytes());
                }
            })
            .unwrap();
        }
        log
    }

    fn node(&self) -> impl FnMut(u8, u64) -> Result<Hash, Infallible> + '_ {
        |level, index| Ok(self.nodes[&(level, index)])
    }

    fn checkpoint(&self, size: u64) -> Checkpoint {
        Checkpoint { origin: ORIGIN.into(), size, root: merkle::root(size, self.node()).unwrap(), epoch: 2 }
    }

    fn document(&self) -> Value {
        let heads = SIZES.map(|size| self.head(size));
        let mut inclusions = Vec::new();
        let mut consistencies = Vec::new();
        for size in SIZES {
            // Its edges, its middle, and around the beginning of a tile; doubles are of no harm.
            for index in [0, 1, size / 2, 255, 256, size - 1].map(|index| index.min(size - 1)) {
                let hashes = merkle::inclusion(index, size, self.node()).unwrap();
                inclusions.push(json!({ "index": index, "size": size, "hashes": hashes }));
            }
            for from in SIZES.into_iter().filter(|from| *from < size) {
                let hashes = merkle::consistency(from, size, self.node()).unwrap();
                consistencies.push(json!({ "from": from, "to": size, "hashes": hashes }));
            }
        }
        let tiles = self.tiles.iter().map(
            |(id, hashes)| json!({ "level": id.level, "index": id.index, "hashes": STANDARD.encode(hashes) }),
        );
        let leaves = self.commitments.iter().map(|leaf| STANDARD.encode(leaf));
        json!({
            "key": self.signer.log_key().to_string(),
            "leaves": leaves.collect::<Vec<_>>(),
            "heads": heads,
            "inclusions": inclusions,
            "consistencies": consistencies,
            "tiles": tiles.collect::<Vec<_>>(),
            "receipts": [self.receipt(300)],
        })
    }

    fn head(&self, size: u64) -> Value {
        let checkpoint = self.checkpoint(size);
        let root = checkpoint.root;
        let signed = checkpoint.sign(&self.signer).unwrap();
        json!({ "size": size, "root": root, "checkpoint": signed.as_str() })
    }

    fn receipt(&self, index: u64) -> Receipt {
        Receipt::new(Parts {
            record: record(index),
            salt: salt(index),
            leaf_index: index,
            inclusion: merkle::inclusion(index, RECORDS, self.node()).unwrap(),
            checkpoint: self.checkpoint(RECORDS).sign(&self.signer).unwrap(),
            log_key: self.signer.log_key(),
        })
        .unwrap()
    }
}

fn record(index: u64) -> String {
    json!({ "action": "nas_raw_created", "index": index, "path": "Größe/a.csv" }).to_string()
}

fn salt(index: u64) -> [u8; 32] {
    let mut salt = [0x5a; 32];
    salt[..8].copy_from_slice(&index.to_be_bytes());
    salt
}
