//! The verb `ledger.verify`: walks over the whole log while the store goes on.

use std::ops::ControlFlow;

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde_json::Value;

use crate::admin::Admin;
use crate::admin::end_of_life::parse;
use crate::ledger::verify::{self, Claim};
use crate::ledger::{Action, Ending};
use crate::limits::VERIFY_CLAIMS;

impl Admin {
    /// `ledger.verify`: streams how far it is and what it finds. One at a time, for it reads as fast as it can.
    pub(super) async fn ledger_verify(
        &self,
        caller: Caller,
        args: Value,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let Args { against: claims } = parse(args)?;
        if claims.len() > VERIFY_CLAIMS {
            return Err(AdminError::new("bad-argument", format!("against: at most {VERIFY_CLAIMS} at once")));
        }
        let Ok(_only_one) = self.verifying.try_lock() else {
            return Err(AdminError::new("busy", "the log is being verified already"));
        };
        let begun = format!("begun, against {} receipts or checkpoints", claims.len());
        self.record(Action::AdminLedgerVerify, Ending::Succeeded, caller, begun).await?;
        let (reader, key) = (self.store.ledger.reader().clone(), self.store.ledger.log_key().clone());
        let (events, mut stream) = tokio::sync::mpsc::channel(64);
        let walking = tokio::task::spawn_blocking(move || {
            verify::verify(&reader, &key, &claims, |event| match events.blocking_send(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_gone) => ControlFlow::Break(()),
            })
        });
        while let Some(event) = stream.recv().await {
            out.item(event.to_json()).await.map_err(|error| AdminError::new("gone", error))?;
        }
        let summary = walking.await.map_err(|error| AdminError::new("internal", error))?;
        let summary = summary.map_err(|error| AdminError::new("ledger-unavailable", error))?;
        let fine = summary.findings == 0;
        self.store.metrics.ledger_verified(fine, self.store.clock.unix_milliseconds());
        let ending = if fine { Ending::Succeeded } else { Ending::Failed };
        let detail = format!("{} records, {} findings", summary.records, summary.findings);
        self.record(Action::AdminLedgerVerify, ending, caller, detail).await?;
        Ok(summary.to_json())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Args {
    against: Vec<Claim>,
}
