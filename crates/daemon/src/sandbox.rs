//! Parts of the system-call tables that several daemons share. Each daemon's own table, and which of these
//! parts it takes, stands in its `sandbox.rs`.

use linux::seccomp::Condition::{Equals, Masked};
use linux::seccomp::{SyscallRule, allow, allow_when};

/// What any program of ours needs to run, log and end.
pub const BASE: &[SyscallRule] = &[
    allow(libc::SYS_read, "read", "descriptors that are open"),
    allow(libc::SYS_write, "write", "logs on stderr, eventfd, sockets"),
    allow(libc::SYS_readv, "readv", "descriptors that are open").unseen(
        "for libraries that read into several buffers at once; those we link write so and do not read so",
    ),
    allow(libc::SYS_writev, "writev", "sockets"),
    allow(libc::SYS_pread64, "pread64", "process figures from descriptors opened before"),
    allow(libc::SYS_close, "close", "descriptors"),
    allow(libc::SYS_futex, "futex", "locks and parking"),
    allow(libc::SYS_brk, "brk", "the allocator"),
    allow_when(
        libc::SYS_mmap,
        "mmap",
        &[&[Masked { argument: 2, mask: libc::PROT_EXEC as u64, value: 0 }]],
        "the allocator and thread stacks; never executable",
    ),
    allow_when(
        libc::SYS_mprotect,
        "mprotect",
        &[&[Masked { argument: 2, mask: libc::PROT_EXEC as u64, value: 0 }]],
        "the allocator and guard pages; never executable",
    ),
    allow(libc::SYS_munmap, "munmap", "the allocator"),
    allow(libc::SYS_mremap, "mremap", "the allocator, growing in place")
        .unseen("glibc grows blocks of more than 128 KiB by it, and few of them grow"),
    allow(libc::SYS_madvise, "madvise", "the allocator and ended threads' stacks"),
    allow(libc::SYS_clock_gettime, "clock_gettime", "clock sources that have no vDSO")
        .unseen("strace sees nothing of the vDSO; a clock source without one makes this call"),
    allow(libc::SYS_gettimeofday, "gettimeofday", "clock sources that have no vDSO")
        .unseen("strace sees nothing of the vDSO; a clock source without one makes this call"),
    allow(libc::SYS_time, "time", "clock sources that have no vDSO")
        .unseen("strace sees nothing of the vDSO; a clock source without one makes this call"),
    allow(libc::SYS_getcpu, "getcpu", "the allocator, where there is no vDSO")
        .unseen("strace sees nothing of the vDSO; a clock source without one makes this call"),
    allow(libc::SYS_clock_nanosleep, "clock_nanosleep", "sleeping"),
    allow(libc::SYS_nanosleep, "nanosleep", "sleeping").unseen("other C libraries sleep by it"),
    allow(libc::SYS_sched_yield, "sched_yield", "spinning locks")
        .unseen("a lock that spins yields when it finds no end"),
    allow(libc::SYS_getrandom, "getrandom", "ids, keys, hash seeds"),
    allow(libc::SYS_rt_sigaction, "rt_sigaction", "default action before an abort")
        .unseen("abort(), which no suite reaches: it would be a broken invariant"),
    allow(libc::SYS_rt_sigprocmask, "rt_sigprocmask", "thread start and abort"),
    allow(libc::SYS_rt_sigreturn, "rt_sigreturn", "returning from a signal handler"),
    allow(libc::SYS_sigaltstack, "sigaltstack", "each thread's stack-overflow guard"),
    allow(libc::SYS_restart_syscall, "restart_syscall", "the kernel restarts a sleep with it"),
    allow(libc::SYS_gettid, "gettid", "abort"),
    allow(libc::SYS_getpid, "getpid", "abort"),
    allow_when(
        libc::SYS_tgkill,
        "tgkill",
        &[&[Equals(2, libc::SIGABRT as u64)]],
        "abort() after a broken invariant; no other signal",
    )
    .unseen("abort(), which no suite reaches: it would be a broken invariant"),
    allow(libc::SYS_exit, "exit", "a thread ends"),
    allow(libc::SYS_exit_group, "exit_group", "the process ends"),
];

/// Starting threads after the seal. Only threads: any new namespace or process has other flags.
pub const THREADS: &[SyscallRule] = &[
    allow_when(
        libc::SYS_clone,
        "clone",
        &[&[Masked { argument: 0, mask: THREAD_FLAGS | FORBIDDEN_FLAGS, value: THREAD_FLAGS }]],
        "worker threads of a blocking pool",
    ),
    allow(libc::SYS_set_robust_list, "set_robust_list", "thread start"),
    allow(libc::SYS_rseq, "rseq", "thread start"),
    allow(libc::SYS_sched_getaffinity, "sched_getaffinity", "thread start, stack bounds"),
    allow_when(
        libc::SYS_prctl,
        "prctl",
        // PR_SET_VMA, include/uapi/linux/prctl.h: the allocator names its arenas.
        &[&[Equals(0, libc::PR_SET_NAME as u64)], &[Equals(0, 0x5356_4d41)]],
        "thread names, names of anonymous memory",
    ),
];

const THREAD_FLAGS: u64 =
    (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;
const FORBIDDEN_FLAGS: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_PTRACE) as u64;

/// The tokio runtime's reactor and signals.
pub const TOKIO: &[SyscallRule] = &[
    allow(libc::SYS_epoll_wait, "epoll_wait", "the reactor waits"),
    allow(libc::SYS_epoll_pwait, "epoll_pwait", "the reactor waits, on other C libraries")
        .unseen("other C libraries make epoll_wait of it"),
    allow(libc::SYS_epoll_ctl, "epoll_ctl", "the reactor learns of sockets"),
];

/// Accepting and serving connections on listeners that are open.
pub const SERVE: &[SyscallRule] = &[
    allow(libc::SYS_accept4, "accept4", "connections on listeners bound before the seal"),
    allow(libc::SYS_recvfrom, "recvfrom", "sockets"),
    allow(libc::SYS_sendto, "sendto", "sockets; no way to name a new peer on a connected one"),
    allow(libc::SYS_recvmsg, "recvmsg", "descriptors and credentials on Unix sockets"),
    allow(libc::SYS_sendmsg, "sendmsg", "Unix sockets")
        .unseen("several buffers in one write to a Unix socket; the answers to operators have one"),
    allow(libc::SYS_shutdown, "shutdown", "half-close"),
    allow(libc::SYS_getpeername, "getpeername", "who is connected")
        .unseen("accept4 tells who is connected; libraries may ask once more"),
    allow(libc::SYS_getsockname, "getsockname", "where we are connected"),
    allow(libc::SYS_getsockopt, "getsockopt", "SO_PEERCRED, SO_ERROR"),
    allow_when(
        libc::SYS_setsockopt,
        "setsockopt",
        // One by one: among the others are filters in kernel code (SO_ATTACH_FILTER), another protocol on top
        // (TCP_ULP) and another network device (SO_BINDTODEVICE).
        &[
            &[Equals(1, libc::IPPROTO_TCP as u64), Equals(2, libc::TCP_NODELAY as u64)],
            &[Equals(1, libc::IPPROTO_TCP as u64), Equals(2, libc::TCP_USER_TIMEOUT as u64)],
            &[Equals(1, libc::IPPROTO_TCP as u64), Equals(2, libc::TCP_KEEPIDLE as u64)],
            &[Equals(1, libc::IPPROTO_TCP as u64), Equals(2, libc::TCP_KEEPINTVL as u64)],
            &[Equals(1, libc::IPPROTO_TCP as u64), Equals(2, libc::TCP_KEEPCNT as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_KEEPALIVE as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_LINGER as u64)],
        ],
        "TCP_NODELAY, time-outs, keepalives, linger",
    ),
    allow_when(libc::SYS_fcntl, "fcntl", FLAGS_OF_A_DESCRIPTOR, "non-blocking mode, close-on-exec"),
    allow_when(libc::SYS_ioctl, "ioctl", &[&[Equals(1, libc::FIONBIO)]], "non-blocking mode, nothing else")
        .unseen("std makes what is handed in non-blocking by it; tokio asks by fcntl"),
];

/// What may be asked of a descriptor. No F_SETOWN or F_SETSIG: with them it sends signals to other processes of the same user.
const FLAGS_OF_A_DESCRIPTOR: &[&[linux::seccomp::Condition]] = &[
    &[Equals(1, libc::F_GETFL as u64)],
    &[Equals(1, libc::F_SETFL as u64)],
    &[Equals(1, libc::F_GETFD as u64)],
    &[Equals(1, libc::F_SETFD as u64)],
    &[Equals(1, libc::F_DUPFD_CLOEXEC as u64)],
];

/// Reading files that are handed in by descriptor on a reload.
pub const HANDED_IN_FILES: &[SyscallRule] = &[
    allow(libc::SYS_fstat, "fstat", "sizes of files handed in").unseen("other C libraries take it for statx"),
    allow(libc::SYS_statx, "statx", "sizes of files handed in"),
    allow(libc::SYS_newfstatat, "newfstatat", "sizes of files handed in, by descriptor"),
    allow(libc::SYS_lseek, "lseek", "how much of a file handed in is left")
        .unseen("std asks how much is left where a whole file is read without a bound; ours have bounds"),
];

/// Looking up names by the C library, in the process itself, beside [`BASE`]. Landlock says which files it reads:
/// [`resolve_files`].
pub const RESOLVE: &[SyscallRule] = &[
    allow_when(
        libc::SYS_socket,
        "socket",
        &[
            &[Equals(0, libc::AF_INET as u64), DATAGRAM],
            &[Equals(0, libc::AF_INET as u64), STREAM],
            &[Equals(0, libc::AF_INET6 as u64), DATAGRAM],
            &[Equals(0, libc::AF_INET6 as u64), STREAM],
            &[Equals(0, libc::AF_UNIX as u64), STREAM],
            &[Equals(0, libc::AF_NETLINK as u64), Equals(2, libc::NETLINK_ROUTE as u64)],
        ],
        "name servers, nscd and systemd-resolved, own addresses for sorting",
    ),
    allow(libc::SYS_connect, "connect", "name servers"),
    allow(libc::SYS_bind, "bind", "the netlink socket that lists own addresses").unseen(BY_NSSWITCH),
    allow(libc::SYS_poll, "poll", "waiting for a name server"),
    allow(libc::SYS_ppoll, "ppoll", "waiting for a name server").unseen(BY_NSSWITCH),
    allow(libc::SYS_recvfrom, "recvfrom", "name servers"),
    allow(libc::SYS_sendto, "sendto", "name servers").unseen(BY_NSSWITCH),
    allow(libc::SYS_recvmsg, "recvmsg", "questions from those it looks up for, netlink"),
    allow(libc::SYS_sendmsg, "sendmsg", "answers to them, name servers"),
    allow(libc::SYS_sendmmsg, "sendmmsg", "A and AAAA in one call"),
    allow(libc::SYS_getsockname, "getsockname", "own addresses for sorting").unseen(BY_NSSWITCH),
    allow(libc::SYS_getpeername, "getpeername", "name servers over TCP").unseen(BY_NSSWITCH),
    allow(libc::SYS_getsockopt, "getsockopt", "connect results").unseen(BY_NSSWITCH),
    allow_when(
        libc::SYS_setsockopt,
        "setsockopt",
        &[
            &[Equals(1, libc::IPPROTO_IP as u64), Equals(2, libc::IP_RECVERR as u64)],
            &[Equals(1, libc::IPPROTO_IPV6 as u64), Equals(2, libc::IPV6_RECVERR as u64)],
            &[Equals(1, libc::IPPROTO_IPV6 as u64), Equals(2, libc::IPV6_V6ONLY as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_RCVBUF as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_SNDBUF as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_PASSCRED as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_RCVTIMEO as u64)],
            &[Equals(1, libc::SOL_SOCKET as u64), Equals(2, libc::SO_SNDTIMEO as u64)],
        ],
        "errors and buffers of the query's sockets; no filter, no mark, no device",
    ),
    allow_when(libc::SYS_ioctl, "ioctl", &[&[Equals(1, libc::FIONREAD)]], "how long an answer is"),
    allow_when(
        libc::SYS_openat,
        "openat",
        READ_ONLY,
        "hosts, resolv.conf, nsswitch.conf and its modules; Landlock says where",
    ),
    allow(libc::SYS_newfstatat, "newfstatat", "whether resolv.conf has changed"),
    allow(libc::SYS_fstat, "fstat", "whether resolv.conf has changed").unseen(BY_NSSWITCH),
    allow(libc::SYS_lseek, "lseek", "those files"),
    allow(libc::SYS_access, "access", "modules of nsswitch.conf").unseen(BY_NSSWITCH),
    allow(libc::SYS_uname, "uname", "the host's own name"),
    allow_when(libc::SYS_fcntl, "fcntl", FLAGS_OF_A_DESCRIPTOR, "close-on-exec and non-blocking mode"),
    allow(libc::SYS_geteuid, "geteuid", "modules of nsswitch.conf").unseen(BY_NSSWITCH),
    allow(libc::SYS_getuid, "getuid", "modules of nsswitch.conf").unseen(BY_NSSWITCH),
    allow_when(
        libc::SYS_mmap,
        "mmap",
        &[&[Masked { argument: 2, mask: W_X, value: libc::PROT_EXEC as u64 }]],
        "modules of nsswitch.conf; executable but never writable (MDWE keeps it so)",
    )
    .unseen(BY_NSSWITCH),
];

const STREAM: linux::seccomp::Condition = Masked { argument: 1, mask: 0xf, value: libc::SOCK_STREAM as u64 };
const W_X: u64 = (libc::PROT_WRITE | libc::PROT_EXEC) as u64;

/// `open` to read what exists: no access mode but `O_RDONLY`, nothing made, nothing cut short.
const READ_ONLY: &[&[linux::seccomp::Condition]] = &[&[Masked { argument: 2, mask: OPEN_CHANGES, value: 0 }]];
const OPEN_CHANGES: u64 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u64 | O_TMPFILE_BIT;
/// `__O_TMPFILE`, include/uapi/asm-generic/fcntl.h; `O_TMPFILE` itself includes `O_DIRECTORY`.
const O_TMPFILE_BIT: u64 = 0o20_000_000;
const DATAGRAM: linux::seccomp::Condition = Masked { argument: 1, mask: 0xf, value: libc::SOCK_DGRAM as u64 };

/// Why a call of the resolver may not be seen.
const BY_NSSWITCH: &str = "what a look-up calls depends on the host's nsswitch.conf and its modules; the labs' names stand in /etc/hosts";

/// What the C library reads when it looks up a name, of what is there.
#[must_use]
pub fn resolve_files() -> Vec<linux::FileRule> {
    const READ: &[&str] = &[
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/nsswitch.conf",
        "/etc/host.conf",
        "/etc/gai.conf",
        "/etc/services",
        "/etc/ld.so.cache",
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/run/systemd/resolve",
    ];
    READ.iter()
        .filter(|path| std::path::Path::new(path).exists())
        .map(|path| linux::FileRule::read(*path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(tables: &[&[SyscallRule]], number: i64, arguments: [u64; 6]) -> bool {
        tables.iter().copied().flatten().any(|rule| rule.number == number && rule.permits(&arguments))
    }

    fn option(level: i32, name: i32) -> [u64; 6] {
        [0, level.cast_unsigned().into(), name.cast_unsigned().into(), 0, 0, 0]
    }

    #[test]
    fn sockets_get_no_filter_no_device_and_no_other_protocol() {
        assert!(allows(&[SERVE], libc::SYS_setsockopt, option(libc::IPPROTO_TCP, libc::TCP_NODELAY)));
        for (level, name) in [
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
            (libc::SOL_SOCKET, libc::SO_ATTACH_BPF),
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
            (libc::SOL_SOCKET, libc::SO_MARK),
            (libc::IPPROTO_TCP, libc::TCP_ULP),
            (libc::IPPROTO_TCP, libc::TCP_REPAIR),
            (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        ] {
            assert!(!allows(&[SERVE], libc::SYS_setsockopt, option(level, name)), "{level} {name}");
        }
    }

    #[test]
    fn clone_makes_threads_and_nothing_else() {
        let thread = THREAD_FLAGS | (libc::CLONE_SETTLS | libc::CLONE_SYSVSEM).cast_unsigned() as u64;
        let allowed = |flags: u64| allows(&[BASE, THREADS], libc::SYS_clone, [flags, 0, 0, 0, 0, 0]);
        assert!(allowed(thread));
        assert!(!allowed(libc::SIGCHLD.cast_unsigned().into()), "a process");
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_NEWUTS, libc::CLONE_NEWIPC] {
            assert!(!allowed(thread | u64::from(flag.cast_unsigned())), "{flag:#x}");
        }
    }
}
