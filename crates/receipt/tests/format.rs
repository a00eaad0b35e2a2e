//! The worked example of `docs/formats/receipt.md`, which was computed with other people's code, is what we make.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use receipt::merkle::{self, Edge};
use receipt::{Checkpoint, Hash, LogSigner, Parts, Receipt, Trust, commitment, commitment_leaf, verify};

const PAGE: &str = include_str!("../../../docs/formats/receipt.md");
const CONTENT: &[u8] = b"id,weight\n1,70\n";

fn document() -> &'static str {
    PAGE.split("```json\n").nth(1).unwrap().split("```").next().unwrap()
}

fn shown(what: &str) -> String {
    let line = PAGE.lines().find(|line| line.starts_with(&format!("| {what} |"))).unwrap();
    line.split('`').nth_back(1).unwrap().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_examples_receipt_proves_the_examples_file() {
    let receipt = Receipt::parse(document().as_bytes()).unwrap();
    let key = LogSigner::from_seed("culvert/0123456789abcdef0123456789abcdef", &[7; 32]).unwrap().log_key();
    let report = verify(&receipt, CONTENT, Trust::Key(key), |_| {});
    assert!(report.is_right(), "{report:?}");
}

#[test]
fn the_example_is_what_we_make_of_its_record() {
    let example = Receipt::parse(document().as_bytes()).unwrap();
    let signer = LogSigner::from_seed(example.log_key().name(), &[7; 32]).unwrap();
    let record = example.record().to_owned();
    let leaf = commitment(example.salt(), record.as_bytes());
    let mut edge = Edge::default();
    let mut nodes = HashMap::new();
    for index in 0..5_u8 {
        let leaf = if index == 3 { leaf } else { [index; 32] };
        let keep = |node: merkle::Node| _ = nodes.insert((node.level, node.index), node.hash);
        edge.append(commitment_leaf(&leaf), keep).unwrap();
    }
    for (what, hash) in [
        ("commitment", leaf),
        ("leaf hash of record 3", *nodes[&(0, 3)].as_bytes()),
        ("leaf hash of record 2, `inclusion[0]`", *nodes[&(0, 2)].as_bytes()),
        ("node over records 2, 3", *nodes[&(1, 1)].as_bytes()),
        ("node over records 0, 1, `inclusion[1]`", *nodes[&(1, 0)].as_bytes()),
        ("node over records 0 to 3", *nodes[&(2, 0)].as_bytes()),
        ("leaf hash of record 4, `inclusion[2]`", *nodes[&(0, 4)].as_bytes()),
        ("head of the tree of 5", *edge.root().as_bytes()),
    ] {
        assert_eq!(hex(&hash), shown(what), "{what}");
    }
    let read = |level, index| Ok::<Hash, std::convert::Infallible>(nodes[&(level, index)]);
    let checkpoint = Checkpoint { origin: signer.name().into(), size: 5, root: edge.root(), epoch: 0 };
    let ours = Receipt::new(Parts {
        record,
        salt: *example.salt(),
        leaf_index: 3,
        inclusion: merkle::inclusion(3, 5, read).unwrap(),
        checkpoint: checkpoint.sign(&signer).unwrap(),
        log_key: signer.log_key(),
    });
    assert_eq!(ours.unwrap().to_json(), document());
}
