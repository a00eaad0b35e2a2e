//! One genuine receipt, and everything that can be done to it.

use std::convert::Infallible;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::limits::{MAX_RECEIPT_BYTES, MAX_RECORD_BYTES};
use crate::merkle::{self, Edge, Hash};
use crate::note::LogSigner;
use crate::receipt::{Parts, ReceiptError};

const ORIGIN: &str = "culvert/0123456789abcdef0123456789abcdef";
const FILE: &[u8] = b"id,weight\n1,70\n";

fn signer() -> LogSigner {
    LogSigner::from_seed(ORIGIN, &[7; 32]).unwrap()
}

fn record(index: u64, size: u64) -> String {
    let sha256 = digest_text(&Sha256::digest(FILE).into());
    format!(
        r#"{{"action":"nas_raw_created","cohort":"c5","ending":"succeeded","file_id":"000102030405060708090a0b0c0d0e0f","host":{{"hostname":"h","process_id":1,"role":"services"}},"index":{index},"origin":{{}},"path":"messwerte/Größe.csv","phase":"outcome","sha256":"{sha256}","size":{size},"time_ms":1700000000000,"v":1}}"#
    )
}

/// The receipt of record 11 in a log of 21 records, one of which is this one.
fn parts_of(record: String) -> Parts {
    let (index, size, salt) = (11, 21, [5; 32]);
    let mut nodes = std::collections::HashMap::new();
    let mut edge = Edge::default();
    for leaf in 0..size {
        let leaf = if leaf == index {
            commitment_leaf(&commitment(&salt, record.as_bytes()))
        } else {
            merkle::leaf_hash(&u64::to_be_bytes(leaf))
        };
        edge.append(leaf, |node| {
            nodes.insert((node.level, node.index), node.hash);
        })
        .unwrap();
    }
    let read = |level, index| Ok::<Hash, Infallible>(nodes[&(level, index)]);
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size, root: edge.root(), epoch: 0 };
    Parts {
        record,
        salt,
        leaf_index: index,
        inclusion: merkle::inclusion(index, size, read).unwrap(),
        checkpoint: checkpoint.sign(&signer()).unwrap(),
        log_key: signer().log_key(),
    }
}

fn parts() -> Parts {
    parts_of(record(11, FILE.len() as u64))
}

fn receipt() -> Receipt {
    Receipt::new(parts()).unwrap()
}

fn check(receipt: &Receipt, content: &[u8], trust: Trust) -> Report {
    verify(receipt, content, trust, |_| {})
}

fn trusted() -> Trust {
    Trust::Key(signer().log_key())
}

/// The steps that are wrong.
fn wrong(report: &Report) -> Vec<Step> {
    Step::ALL.into_iter().filter(|step| report.fault(*step).is_some()).collect()
}

#[test]
fn a_genuine_receipt_is_right_in_every_step() {
    let document = receipt().to_json();
    let read = Receipt::parse(document.as_bytes()).unwrap();
    assert_eq!(read, receipt());
    let mut seen = 0;
    let report = verify(&read, FILE, trusted(), |bytes| seen = bytes);
    assert!(report.is_right(), "{report:?}");
    assert_eq!(seen, FILE.len() as u64);
    let file = report.file.unwrap();
    assert_eq!((file.cohort.as_str(), file.path.as_str()), ("c5", "messwerte/Größe.csv"));
    assert_eq!(report.checkpoint.size, 21);
    let alone = check(&read, FILE, Trust::SelfContained);
    assert!(alone.is_right());
    assert!(alone.trust.to_string().contains("not who signed"));
}

#[test]
fn every_flipped_bit_of_a_receipt_is_refused() {
    let document = receipt().to_json();
    for at in 0..document.len() * 8 {
        let mut bytes = document.clone().into_bytes();
        bytes[at / 8] ^= 1 << (at % 8);
        for trust in [trusted(), Trust::SelfContained] {
            if let Ok(receipt) = Receipt::parse(&bytes) {
                let report = check(&receipt, FILE, trust);
                assert!(!report.is_right(), "bit {at}: {}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}

#[test]
fn every_beginning_of_a_receipt_is_refused() {
    let document = receipt().to_json();
    // Without the line's end it is whole.
    for end in 0..document.len() - 1 {
        assert!(Receipt::parse(&document.as_bytes()[..end]).is_err(), "{end}");
    }
}

#[test]
fn every_flipped_bit_of_the_file_is_refused() {
    for at in 0..FILE.len() * 8 {
        let mut bytes = FILE.to_vec();
        bytes[at / 8] ^= 1 << (at % 8);
        let report = check(&receipt(), &bytes, trusted());
        assert!(matches!(report.fault(Step::Content), Some(Fault::OtherContent { .. })), "bit {at}");
        assert_eq!(wrong(&report), [Step::Content]);
    }
}

#[test]
fn a_file_of_another_length_is_told_so() {
    let shorter = check(&receipt(), &FILE[1..], trusted());
    assert!(matches!(shorter.fault(Step::Content), Some(Fault::Shorter { found: 14, recorded: 15 })));
    let longer = check(&receipt(), &[FILE, b"x"].concat(), trusted());
    assert!(matches!(longer.fault(Step::Content), Some(Fault::Longer { recorded: 15 })));
    assert_eq!(wrong(&longer), [Step::Content]);
    let endless = verify(&receipt(), std::io::repeat(0), trusted(), |_| {});
    assert!(matches!(endless.fault(Step::Content), Some(Fault::Longer { .. })), "an endless file ends here");
}

#[test]
fn a_file_that_was_hashed_already_is_judged_alike() {
    let sha256: [u8; 32] = Sha256::digest(FILE).into();
    let hashed = |size, sha256: &[u8; 32]| wrong(&verify_hashed(&receipt(), size, sha256, trusted()));
    assert_eq!(hashed(15, &sha256), []);
    assert_eq!(hashed(14, &sha256), [Step::Content]);
    assert_eq!(hashed(16, &sha256), [Step::Content]);
    assert_eq!(hashed(15, &[0; 32]), [Step::Content]);
}

#[test]
fn a_file_that_cannot_be_read_is_not_called_wrong() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("a bad disk"))
        }
    }
    let report = verify(&receipt(), Broken, trusted(), |_| {});
    assert!(report.is_unreadable() && !report.is_right());
}

#[test]
fn the_key_of_another_log_is_refused() {
    let other = LogSigner::from_seed(ORIGIN, &[8; 32]).unwrap();
    let report = check(&receipt(), FILE, Trust::Key(other.log_key()));
    assert_eq!(wrong(&report), [Step::Key, Step::Signature]);
    // Somebody else signs the same head with a key of their own.
    let mut forged = parts();
    forged.checkpoint = forged.checkpoint.unverified().clone().sign(&other).unwrap();
    forged.log_key = other.log_key();
    let forged = Receipt::new(forged).unwrap();
    assert_eq!(wrong(&check(&forged, FILE, trusted())), [Step::Key, Step::Signature]);
    assert!(check(&forged, FILE, Trust::SelfContained).is_right(), "nothing else is claimed");
}

#[test]
fn a_truncated_path_is_refused() {
    let mut short = parts();
    short.inclusion.pop();
    let report = check(&Receipt::new(short).unwrap(), FILE, trusted());
    assert!(matches!(
        report.fault(Step::Inclusion),
        Some(Fault::Inclusion(ProofError::Length { found: 4, needed: 5 }))
    ));
    assert_eq!(wrong(&report), [Step::Inclusion]);
}

#[test]
fn another_checkpoint_of_the_same_log_is_refused() {
    let mut moved = parts();
    let mut checkpoint = moved.checkpoint.unverified().clone();
    checkpoint.root = Hash::from_bytes([0; 32]);
    moved.checkpoint = checkpoint.sign(&signer()).unwrap();
    let report = check(&Receipt::new(moved).unwrap(), FILE, trusted());
    assert_eq!(wrong(&report), [Step::Inclusion]);
    let mut small = parts();
    let mut checkpoint = small.checkpoint.unverified().clone();
    checkpoint.size = 11;
    small.checkpoint = checkpoint.sign(&signer()).unwrap();
    let report = check(&Receipt::new(small).unwrap(), FILE, trusted());
    assert!(matches!(
        report.fault(Step::Inclusion),
        Some(Fault::Inclusion(ProofError::NoSuchLeaf { index: 11, size: 11 }))
    ));
}

#[test]
fn a_record_that_stores_nothing_is_refused_though_it_is_in_the_log() {
    for (from, to) in
        [("nas_raw_created", "nas_raw_deleted"), ("succeeded", "failed"), ("\"index\":11", "\"index\":12")]
    {
        let receipt = Receipt::new(parts_of(record(11, 15).replace(from, to))).unwrap();
        let report = check(&receipt, FILE, trusted());
        assert_eq!(wrong(&report), [Step::Record, Step::Content], "{to}");
        assert!(matches!(report.fault(Step::Content), Some(Fault::NotCompared)));
    }
}

#[test]
fn an_exchanged_record_or_salt_is_not_in_the_log() {
    let mut other = parts();
    other.record = record(11, 16);
    let report = check(&Receipt::new(other).unwrap(), FILE, trusted());
    assert_eq!(wrong(&report), [Step::Inclusion, Step::Content]);
    let mut other = parts();
    other.salt[31] ^= 1;
    assert_eq!(wrong(&check(&Receipt::new(other).unwrap(), FILE, trusted())), [Step::Inclusion]);
}

#[test]
fn malformed_receipts_are_refused_with_the_key() {
    let good = receipt().to_json();
    let changed = |from: &str, to: &str| {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        Receipt::parse(bad.as_bytes()).unwrap_err()
    };
    assert_eq!(changed("receipt/1", "receipt/2"), ReceiptError::Format("culvert-receipt/2".into()));
    assert_eq!(changed("BQUF", "BQU"), ReceiptError::Salt);
    assert_eq!(changed("\"inclusion\":[\"", "\"inclusion\":[\"="), ReceiptError::PathHash(0));
    assert!(matches!(changed("epoch 0", "epoch x"), ReceiptError::Checkpoint(CheckpointError::Epoch)));
    assert!(matches!(changed("\"log_key\":\"culvert", "\"log_key\":\"culverd"), ReceiptError::LogKey(_)));
    for (from, to) in [
        ("\"salt\"", "\"salz\""),
        ("{\"format\"", "{\"more\":1,\"format\""),
        ("\"leaf_index\":11", "\"leaf_index\":-11"),
        ("\"leaf_index\":11", "\"leaf_index\":11,\"leaf_index\":12"),
    ] {
        assert!(matches!(changed(from, to), ReceiptError::Json(_)), "{to}");
    }
    let long = changed("\"inclusion\":[", &format!("\"inclusion\":[{}", "\"A\",".repeat(65)));
    assert_eq!(long, ReceiptError::PathLength(70));
    let long = changed("\"record\":\"", &format!("\"record\":\"{}", " ".repeat(MAX_RECORD_BYTES)));
    assert!(matches!(long, ReceiptError::Record(_)));
    let long = vec![b' '; MAX_RECEIPT_BYTES + 1];
    assert_eq!(Receipt::parse(&long), Err(ReceiptError::TooLong(long.len())));
    assert!(matches!(Receipt::parse(b""), Err(ReceiptError::Json(_))));
    assert!(matches!(Receipt::parse("[".repeat(60_000).as_bytes()), Err(ReceiptError::Json(_))));
}
