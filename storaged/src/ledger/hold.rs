//! Area *hold*: legal holds. While one stands on a file or its cohort, nothing of it is deleted.
//!
//! **Invariant:** a hold stands from the transaction that records it to the transaction that records its
//! release; the look at it and the deletion it forbids are in one transaction, so neither overtakes the other.

use serde::{Deserialize, Serialize};
use store_proto::{Cohort, FileId};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::files;
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::state::{StateTable, View};
use crate::ledger::subject::Subject;
use crate::ledger::tables::CorruptError;
use crate::limits::{HOLD_REASON_BYTES, HOLDS};

/// Id, big-endian → the hold.
pub const TABLE: StateTable<HoldRow> = StateTable::new("holds");
/// Target ‖ id, big-endian → the id: which holds stand on a target.
pub const ON: StateTable<u64> = StateTable::new("holds_on");

/// A hold that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldRow {
    /// Who placed it, as `uid=…` or a user's name.
    pub placed_by: String,
    /// When.
    pub placed_ms: u64,
    /// Why: the case, in the operator's words.
    pub reason: String,
    /// On what.
    pub target: Target,
    /// The row's version.
    pub v: u32,
}

/// What a hold is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every file of a cohort, of today and to come.
    Cohort(Cohort),
    /// One file.
    File(FileId),
}

impl Target {
    /// The beginning of its keys in [`ON`]; no target's is the beginning of another's.
    fn key(&self) -> Vec<u8> {
        match self {
            Target::Cohort(cohort) => [b"c", cohort.as_str().as_bytes(), &[0]].concat(),
            Target::File(id) => [b"f".as_slice(), id.as_bytes()].concat(),
        }
    }
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// Place one.
    Place {
        /// Who asked.
        origin: Origin,
        /// On what.
        target: Target,
        /// Why.
        reason: String,
    },
    /// Release one.
    Release {
        /// Who asked.
        origin: Origin,
        /// Which: the index of the record that placed it.
        id: u64,
        /// Why.
        reason: String,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It stands, under this id.
    Placed(u64),
    /// It stands no more.
    Released(Box<HoldRow>),
    /// There is no such file.
    UnknownFile,
    /// There is no such hold.
    UnknownHold,
    /// There are as many as there can be.
    TooMany,
}

/// What was promised to be gone, or to stay, is in the mirror before anybody hears of it.
impl Area for Command {
    fn waits_for_mirror(&self) -> bool {
        true
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Place { origin, target, reason } => place(app, origin, target, reason),
            Command::Release { origin, id, reason } => release(app, origin, id, &reason),
        }
    }
}

fn place(
    app: &mut Application<'_, '_>,
    origin: Origin,
    target: Target,
    reason: String,
) -> Result<Outcome, CorruptError> {
    let file = match &target {
        Target::Cohort(_) => None,
        Target::File(id) => match files::find(app, *id)? {
            Some(file) => Some(file),
            None => return Ok(Outcome::UnknownFile),
        },
    };
    if standing(app, HOLDS)?.len() == HOLDS {
        return Ok(Outcome::TooMany);
    }
    let placed_by = who(&origin);
    let mut record = app.record(Action::HoldPlaced, Phase::Outcome, origin);
    record.ending = Some(Ending::Succeeded);
    record.detail = Some(shortened(&reason));
    match &target {
        Target::Cohort(cohort) => record.cohort = Some(cohort.clone()),
        Target::File(id) => {
            record.cohort = file.map(|file| file.cohort);
            record.file_id = Some(*id);
        }
    }
    let placed_ms = record.time_ms;
    record.subject_ref = Some(Subject::Hold(app.next_index()).into());
    let id = app.append(record)?;
    app.put(&ON, &on_key(&target, id), &id)?;
    let row = HoldRow { placed_by, placed_ms, reason: shortened(&reason), target, v: 1 };
    app.put(&TABLE, &id.to_be_bytes(), &row)?;
    Ok(Outcome::Placed(id))
}

fn release(
    app: &mut Application<'_, '_>,
    origin: Origin,
    id: u64,
    reason: &str,
) -> Result<Outcome, CorruptError> {
    let Some(row) = app.get(&TABLE, &id.to_be_bytes())? else { return Ok(Outcome::UnknownHold) };
    let mut record = app.record(Action::HoldReleased, Phase::Outcome, origin);
    record.ending = Some(Ending::Succeeded);
    record.intent = Some(id);
    record.detail = Some(shortened(reason));
    record.subject_ref = Some(Subject::Hold(id).into());
    match &row.target {
        Target::Cohort(cohort) => record.cohort = Some(cohort.clone()),
        Target::File(file) => record.file_id = Some(*file),
    }
    app.append(record)?;
    app.delete(&TABLE, &id.to_be_bytes())?;
    app.delete(&ON, &on_key(&row.target, id))?;
    Ok(Outcome::Released(Box::new(row)))
}

/// Whether a hold stands on a file or on its cohort; if so, the oldest of them.
pub fn on_file(view: &impl View, file: FileId, cohort: &Cohort) -> Result<Option<u64>, CorruptError> {
    let mut oldest: Option<u64> = None;
    for target in [Target::File(file), Target::Cohort(cohort.clone())] {
        let found = view.scan(&ON, &target.key(), None, 1)?.first().map(|(_, id)| *id);
        oldest = [oldest, found].into_iter().flatten().min();
    }
    Ok(oldest)
}

/// The holds that stand, oldest first.
pub fn standing(view: &impl View, limit: usize) -> Result<Vec<(u64, HoldRow)>, CorruptError> {
    let rows = view.scan(&TABLE, &[], None, limit)?;
    rows.into_iter()
        .map(|(key, row)| {
            let id = <[u8; 8]>::try_from(key.as_slice()).map(u64::from_be_bytes);
            id.map(|id| (id, row)).map_err(|_| CorruptError::Row("a hold without an id".into()))
        })
        .collect()
}

fn on_key(target: &Target, id: u64) -> Vec<u8> {
    [target.key(), id.to_be_bytes().to_vec()].concat()
}

fn who(origin: &Origin) -> String {
    let user = origin.user.as_ref().map(ToString::to_string);
    user.or_else(|| origin.caller.clone()).unwrap_or_else(|| "system".to_owned())
}

fn shortened(reason: &str) -> String {
    reason[..reason.floor_char_boundary(HOLD_REASON_BYTES)].to_owned()
}
