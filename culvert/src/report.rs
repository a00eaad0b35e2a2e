//! `culvert report audit`: the audit trail of a stretch of time as a document.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::json;
use store_proto::Cohort;

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::target::RemoteFile;
use crate::transfer::part_file::{Existing, PartFile};

#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Who did what with a cohort's files, with a summary and the log's signed checkpoint
    #[command(after_help = "\
Days are whole days in UTC, both included. A report holds file names and user names: keep it as you keep the files.\n\n\
Examples:\n  \
  culvert report audit --cohort c5 --from 2026-01-01 --to 2026-03-31 --format html --out q1.html\n  \
  culvert report audit --cohort c5 --from 2026-11-01 --to 2026-11-30 --format csv | xsv count\n  \
  culvert report audit --from 2026-11-20T08:00Z --to 2026-11-20T09:00Z --format md\n  \
  culvert report audit --cohort c5 --from 2026-11-01 --to 2026-11-30 --format html --store c5/reports/november.html")]
    Audit(AuditArguments),
}

#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// Only this cohort; all of them if it is left out
    #[arg(long, value_parser = parse_cohort)]
    cohort: Option<Cohort>,
    /// The first day, or a time such as 2026-11-20T08:00Z
    #[arg(long, value_name = "DATE", value_parser = parse_from)]
    from: i64,
    /// The last day, or the time before which
    #[arg(long, value_name = "DATE", value_parser = parse_to)]
    to: i64,
    /// The format
    #[arg(long, default_value = "md")]
    format: Format,
    /// Write to this file instead of standard output; it must not exist
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Make it a file of the store, tracked as any: whoever may read that cohort may read it
    #[arg(long, value_name = "COHORT/PATH", conflicts_with = "out")]
    store: Option<String>,
    #[command(flatten)]
    at: SocketArgument,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Csv,
    Html,
    Md,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Html => "html",
            Format::Md => "md",
        }
    }
}

fn parse_cohort(text: &str) -> Result<Cohort, String> {
    Cohort::parse(text).map_err(|error| error.to_string())
}

/// The beginning of a day, or a time.
fn parse_from(text: &str) -> Result<i64, String> {
    parse(text, 0)
}

/// The end of a day, or a time.
fn parse_to(text: &str) -> Result<i64, String> {
    parse(text, 1)
}

fn parse(text: &str, days: i64) -> Result<i64, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let day: Date = text.parse().map_err(|_| {
        format!("{text:?} is neither a day such as 2026-11-20 nor a time such as 2026-11-20T08:00Z")
    })?;
    let midnight = day.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
    Ok(midnight.timestamp().as_millisecond() + days * 86_400_000)
}

pub(crate) fn run(command: &ReportCommand, console: Console) -> Result<(), Failure> {
    let ReportCommand::Audit(arguments) = command;
    if arguments.from >= arguments.to {
        return Err(Failure::usage("--from is not before --to"));
    }
    let mut question = json!({
        "format": arguments.format.name(),
        "from_ms": arguments.from,
        "to_ms": arguments.to,
    });
    if let Some(cohort) = &arguments.cohort {
        question["cohort"] = cohort.as_str().into();
    }
    if let Some(place) = &arguments.store {
        let place = RemoteFile::parse(place)?;
        question["into"] = place.cohort.as_str().into();
        question["path"] = place.path.as_str().into();
        let done = admin::call(&arguments.at.socket, "report.store", question, &[], |_| Ok(()))?;
        return console.report(&done, |done| {
            let text = |key: &str| done[key].as_str().map(printable).unwrap_or_default();
            let (file, sha256) = (text("file_id"), text("sha256"));
            format!("{place}: {} records; file {file}, SHA-256 {sha256}", done["records"])
        });
    }
    let Some(path) = &arguments.out else {
        let mut out = std::io::stdout().lock();
        ask(arguments, question, |text| {
            out.write_all(text.as_bytes()).map_err(|error| Failure::output(&error))
        })?;
        return Ok(());
    };
    let mut file = PartFile::create(path, Existing::Keep)?;
    let done = ask(arguments, question, |text| file.write(text.as_bytes()))?;
    file.publish()?;
    console.report(&done, |done| format!("{}: {} records", path.display(), done["records"]))
}

fn ask(
    arguments: &AuditArguments,
    question: serde_json::Value,
    mut on_text: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<serde_json::Value, Failure> {
    admin::call(&arguments.at.socket, "report.audit", question, &[], |item| {
        item["text"].as_str().map_or(Ok(()), &mut on_text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_in_utc() {
        assert_eq!(parse_from("1970-01-02"), Ok(86_400_000));
        assert_eq!(parse_to("1970-01-02"), Ok(2 * 86_400_000));
        assert_eq!(parse_to("1970-01-01T00:00:01Z"), Ok(1000));
        assert_eq!(parse_from("1970-01-01T01:00+01:00"), Ok(0));
        assert!(parse_from("yesterday").unwrap_err().contains("2026-11-20"));
    }
}
