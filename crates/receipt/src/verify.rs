//! What a receipt proves about a file.
//!
//! Each step is judged by itself, so that a report tells what still holds beside what does not.
//!
//! **Invariant:** a receipt is genuine only if every step is right, and no step trusts another one's finding.

use std::fmt;
use std::io::Read;

use sha2::{Digest as _, Sha256};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::limits::READ_BYTES;
use crate::merkle::{ProofError, verify_inclusion};
use crate::note::LogKey;
use crate::receipt::Receipt;
use crate::record::{RecordError, StoredFile, commitment, commitment_leaf, digest_text};

/// Whose word counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The log's key, which the verifier has from elsewhere.
    Key(LogKey),
    /// The key that the receipt itself names: what it says fits together, but anybody can have said it.
    SelfContained,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The receipt's key is the trusted one.
    Key,
    /// That key signed the checkpoint.
    Signature,
    /// The record is in the tree of that checkpoint.
    Inclusion,
    /// The record says that a file was stored.
    Record,
    /// The file has the recorded length and hash.
    Content,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 5] = [Step::Key, Step::Signature, Step::Inclusion, Step::Record, Step::Content];

    /// A short word.
    pub fn name(self) -> &'static str {
        match self {
            Step::Key => "key",
            Step::Signature => "signature",
            Step::Inclusion => "inclusion",
            Step::Record => "record",
            Step::Content => "content",
        }
    }
}

/// What is wrong in a step.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Another log, or another key of it.
    #[error("the receipt is of the log key {found}, and the trusted one is {trusted}")]
    OtherKey {
        /// What the receipt names.
        found: LogKey,
        /// What is trusted.
        trusted: LogKey,
    },
    /// The checkpoint was not signed by the key.
    #[error("{0}")]
    Signature(CheckpointError),
    /// The record is not in the tree.
    #[error("the record is not in the log: {0}")]
    Inclusion(ProofError),
    /// The record is not that of a stored file.
    #[error("{0}")]
    Record(RecordError),
    /// The file has another length.
    #[error("the file has {found} bytes, and {recorded} were stored: it is another one, or it was cut")]
    Shorter {
        /// What the file has.
        found: u64,
        /// What the record says.
        recorded: u64,
    },
    /// The file goes on.
    #[error("the file has more than the {recorded} bytes that were stored: it is another one, or it grew")]
    Longer {
        /// What the record says.
        recorded: u64,
    },
    /// The file has other bytes.
    #[error("the file's SHA-256 is {found}, and {recorded} was stored: it is another one, or it was changed")]
    OtherContent {
        /// What the file has.
        found: String,
        /// What the record says.
        recorded: String,
    },
    /// There is no recorded hash to compare with.
    #[error("not compared: the record says nothing of a file")]
    NotCompared,
    /// The file could not be read.
    #[error("read the file: {0}")]
    Read(std::io::Error),
}

/// What came of every step.
#[derive(Debug)]
pub struct Report {
    /// Which log, how large it was, its head and epoch: as the receipt says, whoever signed it.
    pub checkpoint: Checkpoint,
    /// The key that was checked against.
    pub key: LogKey,
    /// Where the key comes from.
    pub trust: Trust,
    /// What the record says of the file, if it is one of a stored file.
    pub file: Option<StoredFile>,
    key_step: Option<Fault>,
    signature: Option<Fault>,
    inclusion: Option<Fault>,
    record: Option<Fault>,
    content: Option<Fault>,
}

impl Report {
    /// What is wrong in a step; none: it is right.
    pub fn fault(&self, step: Step) -> Option<&Fault> {
        match step {
            Step::Key => self.key_step.as_ref(),
            Step::Signature => self.signature.as_ref(),
            Step::Inclusion => self.inclusion.as_ref(),
            Step::Record => self.record.as_ref(),
            Step::Content => self.content.as_ref(),
        }
    }

    /// Whether every step is right. Under [`Trust::SelfContained`] that says nothing about who signed.
    pub fn is_right(&self) -> bool {
        Step::ALL.into_iter().all(|step| self.fault(step).is_none())
    }

    /// Whether the file itself could not be read, so that nothing can be said about it.
    pub fn is_unreadable(&self) -> bool {
        matches!(self.content, Some(Fault::Read(_)))
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trust::Key(_) => "the log's key was given",
            Trust::SelfContained => {
                "the log's key is the receipt's own word: this proves that receipt and file belong together, \
                 but not who signed"
            }
        })
    }
}

/// Checks a receipt and the file it is for. `progress` hears how many bytes of the file were read.
pub fn verify(receipt: &Receipt, content: impl Read, trust: Trust, progress: impl FnMut(u64)) -> Report {
    judge(receipt, trust, |file| {
        let (size, sha256) = hash(file.size, content, progress)?;
        compare(file, size, &sha256)
    })
}

/// Checks a receipt and a file whose length and SHA-256 are known already.
pub fn verify_hashed(receipt: &Receipt, size: u64, sha256: &[u8; 32], trust: Trust) -> Report {
    judge(receipt, trust, |file| compare(file, size, sha256))
}

fn judge(receipt: &Receipt, trust: Trust, content: impl FnOnce(&StoredFile) -> Result<(), Fault>) -> Report {
    let trusted = match &trust {
        Trust::Key(key) => key.clone(),
        Trust::SelfContained => receipt.log_key().clone(),
    };
    let checkpoint = receipt.checkpoint().unverified().clone();
    let key_step = (trusted != *receipt.log_key())
        .then(|| Fault::OtherKey { found: receipt.log_key().clone(), trusted: trusted.clone() });
    let signature = receipt.checkpoint().verify(&trusted).err().map(Fault::Signature);
    let leaf = commitment_leaf(&commitment(receipt.salt(), receipt.record().as_bytes()));
    let inclusion =
        verify_inclusion(&leaf, receipt.leaf_index(), checkpoint.size, receipt.inclusion(), &checkpoint.root);
    let (file, record) = match StoredFile::of(receipt.record().as_bytes(), receipt.leaf_index()) {
        Ok(file) => (Some(file), None),
        Err(error) => (None, Some(Fault::Record(error))),
    };
    let content = match &file {
        Some(file) => content(file).err(),
        None => Some(Fault::NotCompared),
    };
    Report {
        checkpoint,
        key: trusted,
        trust,
        file,
        key_step,
        signature,
        inclusion: inclusion.err().map(Fault::Inclusion),
        record,
        content,
    }
}

/// The length and SHA-256 of what `content` reads, which is to have `recorded` bytes; no more than that is read.
fn hash(
    recorded: u64,
    mut content: impl Read,
    mut progress: impl FnMut(u64),
) -> Result<(u64, [u8; 32]), Fault> {
    let mut buffer = vec![0; READ_BYTES];
    let mut hash = Sha256::new();
    let mut found = 0_u64;
    loop {
        let length = match content.read(&mut buffer) {
            Ok(0) => return Ok((found, hash.finalize().into())),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Fault::Read(error)),
        };
        found += length as u64;
        if found > recorded {
            return Err(Fault::Longer { recorded });
        }
        hash.update(&buffer[..length]);
        progress(found);
    }
}

fn compare(file: &StoredFile, found: u64, sha256: &[u8; 32]) -> Result<(), Fault> {
    let recorded = file.size;
    if found > recorded {
        return Err(Fault::Longer { recorded });
    }
    if found < recorded {
        return Err(Fault::Shorter { found, recorded });
    }
    if *sha256 != file.sha256 {
        return Err(Fault::OtherContent { found: digest_text(sha256), recorded: digest_text(&file.sha256) });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
