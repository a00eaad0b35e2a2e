//! The verbs `report.audit` and `report.store`: the trail of a cohort and a stretch of time as a document, for whoever
//! asks, or as a file of the store.
//!
//! **Invariant:** the document is over the records up to the moment it was asked for, and its foot holds a
//! checkpoint that is over each of them. A document that is stored is stored whole or not at all.

use std::ops::ControlFlow;

use bytes::Bytes;
use daemon::admin::{AdminError, Caller, Replies};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use store_proto::{Attributes, Cohort, FileType, LogicalPath};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinHandle;

use crate::admin::Admin;
use crate::admin::end_of_life::{by, unavailable};
use crate::ledger::audit::Question;
use crate::ledger::intents::Content;
use crate::ledger::{Action, Ending, Reader};
use crate::limits::{REPORT_CHUNK_BYTES, REPORT_IDLE};
use crate::policy::CohortPolicy;
use crate::report::{Foot, Format, Head, Report};
use crate::serve::upload::{self, Announced, Wanted};

/// What listings call a report.
const REPORT_FILE_TYPE: &str = "audit_report";

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
        let (mut stream, writing) = self.begin(&args, format, cohort, caller);
        while let Some(text) = stream.recv().await {
            let text = text.map_err(|error| AdminError::new("ledger-unavailable", error))?;
            out.item(json!({ "text": text })).await.map_err(|error| AdminError::new("gone", error))?;
        }
        told(writing).await
    }

    /// `report.store`: the document becomes a file, under a name that is free, with a receipt as any file.
    pub(super) async fn report_store(&self, caller: Caller, args: Value) -> Result<Value, AdminError> {
        let asked = json!({ "from_ms": args["from_ms"], "to_ms": args["to_ms"], "cohort": args["cohort"] });
        let StoreArgs { into, path, report } =
            serde_json::from_value(args).map_err(|error| AdminError::new("bad-argument", error))?;
        let bad = |what: &str, error: &dyn std::fmt::Display| {
            AdminError::new("bad-argument", format!("{what}: {error}"))
        };
        let into = Cohort::parse(&into).map_err(|error| bad("into", &error))?;
        let path = LogicalPath::parse(&path).map_err(|error| bad("path", &error))?;
        let (format, cohort) = report.understand()?;
        let policy = self.store.policy.load();
        if cohort.as_ref().is_some_and(|cohort| policy.cohort(cohort).is_none()) {
            return Err(AdminError::new("unknown", "there is no such cohort"));
        }
        let rules = policy.cohort(&into);
        let rules = rules.ok_or_else(|| AdminError::new("unknown", format!("there is no cohort {into}")))?;
        // No scanner has to look at what storaged wrote itself.
        let rules = CohortPolicy { scan_required: false, ..rules };
        if self.store.ledger.reader().file_at(&into, &path).map_err(unavailable)?.is_some() {
            return Err(AdminError::new("exists", "there is a file of that name, and it stays as it is"));
        }
        self.record(Action::AdminReport, Ending::Succeeded, caller, asked.to_string()).await?;
        let (stream, writing) = self.begin(&report, format, cohort, caller);
        let pieces = futures_util::stream::unfold(stream, |mut stream| async {
            let piece = stream.recv().await?.map(|text| Frame::data(Bytes::from(text)));
            Some((piece, stream))
        });
        let file_type = FileType::parse(REPORT_FILE_TYPE).expect("a word of lower-case letters");
        let wanted = Wanted {
            origin: by(caller),
            announced: Announced {
                cohort: into,
                path,
                file_type: Some(file_type),
                attributes: Attributes::default(),
                key: None,
                size: None,
                sha256: None,
                replaces: None,
            },
            content: Content::Report,
            cohort: rules,
            idle: REPORT_IDLE,
            said: None,
        };
        let mut body = StreamBody::new(Box::pin(pieces));
        let kept = upload::keep(&self.store, wanted, &mut body).await;
        drop(body);
        let kept = kept.map_err(|refusal| {
            let why = refusal.detail.unwrap_or_else(|| "it could not be stored".to_owned());
            AdminError::new(refusal.kind.name(), why)
        })?;
        let mut done = told(writing).await?;
        done["file_id"] = json!(kept.file_id);
        done["sha256"] = json!(kept.sha256);
        done["size"] = json!(kept.size);
        done["record"] = json!(kept.ledger_index);
        Ok(done)
    }

    /// Lets a thread write the document, piece by piece as they are taken.
    fn begin(&self, args: &ReportArgs, format: Format, cohort: Option<Cohort>, caller: Caller) -> Written {
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
        let (texts, stream) = tokio::sync::mpsc::channel(8);
        let writing = tokio::task::spawn_blocking(move || {
            let written = write(&reader, &question, format, &head, &texts);
            if let Err(error) = &written {
                // Whoever takes the pieces must not take the last one for the end.
                let _ = texts.blocking_send(Err(error.clone()));
            }
            written
        });
        (stream, writing)
    }
}

/// The pieces of a document, and what its foot says once they are taken.
type Written = (Receiver<Result<String, String>>, JoinHandle<Result<Foot, String>>);

async fn told(writing: JoinHandle<Result<Foot, String>>) -> Result<Value, AdminError> {
    let foot = writing.await.map_err(|error| AdminError::new("internal", error))?;
    let foot = foot.map_err(|error| AdminError::new("ledger-unavailable", error))?;
    Ok(json!({ "records": foot.records, "intents": foot.intents }))
}

/// Writes the document in pieces; ends early when nobody takes them.
fn write(
    reader: &Reader,
    question: &Question,
    format: Format,
    head: &Head,
    texts: &Sender<Result<String, String>>,
) -> Result<Foot, String> {
    let (mut report, mut text) = Report::begin(format, head);
    question
        .ask(reader, |record| {
            text.push_str(&report.record(&record));
            if text.len() < REPORT_CHUNK_BYTES {
                return ControlFlow::Continue(());
            }
            match texts.blocking_send(Ok(std::mem::take(&mut text))) {
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
    let _ = texts.blocking_send(Ok(text));
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

#[derive(Debug, Deserialize)]
struct StoreArgs {
    /// The cohort that gets the file.
    into: String,
    path: String,
    #[serde(flatten)]
    report: ReportArgs,
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
