//! The verbs about where things are: `volume.*`, `usage`, `upload.*`.
//!
//! **Invariant:** what this ledger does not know is shown and never touched but by `volume.set_aside`, which is
//! recorded first; names of files are told to nobody here.

use std::sync::Arc;

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::FileId;

use crate::admin::Admin;
use crate::admin::end_of_life::{parse, send, unavailable};
use crate::ledger::{Action, Ending, tables};
use crate::limits::PREEMPTION_WAIT;
use crate::objects::Found;
use crate::serve::stretch::{discard, resumable};
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

    /// `upload.list`: the uploads that can be resumed.
    pub(super) async fn upload_list(&self, caller: Caller, out: &mut Replies) -> Result<Value, AdminError> {
        self.record(Action::AdminUploadList, Ending::Succeeded, caller, String::new()).await?;
        let (mut open, mut after) = (0_u64, None);
        loop {
            let some = self.store.ledger.reader().partials(after).map_err(unavailable)?;
            after = some.last().map(|(upload, _)| *upload);
            if after.is_none() {
                return Ok(json!({ "uploads": open }));
            }
            for (upload, row) in some.into_iter().filter(|(_, row)| !row.finished) {
                open += 1;
                let item = json!({
                    "upload": upload,
                    "user": row.user,
                    "offset": row.offset,
                    "length": row.length,
                    "parts": row.parts,
                    "created_at": tables::rfc3339(row.created_ms),
                    "expires_at": tables::rfc3339(row.expires_ms),
                    "being_written": self.store.writers.is_busy(upload),
                });
                send(out, item).await?;
            }
        }
    }

    /// `upload.cancel`: gives one up in its sender's place.
    pub(super) async fn upload_cancel(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let Cancel { upload } = parse(args)?;
        let unknown = || AdminError::new("unknown", format!("there is no upload {upload}"));
        let found = resumable(&self.store, upload).map_err(|_| unknown())?;
        if found.row.finished {
            return Err(unknown());
        }
        self.record(Action::AdminUploadCancel, Ending::Succeeded, caller, upload.to_string()).await?;
        let turn = self.store.writers.turn(upload, PREEMPTION_WAIT).await;
        let _turn = turn.ok_or_else(|| AdminError::new("busy", "its sender's request does not end"))?;
        let why = "given up by an operator".to_owned();
        let gone = discard(&self.store, upload, Ending::Aborted, why, None).await;
        gone.map_err(|refusal| AdminError::new(refusal.kind.name(), "it could not be removed"))?;
        Ok(json!({ "upload": upload, "cancelled": true }))
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    upload: FileId,
}
