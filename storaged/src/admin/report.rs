//! The verb `report.audit`: the trail of a cohort and a stretch of time as a document.
//!
//! **Invariant:** the document is over the records up to the moment it was asked for, and its foot holds a
//! checkpoint that is over each of them.

use std::ops::ControlFlow;

use daemon::admin::{AdminError, Caller, Replies};
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::Cohort;

use crate::admin::Admin;
use crate::ledger::audit::Question;
use crate::ledger::{Action, Ending, Reader};
use crate::limits::REPORT_CHUNK_BYTES;
use crate::report::{Foot, Format, Head, Report};

impl Admin {
    /// `report.audit`: streams the document as `text` items.
    pub(super) async fn report_audit(
        &self,
        caller: Caller,
        args: Value,
        out: &mut Replies,
    ) -> Result<Value, AdminError> {
        let asked = args.to_string();
        let args: ReportArgs =
            serde_json::from_value(args).map_err(|error| AdminError::new("bad-argument", error))?;
        let (format, cohort) = args.understand()?;
        if cohort.as_ref().is_some_and(|cohort| self.store.policy.load().cohort(cohort).is_none()) {
            return Err(AdminError::new("unknown", "there is no such cohort"));
        }
        self.record(Action::AdminReport, Ending::Succeeded, caller, asked).await?;
        let head = Head {
            cohort: cohort.clone(),
            from_ms: args.from_ms,
            to_ms: args.to_ms,
            made_ms: self.store.clock.unix_milliseconds(),
            made_by: format!("uid={}", caller.uid),
            store: self.store.ledger.log_key().name().to_owned(),
        };
        let question = Question {
            cohort,
            since_ms: Some(args.from_ms),
            until_ms: Some(args.to_ms),
            ..Question::default()
        };
        let reader = self.store.ledger.reader().clone();
        let (texts, mut stream) = tokio::sync::mpsc::channel::<String>(8);
        let writing = tokio::task::spawn_blocking(move || write(&reader, &question, format, &head, &texts));
        while let Some(text) = stream.recv().await {
            out.item(json!({ "text": text })).await.map_err(|error| AdminError::new("gone", error))?;
        }
        let foot = writing.await.map_err(|error| AdminError::new("internal", error))?;
        let foot = foot.map_err(|error| AdminError::new("ledger-unavailable", error))?;
        Ok(json!({ "records": foot.records, "intents": foot.intents }))
    }
}

/// Writes the document in pieces; ends early when nobody takes them.
fn write(
    reader: &Reader,
    question: &Question,
    format: Format,
    head: &Head,
    texts: &tokio::sync::mpsc::Sender<String>,
) -> Result<Foot, String> {
    let (mut report, mut text) = Report::begin(format, head);
    question
        .ask(reader, |record| {
            text.push_str(&report.record(&record));
            if text.len() < REPORT_CHUNK_BYTES {
                return ControlFlow::Continue(());
            }
            match texts.blocking_send(std::mem::take(&mut text)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_gone) => ControlFlow::Break(()),
            }
        })
        .map_err(|error| error.to_string())?;
    // Taken after the last record was read, so it is over each of them.
    let checkpoint = reader.checkpoint().map_err(|error| error.to_string())?;
    let (foot, end) = report.end(Some(checkpoint.as_str().to_owned()));
    text.push_str(&end);
    // Whoever is gone needs no end.
    let _ = texts.blocking_send(text);
    Ok(foot)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportArgs {
    #[serde(default)]
    cohort: Option<String>,
    format: String,
    from_ms: u64,
    to_ms: u64,
}

impl ReportArgs {
    fn understand(&self) -> Result<(Format, Option<Cohort>), AdminError> {
        let bad = |text: String| AdminError::new("bad-argument", text);
        let format = Format::parse(&self.format)
            .ok_or_else(|| bad(format!("format: there is no {:?}; json, csv, html, md", self.format)))?;
        let cohort = self.cohort.as_deref().map(Cohort::parse).transpose();
        let cohort = cohort.map_err(|error| bad(format!("cohort: {error}")))?;
        if self.from_ms >= self.to_ms {
            return Err(bad("from: is not before to".to_owned()));
        }
        Ok((format, cohort))
    }
}
