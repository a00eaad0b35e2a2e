//! The kernel's modules that reach the disk; all others come from the verified root.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;

/// Loads them in the order of their names, which is that of their needs. A driver without its hardware is no mistake.
pub(crate) fn load(directory: &Path) -> Result<()> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("list {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for path in files {
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let Err(error) = linux::first_process::load_module(&file) else { continue };
        let errno = error.raw_os_error().map(Errno::from_raw);
        if !matches!(errno, Some(Errno::ENODEV | Errno::EEXIST)) {
            crate::say(&format!("{}: {error}", path.display()));
        }
    }
    Ok(())
}
