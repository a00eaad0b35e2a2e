//! What the first process of a machine does, and nobody after it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Loads a kernel module out of its file.
pub fn load_module(module: &File) -> io::Result<()> {
    // SAFETY: finit_module(2) takes an open descriptor, a string with its end, and flags; it keeps neither.
    let status = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Starts the machine anew, at once; comes back only with the reason why it could not.
pub fn restart() -> io::Error {
    // SAFETY: no pointers. What is not written yet is lost, which sync(2) prevents.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    io::Error::last_os_error()
}
