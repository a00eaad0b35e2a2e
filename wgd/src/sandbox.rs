//! What each of the three processes may still do once it runs.
//!
//! Invariant: after the seal the process that touches packets opens no file and no socket, connects to nothing,
//! changes no device and starts no thread or process; there is no `openat`, `socket`, `connect`, `bind`,
//! `ioctl` or `clone` in its table.
use crate::config::{Config, Profile};
use crate::netcfg::Setup;
use daemon::sandbox::{BASE, RESOLVE, TOKIO};
use linux::seccomp::Condition::{Equals, Masked};
use linux::seccomp::{SyscallRule, allow, allow_when};
use linux::{Capability, Confinement, FileRule, User};
use std::path::PathBuf;

/// The process that touches packets: no file, no capability, nothing.
#[must_use]
pub fn confinement(config: &Config) -> Confinement {
    Confinement {
        user: config.user,
        require_all: config.profile == Profile::Production,
        ..Confinement::default()
    }
}

/// System calls of the process that touches packets.
pub const WGD: &[&[SyscallRule]] = &[BASE, TOKIO, PACKETS, CONTROL, &[LEAVE_TERMINAL]];

const PACKETS: &[SyscallRule] = &[
    allow(libc::SYS_poll, "poll", "the data thread waits for the TUN, the sockets and commands"),
    allow(libc::SYS_ppoll, "ppoll", "poll, on other C libraries").unseen("other C libraries make poll of it"),
    allow(libc::SYS_recvmmsg, "recvmmsg", "datagrams in batches"),
    allow(libc::SYS_sendmmsg, "sendmmsg", "datagrams in batches"),
];

const CONTROL: &[SyscallRule] = &[
    allow(libc::SYS_accept4, "accept4", "UAPI, admin and metrics connections on listeners bound before"),
    allow(libc::SYS_recvfrom, "recvfrom", "those connections; link changes on the netlink socket"),
    allow(libc::SYS_sendto, "sendto", "those connections; events and answers to bound Unix sockets"),
    allow(libc::SYS_recvmsg, "recvmsg", "netcfg's answers with sockets; questions with credentials"),
    allow(libc::SYS_sendmsg, "sendmsg", "requests to netcfg, with the sockets that shall be marked"),
    allow(libc::SYS_shutdown, "shutdown", "ending a connection"),
    allow(libc::SYS_pwrite64, "pwrite64", "the time of the last handshake, to a file opened before"),
    allow(
        libc::SYS_getsockopt,
        "getsockopt",
        "SO_TYPE of handed-in sockets, SO_PEERCRED, SO_ERROR, UDP_SEGMENT and UDP_GRO",
    ),
    allow(libc::SYS_getsockname, "getsockname", "the port of handed-in sockets"),
    allow(libc::SYS_getpeername, "getpeername", "accepted connections")
        .unseen("accept4 tells who is connected; libraries may ask once more"),
    allow(libc::SYS_sched_getaffinity, "sched_getaffinity", "the allocator counts processors for its arenas")
        .unseen("glibc counts processors when it wants another arena, which it was told not to make"),
    allow_when(
        libc::SYS_fcntl,
        "fcntl",
        &[
            &[Equals(1, libc::F_GETFL as u64)],
            &[Equals(1, libc::F_SETFL as u64)],
            &[Equals(1, libc::F_GETFD as u64)],
            &[Equals(1, libc::F_DUPFD_CLOEXEC as u64)],
        ],
        "non-blocking mode, a copy of a descriptor, the library's check that one is open",
    ),
];

/// The last step of going to the background, after the seal because only then is everything ready.
const LEAVE_TERMINAL: SyscallRule = allow_when(
    libc::SYS_dup2,
    "dup2",
    &[&[Equals(1, 0)], &[Equals(1, 1)], &[Equals(1, 2)]],
    "standard streams to /dev/null in the background",
)
.unseen("in the background alone; the suites run daemons in the foreground");

/// What `wgd-netcfg` keeps: CAP_NET_ADMIN, and CAP_NET_BIND_SERVICE in stock use; reading its configuration and
/// keys, and replacing them by files with a rotated key; and removing files from the directories of the sockets.
/// It runs as root, and what lies beside its configuration is read by programs that run commands from it
/// (wg-quick); so what it writes is put together by itself, of the old file and 32 bytes of a key (`save_key`).
#[must_use]
pub fn netcfg_confinement(setup: &Setup, key_directories: &[PathBuf]) -> Confinement {
    let read = key_directories.iter().map(PathBuf::as_path).chain(setup.config_path.parent());
    let remove = setup.socket_files.iter().filter_map(|path| path.parent());
    let files = read.map(FileRule::replace).chain(remove.map(FileRule::remove));
    let files = files.filter(|rule| rule.path().is_dir()).collect();
    let low_ports = setup.low_ports.then_some(Capability::CAP_NET_BIND_SERVICE);
    Confinement {
        keep: std::iter::once(Capability::CAP_NET_ADMIN).chain(low_ports).collect(),
        files,
        require_all: setup.require_all,
        ..Confinement::default()
    }
}

/// System calls of `wgd-netcfg`.
pub const NETCFG: &[&[SyscallRule]] = &[BASE, TOKIO, NETCFG_OWN, &[LEAVE_TERMINAL]];

const NETCFG_OWN: &[SyscallRule] = &[
    allow_when(
        libc::SYS_socket,
        "socket",
        // Protocol 0: neither ICMP nor anything else that is a datagram.
        &[
            &[Equals(0, libc::AF_INET as u64), DATAGRAM, Equals(2, 0)],
            &[Equals(0, libc::AF_INET6 as u64), DATAGRAM, Equals(2, 0)],
        ],
        "the tunnel's UDP sockets; netlink is open already",
    ),
    allow(libc::SYS_bind, "bind", "the tunnel's UDP sockets"),
    allow_when(
        libc::SYS_setsockopt,
        "setsockopt",
        &[
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_MARK as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_RCVBUF as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_SNDBUF as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_RCVBUFFORCE as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_SNDBUFFORCE as u64)],
            &[Equals(1, libc::IPPROTO_IP as u64), Equals(2, libc::IP_PKTINFO as u64)],
            &[Equals(1, libc::IPPROTO_IPV6 as u64), Equals(2, libc::IPV6_V6ONLY as u64)],
            &[Equals(1, libc::IPPROTO_IPV6 as u64), Equals(2, libc::IPV6_RECVPKTINFO as u64)],
            &[Equals(1, libc::SOL_UDP as u64), Equals(2, libc::UDP_GRO as u64)],
        ],
        "mark, buffers, packet information, datagrams of one flow in one message; no other option",
    ),
    allow(libc::SYS_getsockopt, "getsockopt", "SO_TYPE of sockets that shall be marked"),
    allow(libc::SYS_getsockname, "getsockname", "the port that was bound"),
    allow(libc::SYS_recvmsg, "recvmsg", "requests with their descriptors"),
    allow(libc::SYS_sendmsg, "sendmsg", "answers with their descriptors"),
    allow(libc::SYS_recvfrom, "recvfrom", "netlink, the resolver"),
    allow(libc::SYS_sendto, "sendto", "netlink, the resolver"),
    allow_when(
        libc::SYS_openat,
        "openat",
        READ_OR_MAKE,
        "the configuration and key files, and a new file beside them for a rotated key; Landlock says where",
    ),
    allow(libc::SYS_fsync, "fsync", "a rotated key is on the disk before it is used"),
    allow_when(
        libc::SYS_fchmod,
        "fchmod",
        &[&[Masked { argument: 1, mask: !KEPT_MODE as u64, value: 0 }]],
        "the mode of the file that it replaces: to be read, never to be run or to be written by others",
    ),
    allow(libc::SYS_rename, "rename", "the new file in place of the old; Landlock says where"),
    allow(libc::SYS_geteuid, "geteuid", "whether the file is ours to replace"),
    allow_when(
        libc::SYS_statx,
        "statx",
        &[&[Equals(2, libc::AT_EMPTY_PATH as u64)]],
        "whether others can read a key file, by its descriptor",
    ),
    allow(libc::SYS_unlink, "unlink", "socket files at farewell; Landlock says where"),
    allow_when(
        libc::SYS_fcntl,
        "fcntl",
        &[&[Equals(1, libc::F_GETFD as u64)], &[Equals(1, libc::F_DUPFD_CLOEXEC as u64)]],
        "a copy of a descriptor, the library's check that one is open",
    ),
];

/// What a file that netcfg has written may be: owner's to read and write, others' to read.
pub(crate) const KEPT_MODE: u32 = 0o644;

/// The same, or a file that does not exist yet, for its owner alone.
const READ_OR_MAKE: &[&[linux::seccomp::Condition]] = &[
    &[Masked { argument: 2, mask: OPEN_CHANGES, value: 0 }],
    &[
        Masked {
            argument: 2,
            mask: OPEN_CHANGES | libc::O_EXCL as u64,
            value: (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL) as u64,
        },
        Masked { argument: 3, mask: 0o7777, value: 0o600 },
    ],
];

/// What a file that is opened to be read is not opened with.
const OPEN_CHANGES: u64 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u64 | O_TMPFILE_BIT;
/// `__O_TMPFILE`, include/uapi/asm-generic/fcntl.h; `O_TMPFILE` itself includes `O_DIRECTORY`.
const O_TMPFILE_BIT: u64 = 0o20_000_000;

const DATAGRAM: linux::seccomp::Condition = Masked { argument: 1, mask: 0xf, value: libc::SOCK_DGRAM as u64 };

/// What `wgd-resolve` keeps: what the C library reads, and DNS over TCP for answers that are too long for UDP.
#[must_use]
pub fn resolver_confinement(user: User) -> Confinement {
    const DNS: u16 = 53;
    Confinement {
        user: Some(user),
        files: daemon::sandbox::resolve_files(),
        tcp_connect: vec![DNS],
        ..Confinement::default()
    }
}

/// System calls of `wgd-resolve`.
pub const RESOLVER: &[&[SyscallRule]] = &[BASE, RESOLVE, &[LEAVE_TERMINAL]];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tables: &[&[SyscallRule]]) -> Vec<&'static str> {
        tables.iter().copied().flatten().map(|rule| rule.name).collect()
    }

    #[test]
    fn the_packet_process_can_open_connect_and_start_nothing() {
        let allowed = names(WGD);
        for call in [
            "openat",
            "open",
            "socket",
            "connect",
            "bind",
            "ioctl",
            "clone",
            "clone3",
            "fork",
            "execve",
            "setsockopt",
            "unlink",
            "ptrace",
            "bpf",
            "prctl",
        ] {
            assert!(!allowed.contains(&call), "{call}");
        }
    }

    #[test]
    fn netcfg_starts_no_process_and_receives_no_batch() {
        let allowed = names(NETCFG);
        for call in ["clone", "clone3", "fork", "execve", "recvmmsg", "connect", "ptrace", "setns"] {
            assert!(!allowed.contains(&call), "{call}");
        }
    }

    /// What a table would let through, as the kernel reads it: groups of conditions, any of which is enough.
    fn allows(tables: &[&[SyscallRule]], number: i64, arguments: [u64; 6]) -> bool {
        tables.iter().copied().flatten().any(|rule| rule.number == number && rule.permits(&arguments))
    }

    #[test]
    fn the_helpers_open_files_to_read_only() {
        for tables in [NETCFG, RESOLVER] {
            let open =
                |flags: i32| allows(tables, libc::SYS_openat, [0, 0, flags.cast_unsigned().into(), 0, 0, 0]);
            assert!(open(libc::O_RDONLY | libc::O_CLOEXEC) && open(libc::O_RDONLY | libc::O_DIRECTORY));
            for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE] {
                assert!(!open(flags), "{flags:#o}");
            }
        }
    }

    #[test]
    fn netcfg_makes_files_for_their_owner_and_none_that_can_be_run() {
        let make = |mode: u64| {
            let flags =
                u64::from((libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC).cast_unsigned());
            allows(NETCFG, libc::SYS_openat, [0, 0, flags, mode, 0, 0])
        };
        assert!(make(0o600));
        for mode in [0o666, 0o644, 0o700, 0o755, 0o4600, 0o4755] {
            assert!(!make(mode), "{mode:o}");
        }
        let change = |mode: u64| allows(NETCFG, libc::SYS_fchmod, [3, mode, 0, 0, 0, 0]);
        assert!(change(0o600) && change(0o640) && change(0o644) && change(0o400));
        for mode in [0o700, 0o755, 0o4644, 0o2644, 0o666, 0o660] {
            assert!(!change(mode), "{mode:o}");
        }
    }

    #[test]
    fn no_process_sends_signals_by_descriptor_or_filters_sockets() {
        for tables in [WGD, NETCFG, RESOLVER] {
            // The third and fourth are F_SETSIG and F_SETOWN_EX, asm-generic/fcntl.h.
            for command in [libc::F_SETOWN, libc::F_NOTIFY, 10, 15] {
                assert!(
                    !allows(tables, libc::SYS_fcntl, [0, command.cast_unsigned().into(), 0, 0, 0, 0]),
                    "{command}"
                );
            }
            for option in [libc::SO_ATTACH_FILTER, libc::SO_ATTACH_BPF, libc::SO_BINDTODEVICE] {
                let arguments = [0, libc::SOL_SOCKET as u64, option.cast_unsigned().into(), 0, 0, 0];
                assert!(!allows(tables, libc::SYS_setsockopt, arguments), "{option}");
            }
            let executable = [0, 0, libc::PROT_EXEC as u64 | libc::PROT_WRITE as u64, 0, 0, 0];
            assert!(
                !allows(tables, libc::SYS_mmap, executable)
                    && !allows(tables, libc::SYS_mprotect, executable)
            );
        }
    }

    #[test]
    fn every_row_says_why() {
        for rule in WGD.iter().chain(NETCFG).chain(RESOLVER).copied().flatten() {
            assert!(rule.reason.len() > 3, "{}", rule.name);
        }
    }
}
