//! Tools of cargo's world that a check needs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::steps;

/// `cargo-deny`: the one in the path, else ours under `target/tools`, built there if need be.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let own = steps::root().join("target/tools/bin/cargo-deny");
    for candidate in [PathBuf::from("cargo-deny"), own.clone()] {
        if runs(&candidate) {
            return Ok(candidate);
        }
    }
    println!("\ncargo-deny is missing: building it into target/tools (once; takes some minutes)");
    let mut install = steps::cargo();
    // The dev profile: it runs for a second per check, and an optimised build costs many minutes.
    install.args(["install", "cargo-deny", "--locked", "--profile", "dev", "--root", "target/tools"]);
    install.env("CARGO_PROFILE_DEV_DEBUG", "false");
    ensure!(steps::run(&mut install)?, "cargo-deny could not be installed");
    Ok(own)
}

fn runs(program: &PathBuf) -> bool {
    let status = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
