//! What a store owes to whoever uploaded, whatever happened since: looked at from outside.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::load::{Sent, Told, content};
use super::{Connection, Store};
use crate::culvert::COHORT;
use crate::payload::hex;

/// A file as the store lists it.
#[derive(Debug, Clone)]
struct Listed {
    file_id: String,
    sha256: String,
    size: u64,
}

impl Store {
    /// Holds a running store to everything that its writers know. `told` may come from before any number of crashes;
    /// bytes are read of what is not in `told.looked_at`, and are in it afterwards. What was sent without an answer is sent again, which has to succeed, and is acknowledged from then on.
    pub fn keep_promises(&self, told: &mut Told) -> Result<()> {
        self.keep_acknowledged(told)?;
        self.send_again(&mut self.connect()?, told)
    }

    /// The same without sending anything again.
    pub fn keep_acknowledged(&self, told: &mut Told) -> Result<()> {
        let mut client = self.connect()?;
        let listed = self.listed(&mut client)?;
        for (path, (file_id, _)) in &told.acknowledged {
            let there =
                listed.get(path).with_context(|| format!("{path} was acknowledged and is not listed"))?;
            ensure!(
                there.file_id == *file_id,
                "{path} was acknowledged as {file_id} and is {}",
                there.file_id
            );
        }
        for (path, file) in &listed {
            let known = told.acknowledged.get(path).map(|(_, sent)| sent);
            // An answer that was lost is no harm if all of the file had come.
            let known = known.or_else(|| told.unanswered.get(path));
            let known = known.or_else(|| told.refused.get(path).map(|(_, _, sent)| sent));
            let Some(sent) = known else { bail!("{path} is listed and nobody sent it") };
            ensure!(
                file.sha256 == sent.sha256 && file.size == sent.size,
                "{path} is listed with {} bytes, not with the {} that were sent",
                file.size,
                sent.size
            );
            if !told.looked_at.contains(path) {
                served(&mut client, &file.file_id, sent).with_context(|| path.clone())?;
                told.looked_at.insert(path.clone());
            }
        }
        self.trail_is_whole(&listed)?;
        self.nothing_is_left(listed.len())
    }

    /// Every file of the cohort, by path.
    fn listed(&self, client: &mut Connection) -> Result<BTreeMap<String, Listed>> {
        let (mut files, mut cursor) = (BTreeMap::new(), String::new());
        loop {
            let target = format!("/internal/v1/cohorts/{COHORT}/files?limit=1000&cursor={cursor}");
            let page: Value = serde_json::from_slice(&client.request("GET", &target)?.expect(200)?.body)?;
            for file in page["files"].as_array().into_iter().flatten() {
                let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
                let size = file["size"].as_u64().context("a listed file without a size")?;
                let entry = Listed { file_id: text("file_id"), sha256: text("sha256"), size };
                ensure!(files.insert(text("path"), entry).is_none(), "{} is listed twice", file["path"]);
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return Ok(files),
            }
        }
    }

    /// Each file has its records, and nothing that was begun is open.
    fn trail_is_whole(&self, listed: &BTreeMap<String, Listed>) -> Result<()> {
        let trail = self.trail()?;
        let mut open = BTreeSet::new();
        let mut created: BTreeMap<String, String> = BTreeMap::new();
        for (place, record) in (0_u64..).zip(&trail) {
            ensure!(record["index"] == place, "record {place} of the trail has number {}", record["index"]);
            match record["phase"].as_str() {
                Some("intent") => {
                    open.insert(place);
                }
                _ => {
                    if let Some(intent) = record["intent"].as_u64() {
                        open.remove(&intent);
                    }
                }
            }
            if record["action"] == "nas_raw_created" && record["ending"] == "succeeded" {
                let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
                created.insert(text("file_id"), text("sha256"));
            }
        }
        // Being asked for the trail is recorded, maybe in two phases.
        open.retain(|&index| trail.len() as u64 - index > 4);
        ensure!(open.is_empty(), "the intents {open:?} are open in a store at rest");
        for (path, file) in listed {
            ensure!(
                created.get(&file.file_id) == Some(&file.sha256),
                "{path} has no record of its arrival with its hash: {:?}",
                created.get(&file.file_id)
            );
        }
        Ok(())
    }

    /// No temporary file, and not more objects than files.
    fn nothing_is_left(&self, files: usize) -> Result<()> {
        let temporary = self.files("tmp")?;
        ensure!(temporary.is_empty(), "temporary files are left: {temporary:?}");
        let objects = self.files("objects")?;
        ensure!(objects.len() == files, "{} objects for {files} files", objects.len());
        Ok(())
    }

    fn send_again(&self, client: &mut Connection, told: &mut Told) -> Result<()> {
        let refused = std::mem::take(&mut told.refused).into_iter().map(|(path, (_, _, sent))| (path, sent));
        let again: Vec<_> = std::mem::take(&mut told.unanswered).into_iter().chain(refused).collect();
        for (path, sent) in again {
            let answer = client.put(&path, &content(sent.seed, sent.size))?;
            ensure!(
                matches!(answer.status, 200 | 201),
                "{path} was sent again and answered {}: {}",
                answer.status,
                answer.text()
            );
            let receipt = super::receipt(&answer)?;
            ensure!(receipt.sha256 == sent.sha256, "{path} was sent again and has another hash");
            told.acknowledged.insert(path, (receipt.file_id, sent));
        }
        Ok(())
    }
}

/// The file is there and has the bytes that were sent.
fn served(client: &mut Connection, file_id: &str, sent: &Sent) -> Result<()> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let answer = client.get(file_id, None, |bytes| {
        hash.update(bytes);
        size += bytes.len() as u64;
    })?;
    ensure!(answer.status == 200, "is answered {}: {}", answer.status, answer.text());
    ensure!(size == sent.size && hex(&hash.finalize()) == sent.sha256, "has other bytes than were sent");
    Ok(())
}
