//! The verbs about the log itself: `ledger.*`.

use daemon::admin::{AdminError, Caller};
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::ledger::moment::{Command, Outcome};
use crate::ledger::{Action, Ending, Origin};

impl Admin {
    /// `ledger.checkpoint`: the newest, with the key to check it.
    pub(super) async fn ledger_checkpoint(&self, caller: Caller) -> Result<Value, AdminError> {
        self.record(Action::AdminCheckpoint, Ending::Succeeded, caller, String::new()).await?;
        let checkpoint = self.store.ledger.reader().checkpoint().map_err(unavailable)?;
        let state = checkpoint.unverified();
        Ok(json!({
            "checkpoint": checkpoint.as_str(),
            "size": state.size,
            "root": state.root.to_string(),
            "epoch": state.epoch,
            "log_key": self.store.ledger.log_key().to_string(),
        }))
    }

    /// `ledger.confirm-time`: ends the hold that stands since the clock went forward.
    pub(super) async fn ledger_confirm_time(&self, caller: Caller) -> Result<Value, AdminError> {
        let origin =
            Origin { caller: Some(format!("uid={} pid={}", caller.uid, caller.pid)), ..Origin::default() };
        match self.store.ledger.submit(Command::Confirm { origin }).await.map_err(unavailable)? {
            Outcome::Confirmed(record) => {
                self.store.metrics.operation(Action::AdminTimeConfirmed, Ending::Succeeded, None);
                Ok(json!({ "held": true, "record": record }))
            }
            Outcome::NoHold => {
                let detail = "no hold stood".to_owned();
                self.record(Action::AdminTimeConfirmed, Ending::Failed, caller, detail).await?;
                Ok(json!({ "held": false }))
            }
        }
    }
}

fn unavailable(error: impl std::fmt::Display) -> AdminError {
    AdminError::new("ledger-unavailable", error)
}
