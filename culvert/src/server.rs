//! `culvert verify server`: what the daemons of this machine can still do, by the kernel's word.
//!
//! Invariant: a finding rests on `/proc`, on files or on another program's answer, never on what a daemon says of itself;
//! what a daemon says is shown beside it, as its own. What could not be looked at is told as that and is no success.

mod checks;
mod configuration;
mod finding;
mod host;
mod network;
mod proc_net;
mod process;
#[cfg(test)]
mod sample;
mod status_file;

use std::net::SocketAddr;

use clap::Args;
use serde_json::{Value, json};

pub(crate) use configuration::Configured;
pub(crate) use finding::{Finding, State};
pub(crate) use process::{Process, Role};

use crate::console::Console;
use crate::failure::Failure;
use network::Construction;

#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    /// Look at this process and its helpers alone (may be repeated) [default: every daemon that runs here]
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
}

/// Everything that was looked at.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) processes: Vec<Process>,
    pub(crate) findings: Vec<Finding>,
}

impl Inspection {
    /// Looks at the daemons of this machine, or at those that are named.
    pub(crate) fn make(pids: &[u32]) -> Result<Inspection, Failure> {
        let own = process::own_network()?;
        let processes = process::find(pids)?;
        if processes.is_empty() {
            return Err(Failure::cannot_tell(match pids {
                [] => "none of Culvert's daemons runs here".to_owned(),
                pids => format!("no daemon of Culvert is or runs below process {pids:?}"),
            }));
        }
        let mut findings = Vec::new();
        for process in &processes {
            findings.extend(checks::all(process));
            findings.extend(network::all(process, &own));
            findings.extend(configuration::all(process));
        }
        findings.extend(host::all(&processes));
        Ok(Inspection { processes, findings })
    }
}

/// What is open in the network namespace of this program: protocol and address.
pub(crate) fn listening() -> Result<Vec<(&'static str, SocketAddr)>, Failure> {
    let mut open = Vec::new();
    for (protocol, name) in [("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6")] {
        let path = format!("/proc/self/net/{name}");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            // A kernel that speaks no IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && name.ends_with('6') => continue,
            Err(error) => return Err(Failure::cannot_tell(format!("{path}: {error}"))),
        };
        let addresses: Vec<SocketAddr> = match protocol {
            "tcp" => proc_net::listeners(&text).into_iter().map(|listener| listener.address).collect(),
            _ => proc_net::open_to_all(&text),
        };
        open.extend(addresses.into_iter().map(|address| (protocol, address)));
    }
    open.sort();
    open.dedup();
    Ok(open)
}

pub(crate) fn run(arguments: &ServerArguments, console: Console) -> Result<(), Failure> {
    let inspection = Inspection::make(&arguments.pid)?;
    let own = process::own_network()?;
    let constructions: Vec<_> = inspection
        .processes
        .iter()
        .filter_map(|process| Some((process, Construction::of(process, &own)?)))
        .map(|(process, construction)| json!({ "daemon": process.subject(), "construction": construction.name() }))
        .collect();
    show(&inspection.findings, json!({ "network": constructions }), console)
}

/// The findings as a table, or as an object each and one with the verdict at the end.
pub(crate) fn show(findings: &[Finding], more: Value, console: Console) -> Result<(), Failure> {
    if console.is_json() {
        for finding in findings {
            console.json_line(finding)?;
        }
        let mut last = json!({ "verdict": finding::verdict(findings).name() });
        if let (Some(last), Value::Object(more)) = (last.as_object_mut(), more) {
            last.extend(more);
        }
        console.json_line(&last)?;
    } else {
        console.line(&finding::table(findings))?;
    }
    finding::conclude(findings)
}
