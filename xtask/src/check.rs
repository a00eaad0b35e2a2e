//! `cargo xtask check`: everything that can be said about the tree without running it.
//!
//! Invariant: all steps run, whatever an earlier one found, and the table at the end names each.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{book, source_rules, steps, tools};

/// How a step ended.
enum Verdict {
    Fine,
    Findings,
    /// Could not be looked at, and why.
    Unknown(String),
}

pub(crate) fn run() -> Result<()> {
    let deny = tools::cargo_deny()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    let docs = ["doc", "--workspace", "--no-deps", "--locked"];
    let table = [
        ("format", cargo_step(&["fmt", "--all", "--", "--check"], None)?),
        ("clippy", cargo_step(&clippy, None)?),
        ("docs", cargo_step(&docs, Some(("RUSTDOCFLAGS", "-D warnings")))?),
        ("book", verdict(book::build()?)),
        ("source rules", source_rules_step()?),
        ("licences, bans, sources", deny_step(Command::new(&deny))?),
        ("advisories", advisories_step(Command::new(&deny))?),
    ];
    conclude(&table)
}

fn cargo_step(arguments: &[&str], environment: Option<(&str, &str)>) -> Result<Verdict> {
    let mut command = steps::cargo();
    command.args(arguments).envs(environment);
    Ok(verdict(steps::run(&mut command)?))
}

fn source_rules_step() -> Result<Verdict> {
    println!("\n==> source rules");
    let findings = source_rules::check(&steps::root())?;
    for finding in &findings {
        println!("{finding}");
    }
    Ok(verdict(findings.is_empty()))
}

fn deny_step(mut deny: Command) -> Result<Verdict> {
    deny.args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]).current_dir(steps::root());
    Ok(verdict(steps::run(&mut deny)?))
}

/// Advisories come from a database on the network; without it the answer is “not checked”, never “fine”.
fn advisories_step(mut deny: Command) -> Result<Verdict> {
    deny.args(["check", "advisories"]).current_dir(steps::root());
    steps::announce(&deny);
    let output = deny.output().context("start cargo-deny")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && said.contains("advisory database") && said.contains("fetch") {
        return Ok(Verdict::Unknown("the advisory database could not be fetched".to_owned()));
    }
    print!("{}{said}", String::from_utf8_lossy(&output.stdout));
    Ok(verdict(output.status.success()))
}

fn verdict(fine: bool) -> Verdict {
    if fine { Verdict::Fine } else { Verdict::Findings }
}

fn conclude(table: &[(&str, Verdict)]) -> Result<()> {
    println!();
    let mut with_findings = Vec::new();
    for (name, verdict) in table {
        match verdict {
            Verdict::Fine => println!("ok           {name}"),
            Verdict::Findings => {
                println!("FINDINGS     {name}");
                with_findings.push(*name);
            }
            Verdict::Unknown(why) => println!("NOT CHECKED  {name}: {why}"),
        }
    }
    if with_findings.is_empty() {
        return Ok(());
    }
    bail!("findings in: {}", with_findings.join(", "))
}
