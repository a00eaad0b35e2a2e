//! The inner side: packets from and to the TUN device, one a system call.
use linux::tun::Tun;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The interface is gone (EBADFD, drivers/net/tun.c).
#[derive(Debug)]
pub(super) struct Gone;

/// The device and what is counted about it.
pub(super) struct TunSide {
    tun: Tun,
    mtu: u16,
    write_errors: u64,
}

impl TunSide {
    pub(super) fn new(tun: Tun, mtu: u16) -> Self {
        Self { tun, mtu, write_errors: 0 }
    }

    /// Reads one packet; `None` when none waits.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Gone> {
        match self.tun.receive(buffer) {
            Ok(0) => Ok(None),
            Ok(length) => Ok(Some(length)),
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Err(Gone),
            Err(error) => {
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    tracing::debug!(%error, "read from the tun");
                }
                Ok(None)
            }
        }
    }

    /// Writes one packet. The kernel refuses it while the link is down; that is counted and no more.
    pub(super) fn write(&mut self, packet: &[u8]) {
        if let Err(error) = self.tun.send(packet) {
            self.write_errors += 1;
            tracing::trace!(%error, bytes = packet.len(), "write to the tun");
        }
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Refused packets since the last call.
    pub(super) fn take_write_errors(&mut self) -> u64 {
        std::mem::take(&mut self.write_errors)
    }
}

impl AsFd for TunSide {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tun.as_fd()
    }
}
