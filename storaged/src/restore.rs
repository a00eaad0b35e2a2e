//! Bringing a stopped store back: forward from its journal mirror, or, where that is lost, into a new epoch of its log.
//!
//! **Invariant:** each change of the journal is done once, in its order, and is kept only if the log then has the
//! head that was signed at the time. A storaged that runs holds the ledger, and nothing is done beside it. A state that
//! came out of a backup does not serve before one of the two was done.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::config::ConfigError;
use receipt::merkle::Hash;
use serde::{Deserialize, Serialize};
use store_proto::FileId;

use crate::config::{Config, Environment};
use crate::ledger::intents::IntentKind;
use crate::ledger::journal::replay::{Replayed, replay};
use crate::ledger::journal::{self, JournalError, LeftBehind};
use crate::ledger::writer::{Observer, StartError};
use crate::ledger::{
    self, CorruptError, Ending, Gap, Ledger, LedgerUnavailable, Origin, epoch, intents, partial,
};
use crate::metrics::LedgerTime;
use crate::offline::{self, OfflineError};

/// Lies in a state directory that came out of a backup until somebody has decided what it is.
pub const RESTORED_FILE: &str = "restored.json";

/// Why a store was not brought back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be opened: damage, another root key, or a storaged that runs.
    #[error(transparent)]
    Open(#[from] OfflineError),
    /// The journal cannot be read, or does not follow this ledger.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file beside it.
    #[error("{step} {path}: {error}", path = .path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The ledger cannot be read.
    #[error(transparent)]
    Read(#[from] CorruptError),
    /// The ledger cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The ledger cannot be written.
    #[error(transparent)]
    Unavailable(#[from] LedgerUnavailable),
}

/// What a state says that came out of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    /// The backup.
    pub backup_id: FileId,
    /// When it was begun.
    pub made_ms: u64,
}

/// Refuses a state that came out of a backup and was not brought back yet.
pub fn refuse_undecided(state_dir: &Path) -> Result<(), String> {
    let path = state_dir.join(RESTORED_FILE);
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(format!(
        "{}: this state came out of a backup, and the log may be older than what was acknowledged. `culvert restore \
         --replay` brings it forward from the journal mirror; where that is lost, `culvert restore --new-epoch` begins a \
         new epoch of the log",
        path.display()
    ))
}

/// What an operator knows who brings a store forward.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// The largest log that somebody has seen signed.
    pub seen: Option<(u64, Hash)>,
    /// The machine lost power: what cannot be read at the journal's end is the torn end of what was never acknowledged.
    pub torn_end: bool,
}

/// What a replay did, and whether that was all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What was done again.
    pub replayed: Replayed,
    /// None: nothing that was acknowledged is missing. Else the store does not start with what there is.
    pub doubt: Option<Doubt>,
}

/// Why it is not known that nothing is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The journal does not go on where the ledger ends.
    #[error(
        "the journal mirror does not reach to where this ledger ends: it is not known whether something is missing. If \
         the mirror is lost, `culvert restore --new-epoch` goes on without it"
    )]
    Short,
    /// There is more in it than can be read.
    #[error(
        "{0}: if the machine lost power while they were written, they were never acknowledged, and --accept-torn-end goes \
         on without them. Else they are damage, and what was acknowledged is in them: bring an undamaged copy of the \
         mirror, or go on without with --new-epoch. `culvert checkpoint show` on an edge tells how far the log was: \
         --seen SIZE:ROOT compares it"
    )]
    LeftBehind(LeftBehind),
    /// Neither has the log ahead what is missing, which is damaged, nor the journal.
    #[error(
        "{0}. The journal mirror does not have it: bring the whole mirror, or go on without what is missing with --new-epoch"
    )]
    Ahead(Gap),
    /// Somebody has seen more.
    #[error(
        "a log of {seen} records was seen signed, and this one has {records}: the last of them are missing. Bring the \
         whole journal mirror, or go on without them with --new-epoch"
    )]
    Behind {
        /// What was seen.
        seen: u64,
        /// What is here.
        records: u64,
    },
    /// Somebody has seen something else.
    #[error("a log of {0} records was seen signed with another root: this ledger is of another history")]
    OtherHistory(u64),
}

/// Replays the journal mirror that a configuration names onto the ledger and keys that it names.
pub fn replay_mirror(
    config: &Path,
    environment: &Environment,
    known: Known,
) -> Result<Forward, RestoreError> {
    let (Config { fixed, .. }, _) = Config::load(config, environment)?;
    let (mut opened, keys) = offline::open(&fixed.state_dir, &fixed.root_key_file)?;
    let reader = ledger::Reader::new(Arc::clone(&opened.database), Arc::clone(&keys));
    let replayed = replay(&fixed.journal_mirror, &opened.database, opened.store, &keys)?;
    let group = reader.snapshot()?.group()?;
    let end = journal::end(&fixed.journal_mirror, opened.store, &keys)?;
    let reaches = end.is_some_and(|end| end.group == group);
    // Behind what could not be read of the log ahead may stand what the journal does not have.
    let gap = opened.bring_forward(&keys).map_err(OfflineError::Bring)?;
    let snapshot = reader.snapshot()?;
    let records = snapshot.position()?.edge.size();
    let doubt = match (known.seen, &replayed.left_behind) {
        (Some((seen, _)), _) if seen > records => Some(Doubt::Behind { seen, records }),
        (Some((seen, root)), _) if snapshot.root(seen)? != root => Some(Doubt::OtherHistory(seen)),
        _ if gap.is_some() => gap.map(Doubt::Ahead),
        _ if !reaches => Some(Doubt::Short),
        (_, Some(left)) if !known.torn_end => Some(Doubt::LeftBehind(left.clone())),
        _ => None,
    };
    if doubt.is_none() {
        if let Some(left) = &replayed.left_behind {
            left.cut_off()?;
        }
        decided(&fixed.state_dir)?;
    }
    Ok(Forward { replayed, doubt })
}

fn decided(state_dir: &Path) -> Result<(), RestoreError> {
    let path = state_dir.join(RESTORED_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RestoreError::File { step: "remove", path, error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What a new epoch replaces, and why.
#[derive(Debug, Clone)]
pub struct NewEpoch {
    /// Why.
    pub reason: String,
    /// The largest log that somebody has seen signed; none: this state's own is the largest that is known.
    pub seen: Option<(u64, Hash)>,
    /// Who says so.
    pub origin: Origin,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The epoch that checkpoints carry from now on.
    pub epoch: u64,
    /// Its record.
    pub record: u64,
    /// Operations that were open in this state and were ended; what they had on the volumes is kept.
    pub ended: u64,
    /// Where the journal of the history that ends here was put.
    pub journal_aside: Option<PathBuf>,
    /// The largest log that is known to have been signed before.
    pub old_size: u64,
}

struct Unwatched;

impl Observer for Unwatched {
    fn committed(&self, _commands: usize, _seconds: f64) {}
    fn failed(&self, _commands: usize) {}
}

/// Begins a new epoch: what this state holds is what counts from here on. Objects that it does not know stay on their
/// volumes, unclaimed; so does what its open operations were writing when it was copied, for they may have ended well.
pub fn new_epoch(config: &Path, environment: &Environment, wanted: NewEpoch) -> Result<Opened, RestoreError> {
    let (Config { fixed, .. }, _) = Config::load(config, environment)?;
    let (mut opened, keys) = offline::open(&fixed.state_dir, &fixed.root_key_file)?;
    let reader = ledger::Reader::new(Arc::clone(&opened.database), Arc::clone(&keys));
    let snapshot = reader.snapshot()?;
    let own = snapshot.checkpoint()?;
    let mut seen = vec![(own.unverified().size, own.unverified().root)];
    drop(snapshot);
    seen.extend(wanted.seen);
    // A journal that cannot be read tells nothing, and is kept all the same.
    if let Ok(Some(end)) = journal::end(&fixed.journal_mirror, opened.store, &keys) {
        seen.push((end.size, end.root));
    }
    let (old_size, old_root) = seen.into_iter().max_by_key(|(size, _)| *size).expect("its own is among them");
    let epoch_before = own.unverified().epoch;
    let journal_aside = set_journal_aside(&fixed.journal_mirror, epoch_before + 1)?;
    opened.forget_ahead().map_err(|error| RestoreError::File {
        step: "begin anew",
        path: fixed.state_dir.join(ledger::AHEAD_FILE),
        error,
    })?;
    let time = LedgerTime::new(daemon::Clock);
    let (ledger, writer) =
        Ledger::start(opened, keys, None, crate::host::describe(fixed.role), time, Unwatched)?;
    let done = end_and_open(&ledger, wanted.origin, wanted.reason, old_size, old_root);
    drop((ledger, reader));
    let joined = writer.join();
    let (epoch, record, ended) = done?;
    joined.map_err(|_| LedgerUnavailable)?;
    decided(&fixed.state_dir)?;
    Ok(Opened { epoch, record, ended, journal_aside, old_size })
}

fn end_and_open(
    ledger: &Ledger,
    origin: Origin,
    reason: String,
    old_size: u64,
    old_root: Hash,
) -> Result<(u64, u64, u64), RestoreError> {
    let mut ended = 0;
    let mut after = None;
    loop {
        let some = ledger.reader().partials(after)?;
        after = some.last().map(|(upload, _)| *upload);
        if after.is_none() {
            break;
        }
        for (upload, _) in some.into_iter().filter(|(_, row)| !row.finished) {
            let error = "its end is not known: the store was restored".to_owned();
            let abandon = partial::Command::Abandon { upload, ending: Ending::Aborted, error, instead: None };
            ledger.submit_blocking(abandon)?;
            ended += 1;
        }
    }
    for (intent, row) in ledger.reader().open_intents()? {
        match row.kind {
            IntentKind::Upload | IntentKind::Download | IntentKind::Partial => {
                ledger.submit_blocking(intents::Command::CloseCrashed { intent })?;
                ended += 1;
            }
        }
    }
    let epoch::Outcome::Opened { epoch, index } =
        ledger.submit_blocking(epoch::Command::Open { origin, old_size, old_root, reason })?;
    Ok((epoch, index, ended))
}

fn set_journal_aside(directory: &Path, epoch: u64) -> Result<Option<PathBuf>, RestoreError> {
    if directory.symlink_metadata().is_err() {
        return Ok(None);
    }
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(format!(".before-epoch-{epoch}"));
    let aside = directory.with_file_name(name);
    std::fs::rename(directory, &aside).map_err(|error| RestoreError::File {
        step: "move aside",
        path: directory.to_owned(),
        error,
    })?;
    Ok(Some(aside))
}
