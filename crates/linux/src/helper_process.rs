//! A helper process forked before any thread exists, joined to its parent by a socket pair.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork, getppid};

use crate::Privileged;

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
/// The helper is killed when the parent dies. It gets its own [`Privileged`] and must confine itself.
pub fn fork_helper(
    privileged: Privileged,
    name: &str,
    body: impl FnOnce(Privileged, OwnedFd) -> u8,
) -> io::Result<(Privileged, Helper)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let parent = nix::unistd::getpid();
    // SAFETY: `Privileged` proves that this process has one thread, so the child inherits no lock held by a
    // thread that does not exist in it, and may allocate and run ordinary code.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(theirs);
            Ok((privileged, Helper { pid: child.as_raw(), socket: ours }))
        }
        ForkResult::Child => {
            drop(ours);
            let code = if prepare(name, parent).is_ok() {
                body(Privileged::in_forked_child(), theirs)
            } else {
                71 // EX_OSERR, sysexits.h
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
    let name = std::ffi::CString::new(name.as_bytes())?;
    Ok(nix::sys::prctl::set_name(&name)?)
}
