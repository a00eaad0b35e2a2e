//! How many instructions it takes to seal and open a packet, among how many peers: what time cannot show on a busy machine.
//!
//! Invariant: two runs that differ in the number of packets alone are subtracted, so that making the peers does not count.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Program};
use crate::steps;

const VALGRIND: [Program; 1] = [Program { name: "valgrind", package: "valgrind" }];

const PEERS: [u32; 3] = [1, 100, 10_000];

/// Large packets in the shorter run and in the longer one; each is 46 packets, the last of them a short one.
const ROUNDS: [u32; 2] = [10, 30];
const PACKETS: f64 = 46.0;

pub(super) fn provide() -> Result<()> {
    packages::require(&VALGRIND)
}

/// Prints them.
pub(super) fn count() -> Result<()> {
    println!("\ninstructions to cut, seal and open a packet\n");
    for peers in PEERS {
        let [few, many] = [instructions(peers, ROUNDS[0])?, instructions(peers, ROUNDS[1])?];
        let packets = f64::from(ROUNDS[1] - ROUNDS[0]) * PACKETS;
        println!("{:<48}{:>7.0}", format!("among {peers} peers"), (many - few) / packets);
    }
    Ok(())
}

fn instructions(peers: u32, rounds: u32) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(steps::root().join("target/release/examples/steps"))
        .args([peers.to_string(), rounds.to_string()])
        .output()
        .context("run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.with_context(|| format!("valgrind counted nothing: {said}"))
}
