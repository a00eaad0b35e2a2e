//! Descriptors that whoever started the process left open for it, named by their number.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::Privileged;

/// The first number that is no standard stream.
const FIRST: RawFd = 3;

/// Takes over descriptor `number`, which an argument or a variable says was left open. It is close-on-exec then.
///
/// Call it at the start, before anything else opens descriptors, and once for each number: what is open at a
/// number that was handed in is the caller's.
///
/// # Errors
/// `EBADF` when it is a standard stream or not open.
pub fn take(_: &Privileged, number: RawFd) -> io::Result<OwnedFd> {
    if number < FIRST {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is only borrowed for a call that answers EBADF if it is not open; `number` is not -1.
    fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, as the call above showed; it was handed in, so nothing in this process, which is still
    // on its only thread (`Privileged`), owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
