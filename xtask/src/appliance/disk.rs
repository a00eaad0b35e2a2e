//! A data partition, made and changed without mounting it: from a directory into a file and back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::shell;

const MEBIBYTES: u32 = 256;

pub(super) struct Disk {
    directory: PathBuf,
    file: PathBuf,
}

impl Disk {
    pub(super) fn new(name: &str, at: &Path) -> Result<Disk> {
        let disk = Disk { directory: at.join(format!("{name}.d")), file: at.join(format!("{name}.ext4")) };
        fs::create_dir_all(&disk.directory).with_context(|| format!("make {}", disk.directory.display()))?;
        Ok(disk)
    }

    /// The file to give to a machine.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Where a path of the machine, below one of the places that are kept, is in the directory.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    /// A file of root's.
    pub(super) fn write(&self, path: &str, mode: u32, content: &str) -> Result<()> {
        let to = self.path(path);
        if let Some(above) = to.parent() {
            fs::create_dir_all(above).with_context(|| format!("make {}", above.display()))?;
        }
        fs::write(&to, content).with_context(|| format!("write {}", to.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).context("set a mode")
    }

    pub(super) fn read(&self, path: &str) -> Result<String> {
        let from = self.path(path);
        fs::read_to_string(&from).with_context(|| format!("read {}", from.display()))
    }

    /// Makes the file out of the directory.
    pub(super) fn make(&self) -> Result<()> {
        let (directory, file) = (self.directory.display(), self.file.display());
        shell(&format!(
            "rm -f {file}; truncate -s {MEBIBYTES}M {file}; mkfs.ext4 -q -F -d {directory} {file}"
        ))
        .map(drop)
    }

    /// Makes the directory out of the file, after its power was cut.
    pub(super) fn take_back(&self) -> Result<()> {
        let (directory, file) = (self.directory.display(), self.file.display());
        // 1: it has mended something, which after a cut it may.
        shell(&format!(
            "e2fsck -fp {file} >/dev/null || test $? = 1
             rm -rf {directory}; mkdir {directory}
             debugfs -R 'rdump / {directory}' {file} 2>/dev/null
             rmdir {directory}/lost+found"
        ))
        .map(drop)
    }
}
