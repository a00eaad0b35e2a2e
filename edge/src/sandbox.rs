//! What edge may still do once it is sealed, line by line with the reason.
//!
//! There is no `openat`, no `execve`, no `memfd_create`, no `clone`: the threads that run are all
//! there will be. New sockets are TCP to the storageds' ports alone (Landlock holds the port).

use daemon::sandbox::{BASE, HANDED_IN_FILES, SERVE, TOKIO};
use linux::Confinement;
use linux::seccomp::Condition::{Equals, Masked};
use linux::seccomp::{SyscallRule, allow, allow_when};

use crate::config::{Config, Profile, Users};

/// The tables, in the order of reading.
pub const SYSCALLS: &[&[SyscallRule]] = &[BASE, TOKIO, SERVE, HANDED_IN_FILES, UPSTREAM];

/// The low four bits of a socket's type are the type; the rest are flags (net.h, `SOCK_TYPE_MASK`).
const TYPE_MASK: u64 = 0xf;
const STREAM: u64 = libc::SOCK_STREAM as u64;

const fn of_type_stream() -> linux::seccomp::Condition {
    Masked { argument: 1, mask: TYPE_MASK, value: STREAM }
}

/// Connecting to storaged. Protocol 0 or TCP: MPTCP (262) would go past Landlock's port rules.
const UPSTREAM: &[SyscallRule] = &[
    allow_when(
        libc::SYS_socket,
        "socket",
        &[
            &[Equals(0, libc::AF_INET as u64), of_type_stream(), Equals(2, 0)],
            &[Equals(0, libc::AF_INET as u64), of_type_stream(), Equals(2, libc::IPPROTO_TCP as u64)],
            &[Equals(0, libc::AF_INET6 as u64), of_type_stream(), Equals(2, 0)],
            &[Equals(0, libc::AF_INET6 as u64), of_type_stream(), Equals(2, libc::IPPROTO_TCP as u64)],
        ],
        "connections to storaged: TCP and nothing else",
    ),
    allow(libc::SYS_connect, "connect", "connections to storaged; Landlock holds the port"),
];

/// What is left after confinement: no path, no port but storaged's, no file writes.
pub fn confinement(config: &Config, users: &Users) -> Confinement {
    Confinement {
        user: users.own,
        keep: Vec::new(),
        forbid_file_writes: true,
        files: Vec::new(),
        tcp_bind: Vec::new(),
        tcp_connect: config.upstreams.ports(),
        require_all: config.profile == Profile::Production,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_opens_starts_or_traces_is_on_the_list() {
        let forbidden = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_creat,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_memfd_create,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_io_uring_setup,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_mount,
            libc::SYS_unlink,
            libc::SYS_rename,
            libc::SYS_ftruncate,
            libc::SYS_pwrite64,
        ];
        for rule in SYSCALLS.iter().copied().flatten() {
            assert!(!forbidden.contains(&rule.number), "{}", rule.name);
            assert!(!rule.reason.is_empty(), "{}", rule.name);
        }
    }
}
