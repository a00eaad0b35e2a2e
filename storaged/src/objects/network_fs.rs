//! Which file systems live on another machine: the ledger must not.

use std::path::Path;

use nix::sys::statfs::{FsType, fstatfs, statfs};

/// Magic numbers of `include/uapi/linux/magic.h` and, where marked, of the file system's own source.
const NETWORK: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x7375_7245, "coda"),
    (0x7461_636f, "ocfs2"),
    (0x0102_1997, "9p"),
    (0x0bd0_0bd0, "lustre (its own)"),
    (0x6573_5546, "fuse (may be remote)"),
];

/// The name of the network file system that holds `path`; none: it is a local one.
pub fn network_file_system(path: &Path) -> std::io::Result<Option<&'static str>> {
    let magic = magic(statfs(path)?.filesystem_type());
    Ok(NETWORK.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name))
}

/// File systems whose `syncfs` is known to bring data and names to the disk. Network file systems and those in user
/// space may leave it to a server.
const SYNC_WHOLE: &[(u64, &str)] = &[(0xef53, "ext4"), (0x5846_5342, "xfs"), (0x9123_683e, "btrfs")];

/// Whether a sync of the whole file system can be relied on.
pub(super) fn syncs_whole(directory: impl std::os::fd::AsFd) -> bool {
    let Ok(found) = fstatfs(directory) else { return false };
    let magic = magic(found.filesystem_type());
    SYNC_WHOLE.iter().any(|(number, _)| *number == magic)
}

/// The magic is 32 bits wide; the type of the field differs by architecture.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the magic is 32 bits wide")]
fn magic(found: FsType) -> u64 {
    u64::from(found.0 as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_directory_is_local() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(network_file_system(folder.path()).unwrap(), None);
    }
}
