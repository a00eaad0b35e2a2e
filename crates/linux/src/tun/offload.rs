//! A TUN device whose packets have a virtio header before them (`IFF_VNET_HDR`, `TUNSETOFFLOAD`; linux/if_tun.h).
//!
//! Invariant: what is switched on is what the other side of this crate can cut and join: checksums, TCP in both families and,
//! where the kernel has it (6.2), UDP datagrams of one size.
use super::TunError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// Bytes of `struct virtio_net_hdr` (linux/virtio_net.h), which is the kernel's own default.
const HEADER_BYTES: libc::c_int = 10;

/// What an open device takes and gives in one piece, besides checksums that are left to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// UDP datagrams of one size (`TUN_F_USO4`, `TUN_F_USO6`) besides TCP, which all have.
    pub udp: bool,
}

/// Which kind of device is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WantedDevice {
    /// With offloads where the kernel has them.
    #[default]
    Auto,
    /// With offloads or not at all.
    Offload,
    /// One packet a system call.
    Plain,
}

/// Opens the control device and attaches to the interface of this name, which is made unless it is there.
pub(super) fn attach(name: &str) -> Result<(File, String), TunError> {
    let file = OpenOptions::new().read(true).write(true).open(super::CONTROL_DEVICE);
    let file = file.map_err(|error| TunError::at(name, error))?;
    // SAFETY: `ifreq` is a C structure of integers and byte arrays; all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    // SAFETY: TUNSETIFF (linux/if_tun.h) reads and writes one `ifreq` at the address it gets; `request` is one and
    // lives beyond the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) } < 0 {
        return Err(TunError::at(name, io::Error::last_os_error()));
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    let name = String::from_utf8(name.map(|byte| byte.cast_unsigned()).collect());
    let name = name.map_err(|_| TunError::NotTun("its name is no text".into()))?;
    set_header_length(&file).map_err(|error| TunError::Offload { name: name.clone(), error })?;
    Ok((file, name))
}

/// The header has its shortest form, whatever an earlier user chose.
pub(super) fn set_header_length(file: &File) -> io::Result<()> {
    let bytes = HEADER_BYTES;
    // SAFETY: TUNSETVNETHDRSZ reads one int at the address it gets.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const bytes) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// With UDP where the kernel has it.
pub(super) fn set_best(file: &File) -> io::Result<Offloads> {
    for offloads in [Offloads { udp: true }, Offloads { udp: false }] {
        match set(file, Some(offloads)) {
            Ok(()) => return Ok(offloads),
            // A kernel before 6.2 knows no TUN_F_USO4.
            Err(error) if offloads.udp && error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// Switches them on, or all of them off.
pub(super) fn set(file: &File, offloads: Option<Offloads>) -> io::Result<()> {
    let flags = match offloads {
        None => 0,
        Some(Offloads { udp }) => {
            let udp = if udp { libc::TUN_F_USO4 | libc::TUN_F_USO6 } else { 0 };
            libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | udp
        }
    };
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
