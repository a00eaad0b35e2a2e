//! Keeps the highest checkpoint of storaged's log that was seen, and refuses a history that is not its continuation.
//!
//! storaged signs its log; this is why it cannot take back what it signed without being seen: a checkpoint with fewer
//! records, or with others, stops uploads until the first history is back. A restore from a backup begins a new epoch,
//! which only an operator can accept.
//!
//! **Invariant:** `seen` is replaced only by a checkpoint of the same key that is proven to continue it, or by the
//! epoch that an operator named.

mod look;

use std::sync::{Mutex, MutexGuard, PoisonError};

use receipt::merkle::{ProofError, verify_consistency};
use receipt::{Checkpoint, CheckpointError, Hash, LogKey, SignedCheckpoint};

/// What is wrong with what storaged shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be read.
    #[error("it is not a checkpoint: {0}")]
    Malformed(CheckpointError),
    /// Another log, another key, or a broken signature.
    #[error("{0}")]
    Unsigned(CheckpointError),
    /// storaged names no key, or none that can be read.
    #[error("storaged does not say which key signs its log")]
    NoKey,
    /// Records are gone.
    #[error("it has {offered} records, and {seen} were seen: records are gone")]
    Rollback {
        /// The records that were seen.
        seen: u64,
        /// The records that are shown now.
        offered: u64,
    },
    /// Records are others.
    #[error("it is not the continuation of the {seen} records that were seen: {error}")]
    Fork {
        /// The records that were seen.
        seen: u64,
        /// What does not fit.
        error: ProofError,
    },
    /// The store was restored from a backup, and nobody accepted that here.
    #[error(
        "it is of epoch {offered}, and epoch {seen} was seen: if the store was restored from a backup, \
         `culvert checkpoint accept --epoch {offered}` accepts it"
    )]
    Epoch {
        /// The epoch that was seen.
        seen: u64,
        /// The epoch that is shown now.
        offered: u64,
    },
}

impl Fault {
    /// The label's value in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Fault::Malformed(_) | Fault::NoKey => "malformed",
            Fault::Unsigned(_) => "signature",
            Fault::Rollback { .. } => "rollback",
            Fault::Fork { .. } => "fork",
            Fault::Epoch { .. } => "epoch",
        }
    }

    /// Every label.
    pub const LABELS: [&'static str; 5] = ["malformed", "signature", "rollback", "fork", "epoch"];
}

/// What a checkpoint asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It was seen already.
    Nothing,
    /// It is the first one, and is held from now on.
    Adopted,
    /// It has more records: is it the continuation?
    Prove(Growth),
}

/// A checkpoint that has yet to be proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The records that were seen.
    pub from: u64,
    /// The records that are shown now.
    pub to: u64,
    offered: SignedCheckpoint,
}

/// Why an epoch cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// storaged shows nothing new.
    #[error("storaged shows no new epoch now")]
    NothingOffered,
    /// storaged shows another one.
    #[error("storaged shows epoch {0}")]
    OtherEpoch(u64),
}

/// What edge holds of storaged's log.
#[derive(Debug, Default)]
pub struct Witness {
    state: Mutex<State>,
    /// One question at a time: answers that overtake each other would look like a rollback.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    key: Option<LogKey>,
    /// The key was configured: without a checkpoint of it nothing is trusted.
    is_key_given: bool,
    seen: Option<SignedCheckpoint>,
    fault: Option<Fault>,
    /// A checkpoint of a new epoch, signed by the key.
    new_epoch: Option<SignedCheckpoint>,
}

/// The state for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The key of the log.
    pub key: Option<LogKey>,
    /// The highest checkpoint.
    pub seen: Option<SignedCheckpoint>,
    /// What is wrong with what storaged shows now.
    pub fault: Option<Fault>,
}

impl Witness {
    /// Holds the log of `key`, from the checkpoint `floor` on. What is missing is adopted when storaged first shows it.
    pub fn new(key: Option<LogKey>, floor: Option<SignedCheckpoint>) -> Witness {
        let state = State { is_key_given: key.is_some(), key, seen: floor, ..State::default() };
        Witness { state: Mutex::new(state), asking: tokio::sync::Mutex::default() }
    }

    /// Takes what storaged shows: the signed note, and the key it names.
    pub fn offer(&self, note: &str, named_key: Option<&str>) -> Result<Next, Fault> {
        let mut state = self.state();
        let taken = state.offer(note, named_key);
        if !matches!(taken, Ok(Next::Prove(_))) {
            state.fault = taken.as_ref().err().cloned();
        }
        taken
    }

    /// Takes the proof that a checkpoint continues the one that was seen.
    pub fn prove(&self, growth: Growth, path: &[Hash]) -> Result<(), Fault> {
        let mut state = self.state();
        let taken = state.prove(growth, path);
        state.fault = taken.as_ref().err().cloned();
        taken
    }

    /// Accepts the epoch that storaged shows, because an operator says so. Tells which records are lost from sight.
    pub fn accept(&self, epoch: u64) -> Result<(Option<Checkpoint>, Checkpoint), AcceptError> {
        let mut state = self.state();
        let offered = state.new_epoch.as_ref().ok_or(AcceptError::NothingOffered)?;
        let shown = offered.unverified().clone();
        if shown.epoch != epoch {
            return Err(AcceptError::OtherEpoch(shown.epoch));
        }
        let before = state.seen.as_ref().map(|seen| seen.unverified().clone());
        state.seen = state.new_epoch.take();
        state.fault = None;
        Ok((before, shown))
    }

    /// Whether uploads must be refused: what would be acknowledged could be taken back unseen.
    pub fn refuses(&self) -> bool {
        let state = self.state();
        state.fault.is_some() || state.is_key_given && state.seen.is_none()
    }

    /// For an operator.
    pub fn standing(&self) -> Standing {
        let state = self.state();
        Standing { key: state.key.clone(), seen: state.seen.clone(), fault: state.fault.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so what a panic left behind is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn offer(&mut self, note: &str, named_key: Option<&str>) -> Result<Next, Fault> {
        self.new_epoch = None;
        let offered = SignedCheckpoint::parse(note).map_err(Fault::Malformed)?;
        let key = match &self.key {
            Some(key) => key.clone(),
            None => named_key.and_then(|text| LogKey::parse(text).ok()).ok_or(Fault::NoKey)?,
        };
        let shown = offered.verify(&key).map_err(Fault::Unsigned)?.clone();
        let Some(seen) = self.seen.as_ref().map(|seen| seen.unverified().clone()) else {
            (self.key, self.seen) = (Some(key), Some(offered));
            return Ok(Next::Adopted);
        };
        if shown.epoch > seen.epoch {
            self.new_epoch = Some(offered);
            return Err(Fault::Epoch { seen: seen.epoch, offered: shown.epoch });
        }
        if shown.epoch < seen.epoch || shown.size < seen.size {
            return Err(Fault::Rollback { seen: seen.size, offered: shown.size });
        }
        if shown.size > seen.size {
            return Ok(Next::Prove(Growth { from: seen.size, to: shown.size, offered }));
        }
        if shown.root != seen.root {
            let error = ProofError::OtherStart { computed: shown.root, expected: seen.root };
            return Err(Fault::Fork { seen: seen.size, error });
        }
        Ok(Next::Nothing)
    }

    fn prove(&mut self, growth: Growth, path: &[Hash]) -> Result<(), Fault> {
        // `from` was read under another lock than this one; only the state of now counts.
        let seen = self.seen.as_ref().map(|seen| seen.unverified().clone());
        let Some(seen) = seen else { return Err(Fault::NoKey) };
        let shown = growth.offered.unverified();
        verify_consistency(seen.size, &seen.root, shown.size, &shown.root, path)
            .map_err(|error| Fault::Fork { seen: seen.size, error })?;
        self.seen = Some(growth.offered);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
