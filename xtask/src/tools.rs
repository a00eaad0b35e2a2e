//! Tools of cargo's world that a check needs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::steps;

/// `cargo-deny`: licences, bans, sources, advisories.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    provided("cargo-deny", &[])
}

/// `mdbook`: the documentation as pages. Without its server and its search, which bring half of its dependencies.
pub(crate) fn mdbook() -> Result<PathBuf> {
    provided("mdbook", &["--no-default-features"])
}

/// The one in the path, else ours under `target/tools`, built there if need be.
fn provided(name: &str, features: &[&str]) -> Result<PathBuf> {
    let own = steps::root().join("target/tools/bin").join(name);
    for candidate in [PathBuf::from(name), own.clone()] {
        if runs(&candidate) {
            return Ok(candidate);
        }
    }
    println!("\n{name} is missing: building it into target/tools (once; takes some minutes)");
    let mut install = steps::cargo();
    // The dev profile: it runs for a second per check, and an optimised build costs many minutes.
    install.args(["install", name, "--locked", "--profile", "dev", "--root", "target/tools"]).args(features);
    install.env("CARGO_PROFILE_DEV_DEBUG", "false");
    ensure!(steps::run(&mut install)?, "{name} could not be installed");
    Ok(own)
}

fn runs(program: &PathBuf) -> bool {
    let status = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
