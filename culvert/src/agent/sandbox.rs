//! What a running agent may ask of the kernel, and why.
//!
//! Invariant: it listens on no socket, runs no program, and writes to one directory, where it keeps providers' keys;
//! Landlock says which, and which ports it may connect to.

use daemon::sandbox::{BASE, RESOLVE, THREADS, TOKIO};
use linux::seccomp::Condition::{Equals, Masked};
use linux::seccomp::{SyscallRule, allow, allow_when};
use linux::{Confinement, FileRule};

use super::config::Config;

/// The tables, in the order of reading.
pub const SYSCALLS: &[&[SyscallRule]] = &[BASE, THREADS, TOKIO, RESOLVE, OWN];

const OWN: &[SyscallRule] = &[
    allow_when(
        libc::SYS_setsockopt,
        "setsockopt",
        &[&[Equals(1, libc::IPPROTO_TCP as u64), Equals(2, libc::TCP_NODELAY as u64)]],
        "requests should not wait for company",
    ),
    allow(libc::SYS_shutdown, "shutdown", "the end of a connection"),
    allow_when(
        libc::SYS_openat,
        "openat",
        // O_TRUNC, O_APPEND and the like are none of it: a new file, or none.
        &[&[
            Masked {
                argument: 2,
                mask: CHANGES,
                value: (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL) as u64,
            },
            Masked { argument: 3, mask: 0o7777, value: 0o644 },
        ]],
        "a provider's new keys, in a file beside the old one; Landlock says where",
    ),
    allow(libc::SYS_fsync, "fsync", "the new keys are on the disk before they take the old ones' place"),
    allow(libc::SYS_rename, "rename", "the new file in place of the old; Landlock says where"),
    allow(libc::SYS_unlink, "unlink", "what an agent that was killed has left half-way"),
    allow(libc::SYS_statx, "statx", "the length of the keys that are there"),
];

/// `__O_TMPFILE`, include/uapi/asm-generic/fcntl.h; `O_TMPFILE` itself includes `O_DIRECTORY`.
const O_TMPFILE_BIT: u64 = 0o20_000_000;
const CHANGES: u64 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_APPEND) as u64 | O_TMPFILE_BIT;

/// Name servers, where an answer is too long for a datagram.
const DNS: u16 = 53;

pub(super) fn confinement(config: &Config) -> Confinement {
    let keys = config.keys_directory.iter().map(FileRule::replace);
    Confinement {
        user: config.user,
        files: daemon::sandbox::resolve_files().into_iter().chain(keys).collect(),
        tcp_connect: config.ports().into_iter().chain([DNS]).collect(),
        require_all: config.require_all,
        ..Confinement::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_serves_nobody_and_starts_nothing() {
        for rule in SYSCALLS.iter().copied().flatten() {
            let forbidden = [
                libc::SYS_listen,
                libc::SYS_accept4,
                libc::SYS_execve,
                libc::SYS_fork,
                libc::SYS_ptrace,
                libc::SYS_fchmod,
                libc::SYS_mkdir,
                libc::SYS_ftruncate,
            ];
            assert!(!forbidden.contains(&rule.number), "{}", rule.name);
            assert!(rule.reason.len() > 3, "{}", rule.name);
        }
    }
}
