//! The verb `integrity.verify`: whether the objects are what was sealed, looked at now.

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::{Cohort, FileId};

use crate::admin::end_of_life::{parse, send, unavailable};
use crate::admin::{Admin, origin};
use crate::integrity::{Depth, Pace, Verdict, look, settle};
use crate::ledger::files::{FILES, FileRow, PartRow};
use crate::ledger::integrity::{self, FindingKind};
use crate::ledger::{Action, Ending, View as _, tables};
use crate::limits::{INTEGRITY_WORD, SCRUB_BATCH};

impl Admin {
    /// `integrity.verify`: existence and length, or with `check_hashes` each byte, of all files, of a cohort's or of
    /// one. Streams how far it is and what is wrong; what the scrub found and was not looked at again stays so.
    pub(super) async fn integrity_verify(
        &self,
        caller: Caller,
        args: Value,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let asked = args.to_string();
        let Args { check_hashes, cohort, file } = parse(args)?;
        if cohort.as_ref().is_some_and(|cohort| self.store.policy.load().cohort(cohort).is_none()) {
            return Err(AdminError::new("unknown", "there is no such cohort"));
        }
        let Ok(_only_one) = self.looking_at_objects.try_lock() else {
            return Err(AdminError::new("busy", "the objects are being looked at already"));
        };
        self.record(Action::AdminIntegrity, Ending::Succeeded, caller, asked).await?;
        let depth = if check_hashes { Depth::Bytes } else { Depth::Existence };
        let all = match file {
            Some(_) => 1,
            None => self.store.ledger.reader().totals().map_err(unavailable)?.files,
        };
        let mut told = Told { out, all, files: 0, valid: 0, wrong: 0, unknown: 0 };
        let mut last = None;
        loop {
            let batch = match file {
                Some(id) if last.is_none() => {
                    let found = self.store.ledger.reader().file(id).map_err(unavailable)?;
                    vec![found.ok_or_else(|| AdminError::new("unknown", "there is no such file"))?]
                }
                Some(_) => Vec::new(),
                None => self.batch(cohort.as_ref(), last.as_ref())?,
            };
            let Some(end) = batch.last() else { break };
            last = Some(Place { file: end.file_id, index: end.ledger_index });
            for row in &batch {
                self.look_at_file(caller, row, depth, file.is_some(), &mut told).await?;
            }
            told.progress().await?;
        }
        let Told { files, valid, wrong, unknown, .. } = told;
        let ending = if wrong + unknown == 0 { Ending::Succeeded } else { Ending::Failed };
        let detail = format!("{files} files: {wrong} not valid, {unknown} could not be looked at");
        self.record(Action::AdminIntegrity, ending, caller, detail).await?;
        let cycles = self.cycles()?;
        Ok(json!({
            "files": files, "valid": valid, "not_valid": wrong, "cannot_tell": unknown,
            "check_hashes": check_hashes, "scrub": cycles,
        }))
    }

    fn batch(&self, cohort: Option<&Cohort>, last: Option<&Place>) -> Result<Vec<FileRow>, AdminError> {
        let reader = self.store.ledger.reader();
        let Some(cohort) = cohort else {
            let after = last.map(|last| *last.file.as_bytes());
            let after = after.as_ref().map(<[u8; 16]>::as_slice);
            let snapshot = reader.snapshot().map_err(unavailable)?;
            let rows = snapshot.scan(&FILES, &[], after, SCRUB_BATCH).map_err(unavailable)?;
            return Ok(rows.into_iter().map(|(_, row)| row).collect());
        };
        let listed = reader.list(cohort, last.map(|last| last.index), SCRUB_BATCH);
        Ok(listed.map_err(unavailable)?.0)
    }

    async fn look_at_file(
        &self,
        caller: Caller,
        row: &FileRow,
        depth: Depth,
        always: bool,
        told: &mut Told<'_>,
    ) -> Result<(), AdminError> {
        let mut result = Verdict::Right;
        for part in &row.parts {
            let mut looking = Box::pin(look(&self.store, part, depth, Pace::InTurns));
            let verdict = loop {
                tokio::select! {
                    verdict = &mut looking => break verdict,
                    // A large object takes longer than a caller waits for a word.
                    () = tokio::time::sleep(INTEGRITY_WORD) => told.progress().await?,
                }
            };
            let settled = settle(&self.store, &origin(caller), row.file_id, part, depth, &verdict).await;
            settled.map_err(unavailable)?;
            // Deleted while it was looked at: nothing is wrong with what is not there.
            let gone = verdict != Verdict::Right
                && self.store.ledger.reader().file(row.file_id).map_err(unavailable)?.is_none();
            if gone {
                return Ok(());
            }
            let verdict = self.with_what_stands(row.file_id, part, verdict)?;
            result = match (result, verdict) {
                (Verdict::Wrong(kind), _) | (_, Verdict::Wrong(kind)) => Verdict::Wrong(kind),
                (Verdict::CannotTell(why), _) | (_, Verdict::CannotTell(why)) => Verdict::CannotTell(why),
                (Verdict::Right, Verdict::Right) => Verdict::Right,
            };
        }
        told.file(row, &result, always).await
    }

    /// What a closer look has found counts until a look as close finds otherwise.
    fn with_what_stands(
        &self,
        file: FileId,
        part: &PartRow,
        verdict: Verdict,
    ) -> Result<Verdict, AdminError> {
        if verdict != Verdict::Right {
            return Ok(verdict);
        }
        let snapshot = self.store.ledger.reader().snapshot().map_err(unavailable)?;
        let stands = integrity::against(&snapshot, file, part.part).map_err(unavailable)?;
        Ok(stands.map_or(Verdict::Right, |row| Verdict::Wrong(row.kind)))
    }

    fn cycles(&self) -> Result<Vec<Value>, AdminError> {
        let snapshot = self.store.ledger.reader().snapshot().map_err(unavailable)?;
        let cycle = |volume: &std::sync::Arc<crate::volumes::VolumeState>| {
            let cycle = integrity::cycle(&snapshot, volume.backend.id()).map_err(unavailable)?;
            let time = |ms: u64| (ms > 0).then(|| tables::rfc3339(ms));
            Ok(json!({
                "volume": volume.name,
                "cycle": cycle.number,
                "begun_at": time(cycle.begun_ms),
                "ended_at": cycle.ended_ms.and_then(time),
                "objects": cycle.objects,
                "read_bytes": cycle.read_bytes,
                "findings": cycle.findings,
                "cannot_tell": cycle.cannot_tell,
            }))
        };
        self.store.volumes.iter().map(cycle).collect()
    }
}

/// Where a batch ended.
struct Place {
    file: FileId,
    index: u64,
}

/// What was told so far.
struct Told<'a> {
    out: &'a mut Replies,
    all: u64,
    files: u64,
    valid: u64,
    wrong: u64,
    unknown: u64,
}

impl Told<'_> {
    async fn file(&mut self, row: &FileRow, result: &Verdict, always: bool) -> Result<(), AdminError> {
        self.files += 1;
        let (is_valid, error) = match result {
            Verdict::Right => (Some(true), None),
            Verdict::Wrong(kind) => (Some(false), Some(FindingKind::sentence(*kind))),
            Verdict::CannotTell(why) => (None, Some(why.as_str())),
        };
        match is_valid {
            Some(true) => self.valid += 1,
            Some(false) => self.wrong += 1,
            None => self.unknown += 1,
        }
        if is_valid == Some(true) && !always {
            return Ok(());
        }
        let item = json!({
            "file_id": row.file_id, "cohort": row.cohort, "is_valid": is_valid, "hash": row.sha256,
            "result": result.result(), "error": error,
        });
        send(self.out, item).await
    }

    async fn progress(&mut self) -> Result<(), AdminError> {
        send(self.out, json!({ "checked": self.files, "files": self.all.max(self.files) })).await
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Args {
    check_hashes: bool,
    cohort: Option<Cohort>,
    file: Option<FileId>,
}
