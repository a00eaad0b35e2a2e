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
    /// What pip has to be told beside that.
    options: &'static [&'static str],
}

/// WireGuard's handshake, for the slow scenarios.
pub(crate) const NOISE: Library =
    Library { name: "noise", requirement: "noiseprotocol==0.3.1", options: &[] };
/// The format of sealed objects, for the unit tests of the vault.
pub(crate) const TINK: Library = Library { name: "tink", requirement: "tink==1.16.1", options: &[] };
/// The files of recovery keys, likewise.
pub(crate) const AGE: Library = Library { name: "age", requirement: "pyrage==1.4.0", options: &[] };
/// RFC 6962 proofs, C2SP notes, checkpoints and tiles, for the tests of `receipt`. It says that it needs Python 3.12, and
/// uses nothing that Debian 12's 3.11 lacks.
pub(crate) const TLOG: Library =
    Library { name: "tlog", requirement: "aics-tlog==0.2.1", options: &["--ignore-requires-python"] };

/// Resumable uploads by tus, for the scenarios with clients.
pub(crate) const TUSPY: Library = Library { name: "tuspy", requirement: "tuspy==1.1.0", options: &[] };

/// Requests made from the document of the API, for the scenarios that examine it.
pub(crate) const SCHEMATHESIS: Library =
    Library { name: "schemathesis", requirement: "schemathesis==4.32.5", options: &[] };
/// What a server's TLS offers, likewise.
pub(crate) const SSLYZE: Library = Library { name: "sslyze", requirement: "sslyze==6.3.1", options: &[] };

/// Playbooks and their checker, for the hosts with systemd; the core alone, without any collection.
pub(crate) const ANSIBLE: Library =
    Library { name: "ansible", requirement: "ansible-lint==26.10.1", options: &["ansible-core==2.19.14"] };

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
    install.args(library.options);
    ensure!(steps::run(&mut install)?, "pip could not install {}", library.requirement);
    fs::write(environment.join("complete"), "").context("mark the environment as complete")
}
