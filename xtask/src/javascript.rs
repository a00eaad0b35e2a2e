//! Other people's libraries from npm, each in a directory of its own below `target/tools`; and a browser.
//!
//! Invariant: a directory is complete or not there, and no script of a package is run. None is linked with anything of
//! ours: tests start Node and talk to it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Program};
use crate::steps;

/// A package and the name of its directory.
pub(crate) struct Library {
    name: &'static str,
    requirement: &'static str,
    what: Content,
}

/// What of a package is fetched.
enum Content {
    /// It and all that it needs.
    WithDependencies,
    /// Its own files alone: it holds everything in one.
    Alone,
}

/// Resumable uploads, by tus and by the IETF's draft.
pub(crate) const TUS: Library =
    Library { name: "tus-js-client", requirement: "tus-js-client@4.3.1", what: Content::WithDependencies };

/// The uploader of many pages, made to run in a browser.
pub(crate) const UPPY: Library = Library { name: "uppy", requirement: "uppy@6.0.1", what: Content::Alone };

/// A browser without a window.
pub(crate) const CHROMIUM: [Program; 1] =
    [Program { name: "chromium-headless-shell", package: "chromium-headless-shell" }];

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
    match library.what {
        Content::WithDependencies => {
            install.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]);
            install.arg("--prefix").arg(&directory).arg(library.requirement);
        }
        Content::Alone => {
            install.args(["pack", "--ignore-scripts", "--loglevel=error", library.requirement]);
            install.current_dir(&directory);
        }
    }
    ensure!(steps::run(&mut install)?, "npm could not install {}", library.requirement);
    if matches!(library.what, Content::Alone) {
        unpack(&directory)?;
    }
    fs::write(directory.join("complete"), "").context("mark the directory as complete")
}

/// Unpacks the one archive of a directory; what it holds is then in `package`.
fn unpack(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let archive =
        entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "tgz"));
    let archive = archive.context("npm pack left no archive")?;
    let mut unpack = Command::new("tar");
    unpack.arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(directory);
    ensure!(steps::run(&mut unpack)?, "tar could not unpack {}", archive.display());
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}
