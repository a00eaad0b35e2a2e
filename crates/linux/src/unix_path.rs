//! Unix sockets at a path: who may reach them, from the first moment on, and what may be in their way.
//!
//! **Invariant:** a socket is never reachable by more than `mode` says, not even for the moment between its
//! birth and a `chmod`; and nothing but a socket is removed, chowned or chmodded, whatever is put in its place.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchownat};

use crate::User;

/// Makes a socket of `kind` and binds it to `path`; a socket file that a dead process left there is replaced.
pub(crate) fn bind_at(path: &Path, kind: SockType, mode: u32, owner: Option<User>) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    remove_dead_socket(path, kind)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, kind, flags, None)?;
    // The file gets the socket's mode, less the umask (net/unix/af_unix.c, `unix_bind_bsd`).
    fchmod(&made, Mode::from_bits_truncate(mode))?;
    bind(made.as_raw_fd(), &address)?;
    give(path, mode, owner)?;
    Ok(made)
}

/// Sets owner and mode of the socket file, and of nothing that a link in its place points to.
fn give(path: &Path, mode: u32, owner: Option<User>) -> io::Result<()> {
    let file = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let here = format!("/proc/self/fd/{}", file.as_raw_fd());
    if !std::fs::metadata(&here)?.file_type().is_socket() {
        return Err(in_the_way());
    }
    if let Some(User { uid, gid }) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(file.as_fd(), "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    std::fs::set_permissions(&here, std::fs::Permissions::from_mode(mode))
}

/// Removes the socket file at `path` if nobody listens there. Alive is `AddrInUse`.
pub(crate) fn remove_dead_socket(path: &Path, kind: SockType) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(in_the_way());
    }
    // Without waiting: a listener whose queue is full is alive too.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let visitor = socket(AddressFamily::Unix, kind, flags, None)?;
    match connect(visitor.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(nix::Error::EAGAIN) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket"))
        }
        Err(nix::Error::ECONNREFUSED) => std::fs::remove_file(path),
        Err(nix::Error::EPROTOTYPE) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "a socket of another type is in the way"))
        }
        Err(error) => Err(error.into()),
    }
}

fn in_the_way() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is in the way")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("secret"), folder.path().join("s"));
        std::fs::write(&file, b"secret").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(give(&link, 0o666, None).is_err());
        assert!(bind_at(&link, SockType::Datagram, 0o666, None).is_err());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_listener_whose_queue_is_full_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = bind_at(&path, SockType::Stream, 0o600, None).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let visitors: Vec<OwnedFd> = (0..4)
            .map(|_| {
                let visitor = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
                let _ = connect(visitor.as_raw_fd(), &UnixAddr::new(&path).unwrap());
                visitor
            })
            .collect();
        let error = bind_at(&path, SockType::Stream, 0o600, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(visitors);
    }
}
