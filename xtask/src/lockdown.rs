//! `cargo xtask lockdown`: what the daemons are seen to call, compared with what they are allowed to, both ways.
//!
//! Invariant: a call that is allowed was seen in a run of real daemons, or its line in the table says why it cannot be; a
//! trace in which no seal was found counts for nothing and is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{packages, steps, test};

/// Files of scenarios that between them lead every daemon through its work: transfers, reloads, key rotation, names,
/// providers, refusals, ends. They run whole; what waits for minutes or counts microseconds would only be slow.
const SCENARIOS: [&str; 10] = [
    "transfer",
    "operation",
    "refusals",
    "helpers",
    "configuration",
    "rotation",
    "identity",
    "status",
    "cut",
    "lockdown",
];

#[derive(Args)]
pub(crate) struct Options {
    /// These files of scenarios alone, without the comparison of what was never seen
    #[arg(long, value_name = "FILE")]
    scenario: Vec<String>,
    /// Compare the traces of the last run
    #[arg(long)]
    again: bool,
}

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    call: String,
    reason: String,
    unseen: Option<String>,
}

/// A call that was seen after the seal: by whom, and the trace's line.
#[derive(Debug, Clone)]
struct Sight {
    thread: String,
    trace: String,
    line: String,
}

/// The calls of each process: `wgd`, `wgd_netcfg`, `wgd_resolve`, `edge`, `storaged`.
type Seen = BTreeMap<String, BTreeMap<String, Sight>>;

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    Ok(if differences(options)? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The whole comparison, for the slow set.
pub(crate) fn holds() -> Result<bool> {
    Ok(differences(&Options { scenario: Vec::new(), again: false })? == 0)
}

fn differences(options: &Options) -> Result<usize> {
    let traces = packages::tools_directory().join("strace");
    let tables = tables()?;
    if !options.again {
        if traces.exists() {
            fs::remove_dir_all(&traces).with_context(|| format!("empty {}", traces.display()))?;
        }
        fs::create_dir_all(&traces).with_context(|| format!("create {}", traces.display()))?;
        if !trace_scenarios(&options.scenario, &traces)? {
            println!(
                "\nA scenario failed under the tracer: its reason is above. What was traced is compared all the same."
            );
        }
    }
    let seen = read_all(&traces)?;
    let whole = options.scenario.is_empty();
    let wrong = compare(&tables, &seen, whole);
    for (process, calls) in &seen {
        println!(
            "{process}: {} calls seen of {} allowed",
            calls.len(),
            tables.get(process).map_or(0, BTreeSet::len)
        );
    }
    for line in &wrong {
        println!("{line}");
    }
    println!("\n{} differences", wrong.len());
    Ok(wrong.len())
}

/// The tables as the daemons have them, told by the program that walks over them.
fn tables() -> Result<BTreeMap<String, BTreeSet<Rule>>> {
    let mut command = steps::cargo();
    command.args(["test", "--quiet", "--package", "linux", "--test", "rule_walk", "--", "--tables"]);
    steps::announce(&command);
    let output = command.output().context("start cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut tables: BTreeMap<String, BTreeSet<Rule>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let ["rule", process, call, reason, unseen] = fields[..] else { continue };
        let unseen = (!unseen.is_empty()).then(|| unseen.to_owned());
        let rule = Rule { call: call.to_owned(), reason: reason.to_owned(), unseen };
        tables.entry(process.to_owned()).or_default().insert(rule);
    }
    ensure!(!tables.is_empty(), "no table was printed");
    Ok(tables)
}

fn trace_scenarios(chosen: &[String], traces: &Path) -> Result<bool> {
    let path = packages::provide()?;
    ensure!(test::build_programs()?, "the programs do not build");
    let mut command: Command = steps::cargo();
    command.args(["test", "--package", "culvert-netns", "--no-fail-fast"]);
    if chosen.is_empty() {
        command.args(SCENARIOS.iter().flat_map(|file| ["--test", file]));
    } else {
        command.args(chosen.iter().flat_map(|file| ["--test", file.as_str()]));
    }
    command.env("PATH", path).env("CULVERT_TOOLS", packages::tools_directory()).env("CULVERT_STRACE", traces);
    steps::run(&mut command)
}

fn read_all(directory: &Path) -> Result<Seen> {
    let mut seen = Seen::new();
    let mut sealed = 0;
    let listed = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut paths: Vec<PathBuf> =
        listed.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in &paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let daemon = name.split('.').next().unwrap_or_default();
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        sealed += read_trace(daemon, &name, BufReader::new(file), &mut seen)?;
    }
    ensure!(sealed > 0, "no trace in {} reaches a seal", directory.display());
    println!("\n{} traces, {sealed} processes that were sealed", paths.len());
    Ok(seen)
}

/// Reads one trace: lines such as `1234<wgd-netcfg> sendmsg(3, …) = 5`. Returns how many processes it saw sealed.
fn read_trace(daemon: &str, name: &str, lines: impl BufRead, seen: &mut Seen) -> Result<usize> {
    // Two programs are put on; the list is the second. A helper has one thread; those of a daemon are sealed together.
    let mut programs: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in lines.split(b'\n') {
        let line = line.with_context(|| format!("read {name}"))?;
        let line = String::from_utf8_lossy(&line);
        let Some((id, thread, call)) = taken_apart(&line) else { continue };
        let (process, of) = match thread {
            "wgd-netcfg" => ("wgd_netcfg", id),
            "wgd-resolve" => ("wgd_resolve", id),
            _ => (daemon, ""),
        };
        let put_on = programs.entry((process.to_owned(), of.to_owned())).or_default();
        if call == "seccomp" && line.contains("SECCOMP_SET_MODE_FILTER") {
            *put_on += 1;
            continue;
        }
        if *put_on >= 2 && call != ANSWERED {
            let calls = seen.entry(process.to_owned()).or_default();
            if !calls.contains_key(call) {
                let line: String = line.chars().take(160).collect();
                let sight = Sight { thread: thread.to_owned(), trace: name.to_owned(), line };
                calls.insert(call.to_owned(), sight);
            }
        }
    }
    Ok(programs.values().filter(|count| **count >= 2).count())
}

/// In no table, and not the end either: the first program answers ENOSYS, and libc calls `clone` in its place.
const ANSWERED: &str = "clone3";

/// The thread's number, its name, and the call's; `None` for the second half of a call, a signal, an end.
fn taken_apart(line: &str) -> Option<(&str, &str, &str)> {
    let (head, rest) = line.split_once("> ")?;
    let (id, thread) = head.split_once('<')?;
    let call = rest.trim_start().split_once('(')?.0;
    let is_name = !call.is_empty() && call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((id, thread, call))
}

/// What differs, one line each.
fn compare(tables: &BTreeMap<String, BTreeSet<Rule>>, seen: &Seen, whole: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (process, calls) in seen {
        let Some(rules) = tables.get(process) else {
            wrong.push(format!("{process} has no table"));
            continue;
        };
        for (call, Sight { thread, trace, line }) in calls {
            if !rules.iter().any(|rule| rule.call == *call) {
                wrong.push(format!(
                    "{process} calls {call}, which is not allowed: thread {thread} in {trace}: {line}"
                ));
            }
        }
    }
    if !whole {
        return wrong;
    }
    // A part that several tables share has to be seen with one of them.
    let mut rules: BTreeMap<&Rule, Vec<&str>> = BTreeMap::new();
    for (process, table) in tables {
        for rule in table {
            rules.entry(rule).or_default().push(process);
        }
    }
    for (rule, processes) in rules {
        let calls_it =
            |process: &&str| seen.get(*process).is_some_and(|calls| calls.contains_key(&rule.call));
        let is_seen = processes.iter().any(calls_it);
        let of = processes.join(", ");
        // A written reason is enough: some are seen in one run and not in the next, a lock that was fought for, a block
        // that grew.
        if rule.unseen.is_none() && !is_seen {
            wrong.push(format!(
                "{} is allowed ({of}: {}) and was never seen: take it out, or say in its line why (`.unseen(…)`)",
                rule.call, rule.reason
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
10<wgd> openat(AT_FDCWD, \"/etc/x\", O_RDONLY) = 3\n\
11<wgd-netcfg> seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, {len=7}) = 0\n\
11<wgd-netcfg> seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, {len=90}) = 0\n\
10<wgd> openat(AT_FDCWD, \"/etc/y\", O_RDONLY) = 3\n\
11<wgd-netcfg> sendmsg(4, {msg_name=NULL}, 0) = 5\n\
10<wgd> seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, {len=7}) = 0\n\
10<wgd> read(3, <unfinished ...>\n\
10<wgd> seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, {len=90}) = 0\n\
12<wgd-data> <... read resumed>\"\"..., 10) = 0\n\
12<wgd-data> poll([{fd=5}], 1, -1 <unfinished ...>\n\
12<wgd-data> +++ exited with 0 +++\n";

    fn rule(call: &str, unseen: Option<&str>) -> Rule {
        Rule { call: call.into(), reason: "test".into(), unseen: unseen.map(str::to_owned) }
    }

    fn seen() -> Seen {
        let mut seen = Seen::new();
        assert_eq!(read_trace("wgd", "wgd.1", TRACE.as_bytes(), &mut seen).unwrap(), 2);
        seen
    }

    fn tables(wgd: &[Rule]) -> BTreeMap<String, BTreeSet<Rule>> {
        BTreeMap::from([
            ("wgd".to_owned(), wgd.iter().cloned().collect()),
            ("wgd_netcfg".to_owned(), BTreeSet::from([rule("sendmsg", None)])),
        ])
    }

    #[test]
    fn only_what_comes_after_the_own_seal_counts() {
        let seen = seen();
        assert_eq!(seen["wgd"].keys().collect::<Vec<_>>(), ["poll"]);
        assert_eq!(seen["wgd_netcfg"].keys().collect::<Vec<_>>(), ["sendmsg"]);
        assert_eq!(seen["wgd"]["poll"].thread, "wgd-data");
    }

    #[test]
    fn both_ways_are_compared() {
        assert!(compare(&tables(&[rule("poll", None)]), &seen(), true).is_empty());
        let missing = compare(&tables(&[]), &seen(), true);
        assert!(
            missing.len() == 1 && missing[0].contains("wgd calls poll") && missing[0].contains("wgd-data"),
            "{missing:?}"
        );
        let never = [rule("poll", None), rule("writev", None)];
        let wrong = compare(&tables(&never), &seen(), true);
        assert!(wrong.len() == 1 && wrong[0].starts_with("writev is allowed"), "{wrong:?}");
        assert!(
            compare(&tables(&never), &seen(), false).is_empty(),
            "a part of the suite shows nothing of it"
        );
        let said = [rule("poll", Some("seldom")), rule("writev", Some("an error path"))];
        assert!(
            compare(&tables(&said), &seen(), true).is_empty(),
            "a written reason is enough, whether it was seen or not"
        );
    }
}
