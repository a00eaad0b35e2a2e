//! What can be wrong with a log.
//!
//! **Invariant:** the list is closed, and each finding says which record or file it is about by number or id, never by
//! name.

use std::fmt;

use store_proto::FileId;

/// What kind of wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The checkpoint is none, or not signed by the log's key.
    Checkpoint,
    /// There are fewer records than were signed, or some without a checkpoint over them.
    Size,
    /// The records make another tree than the one that was signed.
    Root,
    /// A record is not there.
    Missing,
    /// A record cannot be opened or read.
    Unreadable,
    /// A record is not the one that its leaf commits to.
    Commitment,
    /// A kept node of the tree is not the hash of what is below it, or is too many.
    Tile,
    /// A record's time is before that of the record ahead of it.
    Time,
    /// The index of records by file misses one, or has one too many.
    Index,
    /// A record says that a file came, and there is no such file, or it is another one.
    File,
    /// An operation began, did not end, and is not among the open ones; or the other way round.
    Intent,
    /// The epochs do not count up, or are not the checkpoint's.
    Epoch,
    /// Records do not open because their keys are gone, and no record says why.
    KeyGone,
    /// What was brought from outside does not fit: the log was rolled back, or forked.
    Against,
}

impl Kind {
    /// The word in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Checkpoint => "checkpoint",
            Kind::Size => "size",
            Kind::Root => "root",
            Kind::Missing => "missing",
            Kind::Unreadable => "unreadable",
            Kind::Commitment => "commitment",
            Kind::Tile => "tile",
            Kind::Time => "time",
            Kind::Index => "index",
            Kind::File => "file",
            Kind::Intent => "intent",
            Kind::Epoch => "epoch",
            Kind::KeyGone => "key_gone",
            Kind::Against => "against",
        }
    }
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of which kind.
    pub kind: Kind,
    /// Which record.
    pub record: Option<u64>,
    /// Which file.
    pub file: Option<FileId>,
    /// What, for people.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.name())?;
        if let Some(record) = self.record {
            write!(f, "record {record}: ")?;
        }
        if let Some(file) = self.file {
            write!(f, "file {file}: ")?;
        }
        f.write_str(&self.what)
    }
}
