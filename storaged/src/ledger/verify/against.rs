//! What somebody kept of the log and brings back: a receipt, or a checkpoint alone.
//!
//! A claim travels without the file's part of the receipt: what the log must show is a leaf and a head.
//!
//! **Invariant:** a claim is compared with the tree that the walk grew from the records, not with what is stored of it.

use receipt::Receipt;
use receipt::checkpoint::SignedCheckpoint;
use receipt::merkle::{Hash, verify_inclusion};
use receipt::note::LogKey;
use receipt::{commitment, commitment_leaf};
use serde::{Deserialize, Serialize};

/// What a receipt or checkpoint says of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Claim {
    /// What its bringer calls it.
    pub name: String,
    /// The log's word of then.
    pub checkpoint: SignedCheckpoint,
    /// The leaf that must be there, and at which index.
    pub leaf: Option<(u64, Hash)>,
}

/// As it travels.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    checkpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaf: Option<(u64, Hash)>,
}

impl TryFrom<Raw> for Claim {
    type Error = String;

    fn try_from(Raw { name, checkpoint, leaf }: Raw) -> Result<Claim, String> {
        let checkpoint = SignedCheckpoint::parse(&checkpoint).map_err(|error| format!("{name}: {error}"))?;
        Ok(Claim { name, checkpoint, leaf })
    }
}

impl From<Claim> for Raw {
    fn from(Claim { name, checkpoint, leaf }: Claim) -> Raw {
        Raw { name, checkpoint: checkpoint.as_str().to_owned(), leaf }
    }
}

/// Why a text is no claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Neither a receipt nor a checkpoint.
    #[error("neither a receipt ({receipt}) nor a checkpoint ({checkpoint})")]
    Neither {
        /// Why not the one.
        receipt: String,
        /// Why not the other.
        checkpoint: String,
    },
    /// The receipt contradicts itself, so it says nothing about any log.
    #[error("the receipt does not prove what it says: {0}")]
    Broken(String),
}

impl Claim {
    /// Reads a receipt, or a checkpoint as a signed note.
    pub fn parse(name: String, document: &[u8]) -> Result<Claim, ClaimError> {
        let receipt = match Receipt::parse(document) {
            Ok(receipt) => receipt,
            Err(receipt) => {
                let text = std::str::from_utf8(document).unwrap_or_default();
                let checkpoint = SignedCheckpoint::parse(text).map_err(|checkpoint| ClaimError::Neither {
                    receipt: receipt.to_string(),
                    checkpoint: checkpoint.to_string(),
                })?;
                return Ok(Claim { name, checkpoint, leaf: None });
            }
        };
        let leaf = commitment_leaf(&commitment(receipt.salt(), receipt.record().as_bytes()));
        let then = receipt.checkpoint().unverified();
        verify_inclusion(&leaf, receipt.leaf_index(), then.size, receipt.inclusion(), &then.root)
            .map_err(|error| ClaimError::Broken(error.to_string()))?;
        let leaf = Some((receipt.leaf_index(), leaf));
        Ok(Claim { name, checkpoint: receipt.checkpoint().clone(), leaf })
    }
}

/// A claim on the walk: what the walk saw at the places that it names.
#[derive(Debug)]
pub(super) struct Watched<'a> {
    claim: &'a Claim,
    /// The head of the tree when it had the claim's size.
    root: Option<Hash>,
    /// What stood at the claim's index.
    leaf: Option<Hash>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(claim: &'a Claim) -> Watched<'a> {
        Watched { claim, root: None, leaf: None }
    }

    /// The next leaf of the tree.
    pub(super) fn leaf(&mut self, index: u64, leaf: Hash) {
        if self.claim.leaf.is_some_and(|(wanted, _)| wanted == index) {
            self.leaf = Some(leaf);
        }
    }

    /// Whether the claim wants to know the head of the tree of this size.
    pub(super) fn wants_root(&self, size: u64) -> bool {
        self.claim.checkpoint.unverified().size == size
    }

    pub(super) fn root(&mut self, root: Hash) {
        self.root = Some(root);
    }

    /// What is wrong with the log, if this claim is right. `epochs`: index and number of each restore that the log
    /// itself tells of.
    pub(super) fn judge(&self, key: &LogKey, size: u64, epochs: &[(u64, u64)]) -> Result<(), String> {
        let name = &self.claim.name;
        let then = self
            .claim
            .checkpoint
            .verify(key)
            .map_err(|error| format!("{name}: not of this log, or not its word: {error}"))?;
        let told = match epochs.iter().find(|(_, epoch)| *epoch > then.epoch) {
            Some((record, epoch)) => {
                format!("record {record} says that the store was restored (epoch {epoch})")
            }
            None => "no record tells of a restore".to_owned(),
        };
        if then.size == 0 {
            return Ok(());
        }
        let Some(root) = self.root else {
            return Err(format!(
                "{name}: it was given when the log had {} records, and there are {size}: rolled back; {told}",
                then.size
            ));
        };
        if root != then.root {
            return Err(format!(
                "{name}: the first {} records are others than when it was given: forked; {told}",
                then.size
            ));
        }
        match (self.claim.leaf, self.leaf) {
            (None, _) => Ok(()),
            (Some((_, claimed)), Some(found)) if claimed == found => Ok(()),
            (Some((index, _)), _) => {
                Err(format!("{name}: record {index} is another one than it proves; {told}"))
            }
        }
    }
}
