//! The walk over the whole log: is every record what was committed to, and is the tree what was signed?
//!
//! Nothing is believed because it is stored: leaves are hashed from the opened records, the tree is grown from the
//! leaves, and what is stored (tiles, indices, file rows, checkpoint) is compared with that. Where a file's keys were
//! destroyed its records do not open; their leaves are taken from the tiles, and a record must say why.
//!
//! **Invariant:** the walk only reads, what it finds wrong does not end it, and it never holds the pages of one moment
//! for longer than a stretch of records: the log up to the checkpoint that is being checked does not change, whatever
//! is written behind it.

mod against;
mod finding;
mod tables;
#[cfg(test)]
mod tests;
mod walk;

use std::ops::ControlFlow;

use receipt::checkpoint::Checkpoint;
use receipt::note::LogKey;
use serde_json::{Value, json};

pub use against::{Claim, ClaimError};
pub use finding::{Finding, Kind};

use crate::ledger::read::Reader;
use crate::ledger::tables::CorruptError;

use self::tables::Begun;
use self::walk::Walk;

/// What the walk says while it walks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// So many records were looked at.
    Progress {
        /// So many.
        checked: u64,
        /// Of so many.
        records: u64,
    },
    /// Something is wrong.
    Finding(Finding),
}

impl Event {
    /// As programs are told.
    pub fn to_json(&self) -> Value {
        match self {
            Event::Progress { checked, records } => json!({ "checked": checked, "records": records }),
            Event::Finding(finding) => json!({
                "finding": finding.kind.name(),
                "record": finding.record,
                "file_id": finding.file,
                "what": finding.what,
            }),
        }
    }
}

/// How the walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Records that were looked at.
    pub records: u64,
    /// Of these, those that do not open because their file was deleted, and a record says so.
    pub destroyed: u64,
    /// Files that stand in the ledger.
    pub files: u64,
    /// Operations that have begun and not ended.
    pub open_intents: u64,
    /// How often the store was restored.
    pub epoch: u64,
    /// What was found wrong.
    pub findings: u64,
    /// Whether somebody ended the walk: then it says nothing about the rest.
    pub ended_early: bool,
    /// The checkpoint that was checked, as a note; none where it is none.
    pub checkpoint: Option<String>,
}

impl Summary {
    /// As programs are told.
    pub fn to_json(&self) -> Value {
        json!({
            "records": self.records,
            "destroyed": self.destroyed,
            "files": self.files,
            "open_operations": self.open_intents,
            "epoch": self.epoch,
            "findings": self.findings,
            "checkpoint": self.checkpoint,
        })
    }
}

/// Walks over the log up to its newest checkpoint. `tell` may end the walk.
pub fn verify(
    reader: &Reader,
    key: &LogKey,
    against: &[Claim],
    tell: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Summary, CorruptError> {
    let snapshot = reader.snapshot()?;
    let begun = Begun::read(&snapshot)?;
    let checkpoint = snapshot.checkpoint();
    drop(snapshot);
    let mut walk = Walk::new(reader, &begun, against, tell);
    let signed: Option<Checkpoint> = match &checkpoint {
        Err(error) => {
            walk.find(Kind::Checkpoint, None, error.to_string());
            None
        }
        Ok(note) => {
            if let Err(error) = note.verify(key) {
                walk.find(Kind::Checkpoint, None, error.to_string());
            }
            Some(note.unverified().clone())
        }
    };
    let size = signed.as_ref().map_or(begun.last.map_or(0, |last| last + 1), |signed| signed.size);
    walk.records(size)?;
    if !walk.ended {
        walk.judge(signed.as_ref(), key)?;
    }
    Ok(Summary {
        records: walk.edge.size(),
        destroyed: walk.destroyed,
        files: walk.files,
        open_intents: begun.intents.len() as u64,
        epoch: signed.map_or(walk.epoch, |signed| signed.epoch),
        findings: walk.findings,
        ended_early: walk.ended,
        checkpoint: checkpoint.ok().map(|note| note.as_str().to_owned()),
    })
}
