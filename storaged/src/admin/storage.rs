//! The verbs about where things are: `volume.*`, `usage`, `upload.*`.
//!
//! **Invariant:** what this ledger does not know is shown and never touched but by `volume.set_aside`, which is
//! recorded first; names of files are told to nobody here.

use std::sync::Arc;
use std::time::Instant;

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::FileId;

use crate::admin::Admin;
use crate::admin::end_of_life::{parse, send, unavailable};
use crate::ledger::partial::PartialRow;
use crate::ledger::{Action, Ending, tables};
use crate::objects::Found;
use crate::serve::expiry;
use crate::serve::stretch::resumable;
use crate::serve::under_way::Moment;
use crate::volumes::VolumeState;

impl Admin {
    /// `volume.list`: each volume with its room.
    pub(super) async fn volume_list(&self, caller: Caller, out: &mut Replies) -> Result<Value, AdminError> {
        self.record(Action::AdminVolumeList, Ending::Succeeded, caller, String::new()).await?;
        for volume in &self.store.volumes {
            let space = volume.space();
            let item = json!({
                "volume": volume.name,
                "volume_id": volume.backend.id(),
                "usable": volume.is_usable(),
                "size_bytes": space.size_bytes,
                "available_bytes": space.available_bytes,
                "reserve_bytes": volume.reserve_bytes(),
                "room_bytes": volume.room_bytes(),
            });
            send(out, item).await?;
        }
        Ok(json!({ "volumes": self.store.volumes.len() }))
    }

    /// `volume.unclaimed`: what lies on the volumes and is in no ledger.
    pub(super) async fn volume_unclaimed(
        &self,
        caller: Caller,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        self.record(Action::AdminVolumeUnclaimed, Ending::Succeeded, caller, String::new()).await?;
        let mut count = 0_u64;
        for volume in &self.store.volumes {
            let found = self.store.unclaimed(volume).await;
            for found in found.map_err(|error| AdminError::new("backend-unavailable", error))? {
                count += 1;
                let (kind, what) = match found {
                    Found::Object(object) => ("object", object.to_string()),
                    Found::Temporary(object) => ("temporary", object.to_string()),
                    Found::Stray(path) => ("stray", path),
                };
                send(out, json!({ "volume": volume.name, "kind": kind, "what": what })).await?;
            }
        }
        Ok(json!({ "unclaimed": count }))
    }

    /// `volume.set_aside`: moves an unclaimed object out of the way, to `aside/` on its volume.
    pub(super) async fn volume_set_aside(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let SetAside { volume, object } = parse(args)?;
        let state = self.volume(&volume)?;
        let found = self.store.unclaimed(state).await;
        let found = found.map_err(|error| AdminError::new("backend-unavailable", error))?;
        if !found.contains(&Found::Object(object)) && !found.contains(&Found::Temporary(object)) {
            let why = format!("volume {volume} has no unclaimed object {object}");
            return Err(AdminError::new("unknown", why));
        }
        let what = format!("{object} on {volume}");
        self.record(Action::AdminVolumeSetAside, Ending::Succeeded, caller, what).await?;
        let backend = Arc::clone(&state.backend);
        let moved = state.pool.run(move || backend.set_aside(object)).await;
        match moved.map_err(std::io::Error::from).and_then(|moved| moved) {
            Ok(()) => Ok(json!({ "volume": volume, "object": object, "set_aside": true })),
            Err(error) => {
                let what = format!("{object} on {volume}: it stays");
                self.record(Action::AdminVolumeSetAside, Ending::Failed, caller, what).await?;
                Err(AdminError::new("backend-unavailable", error))
            }
        }
    }

    /// `usage`: what each cohort uses, and where.
    pub(super) async fn usage(&self, caller: Caller, out: &mut Replies) -> Result<Value, AdminError> {
        self.record(Action::AdminUsage, Ending::Succeeded, caller, String::new()).await?;
        let reader = self.store.ledger.reader();
        let policy = self.store.policy.load();
        let by_volume = reader.usage_by_volume().map_err(unavailable)?;
        for cohort in policy.book().cohorts.keys() {
            let used = reader.usage(cohort).map_err(unavailable)?;
            let quota = policy.cohort(cohort).map(|rules| rules.quota()).unwrap_or_default();
            let volumes: Vec<Value> = by_volume
                .iter()
                .filter(|(of, _, _)| of == cohort)
                .map(|(_, volume, there)| {
                    let named = self.store.volume(*volume).map(|state| state.name.clone());
                    json!({
                        "volume": named.unwrap_or_else(|| volume.to_string()),
                        "objects": there.objects,
                        "sealed_bytes": there.sealed_bytes,
                    })
                })
                .collect();
            let item = json!({
                "cohort": cohort,
                "files": used.files,
                "bytes": used.bytes,
                "reserved_files": used.reserved_files,
                "reserved_bytes": used.reserved_bytes,
                "quota_files": quota.files,
                "quota_bytes": quota.bytes,
                "volumes": volumes,
            });
            send(out, item).await?;
        }
        Ok(json!({ "cohorts": policy.book().cohorts.len() }))
    }

    /// `upload.list`: the uploads that can be resumed, and those that come in one piece at this moment.
    pub(super) async fn upload_list(&self, caller: Caller, out: &mut Replies) -> Result<Value, AdminError> {
        self.record(Action::AdminUploadList, Ending::Succeeded, caller, String::new()).await?;
        let now = self.store.clock.now();
        let (mut open, mut after) = (0_u64, None);
        while let Some((last, some)) = expiry::unfinished(&self.store, after).map_err(unavailable)? {
            after = Some(last);
            for (upload, row) in some {
                open += 1;
                send(out, self.waiting(upload, &row, now)).await?;
            }
        }
        for (upload, moment) in self.store.under_way.list(now) {
            if !moment.about.resumable {
                open += 1;
                send(out, running(upload, &moment, now)).await?;
            }
        }
        Ok(json!({ "uploads": open }))
    }

    /// `upload.show`: one of them.
    pub(super) async fn upload_show(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let OneUpload { upload } = parse(args)?;
        self.record(Action::AdminUploadList, Ending::Succeeded, caller, upload.to_string()).await?;
        let now = self.store.clock.now();
        if let Ok(found) = resumable(&self.store, upload)
            && !found.row.finished
        {
            let mut item = self.waiting(upload, &found.row, now);
            let parts = found.parts.iter().map(|part| {
                let volume = self.store.volume(part.volume).map(|volume| volume.name.clone());
                json!({ "part": part.part, "size": part.size, "volume": volume })
            });
            item["objects"] = parts.collect();
            item["cohort"] = json!(found.intent.map(|intent| intent.cohort));
            return Ok(item);
        }
        let moment = self.store.under_way.find(upload, now);
        moment.map(|moment| running(upload, &moment, now)).ok_or_else(|| unknown(upload))
    }

    /// `upload.cancel`: gives one up in its sender's place.
    pub(super) async fn upload_cancel(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let OneUpload { upload } = parse(args)?;
        let known = resumable(&self.store, upload).is_ok_and(|found| !found.row.finished);
        let now = self.store.clock.now();
        if !known && self.store.under_way.find(upload, now).is_none() {
            return Err(unknown(upload));
        }
        self.record(Action::AdminUploadCancel, Ending::Succeeded, caller, upload.to_string()).await?;
        if known {
            let ended = expiry::end_upload(&self.store, upload, "given up by an operator").await;
            ended.map_err(|refusal| AdminError::new(refusal.kind.name(), "it could not be removed"))?;
        } else if !self.store.under_way.give_up(upload) {
            return Err(unknown(upload));
        }
        Ok(json!({ "upload": upload, "cancelled": true }))
    }

    /// An upload that can be resumed, and what its request does if one runs.
    fn waiting(&self, upload: FileId, row: &PartialRow, now: Instant) -> Value {
        let running = self.store.under_way.find(upload, now);
        let state = match (row.condemned, &running) {
            (true, _) => "ending",
            (false, Some(_)) => "receiving",
            (false, None) => "interrupted",
        };
        let mut item = json!({
            "upload": upload,
            "resumable": true,
            "state": state,
            "user": row.user,
            "offset": row.offset,
            "length": row.length,
            "parts": row.parts,
            "waits_for": "sender",
            "created_at": tables::rfc3339(row.created_ms),
            "expires_at": tables::rfc3339(row.expires_ms),
            "being_written": self.store.writers.is_busy(upload),
        });
        if let Some(moment) = running {
            describe(&mut item, &moment, now);
        }
        item
    }

    fn volume(&self, name: &str) -> Result<&Arc<VolumeState>, AdminError> {
        let found = self.store.volumes.iter().find(|volume| volume.name == name);
        found.ok_or_else(|| AdminError::new("unknown", format!("there is no volume {name:?}")))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetAside {
    volume: String,
    object: FileId,
}

fn unknown(upload: FileId) -> AdminError {
    AdminError::new("unknown", format!("there is no upload {upload}"))
}

/// An upload in one piece.
pub(super) fn running(upload: FileId, moment: &Moment, now: Instant) -> Value {
    let mut item = json!({
        "upload": upload,
        "resumable": moment.about.resumable,
        "state": "receiving",
        "user": moment.about.user,
        "offset": moment.about.offset,
        "length": moment.about.length,
    });
    describe(&mut item, moment, now);
    item
}

/// Of a request that runs: `received` counts from `offset`, and is durable only when it is part of that.
fn describe(item: &mut Value, moment: &Moment, now: Instant) {
    item["received"] = moment.received.into();
    item["bytes_per_second"] = moment.bytes_per_second.into();
    item["last_byte_seconds_ago"] = now.duration_since(moment.last_byte).as_secs_f64().into();
    item["waits_for"] = moment.waits_for.name().into();
    item["request"] = json!(moment.about.request);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneUpload {
    upload: FileId,
}
