//! The clock, as the ledger has to trust it, and area *moment*: an operator says that it is right.
//!
//! **Invariant:** the ledger's time never goes back. If the wall clock goes forward by more than an hour that
//! the machine's own running time does not explain, a *hold* stands from then on: whatever deletes because of a
//! date waits until somebody has looked at the clock.

use serde::{Deserialize, Serialize};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::CorruptError;
use crate::limits::CLOCK_STEP_MS;

/// The key `last`: when the last group was written.
pub const MOMENTS: StateTable<Moment> = StateTable::new("moments");
/// The key `hold`: the hold, if one stands.
pub const TIME_HOLDS: StateTable<TimeHold> = StateTable::new("time_holds");

const LAST: &[u8] = b"last";
const HOLD: &[u8] = b"hold";

/// What the clocks said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Of which boot `running_ms` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// How long the machine had been running, sleep included.
    pub running_ms: u64,
    /// The wall clock, milliseconds since 1970.
    pub wall_ms: u64,
}

/// The clock went forward, and nobody has confirmed it yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeHold {
    /// What the wall clock said before.
    pub from_ms: u64,
    /// What it said then.
    pub to_ms: u64,
    /// The row's version.
    pub v: u32,
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// The clock is right: the hold ends.
    Confirm {
        /// Who says so.
        origin: Origin,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ended; the record's index.
    Confirmed(u64),
    /// None stood.
    NoHold,
}

impl Area for Command {
    fn waits_for_mirror(&self) -> bool {
        true
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        let Command::Confirm { origin } = self;
        let Some(hold) = app.get(&TIME_HOLDS, HOLD)? else { return Ok(Outcome::NoHold) };
        app.delete(&TIME_HOLDS, HOLD)?;
        let mut record = app.record(Action::AdminTimeConfirmed, Phase::Outcome, origin);
        record.ending = Some(Ending::Succeeded);
        record.detail = Some(hold.to_string());
        app.append(record).map(Outcome::Confirmed)
    }
}

impl std::fmt::Display for TimeHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.to_ms.saturating_sub(self.from_ms) / 1000;
        write!(f, "the clock went forward by {seconds} s")
    }
}

/// The hold that stands.
pub fn hold(view: &impl View) -> Result<Option<TimeHold>, CorruptError> {
    view.get(&TIME_HOLDS, HOLD)
}

/// Whether what deletes because of a date may believe the clocks: no hold stands, and none would come about now.
pub(crate) fn is_trusted(view: &impl View, now: &Moment) -> Result<bool, CorruptError> {
    let last = view.get(&MOMENTS, LAST)?;
    Ok(hold(view)?.is_none() && last.is_none_or(|last| step_ms(&last, now) <= CLOCK_STEP_MS))
}

/// Compares the clocks with what they said at the last group, and remembers them.
pub(crate) fn look(app: &mut Application<'_, '_>, now: Moment) -> Result<(), CorruptError> {
    if let Some(last) = app.get(&MOMENTS, LAST)? {
        let hold = TimeHold { from_ms: last.wall_ms, to_ms: now.wall_ms, v: 1 };
        if step_ms(&last, &now) > CLOCK_STEP_MS && app.get(&TIME_HOLDS, HOLD)?.is_none() {
            app.put(&TIME_HOLDS, HOLD, &hold)?;
            let mut record = app.record(Action::AdminTimeHeld, Phase::Outcome, Origin::default());
            record.ending = Some(Ending::Succeeded);
            record.detail = Some(hold.to_string());
            app.append(record)?;
        }
    }
    app.put(&MOMENTS, LAST, &now)
}

/// How much further the wall clock went than time did. Of another boot nobody knows how long it was off, so
/// all of it counts.
fn step_ms(last: &Moment, now: &Moment) -> u64 {
    let wall = now.wall_ms.saturating_sub(last.wall_ms);
    let same_boot = now.boot_id.is_some() && now.boot_id == last.boot_id;
    if same_boot { wall.saturating_sub(now.running_ms.saturating_sub(last.running_ms)) } else { wall }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_running_time_does_not_explain_is_a_step() {
        let moment = |boot: Option<&str>, running_ms, wall_ms| Moment {
            boot_id: boot.map(str::to_owned),
            running_ms,
            wall_ms,
        };
        let last = moment(Some("a"), 1_000, 100_000);
        assert_eq!(step_ms(&last, &moment(Some("a"), 9_000_000, 9_099_000)), 0, "it was quiet for long");
        assert_eq!(step_ms(&last, &moment(Some("a"), 2_000, 5_101_000)), 5_000_000);
        assert_eq!(step_ms(&last, &moment(Some("a"), 2_000, 50)), 0, "it went back");
        assert_eq!(step_ms(&last, &moment(Some("b"), 5, 5_100_000)), 5_000_000, "another boot");
        assert_eq!(step_ms(&moment(None, 1, 0), &moment(None, 2, 7)), 7, "nobody knows");
    }
}
