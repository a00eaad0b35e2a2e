//! The verbs about deletions: `shred.file`, `shred.list`, `shred.certificate`. (`kek.shred` makes them final.)

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::{Cohort, FileId, LogicalPath};

use crate::admin::Admin;
use crate::deletion::{self, DeleteError};
use crate::ledger::deletion as book;
use crate::ledger::{Action, Ending, Origin};

impl Admin {
    /// `shred.file`: deletes a file, by its id or by its name; with `final` the keys are shredded at once.
    pub(super) async fn shred_file(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let args: FileArgs =
            serde_json::from_value(args).map_err(|error| AdminError::new("bad-argument", error))?;
        if args.reason.trim().is_empty() {
            return Err(AdminError::new("bad-argument", "reason: a deletion has one"));
        }
        let file_id = self.named(&args)?;
        let origin =
            Origin { caller: Some(format!("uid={} pid={}", caller.uid, caller.pid)), ..Origin::default() };
        let deleted = deletion::delete(&self.store, origin.clone(), file_id, args.reason).await;
        deleted.map_err(refused)?;
        if args.make_final {
            deletion::shred(&self.store, origin).await.map_err(refused)?;
        }
        self.certificate(file_id)
    }

    /// `shred.list`: streams the deletions that are not at their end.
    pub(super) async fn shred_list(&self, caller: Caller, out: &mut Replies) -> Result<Value, AdminError> {
        self.record(Action::AdminDeletions, Ending::Succeeded, caller, "unfinished".to_owned()).await?;
        let unfinished = deletion::unfinished(&self.store).map_err(refused)?;
        for (file_id, row) in &unfinished {
            let item = deletion::certificate(*file_id, row, "");
            out.item(item).await.map_err(|error| AdminError::new("gone", error))?;
        }
        Ok(json!({ "deletions": unfinished.len() }))
    }

    /// `shred.certificate`: what one deletion can show.
    pub(super) async fn shred_certificate(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let args: CertificateArgs =
            serde_json::from_value(args).map_err(|error| AdminError::new("bad-argument", error))?;
        let file_id = FileId::parse(&args.file)
            .map_err(|error| AdminError::new("bad-argument", format!("file: {error}")))?;
        self.record(Action::AdminDeletions, Ending::Succeeded, caller, format!("certificate of {file_id}"))
            .await?;
        self.certificate(file_id)
    }

    fn certificate(&self, file_id: FileId) -> Result<Value, AdminError> {
        let unavailable = |error| AdminError::new("ledger-unavailable", error);
        let snapshot = self.store.ledger.reader().snapshot().map_err(unavailable)?;
        let row = book::find(&snapshot, file_id).map_err(unavailable)?;
        let row = row.ok_or_else(|| AdminError::new("unknown", format!("{file_id} was not deleted")))?;
        let checkpoint = snapshot.checkpoint().map_err(unavailable)?;
        Ok(deletion::certificate(file_id, &row, checkpoint.as_str()))
    }

    fn named(&self, args: &FileArgs) -> Result<FileId, AdminError> {
        let bad = |what: &str, error: &dyn std::fmt::Display| {
            AdminError::new("bad-argument", format!("{what}: {error}"))
        };
        match (&args.file, &args.cohort, &args.path) {
            (Some(file), None, None) => FileId::parse(file).map_err(|error| bad("file", &error)),
            (None, Some(cohort), Some(path)) => {
                let cohort = Cohort::parse(cohort).map_err(|error| bad("cohort", &error))?;
                let path = LogicalPath::parse(path).map_err(|error| bad("path", &error))?;
                let found = self.store.ledger.reader().file_at(&cohort, &path);
                let found = found.map_err(|error| AdminError::new("ledger-unavailable", error))?;
                found.map(|file| file.file_id).ok_or_else(|| refused(DeleteError::UnknownFile))
            }
            _ => Err(AdminError::new("bad-argument", "either a file, or a cohort and a path")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileArgs {
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    cohort: Option<String>,
    #[serde(default)]
    path: Option<String>,
    reason: String,
    #[serde(default, rename = "final")]
    make_final: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateArgs {
    file: String,
}

fn refused(error: DeleteError) -> AdminError {
    let code = match error {
        DeleteError::Held(_) | DeleteError::Retained { .. } => "retention-locked",
        DeleteError::UnknownFile => "unknown",
        DeleteError::Ledger(_) | DeleteError::Storage(_) => "ledger-unavailable",
    };
    AdminError::new(code, error)
}
