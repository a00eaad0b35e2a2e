//! The verbs about what must go and what must not: `cleanup.*`, `hold.*`.
//!
//! **Invariant:** nothing is marked as gone while it is there, whoever says so.

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store_proto::{Cohort, FileId, ProblemKind};

use crate::admin::Admin;
use crate::ledger::cleanup::{self, Verifier};
use crate::ledger::hold::{self, HoldRow, Target};
use crate::ledger::{Action, Ending, Origin, tables};
use crate::limits::HOLDS;
use crate::reaper::{self, Before, Look};
use crate::serve::expiry;

impl Admin {
    /// `cleanup.list`: streams what is pending, or only what is overdue.
    pub(super) async fn cleanup_list(
        &self,
        caller: Caller,
        args: Value,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let ListArgs { overdue } = parse(args)?;
        self.record(Action::AdminCleanupList, Ending::Succeeded, caller, String::new()).await?;
        let now_ms = self.store.clock.unix_milliseconds();
        let pending = reaper::pending(&self.store).map_err(unavailable)?;
        let mut shown = 0_u64;
        for (id, row) in pending.iter().filter(|(_, row)| !overdue || row.is_overdue(now_ms)) {
            shown += 1;
            send(out, row.told(*id, now_ms)).await?;
        }
        Ok(json!({ "cleanups": shown }))
    }

    /// `cleanup.verify`: looks at each that is pending, takes nothing away.
    pub(super) async fn cleanup_verify(
        &self,
        caller: Caller,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        self.record(Action::AdminCleanupVerify, Ending::Succeeded, caller, String::new()).await?;
        self.look_at_all(caller, Before::OnlyLook, out).await
    }

    /// `cleanup.mark`: one is gone, says the caller; marked only if that is so.
    pub(super) async fn cleanup_mark(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let IdArgs { id } = parse(args)?;
        let row = self.read(|snapshot| cleanup::find(snapshot, id))?;
        let row = row.ok_or_else(|| AdminError::new("unknown", format!("there is no cleanup {id}")))?;
        if row.cleaned_up.is_some() {
            return Ok(json!({ "id": id, "cleaned_up": true, "already": true }));
        }
        let (origin, verifier) = (by(caller), Verifier::Operator(format!("uid={}", caller.uid)));
        let looked = reaper::look(&self.store, id, &row, Before::OnlyLook, origin, verifier).await;
        match looked.map_err(unavailable)? {
            Look::Gone => Ok(json!({ "id": id, "cleaned_up": true })),
            Look::Still(why) => Err(AdminError::new("still-there", format!("cleanup {id}: {why}"))),
        }
    }

    /// `cleanup.emergency`: takes away everything temporary at once. Without `confirm` it is only listed.
    pub(super) async fn cleanup_emergency(
        &self,
        caller: Caller,
        args: Value,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let EmergencyArgs { confirm } = parse(args)?;
        if !confirm {
            let listed = self.cleanup_list(caller, Value::Null, out).await?;
            let uploads = self.each_unfinished_upload(false, out).await?;
            return Ok(json!({ "cleanups": listed["cleanups"], "uploads": uploads.gone }));
        }
        let asked = "every temporary thing, at once".to_owned();
        self.record(Action::AdminCleanupEmergency, Ending::Succeeded, caller, asked).await?;
        // What comes in now breaks off and tidies up after itself; what can be resumed is given up.
        let broken_off = self.store.live.end_uploads().uploads;
        let uploads = self.each_unfinished_upload(true, out).await?;
        let mut done = self.look_at_all(caller, Before::Remove, out).await?;
        done["gone"] = (done["gone"].as_u64().unwrap_or(0) + uploads.gone).into();
        done["still_there"] = (done["still_there"].as_u64().unwrap_or(0) + uploads.still).into();
        done["uploads_ended"] = uploads.gone.into();
        done["uploads_broken_off"] = broken_off.into();
        let told = format!(
            "{} gone, {} still there; of them {} unfinished uploads; {broken_off} requests broken off",
            done["gone"], done["still_there"], uploads.gone
        );
        let ending = if done["still_there"] == 0 { Ending::Succeeded } else { Ending::Failed };
        self.record(Action::AdminCleanupEmergency, ending, caller, told).await?;
        Ok(done)
    }

    /// Shows the unfinished uploads, and ends them if that is what is asked.
    async fn each_unfinished_upload(&self, end: bool, out: &mut Replies) -> Result<Counted, AdminError> {
        let (mut counted, mut after) = (Counted { gone: 0, still: 0 }, None);
        while let Some((last, some)) = expiry::unfinished(&self.store, after).map_err(unavailable)? {
            after = Some(last);
            for (upload, row) in some {
                let mut item = json!({
                    "kind": "partial_upload",
                    "upload": upload,
                    "file_id": row.file_id,
                    "expected_cleanup_by": tables::rfc3339(row.expires_ms),
                    "cleaned_up": false,
                });
                let ended = match end {
                    true => expiry::end_upload(&self.store, upload, "given up by an emergency cleanup").await,
                    false => Ok(()),
                };
                match ended {
                    Ok(()) => {
                        counted.gone += 1;
                        item["cleaned_up"] = end.into();
                    }
                    // It became a file, or was given up, while the others were looked at.
                    Err(refusal) if refusal.kind == ProblemKind::UnknownUpload => continue,
                    Err(refusal) => {
                        counted.still += 1;
                        item["last_error"] = refusal.kind.name().into();
                    }
                }
                send(out, item).await?;
            }
        }
        Ok(counted)
    }

    async fn look_at_all(
        &self,
        caller: Caller,
        before: Before,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let (mut gone, mut still) = (0_u64, 0_u64);
        for (id, row) in reaper::pending(&self.store).map_err(unavailable)? {
            let looked = reaper::look(&self.store, id, &row, before, by(caller), Verifier::System).await;
            let mut item = row.told(id, self.store.clock.unix_milliseconds());
            match looked.map_err(unavailable)? {
                Look::Gone => {
                    gone += 1;
                    item["cleaned_up"] = true.into();
                    item["cleanup_verified_by"] = "system".into();
                }
                Look::Still(why) => {
                    still += 1;
                    item["last_error"] = why.into();
                }
            }
            send(out, item).await?;
        }
        Ok(json!({ "gone": gone, "still_there": still }))
    }

    /// `hold.place`: nothing of a file or cohort is deleted from here on.
    pub(super) async fn hold_place(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let PlaceArgs { cohort, file, reason } = parse(args)?;
        let target = match (cohort, file) {
            (Some(cohort), None) => Target::Cohort(parse_name("cohort", Cohort::parse(&cohort))?),
            (None, Some(file)) => Target::File(parse_name("file", FileId::parse(&file))?),
            (Some(_), Some(_)) | (None, None) => {
                return Err(AdminError::new("bad-argument", "either a cohort or a file"));
            }
        };
        if let Target::Cohort(cohort) = &target
            && self.store.policy.load().cohort(cohort).is_none()
        {
            return Err(AdminError::new("unknown", format!("there is no cohort {cohort}")));
        }
        if reason.trim().is_empty() {
            return Err(AdminError::new("bad-argument", "reason: a hold has one"));
        }
        let command = hold::Command::Place { origin: by(caller), target, reason };
        match self.store.ledger.submit(command).await.map_err(unavailable)? {
            hold::Outcome::Placed(id) => Ok(json!({ "id": id })),
            hold::Outcome::TooMany => {
                Err(AdminError::new("too-many", format!("{HOLDS} holds stand; release some")))
            }
            hold::Outcome::UnknownFile => Err(AdminError::new("unknown", "there is no such file")),
            hold::Outcome::Released(_) | hold::Outcome::UnknownHold => {
                unreachable!("a place is not answered like a release")
            }
        }
    }

    /// `hold.release`.
    pub(super) async fn hold_release(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let ReleaseArgs { id, reason } = parse(args)?;
        if reason.trim().is_empty() {
            return Err(AdminError::new("bad-argument", "reason: a release has one"));
        }
        let command = hold::Command::Release { origin: by(caller), id, reason };
        match self.store.ledger.submit(command).await.map_err(unavailable)? {
            hold::Outcome::Released(row) => Ok(hold_item(id, &row)),
            hold::Outcome::UnknownHold => {
                Err(AdminError::new("unknown", format!("there is no hold {id} that stands")))
            }
            hold::Outcome::Placed(_) | hold::Outcome::UnknownFile | hold::Outcome::TooMany => {
                unreachable!("a release is not answered like a place")
            }
        }
    }

    /// `hold.list`: streams what stands.
    pub(super) async fn hold_list(&self, caller: Caller, out: &mut Replies) -> Result<Value, AdminError> {
        self.record(Action::AdminHoldList, Ending::Succeeded, caller, String::new()).await?;
        let standing = self.read(|snapshot| hold::standing(snapshot, HOLDS))?;
        for (id, row) in &standing {
            send(out, hold_item(*id, row)).await?;
        }
        Ok(json!({ "holds": standing.len() }))
    }

    fn read<T>(
        &self,
        question: impl FnOnce(&crate::ledger::Snapshot) -> Result<T, tables::CorruptError>,
    ) -> Result<T, AdminError> {
        let snapshot = self.store.ledger.reader().snapshot().map_err(unavailable)?;
        question(&snapshot).map_err(unavailable)
    }
}

struct Counted {
    gone: u64,
    still: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListArgs {
    overdue: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdArgs {
    id: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EmergencyArgs {
    confirm: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceArgs {
    #[serde(default)]
    cohort: Option<String>,
    #[serde(default)]
    file: Option<String>,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseArgs {
    id: u64,
    reason: String,
}

pub(super) fn parse<T: DeserializeOwned>(args: Value) -> Result<T, AdminError> {
    let args = if args.is_null() { json!({}) } else { args };
    serde_json::from_value(args).map_err(|error| AdminError::new("bad-argument", error))
}

fn parse_name<T, E: std::fmt::Display>(what: &str, parsed: Result<T, E>) -> Result<T, AdminError> {
    parsed.map_err(|error| AdminError::new("bad-argument", format!("{what}: {error}")))
}

pub(super) fn by(caller: Caller) -> Origin {
    Origin { caller: Some(format!("uid={} pid={}", caller.uid, caller.pid)), ..Origin::default() }
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> AdminError {
    AdminError::new("ledger-unavailable", error.to_string())
}

pub(super) async fn send(out: &mut Replies, item: Value) -> Result<(), AdminError> {
    out.item(item).await.map_err(|error| AdminError::new("gone", error))
}

fn hold_item(id: u64, row: &HoldRow) -> Value {
    let (cohort, file) = match &row.target {
        Target::Cohort(cohort) => (Some(cohort), None),
        Target::File(file) => (None, Some(file)),
    };
    json!({
        "id": id,
        "cohort": cohort,
        "file_id": file,
        "reason": row.reason,
        "placed_by": row.placed_by,
        "placed_at": tables::rfc3339(row.placed_ms),
    })
}
