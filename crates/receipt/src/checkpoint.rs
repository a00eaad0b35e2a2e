//! Checkpoints (C2SP `tlog-checkpoint`): what a log says of itself at one moment, signed.
//!
//! ```text
//! culvert/STORE_ID     the origin, which is also the name of the key
//! 17                   leaves
//! BASE64               the tree's head
//! epoch 0              grows by one with each restore from a backup
//! ```
//!
//! **Invariant:** a checkpoint has one spelling, so what was signed is what was read.

use std::fmt::Write as _;

use crate::limits::MAX_TREE_SIZE;
use crate::merkle::Hash;
use crate::note::{LogKey, LogSigner, Note, NoteError, SignatureError};

/// Why a text is no checkpoint, or none of that log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It is no signed note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// It is not signed as it must be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Not four lines.
    #[error("a checkpoint must have four lines: origin, size, tree head, `epoch N`; this one has {0}")]
    Lines(usize),
    /// No origin.
    #[error("line 1 of the checkpoint, the origin, is empty")]
    Origin,
    /// Not a size.
    #[error("line 2 of the checkpoint must be a number of leaves, without leading zeros")]
    Size,
    /// Not a hash.
    #[error("line 3 of the checkpoint must be base64 of the 32 bytes of the tree head")]
    Root,
    /// Not an epoch.
    #[error("line 4 of the checkpoint must be `epoch N`, without leading zeros")]
    Epoch,
    /// The log speaks of another one.
    #[error("the checkpoint is of the log {origin}, and the key is that of {key}")]
    OtherOrigin {
        /// Line 1.
        origin: String,
        /// The key's name.
        key: String,
    },
}

/// The state of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: `culvert/` and the store's id in hexadecimal. One line.
    pub origin: String,
    /// Its leaves.
    pub size: u64,
    /// The head of the tree over them.
    pub root: Hash,
    /// How often the store was restored from a backup.
    pub epoch: u64,
}

impl Checkpoint {
    /// Takes the text of a checkpoint, without signatures.
    pub fn parse(text: &str) -> Result<Checkpoint, CheckpointError> {
        let found = text.matches('\n').count();
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), Some(epoch), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Lines(found));
        };
        if origin.is_empty() {
            return Err(CheckpointError::Origin);
        }
        let size = number(size).filter(|size| *size <= MAX_TREE_SIZE).ok_or(CheckpointError::Size)?;
        let root = Hash::parse(root).ok_or(CheckpointError::Root)?;
        let epoch = epoch.strip_prefix("epoch ").and_then(number).ok_or(CheckpointError::Epoch)?;
        Ok(Checkpoint { origin: origin.to_owned(), size, root, epoch })
    }

    /// The text that is signed.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.origin.len() + 96);
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{}\n{}\n{}\nepoch {}", self.origin, self.size, self.root, self.epoch);
        text
    }

    /// Signs it.
    pub fn sign(self, signer: &LogSigner) -> Result<SignedCheckpoint, CheckpointError> {
        let signed = SignedCheckpoint::of(signer.sign(&self.to_text())?)?;
        if self.origin != signer.name() {
            return Err(CheckpointError::OtherOrigin { origin: self.origin, key: signer.name().to_owned() });
        }
        Ok(signed)
    }
}

/// A signed checkpoint whose form was checked, and its signature not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    note: Note,
    checkpoint: Checkpoint,
}

impl SignedCheckpoint {
    /// Takes a signed checkpoint apart.
    pub fn parse(text: &str) -> Result<SignedCheckpoint, CheckpointError> {
        Self::of(Note::parse(text)?)
    }

    fn of(note: Note) -> Result<SignedCheckpoint, CheckpointError> {
        let checkpoint = Checkpoint::parse(note.unverified_text())?;
        Ok(SignedCheckpoint { note, checkpoint })
    }

    /// The signed note.
    pub fn as_str(&self) -> &str {
        self.note.as_str()
    }

    /// What it says, whoever says it.
    pub fn unverified(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What it says, if the log of this key says it.
    pub fn verify(&self, key: &LogKey) -> Result<&Checkpoint, CheckpointError> {
        if self.checkpoint.origin != key.name() {
            return Err(CheckpointError::OtherOrigin {
                origin: self.checkpoint.origin.clone(),
                key: key.name().to_owned(),
            });
        }
        self.note.verify(key)?;
        Ok(&self.checkpoint)
    }
}

/// A decimal number in its one spelling.
fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || text.bytes().next().is_some_and(|first| matches!(first, b'1'..=b'9'));
    if canonical { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "culvert/0123456789abcdef0123456789abcdef";

    fn signer() -> LogSigner {
        LogSigner::from_seed(ORIGIN, &[7; 32]).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: ORIGIN.into(), size: 17, root: Hash::from_bytes([9; 32]), epoch: 3 }
    }

    #[test]
    fn a_checkpoint_has_four_lines_and_comes_back() {
        let text = checkpoint().to_text();
        assert_eq!(text, format!("{ORIGIN}\n17\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\nepoch 3\n"));
        assert_eq!(Checkpoint::parse(&text), Ok(checkpoint()));
    }

    #[test]
    fn a_signed_checkpoint_is_verified_by_its_log_alone() {
        let signed = checkpoint().sign(&signer()).unwrap();
        let read = SignedCheckpoint::parse(signed.as_str()).unwrap();
        assert_eq!(read.verify(&signer().log_key()), Ok(&checkpoint()));
        let same_name = LogSigner::from_seed(ORIGIN, &[8; 32]).unwrap().log_key();
        assert!(matches!(
            read.verify(&same_name),
            Err(CheckpointError::Signature(SignatureError::NotSigned { .. }))
        ));
        let other_name = LogSigner::from_seed("culvert/ff", &[7; 32]).unwrap().log_key();
        assert!(matches!(read.verify(&other_name), Err(CheckpointError::OtherOrigin { .. })));
    }

    #[test]
    fn a_key_signs_for_its_own_log_only() {
        let other = LogSigner::from_seed("culvert/ff", &[7; 32]).unwrap();
        assert!(matches!(checkpoint().sign(&other), Err(CheckpointError::OtherOrigin { .. })));
    }

    #[test]
    fn malformed_checkpoints_are_refused_with_the_line() {
        let root = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";
        for (bad, error) in [
            ("", CheckpointError::Lines(0)),
            ("o\n1\n", CheckpointError::Lines(2)),
            (&format!("o\n1\n{root}\nepoch 0"), CheckpointError::Lines(3)),
            (&format!("o\n1\n{root}\nepoch 0\nmore\n"), CheckpointError::Lines(5)),
            (&format!("\n1\n{root}\nepoch 0\n"), CheckpointError::Origin),
            (&format!("o\n01\n{root}\nepoch 0\n"), CheckpointError::Size),
            (&format!("o\n+1\n{root}\nepoch 0\n"), CheckpointError::Size),
            (&format!("o\n-1\n{root}\nepoch 0\n"), CheckpointError::Size),
            (&format!("o\n\n{root}\nepoch 0\n"), CheckpointError::Size),
            (&format!("o\n18446744073709551615\n{root}\nepoch 0\n"), CheckpointError::Size),
            (&format!("o\n1\n{}\nepoch 0\n", &root[1..]), CheckpointError::Root),
            (&format!("o\n1\n{root}\nepoch\n"), CheckpointError::Epoch),
            (&format!("o\n1\n{root}\nepoch 00\n"), CheckpointError::Epoch),
            (&format!("o\n1\n{root}\nepoch 18446744073709551616\n"), CheckpointError::Epoch),
        ] {
            assert_eq!(Checkpoint::parse(bad), Err(error), "{bad:?}");
        }
    }
}
