//! The audit report: the trail of a stretch of time as a document, in one of four formats.
//!
//! **Invariant:** a document is written from its head to its foot in one pass, a record at a time, so its
//! size is not bounded by memory; text that users chose (paths, names, errors) is escaped for the format it
//! stands in, and in CSV cannot become a formula.

mod csv;
mod html;
mod json;
mod markdown;

use std::collections::BTreeMap;

use store_proto::{Cohort, UserName};

use crate::ledger::{Phase, Record, tables::rfc3339};

/// How the document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object, records as an array.
    Json,
    /// RFC 4180, a head line, records, and the foot as lines that begin with `#`.
    Csv,
    /// One page without scripts, styles inside.
    Html,
    /// Tables as most viewers know them.
    Markdown,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 4] = [Format::Json, Format::Csv, Format::Html, Format::Markdown];

    /// The word on the command line, and the file's extension.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Html => "html",
            Format::Markdown => "md",
        }
    }

    /// Finds a format by its word.
    pub fn parse(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// What the document says of itself.
#[derive(Debug, Clone)]
pub struct Head {
    /// Only this cohort, or all of them.
    pub cohort: Option<Cohort>,
    /// From this time on, milliseconds since 1970.
    pub from_ms: u64,
    /// Up to this time, exclusive.
    pub to_ms: u64,
    /// When it was made.
    pub made_ms: u64,
    /// By whom, as `uid=…`.
    pub made_by: String,
    /// The store's id.
    pub store: String,
}

/// What stands at the end.
#[derive(Debug, Clone, Default)]
pub struct Foot {
    /// Records in the document.
    pub records: u64,
    /// Of which are intents.
    pub intents: u64,
    /// Outcomes by action and ending.
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Outcomes by user.
    pub users: BTreeMap<UserName, u64>,
    /// The log's signed checkpoint that covers every record above, if the log has one.
    pub checkpoint: Option<String>,
}

impl Foot {
    /// Counts one record.
    fn count(&mut self, record: &Record) {
        self.records += 1;
        if record.phase == Phase::Intent {
            self.intents += 1;
            return;
        }
        let ending = record.ending.map_or("-", crate::ledger::Ending::name);
        *self.counts.entry((record.action.name(), ending)).or_default() += 1;
        if let Some(user) = &record.origin.user {
            *self.users.entry(user.clone()).or_default() += 1;
        }
    }
}

/// A document on its way.
#[derive(Debug)]
pub struct Report {
    format: Format,
    foot: Foot,
}

impl Report {
    /// Begins one: its first text.
    pub fn begin(format: Format, head: &Head) -> (Report, String) {
        let text = match format {
            Format::Json => json::head(head),
            Format::Csv => csv::head(head),
            Format::Html => html::head(head),
            Format::Markdown => markdown::head(head),
        };
        (Report { format, foot: Foot::default() }, text)
    }

    /// The next record's text.
    pub fn record(&mut self, record: &Record) -> String {
        let first = self.foot.records == 0;
        self.foot.count(record);
        match self.format {
            Format::Json => json::record(record, first),
            Format::Csv => csv::row(&cells(record)),
            Format::Html => html::row(&cells(record)),
            Format::Markdown => markdown::row(&cells(record)),
        }
    }

    /// The last text.
    pub fn end(mut self, checkpoint: Option<String>) -> (Foot, String) {
        self.foot.checkpoint = checkpoint;
        let text = match self.format {
            Format::Json => json::foot(&self.foot),
            Format::Csv => csv::foot(&self.foot),
            Format::Html => html::foot(&self.foot),
            Format::Markdown => markdown::foot(&self.foot),
        };
        (self.foot, text)
    }
}

/// The columns of the formats that have columns.
const COLUMNS: [&str; 15] = [
    "record", "time", "action", "phase", "result", "user", "edge", "peer", "client", "cohort", "path",
    "file_id", "size", "sha256", "detail",
];

fn cells(record: &Record) -> [String; 15] {
    fn text<T: ToString>(value: Option<&T>) -> String {
        value.map(ToString::to_string).unwrap_or_default()
    }
    let origin = &record.origin;
    let detail: Vec<&str> =
        [&record.detail, &record.error].into_iter().flatten().map(String::as_str).collect();
    [
        record.index.to_string(),
        rfc3339(record.time_ms),
        record.action.name().to_owned(),
        match record.phase {
            Phase::Intent => "intent".to_owned(),
            Phase::Outcome => "outcome".to_owned(),
        },
        record.ending.map(|ending| ending.name().to_owned()).unwrap_or_default(),
        origin.user.as_ref().map(ToString::to_string).or_else(|| origin.caller.clone()).unwrap_or_default(),
        text(origin.edge.as_ref()),
        text(origin.peer_public_key.as_ref()),
        text(origin.client_address.as_ref()),
        text(record.cohort.as_ref()),
        text(record.path.as_ref()),
        text(record.file_id.as_ref()),
        text(record.size.as_ref()),
        text(record.sha256.as_ref()),
        detail.join("; "),
    ]
}

/// `cohort c5, 2026-01-01T00:00:00.000Z to …`.
fn scope(head: &Head) -> String {
    let cohort =
        head.cohort.as_ref().map_or_else(|| "all cohorts".to_owned(), |cohort| format!("cohort {cohort}"));
    format!("{cohort}, {} to {}", rfc3339(head.from_ms), rfc3339(head.to_ms))
}

#[cfg(test)]
mod tests;
