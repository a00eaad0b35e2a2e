//! A helper process forked before any thread exists, joined to its parent by a socket pair.
//!
//! **Invariant:** a helper holds its standard streams, its end of the pair and the descriptors it was said to
//! keep, and no other: what its parent had open (listeners, another helper's socket) is out of its reach.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork, getppid};

use crate::Privileged;
use crate::privilege::assert_single_thread;

/// The first descriptor that is no standard stream.
const FIRST: u32 = 3;
/// EX_SOFTWARE and EX_OSERR, sysexits.h.
const SOFTWARE: u8 = 70;
const OS_ERROR: u8 = 71;

/// The parent's end of a helper.
#[derive(Debug)]
pub struct Helper {
    /// The helper's process id.
    pub pid: i32,
    /// `SOCK_SEQPACKET`: one message, one answer. Blocking. It reads end-of-file when the helper is gone.
    pub socket: OwnedFd,
}

/// Forks a helper called `name` (15 bytes at most are shown) that runs `body` and exits with its answer.
///
/// The helper is killed when the parent dies. It gets its own [`Privileged`] and must confine itself. Of the
/// parent's descriptors it holds the standard streams and `keep`; whatever else `body` captured is closed. It
/// has a copy of the parent's memory: fork before there is a secret in it.
pub fn fork_helper(
    privileged: Privileged,
    name: &str,
    keep: &[BorrowedFd<'_>],
    body: impl FnOnce(Privileged, OwnedFd) -> u8,
) -> io::Result<(Privileged, Helper)> {
    assert_single_thread().map_err(io::Error::other)?;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let parent = nix::unistd::getpid();
    // SAFETY: there is one thread, so the child inherits no lock held by a thread that does not exist in it,
    // and may allocate and run ordinary code.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(theirs);
            Ok((privileged, Helper { pid: child.as_raw(), socket: ours }))
        }
        ForkResult::Child => {
            drop(ours);
            let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
            kept.push(theirs.as_raw_fd());
            let ready = prepare(name, parent).and_then(|()| close_all_but(kept));
            // A panic must not unwind into the frames of the parent, which go on in this process's copy.
            let code = match ready {
                Ok(()) => catch_unwind(AssertUnwindSafe(|| body(Privileged::in_forked_child(), theirs)))
                    .unwrap_or(SOFTWARE),
                Err(_) => OS_ERROR,
            };
            std::process::exit(i32::from(code))
        }
    }
}

fn prepare(name: &str, parent: Pid) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died between fork and the line above.
    if getppid() != parent {
        return Err(io::Error::other("the parent is gone"));
    }
    set_name(name)
}

/// What `ps` calls this process: a helper that was started as a program of its own, like one that was forked.
///
/// # Errors
/// When there is a zero in it.
pub fn set_name(name: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(name.as_bytes())?;
    Ok(nix::sys::prctl::set_name(&name)?)
}

/// Closes every descriptor but the standard streams and `kept`.
fn close_all_but(kept: Vec<RawFd>) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.into_iter().filter_map(|fd| u32::try_from(fd).ok()).collect();
    kept.sort_unstable();
    let mut from = FIRST;
    for fd in kept {
        if fd < from {
            continue;
        }
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX)
}

/// `close_range(2)`, Linux 5.9.
fn close_range(first: u32, last: u32) -> io::Result<()> {
    let flags: libc::c_uint = 0;
    // SAFETY: this runs in a forked child that never returns to the frames of its parent: the values that own
    // these descriptors are used and dropped by nobody any more, `body` being told so.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
