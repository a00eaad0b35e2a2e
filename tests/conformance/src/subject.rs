//! The program under test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Which program is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Our own, which has to hold every check.
    Wgd {
        /// Told to do without the kernel's offloads.
        plain: bool,
    },
    /// Another one, by its path on the test machine; it may differ where [`crate::differences`] says so.
    Other(PathBuf),
}

impl Subject {
    /// `None` is wgd as it is; else the name of a program in `PATH`, or a path.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn find(against: Option<&str>) -> Result<Subject> {
        let Some(name) = against else { return Ok(Subject::Wgd { plain: false }) };
        if name.contains('/') {
            let path = fs::canonicalize(name).with_context(|| format!("find {name}"))?;
            return Ok(Subject::Other(path));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        match std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file()) {
            Some(found) => Ok(Subject::Other(found)),
            None => bail!("{name} is not in PATH"),
        }
    }

    /// What a person calls it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Subject::Wgd { .. } => "wgd".to_owned(),
            Subject::Other(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    /// What it is told at each start, before everything else.
    pub(crate) fn arguments(&self) -> &'static [&'static str] {
        match self {
            Subject::Wgd { plain: true } => &["--device", "plain"],
            Subject::Wgd { plain: false } | Subject::Other(_) => &[],
        }
    }

    /// Puts a copy where the hosts see it, `disk` being a host's disk, and says where that is for them. `programs` is
    /// where wgd has been built. A copy, for it may be built anew meanwhile; and a host sees nothing of /tmp or /run
    /// of the test machine.
    pub(crate) fn install(&self, programs: &Path, disk: &Path) -> Result<String> {
        let name = self.name();
        let path = match self {
            Subject::Wgd { .. } => programs.join(&name),
            Subject::Other(path) => path.clone(),
        };
        fs::copy(&path, disk.join(&name)).with_context(|| format!("copy {}", path.display()))?;
        Ok(format!("{}/{name}", culvert_netns::host::DISK))
    }
}
