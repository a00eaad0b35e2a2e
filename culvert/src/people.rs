//! `culvert user|token|cohort|edge|access`: who may do what, in storaged's ledger.
//!
//! Invariant: each change is one call, which storaged records with the caller; a token is printed once and kept nowhere.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use store_proto::{AttributeRules, Cohort, EdgeName, Extension, FileId, FileType, Role, UserName};

use crate::admin;
use crate::console::{Console, printable, table};
use crate::failure::Failure;

/// Where storaged is asked.
#[derive(Debug, Args)]
pub(crate) struct Socket {
    /// storaged's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/storaged.sock")]
    socket: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user; `culvert token issue` then gives them a token
    #[command(after_help = "\
Roles: viewer reads and lists; user also writes; admin is a user who is told apart in the trail; auditor touches no \
file.\n\nExample:\n  culvert user add ann --role user --cohort c5 && culvert token issue ann")]
    Add {
        /// The name in records
        #[arg(value_parser = parse_user)]
        user: UserName,
        /// viewer, user, admin or auditor
        #[arg(long, value_parser = parse_role)]
        role: Role,
        /// Open this cohort to them
        #[arg(long = "cohort", value_name = "COHORT", value_parser = parse_cohort)]
        cohorts: Vec<Cohort>,
        #[command(flatten)]
        socket: Socket,
    },
    /// Shut a user out: ends their tokens, links, transfers and unfinished uploads at once
    #[command(after_help = "\
What was ended is printed. The last admin cannot be disabled: make another one first. `culvert user enable` lets them \
in again, with a new token.")]
    Disable(OneUser),
    /// Let a user in again; they need a new token
    Enable(OneUser),
    /// Everybody: role, cohorts, groups, tokens
    List(Socket),
    /// Give a user another role
    Role {
        /// Whose
        #[arg(value_parser = parse_user)]
        user: UserName,
        /// viewer, user, admin or auditor
        #[arg(value_parser = parse_role)]
        role: Role,
        #[command(flatten)]
        socket: Socket,
    },
    /// Put a user into a group; {cohort}_users opens that cohort
    Join(OneGroup),
    /// Take a user out of a group
    Leave(OneGroup),
}

#[derive(Debug, Args)]
pub(crate) struct OneUser {
    /// Who
    #[arg(value_parser = parse_user)]
    user: UserName,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Debug, Args)]
pub(crate) struct OneGroup {
    /// Who
    #[arg(value_parser = parse_user)]
    user: UserName,
    /// The group's name
    group: String,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it; it is kept nowhere, so it cannot be shown again
    #[command(after_help = "\
Standard output is the token and nothing else, so that it can go to a file:\n  \
  culvert token issue ann --days 90 --label laptop > ann.token")]
    Issue {
        /// Whose
        #[arg(value_parser = parse_user)]
        user: UserName,
        /// It runs out after N days [default: never]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=36_500))]
        days: Option<u64>,
        /// What to call it in lists
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
        #[command(flatten)]
        socket: Socket,
    },
    /// End a token
    #[command(after_help = "\
The id is the one that `culvert token list` shows. Transfers under way go on; `culvert user disable` ends them.")]
    Revoke {
        /// Its id
        #[arg(value_parser = parse_id)]
        token: FileId,
        #[command(flatten)]
        socket: Socket,
    },
    /// The tokens that live; not the tokens themselves
    List {
        /// Only this user's
        #[arg(long, value_parser = parse_user)]
        user: Option<UserName>,
        #[command(flatten)]
        socket: Socket,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CohortCommand {
    /// Make a cohort
    #[command(after_help = "\
An edge must be allowed to ask for it: `culvert edge set web1 --cohort …` with all of its cohorts.\n\n\
Examples:\n  culvert cohort add c5 --quota-bytes 1000000000000 --retention-days 3650\n  \
culvert cohort add c6 --file-type raw_csv --attribute protocol-year=2025 --attribute protocol-year=2026")]
    Add {
        /// Its name
        #[arg(value_parser = parse_cohort)]
        cohort: Cohort,
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        socket: Socket,
    },
    /// Change a cohort's rules; what is not named stays
    #[command(
        after_help = "Example:\n  culvert cohort set c5 --max-file-bytes 5000000000 --clear quota_bytes"
    )]
    Set {
        /// Its name
        #[arg(value_parser = parse_cohort)]
        cohort: Cohort,
        #[command(flatten)]
        rules: Rules,
        /// Drop a rule: attributes, extensions, file_types, max_file_bytes, quota_bytes, quota_files or
        /// retention_days
        #[arg(long, value_name = "RULE")]
        clear: Vec<String>,
        #[command(flatten)]
        socket: Socket,
    },
    /// The cohorts: rules, edges, number of users
    List(Socket),
    /// Open a cohort to a user
    Grant(Member),
    /// Close a cohort to a user
    Revoke(Member),
}

#[derive(Debug, Args)]
pub(crate) struct Rules {
    /// The largest file
    #[arg(long, value_name = "BYTES")]
    max_file_bytes: Option<u64>,
    /// The sum of all files
    #[arg(long, value_name = "BYTES")]
    quota_bytes: Option<u64>,
    /// The number of files
    #[arg(long, value_name = "N")]
    quota_files: Option<u64>,
    /// The end of names that may be stored, such as csv or tar.gz; any, if none is named
    #[arg(long = "extension", value_name = "END", value_parser = parse_extension)]
    extensions: Vec<Extension>,
    /// any, or checked: a file's first bytes must be what its name's end says
    #[arg(long, value_name = "WORD")]
    content: Option<String>,
    /// A file type that may be stored; any, if none is named
    #[arg(long = "file-type", value_name = "TYPE", value_parser = parse_type)]
    file_types: Vec<FileType>,
    /// An attribute that files may have, and with = a value that it may have; any, if none is named
    #[arg(long = "attribute", value_name = "NAME[=VALUE]")]
    attributes: Vec<String>,
    /// No file is deleted before it is so old; a lower one is for files that come later
    #[arg(long, value_name = "N")]
    retention_days: Option<u32>,
    /// none, or required: a file is held until the scanner says that it is clean
    #[arg(long, value_name = "WORD")]
    scan: Option<String>,
}

impl Rules {
    fn arguments(&self, cohort: &Cohort) -> Result<Value, Failure> {
        let types = (!self.file_types.is_empty()).then_some(&self.file_types);
        let extensions = (!self.extensions.is_empty()).then_some(&self.extensions);
        let attributes = AttributeRules::parse(self.attributes.iter().map(String::as_str));
        let attributes = attributes.map_err(|error| Failure::usage(format!("--attribute: {error}")))?;
        let attributes = (!attributes.is_empty()).then_some(attributes);
        Ok(json!({
            "cohort": cohort, "max_file_bytes": self.max_file_bytes, "quota_bytes": self.quota_bytes,
            "quota_files": self.quota_files, "file_types": types, "retention_days": self.retention_days,
            "extensions": extensions, "scan": self.scan, "attributes": attributes,
            "content": self.content,
        }))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Member {
    /// Which cohort
    #[arg(value_parser = parse_cohort)]
    cohort: Cohort,
    /// Who
    #[arg(value_parser = parse_user)]
    user: UserName,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CapabilityCommand {
    /// The public key that checks links; an edge may know it
    Key(Socket),
    /// The links: whose, to which file, how often used
    List {
        /// Only this user's
        #[arg(long, value_parser = parse_user)]
        user: Option<UserName>,
        #[command(flatten)]
        socket: Socket,
    },
    /// End a link, and the downloads that run through it
    Revoke {
        /// Its id
        #[arg(value_parser = parse_id)]
        capability: FileId,
        #[command(flatten)]
        socket: Socket,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EdgeCommand {
    /// Register an edge by the friendly name of its WireGuard peer
    Add(OneEdge),
    /// Let an edge ask for these cohorts and no others
    Set(OneEdge),
    /// Strike an edge out: nothing that it delivers counts any more
    Remove {
        /// Its peer's name
        #[arg(value_parser = parse_edge)]
        edge: EdgeName,
        #[command(flatten)]
        socket: Socket,
    },
    /// The edges and their cohorts
    List(Socket),
}

#[derive(Debug, Args)]
pub(crate) struct OneEdge {
    /// Its peer's name
    #[arg(value_parser = parse_edge)]
    edge: EdgeName,
    /// A cohort that it may ask for
    #[arg(long = "cohort", value_name = "COHORT", value_parser = parse_cohort)]
    cohorts: Vec<Cohort>,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// Who may use which cohort, now or at a moment in the past
    #[command(after_help = "\
Examples:\n  \
  culvert access list --cohort c5\n  \
  culvert access list --user ann --at 2026-06-30              as it was at the end of that day (UTC)\n  \
  culvert access list --at 2026-06-30T12:00:00Z --json")]
    List {
        /// Only this cohort
        #[arg(long, value_parser = parse_cohort)]
        cohort: Option<Cohort>,
        /// Only this user
        #[arg(long, value_parser = parse_user)]
        user: Option<UserName>,
        /// A day, or a moment with its zone; replayed from the records
        #[arg(long, value_name = "DATE", value_parser = parse_moment)]
        at: Option<u64>,
        #[command(flatten)]
        socket: Socket,
    },
    /// Change what holds for the whole store
    Set {
        /// Whether a cohort that is not open to somebody looks like one that is not there
        #[arg(long, value_name = "true|false")]
        mask_cohorts: Option<bool>,
        /// The group that opens a cohort
        #[arg(long, value_name = "PATTERN")]
        group_pattern: Option<String>,
        #[command(flatten)]
        socket: Socket,
    },
}

pub(crate) fn user(command: &UserCommand, console: Console) -> Result<(), Failure> {
    match command {
        UserCommand::Add { user, role, cohorts, socket } => {
            change(socket, "user.add", json!({ "user": user, "role": role, "cohorts": cohorts }), console)
        }
        UserCommand::Disable(OneUser { user, socket }) => disable(socket, user, console),
        UserCommand::Enable(OneUser { user, socket }) => {
            change(socket, "user.enable", json!({ "user": user }), console)
        }
        UserCommand::List(socket) => {
            let columns = &["user", "role", "disabled", "cohorts", "groups", "tokens"];
            list(socket, "user.list", Value::Null, columns, console)
        }
        UserCommand::Role { user, role, socket } => {
            change(socket, "user.role", json!({ "user": user, "role": role }), console)
        }
        UserCommand::Join(OneGroup { user, group, socket }) => {
            change(socket, "user.join", json!({ "user": user, "group": group }), console)
        }
        UserCommand::Leave(OneGroup { user, group, socket }) => {
            change(socket, "user.leave", json!({ "user": user, "group": group }), console)
        }
    }
}

pub(crate) fn token(command: &TokenCommand, console: Console) -> Result<(), Failure> {
    match command {
        TokenCommand::Issue { user, days, label, socket } => {
            let seconds = days.map(|days| days * 86_400);
            let arguments = given(json!({ "user": user, "expires_in_s": seconds, "label": label }));
            let issued = call(socket, "token.issue", arguments)?;
            console.say(&format!("token {} of {user}; it is not shown again", text(&issued["id"])));
            console.report(&issued, |issued| text(&issued["token"]))
        }
        TokenCommand::Revoke { token, socket } => {
            change(socket, "token.revoke", json!({ "token": token }), console)
        }
        TokenCommand::List { user, socket } => {
            let columns = &["id", "user", "label", "created", "expires", "last_used_day"];
            list(socket, "token.list", given(json!({ "user": user })), columns, console)
        }
    }
}

pub(crate) fn cohort(command: &CohortCommand, console: Console) -> Result<(), Failure> {
    match command {
        CohortCommand::Add { cohort, rules, socket } => {
            change(socket, "cohort.add", given(rules.arguments(cohort)?), console)
        }
        CohortCommand::Set { cohort, rules, clear, socket } => {
            let mut arguments = given(rules.arguments(cohort)?);
            arguments["clear"] = json!(clear);
            change(socket, "cohort.set", arguments, console)
        }
        CohortCommand::List(socket) => {
            list(socket, "cohort.list", Value::Null, &["cohort", "users", "edges", "rules"], console)
        }
        CohortCommand::Grant(Member { cohort, user, socket }) => {
            change(socket, "cohort.grant", json!({ "cohort": cohort, "user": user }), console)
        }
        CohortCommand::Revoke(Member { cohort, user, socket }) => {
            change(socket, "cohort.revoke", json!({ "cohort": cohort, "user": user }), console)
        }
    }
}

pub(crate) fn capability(command: &CapabilityCommand, console: Console) -> Result<(), Failure> {
    match command {
        CapabilityCommand::Key(socket) => {
            console.report(&call(socket, "capability.key", Value::Null)?, |key| text(&key["key"]))
        }
        CapabilityCommand::List { user, socket } => {
            let columns =
                &["capability_id", "user", "cohort", "file_id", "used", "max_uses", "expires", "ended"];
            list(socket, "capability.list", given(json!({ "user": user })), columns, console)
        }
        CapabilityCommand::Revoke { capability, socket } => {
            change(socket, "capability.revoke", json!({ "capability": capability }), console)
        }
    }
}

pub(crate) fn edge(command: &EdgeCommand, console: Console) -> Result<(), Failure> {
    match command {
        EdgeCommand::Add(OneEdge { edge, cohorts, socket }) => {
            change(socket, "edge.add", json!({ "edge": edge, "cohorts": cohorts }), console)
        }
        EdgeCommand::Set(OneEdge { edge, cohorts, socket }) => {
            change(socket, "edge.set", json!({ "edge": edge, "cohorts": cohorts }), console)
        }
        EdgeCommand::Remove { edge, socket } => {
            change(socket, "edge.remove", json!({ "edge": edge }), console)
        }
        EdgeCommand::List(socket) => list(socket, "edge.list", Value::Null, &["edge", "cohorts"], console),
    }
}

pub(crate) fn access(command: &AccessCommand, console: Console) -> Result<(), Failure> {
    match command {
        AccessCommand::List { cohort, user, at, socket } => {
            let columns = &["user", "cohort", "role", "disabled", "granted", "group"];
            let arguments = given(json!({ "cohort": cohort, "user": user, "at_ms": at }));
            list(socket, "access.list", arguments, columns, console)
        }
        AccessCommand::Set { mask_cohorts, group_pattern, socket } => {
            let arguments = json!({ "mask_cohorts": mask_cohorts, "group_pattern": group_pattern });
            change(socket, "access.set", given(arguments), console)
        }
    }
}

fn call(socket: &Socket, verb: &str, arguments: Value) -> Result<Value, Failure> {
    admin::call(&socket.socket, verb, arguments, &[], |_| Ok(()))
}

fn change(socket: &Socket, verb: &str, arguments: Value, console: Console) -> Result<(), Failure> {
    let done = call(socket, verb, arguments)?;
    console.report(&done, |_| "done; recorded".to_owned())
}

fn disable(socket: &Socket, user: &UserName, console: Console) -> Result<(), Failure> {
    let done = call(socket, "user.disable", json!({ "user": user }))?;
    console.report(&done, |done| match done["ended"].as_object() {
        Some(ended) => {
            let counts: Vec<String> =
                ended.iter().map(|(what, n)| format!("{n} {}", printable(what))).collect();
            format!("{user} is shut out; ended: {}", counts.join(", "))
        }
        None => format!("{user} is shut out"),
    })
}

/// One line a row; with JSON as they come.
fn list(
    socket: &Socket,
    verb: &str,
    arguments: Value,
    columns: &[&str],
    console: Console,
) -> Result<(), Failure> {
    let mut rows = Vec::new();
    admin::call(&socket.socket, verb, arguments, &[], |item| {
        if console.is_json() {
            return console.json_line(&item);
        }
        rows.push(columns.iter().map(|column| text(&item[*column])).collect());
        Ok(())
    })?;
    if console.is_json() {
        return Ok(());
    }
    if rows.is_empty() {
        return console.line("nothing to list");
    }
    let header: Vec<String> = columns.iter().map(|column| column.to_uppercase().replace('_', " ")).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    console.line(&table(&header, &rows))
}

/// A cell: lists with commas, nothing as `-`.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(members) if members.is_empty() => "-".to_owned(),
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{}={}", printable(key), text(value));
            members.iter().map(member).collect::<Vec<_>>().join(" ")
        }
    }
}

/// What was said; what was not is left out.
fn given(all: Value) -> Value {
    match all {
        Value::Object(map) => {
            let given: Map<String, Value> = map.into_iter().filter(|(_, value)| !value.is_null()).collect();
            Value::Object(given)
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            other
        }
    }
}

fn parse_user(text: &str) -> Result<UserName, String> {
    UserName::parse(text).map_err(|error| error.to_string())
}

fn parse_cohort(text: &str) -> Result<Cohort, String> {
    Cohort::parse(text).map_err(|error| error.to_string())
}

fn parse_edge(text: &str) -> Result<EdgeName, String> {
    EdgeName::parse(text).map_err(|error| error.to_string())
}

fn parse_extension(text: &str) -> Result<Extension, String> {
    Extension::parse(text).map_err(|error| error.to_string())
}

fn parse_type(text: &str) -> Result<FileType, String> {
    FileType::parse(text).map_err(|error| error.to_string())
}

fn parse_id(text: &str) -> Result<FileId, String> {
    FileId::parse(text).map_err(|_| "an id is 32 hexadecimal digits; `list` shows it".to_owned())
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "a role is viewer, user, admin or auditor".to_owned())
}

/// A day is meant to its end, in UTC.
fn parse_moment(text: &str) -> Result<u64, String> {
    let moment = match text.parse::<jiff::civil::Date>() {
        Ok(day) => {
            let next = day.tomorrow().and_then(|next| next.to_zoned(jiff::tz::TimeZone::UTC));
            next.map(|next| next.timestamp().as_millisecond() - 1)
        }
        Err(_) => text.parse::<jiff::Timestamp>().map(|moment| moment.as_millisecond()),
    };
    let moment = moment.ok().and_then(|ms| u64::try_from(ms).ok());
    moment.ok_or_else(|| "a moment is 2026-06-30, or 2026-06-30T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_meant_to_its_end() {
        assert_eq!(parse_moment("1970-01-01").unwrap(), 86_399_999);
        assert_eq!(parse_moment("1970-01-01T00:00:01Z").unwrap(), 1000);
        for bad in ["yesterday", "2026-13-01", "1969-01-01", ""] {
            assert!(parse_moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cell_says_everything_on_one_line() {
        assert_eq!(text(&json!(["a", "b"])), "a,b");
        assert_eq!(text(&json!({"quota_bytes": 5, "scan": "none"})), "quota_bytes=5 scan=none");
        assert_eq!(text(&json!("x\u{1b}")), "x\u{fffd}");
        assert_eq!((text(&json!([])).as_str(), text(&Value::Null).as_str()), ("-", "-"));
    }
}
