//! A TUN device: whole IP packets, one a read and one a write, either as they are or, with offloads, each behind a virtio
//! header that lets it be up to 64 KiB of one flow.
//!
//! Invariant: the descriptor does not block, and the name is the one that the kernel gave back, so a device
//! that is renamed or moved to another network namespace later is still reached by this value. A device without offloads
//! has them switched off in the kernel too, whoever used it before: else packets would come that nobody cuts.
mod offload;
mod queue;

pub use offload::{Offloads, WantedDevice};

use crate::Privileged;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use tun_tap::{Iface, Mode};

/// The longest interface name without its terminating NUL (`IFNAMSIZ` in linux/if.h is 16).
pub const MAX_NAME_BYTES: usize = 15;

const CONTROL_DEVICE: &str = "/dev/net/tun";

/// An open TUN device; closing it removes the interface unless somebody made it persistent.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    offloads: Option<Offloads>,
}

/// Why a TUN device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name is not one the kernel would take.
    #[error("interface {0:?}: a name has 1 to 15 bytes out of a-z A-Z 0-9 _ = + . - and is not . or ..")]
    Name(String),
    /// The control device is not there.
    #[error("/dev/net/tun: {0}: load the tun module or pass the device in")]
    Missing(io::Error),
    /// Somebody holds the interface open, or an interface of another kind has the name.
    #[error("interface {name}: in use by another program, or not a TUN device ({error})")]
    InUse {
        /// The interface.
        name: String,
        /// EBUSY or EINVAL as the kernel gave it.
        error: io::Error,
    },
    /// Neither CAP_NET_ADMIN nor ownership of the persistent device.
    #[error("interface {name}: {error}: making a TUN device needs CAP_NET_ADMIN; run as root")]
    Permission {
        /// The interface.
        name: String,
        /// EPERM or EACCES as the kernel gave it.
        error: io::Error,
    },
    /// What was handed in cannot be used.
    #[error("handed-in TUN: {0}")]
    NotTun(String),
    /// The kernel has them not, or keeps them from this program.
    #[error("interface {name}: no offloads (IFF_VNET_HDR, TUNSETOFFLOAD): {error}")]
    Offload {
        /// The interface.
        name: String,
        /// As the kernel gave it.
        error: io::Error,
    },
    /// Anything else.
    #[error("interface {name}: {error}")]
    Other {
        /// The interface.
        name: String,
        /// As the kernel gave it.
        error: io::Error,
    },
}

impl Tun {
    /// Makes the interface in this thread's network namespace, or attaches to a persistent one of that name.
    ///
    /// # Errors
    /// When the name is impossible, the control device is missing, or the kernel refuses.
    pub fn create(privileged: &Privileged, name: &str, wanted: WantedDevice) -> Result<Self, TunError> {
        if !is_interface_name(name) {
            return Err(TunError::Name(name.to_owned()));
        }
        if let Err(error) = std::fs::metadata(CONTROL_DEVICE) {
            return Err(TunError::Missing(error));
        }
        let tun = match wanted {
            WantedDevice::Plain => Self::create_plain(privileged, name),
            WantedDevice::Offload => Self::create_offload(privileged, name),
            // A sandbox without offloads refuses them in its own way; what is wrong besides is said by the other try.
            WantedDevice::Auto => {
                Self::create_offload(privileged, name).or_else(|_| Self::create_plain(privileged, name))
            }
        }?;
        // Whoever owns the device but not the network may not, and does with the shorter one.
        let _ = queue::lengthen(&tun.name);
        Ok(tun)
    }

    fn create_plain(_: &Privileged, name: &str) -> Result<Self, TunError> {
        let interface =
            Iface::without_packet_info(name, Mode::Tun).map_err(|error| TunError::at(name, error))?;
        let name = interface.name().to_owned();
        // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, so this `File` is its only owner.
        let file = unsafe { File::from_raw_fd(interface.into_raw_fd()) };
        // What it was used for before may have left them on. A kernel that does not know the call has none.
        let _ = offload::set(&file, None);
        set_nonblocking(&file).map_err(|error| TunError::at(&name, error))?;
        Ok(Self { file, name, offloads: None })
    }

    fn create_offload(_: &Privileged, name: &str) -> Result<Self, TunError> {
        let (file, name) = offload::attach(name)?;
        let offloads =
            offload::set_best(&file).map_err(|error| TunError::Offload { name: name.clone(), error })?;
        set_nonblocking(&file).map_err(|error| TunError::at(&name, error))?;
        Ok(Self { file, name, offloads: Some(offloads) })
    }

    /// Takes over a device that somebody else opened, and asks the kernel for its name. Whether it has offloads was decided
    /// by whoever opened it.
    ///
    /// # Errors
    /// When the descriptor is no TUN device, or has the old packet information before each packet.
    pub fn from_descriptor(_: &Privileged, descriptor: OwnedFd) -> Result<Self, TunError> {
        let file = File::from(descriptor);
        // SAFETY: `ifreq` is a C structure of integers and byte arrays; all zeros is a value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF (linux/if_tun.h) writes one `ifreq` to the address it gets; `request` is one and
        // lives beyond the call. Another kind of descriptor answers with an error and writes nothing.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) } < 0 {
            let error = io::Error::last_os_error();
            return Err(TunError::NotTun(format!("the descriptor is no TUN device: {error}")));
        }
        // SAFETY: TUNGETIFF fills this member of the union.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & libc::IFF_TUN == 0 {
            return Err(TunError::NotTun("the device is a TAP: it carries frames, not packets".into()));
        }
        if flags & libc::IFF_NO_PI == 0 {
            let what = "the device puts its packet information before each packet: open it with IFF_NO_PI";
            return Err(TunError::NotTun(what.into()));
        }
        let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
        let name = String::from_utf8(name.map(|byte| byte.cast_unsigned()).collect());
        let name = name.map_err(|_| TunError::NotTun("its name is no text".into()))?;
        if !is_interface_name(&name) {
            return Err(TunError::Name(name));
        }
        let offloads = if flags & libc::IFF_VNET_HDR == 0 {
            let _ = offload::set(&file, None);
            None
        } else {
            let offloads = offload::set_header_length(&file).and_then(|()| offload::set_best(&file));
            Some(offloads.map_err(|error| TunError::Offload { name: name.clone(), error })?)
        };
        set_nonblocking(&file).map_err(|error| TunError::at(&name, error))?;
        Ok(Self { file, name, offloads })
    }

    /// What comes in one piece; `None` for a plain device, whose packets have no header.
    #[must_use]
    pub fn offloads(&self) -> Option<Offloads> {
        self.offloads
    }

    /// The interface's name at birth.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the interface is set up, wherever it is by now: only then can it be written to (`tun_chr_poll` in
    /// drivers/net/tun.c).
    #[must_use]
    pub fn is_up(&self) -> bool {
        let mut set = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        poll(&mut set, PollTimeout::ZERO).is_ok()
            && set[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
    }

    /// Reads one packet, behind its header if the device has offloads. `EBADFD` says that the interface was deleted.
    ///
    /// # Errors
    /// `WouldBlock` when no packet waits; else what the kernel says.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// What the kernel says: `EIO` while the link is down, `EINVAL` for what is no IP packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }

    /// Writes one packet that lies in pieces, the header first if the device has offloads.
    ///
    /// # Errors
    /// As [`Tun::send`].
    pub fn send_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(pieces).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl TunError {
    fn at(name: &str, error: io::Error) -> Self {
        let name = name.to_owned();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTTY) => Self::Missing(error),
            Some(libc::EBUSY | libc::EINVAL) => Self::InUse { name, error },
            Some(libc::EPERM | libc::EACCES) => Self::Permission { name, error },
            _ => Self::Other { name, error },
        }
    }
}

/// Whether `name` is one that both the kernel and wg-quick take for an interface.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_=+.-".contains(&byte))
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_kernel_and_wg_quick() {
        for good in ["wg0", "a", "123456789012345", "wg-a_b=c+d.e"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in ["", "1234567890123456", "wg 0", "wg/0", "wg%d", ".", "..", "wgä"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = TunError::at("wg0", io::Error::from_raw_os_error(libc::ENODEV)).to_string();
        assert!(text.starts_with("/dev/net/tun: ") && text.contains("load the tun module"), "{text}");
        let text = TunError::at("wg0", io::Error::from_raw_os_error(libc::EBUSY)).to_string();
        assert!(text.contains("wg0: in use"), "{text}");
        let text = TunError::at("wg0", io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(text.contains("CAP_NET_ADMIN"), "{text}");
    }
}
