//! Other people's libraries from npm, each in a directory of its own below `target/tools`.
//!
//! Invariant: a directory is complete or not there, and no script of a package is run. None is linked with anything of
//! ours: tests start Node and talk to it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Program};
use crate::steps;

/// A package and the name of its directory.
pub(crate) struct Library {
    name: &'static str,
    requirement: &'static str,
}

/// Resumable uploads, by tus and by the IETF's draft.
pub(crate) const TUS: Library = Library { name: "tus-js-client", requirement: "tus-js-client@4.3.1" };

const NODE: [Program; 2] =
    [Program { name: "node", package: "nodejs" }, Program { name: "npm", package: "npm" }];

/// Installs a package, unless it is there.
pub(crate) fn provide(library: &Library) -> Result<()> {
    let directory = packages::tools_directory().join(library.name);
    if directory.join("complete").is_file() {
        return Ok(());
    }
    packages::require(&NODE)?;
    println!("Installing {} from npm into {}", library.requirement, directory.display());
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix"]);
    install.arg(&directory).arg(library.requirement);
    ensure!(steps::run(&mut install)?, "npm could not install {}", library.requirement);
    fs::write(directory.join("complete"), "").context("mark the directory as complete")
}
