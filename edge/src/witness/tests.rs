//! Logs that grow, shrink, fork and are restored.

use std::collections::HashMap;
use std::convert::Infallible;

use receipt::{LogSigner, merkle};

use super::*;

const ORIGIN: &str = "culvert/0123456789abcdef0123456789abcdef";

fn signer(seed: u8) -> LogSigner {
    LogSigner::from_seed(ORIGIN, &[seed; 32]).unwrap()
}

/// A log whose leaves are numbered from `first` on.
struct Log {
    edge: merkle::Edge,
    nodes: HashMap<(u8, u64), Hash>,
    epoch: u64,
}

impl Log {
    fn of(leaves: impl Iterator<Item = u64>) -> Log {
        let mut log = Log { edge: merkle::Edge::default(), nodes: HashMap::new(), epoch: 0 };
        for leaf in leaves {
            let nodes = &mut log.nodes;
            let keep = |node: merkle::Node| _ = nodes.insert((node.level, node.index), node.hash);
            log.edge.append(merkle::leaf_hash(&leaf.to_be_bytes()), keep).unwrap();
        }
        log
    }

    fn checkpoint(&self, size: u64, seed: u8) -> String {
        let root =
            merkle::root(size, |level, index| Ok::<_, Infallible>(self.nodes[&(level, index)])).unwrap();
        let checkpoint = Checkpoint { origin: ORIGIN.into(), size, root, epoch: self.epoch };
        checkpoint.sign(&signer(seed)).unwrap().as_str().to_owned()
    }

    fn proof(&self, from: u64, to: u64) -> Vec<Hash> {
        merkle::consistency(from, to, |level, index| Ok::<_, Infallible>(self.nodes[&(level, index)]))
            .unwrap()
    }
}

/// Shows a checkpoint and, where it is asked for, its proof.
fn show(witness: &Witness, log: &Log, size: u64) -> Result<(), Fault> {
    let key = signer(7).log_key().to_string();
    match witness.offer(&log.checkpoint(size, 7), Some(&key))? {
        Next::Nothing | Next::Adopted => Ok(()),
        Next::Prove(growth) => {
            let proof = log.proof(growth.from, growth.to);
            witness.prove(growth, &proof)
        }
    }
}

fn size(witness: &Witness) -> Option<u64> {
    witness.standing().seen.map(|seen| seen.unverified().size)
}

#[test]
fn a_log_that_grows_is_followed() {
    let log = Log::of(0..40);
    let witness = Witness::default();
    assert!(!witness.refuses(), "nothing is configured and nothing is known");
    for shown in [3, 3, 4, 17, 40] {
        assert_eq!(show(&witness, &log, shown), Ok(()));
        assert_eq!(size(&witness), Some(shown));
        assert!(!witness.refuses());
    }
    assert_eq!(witness.standing().key, Some(signer(7).log_key()), "the first key was adopted");
}

#[test]
fn a_rollback_is_refused_until_the_history_is_back() {
    let log = Log::of(0..40);
    let witness = Witness::default();
    show(&witness, &log, 20).unwrap();
    assert_eq!(show(&witness, &log, 19), Err(Fault::Rollback { seen: 20, offered: 19 }));
    assert!(witness.refuses());
    assert_eq!(size(&witness), Some(20), "the highest stays");
    assert_eq!(show(&witness, &log, 20), Ok(()));
    assert!(!witness.refuses());
}

#[test]
fn a_fork_is_refused_at_every_size() {
    let log = Log::of(0..40);
    let forked = Log::of((0..10).chain(100..200));
    for at in [20, 21, 30] {
        let witness = Witness::default();
        show(&witness, &log, 20).unwrap();
        assert!(matches!(show(&witness, &forked, at), Err(Fault::Fork { seen: 20, .. })), "{at}");
        assert!(witness.refuses());
        assert_eq!(size(&witness), Some(20));
    }
}

#[test]
fn a_growth_without_its_proof_is_not_believed() {
    let log = Log::of(0..40);
    let witness = Witness::default();
    show(&witness, &log, 20).unwrap();
    let Ok(Next::Prove(growth)) = witness.offer(&log.checkpoint(30, 7), None) else { panic!("it grew") };
    assert!(!witness.refuses(), "nothing is wrong yet");
    assert!(matches!(witness.prove(growth, &[]), Err(Fault::Fork { .. })));
    assert!(witness.refuses());
}

#[test]
fn a_configured_key_is_the_only_one() {
    let log = Log::of(0..40);
    let witness = Witness::new(Some(signer(7).log_key()), None);
    assert!(witness.refuses(), "no checkpoint of the key was seen yet");
    let other = signer(8).log_key().to_string();
    assert!(matches!(witness.offer(&log.checkpoint(5, 8), Some(&other)), Err(Fault::Unsigned(_))));
    assert_eq!(show(&witness, &log, 5), Ok(()));
    assert!(!witness.refuses());
    assert!(matches!(witness.offer(&log.checkpoint(6, 8), Some(&other)), Err(Fault::Unsigned(_))));
    assert!(witness.refuses());
}

#[test]
fn nothing_below_the_floor_is_accepted() {
    let log = Log::of(0..40);
    let floor = SignedCheckpoint::parse(&log.checkpoint(20, 7)).unwrap();
    let witness = Witness::new(Some(signer(7).log_key()), Some(floor));
    assert_eq!(show(&witness, &log, 19), Err(Fault::Rollback { seen: 20, offered: 19 }));
    assert_eq!(show(&witness, &log, 33), Ok(()));
}

#[test]
fn a_new_epoch_waits_for_the_operator() {
    let log = Log::of(0..40);
    let mut restored = Log::of((0..10).chain(100..120));
    restored.epoch = 1;
    let witness = Witness::default();
    show(&witness, &log, 20).unwrap();
    assert_eq!(witness.accept(1), Err(AcceptError::NothingOffered));
    assert_eq!(show(&witness, &restored, 12), Err(Fault::Epoch { seen: 0, offered: 1 }));
    assert!(witness.refuses());
    assert_eq!(witness.accept(2), Err(AcceptError::OtherEpoch(1)));
    let (before, now) = witness.accept(1).unwrap();
    assert_eq!((before.unwrap().size, now.size, now.epoch), (20, 12, 1));
    assert!(!witness.refuses());
    assert_eq!(show(&witness, &restored, 30), Ok(()), "and is followed from there");
    assert!(matches!(show(&witness, &log, 40), Err(Fault::Rollback { .. })), "the old epoch is over");
}

#[test]
fn what_is_no_checkpoint_is_a_fault() {
    let witness = Witness::default();
    assert!(matches!(witness.offer("nonsense", None), Err(Fault::Malformed(_))));
    assert!(witness.refuses());
    let log = Log::of(0..3);
    assert_eq!(witness.offer(&log.checkpoint(3, 7), None), Err(Fault::NoKey));
    assert_eq!(witness.offer(&log.checkpoint(3, 7), Some("x")), Err(Fault::NoKey));
    assert_eq!(Fault::LABELS.len(), 5);
}
