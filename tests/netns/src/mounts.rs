//! Mounts: making them, and reading the kernel's table of them.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

/// From now on no mount made here shows outside.
pub(crate) fn mount_private() -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make the mounts private")
}

/// Mounts a file system that lives in memory.
pub fn mount_tmpfs(target: &Path, options: &str) -> Result<()> {
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .with_context(|| format!("mount a tmpfs on {}", target.display()))
}

pub(crate) fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mount {} on {}", source.display(), target.display()))
}

/// A line of `/proc/<pid>/mountinfo` (proc(5)).
pub(crate) struct Mounted<'a> {
    /// Where.
    pub(crate) target: &'a str,
    /// The kind of file system.
    pub(crate) kind: &'a str,
    /// Whether nothing can be written through this mount.
    pub(crate) read_only: bool,
}

/// Reads the table.
pub(crate) fn mounts(table: &str) -> impl Iterator<Item = Mounted<'_>> {
    table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(4);
        let target = fields.next()?;
        let read_only = fields.next()?.split(',').any(|option| option == "ro");
        Some(Mounted { target, kind: right.split(' ').next()?, read_only })
    })
}

/// Leaves out what is hidden: a mount is, when one that comes later in the table stands at its place or above.
pub(crate) fn visible(all: Vec<Mounted<'_>>) -> Vec<Mounted<'_>> {
    let hidden = |(index, mount): (usize, &Mounted<'_>)| {
        all[index + 1..].iter().any(|later| Path::new(mount.target).starts_with(later.target))
    };
    let keep: Vec<bool> = all.iter().enumerate().map(|entry| !hidden(entry)).collect();
    let mut keep = keep.into_iter();
    all.into_iter().filter(|_| keep.next().unwrap_or(true)).collect()
}

/// File systems that hold the kernel's own things and no data of a program. `devtmpfs` and `/dev` stay writable:
/// `/dev/null` must be.
pub(crate) fn is_virtual(kind: &str) -> bool {
    matches!(
        kind,
        "proc"
            | "sysfs"
            | "cgroup"
            | "cgroup2"
            | "devtmpfs"
            | "devpts"
            | "mqueue"
            | "nsfs"
            | "securityfs"
            | "debugfs"
            | "tracefs"
            | "bpf"
            | "pstore"
            | "configfs"
            | "binfmt_misc"
            | "hugetlbfs"
            | "efivarfs"
            | "fusectl"
            | "autofs"
            | "rpc_pipefs"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_below_a_later_one_is_hidden() {
        let line = |target: &str| format!("28 1 254:0 / {target} rw - ext4 /dev/vda rw\n");
        let table: String = ["/", "/run", "/run/netns", "/tmp", "/run", "/tmp/x"].map(line).concat();
        let seen: Vec<_> = visible(mounts(&table).collect()).into_iter().map(|mount| mount.target).collect();
        assert_eq!(seen, ["/", "/tmp", "/run", "/tmp/x"]);
    }

    #[test]
    fn mountinfo_is_read() {
        let table = "28 1 254:0 / / ro,relatime shared:1 - ext4 /dev/vda rw\n\
                     30 28 0:25 / /run rw,nosuid - tmpfs tmpfs rw,mode=755\n";
        let all: Vec<_> = mounts(table).map(|m| (m.target, m.kind, m.read_only)).collect();
        assert_eq!(all, [("/", "ext4", true), ("/run", "tmpfs", false)]);
    }
}
