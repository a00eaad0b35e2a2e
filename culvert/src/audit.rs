//! `culvert audit trail`: what happened, from storaged's ledger.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use store_proto::{Cohort, FileId, RequestId, UserName};

use crate::admin;
use crate::console::{Console, printable};
use crate::failure::Failure;

const VERB: &str = "audit.trail";

#[derive(Debug, Args)]
pub(crate) struct TrailArguments {
    /// Only records about this cohort
    #[arg(long, value_name = "COHORT", value_parser = parse_cohort)]
    cohort: Option<Cohort>,
    /// Only records of the last N days
    #[arg(long, value_name = "N")]
    days: Option<u32>,
    /// Only what this user did or tried
    #[arg(long, value_name = "USER", value_parser = parse_user)]
    user: Option<UserName>,
    /// Only this action, such as nas_raw_created or access.denied
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only what is about this file
    #[arg(long, value_name = "FILE_ID", value_parser = parse_file)]
    file: Option<FileId>,
    /// Only what this request did; the id is in every answer's Request-Id
    #[arg(long, value_name = "REQUEST_ID", value_parser = parse_request)]
    request: Option<RequestId>,
    /// Only what the WireGuard peer with this public key delivered
    #[arg(long, value_name = "PUBLIC_KEY", value_parser = parse_peer)]
    peer: Option<String>,
    /// Only the newest N records that match
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// storaged's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/storaged.sock")]
    socket: PathBuf,
}

fn parse_cohort(text: &str) -> Result<Cohort, String> {
    Cohort::parse(text).map_err(|error| error.to_string())
}

fn parse_file(text: &str) -> Result<FileId, String> {
    FileId::parse(text).map_err(|error| error.to_string())
}

fn parse_request(text: &str) -> Result<RequestId, String> {
    RequestId::parse(text).map_err(|error| error.to_string())
}

/// As `wg show` prints it.
fn parse_peer(text: &str) -> Result<String, String> {
    let key: Result<wg_proto::PublicKey, _> = text.parse();
    key.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn parse_user(text: &str) -> Result<UserName, String> {
    UserName::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn run(arguments: &TrailArguments, console: Console) -> Result<(), Failure> {
    let mut records = 0_u64;
    admin::call(&arguments.socket, VERB, question(arguments), &[], |record| {
        if records == 0 && !console.is_json() {
            console.line(&Row::header().line())?;
        }
        records += 1;
        console.report(&record, |record| Row::of(record).line())
    })?;
    if records == 0 && !console.is_json() {
        console.line("no records match")?;
    }
    Ok(())
}

/// The verb's arguments; what is not asked for is left out.
fn question(arguments: &TrailArguments) -> Value {
    let all = json!({
        "cohort": arguments.cohort,
        "days": arguments.days,
        "user": arguments.user,
        "action": arguments.action,
        "file": arguments.file,
        "request": arguments.request,
        "peer": arguments.peer,
        "limit": arguments.limit,
    });
    let given: Map<String, Value> = match all {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    Value::Object(given)
}

/// One line of the table. Columns have fixed widths, so that a long trail is shown as it comes.
struct Row {
    index: String,
    time: String,
    action: String,
    result: String,
    user: String,
    what: String,
}

impl Row {
    fn header() -> Self {
        let [index, time, action, result, user, what] =
            ["RECORD", "TIME", "ACTION", "RESULT", "WHO", "WHAT"].map(str::to_owned);
        Self { index, time, action, result, user, what }
    }

    fn of(record: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(printable);
        let ending = text(&record["ending"]).or_else(|| text(&record["phase"]));
        Self {
            index: record["index"].as_u64().map_or_else(String::new, |index| index.to_string()),
            time: record["time_ms"].as_i64().map_or_else(String::new, time),
            action: text(&record["action"]).unwrap_or_default(),
            result: ending.unwrap_or_default(),
            user: text(&record["origin"]["user"])
                .or_else(|| text(&record["origin"]["caller"]))
                .unwrap_or_else(|| "-".to_owned()),
            what: what(record),
        }
    }

    fn line(&self) -> String {
        let Row { index, time, action, result, user, what } = self;
        format!("{index:>7}  {time:<20}  {action:<26}  {result:<10}  {user:<12}  {what}")
            .trim_end()
            .to_owned()
    }
}

/// `c5/scans/a.csv, 120 bytes, through web1`: what a record is about, as far as it says.
fn what(record: &Value) -> String {
    let text = |value: &Value| value.as_str().map(printable);
    let mut parts = Vec::new();
    match (text(&record["cohort"]), text(&record["path"])) {
        (Some(cohort), Some(path)) => parts.push(format!("{cohort}/{path}")),
        (Some(cohort), None) => parts.push(cohort),
        (None, Some(path)) => parts.push(path),
        (None, None) => {}
    }
    if let Some(size) = record["size"].as_u64() {
        parts.push(format!("{size} bytes"));
    }
    if let Some(edge) = text(&record["origin"]["edge"]) {
        parts.push(format!("through {edge}"));
    }
    parts.extend(text(&record["detail"]));
    parts.extend(text(&record["error"]));
    parts.join(", ")
}

/// RFC 3339 in UTC, to the second.
fn time(milliseconds: i64) -> String {
    match jiff::Timestamp::from_second(milliseconds.div_euclid(1000)) {
        Ok(time) => time.to_string(),
        Err(_) => milliseconds.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line() {
        let record = json!({
            "action": "nas_raw_created", "cohort": "c5", "ending": "succeeded", "index": 7, "path": "a.csv",
            "size": 12, "time_ms": 1_700_000_000_123_i64, "phase": "outcome",
            "origin": {"user": "ann", "edge": "web1"},
        });
        assert_eq!(
            Row::of(&record).line(),
            "      7  2023-11-14T22:13:20Z  nas_raw_created             succeeded   ann           \
             c5/a.csv, 12 bytes, through web1"
        );
    }

    #[test]
    fn a_record_of_another_version_is_shown_as_far_as_it_goes() {
        let line = Row::of(&json!({"index": 1, "detail": "x\u{1b}[0m"})).line();
        assert!(line.starts_with("      1 ") && line.ends_with("x\u{fffd}[0m"), "{line}");
    }
}
