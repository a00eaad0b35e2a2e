//! Descriptors in the runtime's reactor.
use std::io;
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `inner` with the runtime of this thread.
///
/// # Errors
/// When the reactor is out of memory.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may lie about its descriptor; the types given here own theirs"
)]
pub(crate) fn register<T: AsRawFd>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, interest)
}
