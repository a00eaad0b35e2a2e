//! Other people's libraries from PyPI, each in an environment of its own below `target/tools`.
//!
//! Invariant: an environment is complete or not there, and none is installed. None is linked with anything of
//! ours: tests start its Python and talk to it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Program};
use crate::steps;

/// A library and the name of its environment.
pub(crate) struct Library {
    name: &'static str,
    requirement: &'static str,
}

/// WireGuard's handshake, for the slow scenarios.
pub(crate) const NOISE: Library = Library { name: "noise", requirement: "noiseprotocol==0.3.1" };
/// The format of sealed objects, for the unit tests of the vault.
pub(crate) const TINK: Library = Library { name: "tink", requirement: "tink==1.16.1" };
/// The files of recovery keys, likewise.
pub(crate) const AGE: Library = Library { name: "age", requirement: "pyrage==1.4.0" };

const PYTHON: [Program; 1] = [Program { name: "python3", package: "python3-venv" }];

/// Makes an environment, unless it is there.
pub(crate) fn provide(library: &Library) -> Result<()> {
    let environment = packages::tools_directory().join(library.name);
    if environment.join("complete").is_file() {
        return Ok(());
    }
    packages::require(&PYTHON)?;
    println!("Installing {} from PyPI into {}", library.requirement, environment.display());
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&environment);
    ensure!(steps::run(&mut make)?, "python3 made no environment (Debian: python3-venv)");
    let mut install = Command::new(environment.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check", library.requirement]);
    ensure!(steps::run(&mut install)?, "pip could not install {}", library.requirement);
    fs::write(environment.join("complete"), "").context("mark the environment as complete")
}
