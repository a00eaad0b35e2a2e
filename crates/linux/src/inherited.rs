//! Descriptors that whoever started the process left open for it, named by their number.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::Privileged;

/// The first number that is no standard stream.
const FIRST: RawFd = 3;

/// Takes over descriptor `number`, which an argument or a variable says was left open. It is close-on-exec then.
///
/// # Errors
/// `EBADF` when it is a standard stream or not open, `EBUSY` when it was not handed in or is taken already.
pub fn take(_: &Privileged, number: RawFd) -> io::Result<OwnedFd> {
    if number < FIRST {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is only borrowed for calls that answer EBADF if it is not open; `number` is not -1.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    // What came through exec cannot be close-on-exec; what this process opened or has taken always is.
    if FdFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFD)?).contains(FdFlag::FD_CLOEXEC) {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open and was not close-on-exec until now, so it was handed in and nothing in this process,
    // which is still on its only thread (`Privileged`), owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_has_an_owner_is_not_taken() {
        let privileged = Privileged::in_forked_child();
        let ours = tempfile::tempfile().unwrap();
        let error = take(&privileged, ours.as_raw_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        fcntl(&ours, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let taken = take(&privileged, std::os::fd::IntoRawFd::into_raw_fd(ours)).unwrap();
        assert_eq!(take(&privileged, taken.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    }

    #[test]
    fn what_is_not_open_is_not_taken() {
        let privileged = Privileged::in_forked_child();
        for number in [-1, 0, 2, 1_000_000] {
            assert_eq!(take(&privileged, number).unwrap_err().raw_os_error(), Some(libc::EBADF), "{number}");
        }
    }
}
