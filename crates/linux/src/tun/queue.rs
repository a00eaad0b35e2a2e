//! How many packets may wait in a TUN device for their reader (`SIOCGIFTXQLEN`, `SIOCSIFTXQLEN`; netdevice(7)).
//!
//! Invariant: a length that somebody chose is left as it is.
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::os::fd::AsRawFd;

/// What the driver gives a new device (`TUN_READQ_SIZE`, drivers/net/tun.c): nobody has chosen yet.
const DRIVER_PACKETS: libc::c_int = 500;
/// 20 ms of 200,000 packets a second: a reader that shares its core with the sender may wait that long for its turn. It is
/// no longer queue for streams, whose own windows bound what waits here.
const PACKETS: libc::c_int = 4000;

// linux/sockios.h; libc has no names for them.
const SIOCGIFTXQLEN: libc::c_ulong = 0x8942;
const SIOCSIFTXQLEN: libc::c_ulong = 0x8943;

/// Makes the queue of a new device long enough for a burst of small packets.
pub(super) fn lengthen(name: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is a C structure of integers and byte arrays; all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let ask = |what: libc::c_ulong, request: &mut libc::ifreq| {
        // SAFETY: both requests read the name of one `ifreq` at the address they get, and write or read the number in it;
        // `request` is one and lives beyond the call.
        match unsafe { libc::ioctl(any.as_raw_fd(), what as _, std::ptr::from_mut(request)) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    ask(SIOCGIFTXQLEN, &mut request)?;
    // SAFETY: the kernel has filled this int of the union (`ifr_qlen` is `ifru_ivalue`, and the metric lies in its place).
    if unsafe { request.ifr_ifru.ifru_metric } == DRIVER_PACKETS {
        request.ifr_ifru.ifru_metric = PACKETS;
        ask(SIOCSIFTXQLEN, &mut request)?;
    }
    Ok(())
}
