//! The daemons that attack their host on request: built apart from those that do not, and kept among the tools.
//!
//! Invariant: `target/debug` holds the ordinary programs when this is done, so nobody starts a probe by mistake.

use std::fs;

use anyhow::{Context, Result};

use crate::{packages, steps};

/// The daemons with the feature.
const DAEMONS: [&str; 3] = ["wgd", "edge", "storaged"];

/// Builds them, unless they are as new as the sources; false if they do not build.
///
/// Cargo puts a program at one place whatever features it has, so each is taken away from there. The next build without
/// the feature puts the ordinary one back, which takes no compiler.
pub(crate) fn provide() -> Result<bool> {
    let directory = packages::tools_directory().join("probe");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut build = steps::cargo();
    build.arg("build");
    for daemon in DAEMONS {
        build.args(["--package", daemon, "--features", &format!("{daemon}/probe")]);
    }
    if !steps::run(&mut build)? {
        return Ok(false);
    }
    for daemon in DAEMONS {
        let (from, to) = (steps::root().join("target/debug").join(daemon), directory.join(daemon));
        // Not over a file that may be running.
        let _ = fs::remove_file(&to);
        fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    let mut build = steps::cargo();
    build.arg("build").args(DAEMONS.iter().flat_map(|daemon| ["--package", daemon]));
    steps::run(&mut build)
}
