//! The verbs about keys: `kek.status`, `kek.rotate`, `kek.rotate_root`, `kek.shred`.
//!
//! **Invariant:** no key is in an answer or a record; a new root key comes in by descriptor, never by name.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use daemon::admin::{AdminError, Caller};
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::Cohort;

use crate::admin::Admin;
use crate::admin::end_of_life::{by, parse};
use crate::keeper::{self, KeeperError};
use crate::keys::rewrap::CohortKeys;
use crate::keys::{KeysError, root};
use crate::ledger::{Action, Ending, tables};

impl Admin {
    /// `kek.status`: each cohort's key, and what is left to do.
    pub(super) async fn kek_status(&self, caller: Caller) -> Result<Value, AdminError> {
        self.record(Action::AdminKekStatus, Ending::Succeeded, caller, String::new()).await?;
        let cohorts = keeper::on_keys(&self.store, |keys| keys.cohorts()).await.map_err(refusal)?;
        Ok(json!({
            "root_key_memory": self.store.keys.protection().name(),
            "epoch": self.store.keys.epoch(),
            "cohorts": cohorts.iter().map(item).collect::<Vec<_>>(),
        }))
    }

    /// `kek.rotate`: a new key for one cohort, or for all.
    pub(super) async fn kek_rotate(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let RotateArgs { cohort } = parse(args)?;
        let cohort = cohort.map(|cohort| Cohort::parse(&cohort)).transpose();
        let cohort = cohort.map_err(|error| AdminError::new("bad-argument", format!("cohort: {error}")))?;
        let rotated = keeper::rotate(&self.store, cohort, by(caller)).await.map_err(refusal)?;
        Ok(json!({ "rotated": rotated.iter().map(item).collect::<Vec<_>>() }))
    }

    /// `kek.rotate_root`: wraps everything with the root key in the descriptor.
    pub(super) async fn kek_rotate_root(
        &self,
        caller: Caller,
        args: Value,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Value, AdminError> {
        let RootArgs { path } = parse(args)?;
        let mut files = descriptors.into_iter().map(File::from);
        let (Some(file), None) = (files.next(), files.next()) else {
            return Err(AdminError::new("bad-argument", "one descriptor: the new root key's file"));
        };
        let new =
            root::read_key(Path::new(&path), file).map_err(|error| AdminError::new("bad-argument", error))?;
        self.record(Action::KeyRootRotated, Ending::Succeeded, caller, "asked".to_owned()).await?;
        let done = keeper::on_keys(&self.store, move |keys| keys.rotate_root(&new)).await;
        done.map_err(refusal)?;
        let epoch = self.store.keys.epoch();
        self.record(Action::KeyRootRotated, Ending::Succeeded, caller, format!("epoch {epoch}")).await?;
        Ok(json!({ "epoch": epoch }))
    }

    /// `kek.shred`: deletions so far become final now, not with the day's shred.
    pub(super) async fn kek_shred(&self, caller: Caller) -> Result<Value, AdminError> {
        let shred = keeper::shred(&self.store, by(caller)).await.map_err(refusal)?;
        Ok(match shred {
            None => {
                json!({ "destroyed": 0, "survivors": 0, "epoch": self.store.keys.epoch(), "cohorts": [] })
            }
            Some(shred) => json!({
                "destroyed": shred.destroyed,
                "survivors": shred.survivors,
                "epoch": shred.epoch,
                "cohorts": shred.cohorts,
            }),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RotateArgs {
    /// None: all.
    cohort: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootArgs {
    /// For messages.
    path: String,
}

fn refusal(error: KeeperError) -> AdminError {
    let code = match &error {
        KeeperError::Keys(KeysError::NoCohort(_)) => "unknown",
        KeeperError::Ledger(_) => "ledger-unavailable",
        KeeperError::Keys(_) | KeeperError::Lost(_) => "keys-unavailable",
    };
    AdminError::new(code, error)
}

fn item(keys: &CohortKeys) -> Value {
    json!({
        "cohort": keys.cohort,
        "version": keys.version,
        "created": tables::rfc3339(keys.created_ms),
        "file_keys": keys.keys,
        "pending": keys.pending,
        "not_yet_shredded": keys.destroyed,
    })
}
