//! What a running storaged may ask of the kernel, and why.
//!
//! **Invariant:** no new program, no new socket, no connection. Files can be opened, because objects come
//! and go: Landlock bounds them to the state directory and the volumes.

use daemon::sandbox;
use linux::seccomp::Condition::{Equals, Masked};
use linux::seccomp::{SyscallRule, allow, allow_when};
use linux::{Confinement, FileRule};

use crate::config::{Fixed, Profile};

/// The tables of the seal.
pub const SYSCALLS: &[&[SyscallRule]] =
    &[sandbox::BASE, sandbox::THREADS, sandbox::TOKIO, sandbox::SERVE, sandbox::HANDED_IN_FILES, FILES];

/// Beyond what all daemons need: files on the volumes, and the ledger.
const FILES: &[SyscallRule] = &[
    allow(libc::SYS_openat2, "openat2", "objects and markers, resolved beneath their volume"),
    allow_when(
        libc::SYS_openat,
        "openat",
        // Landlock says where; never a file without a name, which no walk would find.
        &[&[Masked { argument: 2, mask: O_TMPFILE_BIT, value: 0 }]],
        "volumes' directories for the check of the marker; objects where openat2 is missing",
    ),
    allow(libc::SYS_mkdirat, "mkdirat", "shards of the objects' directory")
        .unseen("by the store's own scenarios, which start storaged by themselves and are not traced"),
    allow(libc::SYS_renameat, "renameat", "publishing an object"),
    allow(libc::SYS_renameat2, "renameat2", "publishing an object, on other C libraries")
        .unseen("other C libraries make renameat of it"),
    allow(libc::SYS_unlinkat, "unlinkat", "removing a temporary or unpublished object"),
    allow(libc::SYS_getdents64, "getdents64", "counting unclaimed objects"),
    allow(libc::SYS_fsync, "fsync", "directories"),
    allow(libc::SYS_fdatasync, "fdatasync", "objects, their spool and the ledger"),
    allow(
        libc::SYS_syncfs,
        "syncfs",
        "the own files of small objects, when half of their volume's spool is full",
    )
    .unseen("by the store's own scenarios, which start storaged by themselves and are not traced"),
    allow(libc::SYS_pwrite64, "pwrite64", "pages of the ledger, and small objects in the spool"),
    allow(libc::SYS_ftruncate, "ftruncate", "growth of the ledger"),
    allow(libc::SYS_fallocate, "fallocate", "growth of the ledger")
        .unseen("the database asks for room so on some file systems, and by ftruncate on others"),
    allow(libc::SYS_flock, "flock", "the ledger's lock, given back at the end"),
    allow_when(
        libc::SYS_fcntl,
        "fcntl",
        &[
            &[Equals(1, libc::F_OFD_SETLK as u64)],
            &[Equals(1, libc::F_OFD_SETLKW as u64)],
            &[Equals(1, libc::F_OFD_GETLK as u64)],
        ],
        "the ledger's byte-range lock, given back at the end",
    ),
    allow(libc::SYS_geteuid, "geteuid", "whose datagrams and admin calls are our own user's"),
    allow(libc::SYS_getegid, "getegid", "as above"),
    allow(libc::SYS_fstatfs, "fstatfs", "free space of the volumes"),
];

/// `__O_TMPFILE`, include/uapi/asm-generic/fcntl.h; `O_TMPFILE` itself includes `O_DIRECTORY`.
const O_TMPFILE_BIT: u64 = 0o20_000_000;

/// What is left after the privileges are dropped.
pub fn confinement(fixed: &Fixed) -> Confinement {
    let mut files = vec![FileRule::read_write(&fixed.state_dir)];
    files.extend(fixed.volumes.iter().map(|volume| FileRule::read_write(&volume.path)));
    if fixed.journal_mirror.exists() {
        // On a volume it is covered, elsewhere it must be there before the start.
        files.push(FileRule::read_write(&fixed.journal_mirror));
    }
    Confinement {
        user: fixed.run_as,
        keep: Vec::new(),
        forbid_file_writes: false,
        files,
        tcp_bind: Vec::new(),
        tcp_connect: Vec::new(),
        require_all: fixed.profile == Profile::Production,
    }
}
