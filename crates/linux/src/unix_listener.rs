//! Unix stream listeners at a path, with the stale-file rule of other daemons: connect first.
//!
//! **Invariant:** whoever finds the socket at its path can connect to it. Between `bind` and `listen` it would refuse, as a
//! dead process's does, and `wg` removes a socket that refuses: so it gets its name when it listens. The kernel goes on to call it by its first
//! name (`getsockname`, `ss -xl`); who needs the path keeps it.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::socket::{Backlog, SockType, listen};

use crate::User;
use crate::unix_path::{bind_at, remove_dead_socket};

/// Listens at `path` with `mode`, owned by `owner` if given. A socket file that a dead process left is
/// replaced; a live one is `AddrInUse`. The listener does not block.
pub fn bind_unix_listener(path: &Path, mode: u32, owner: Option<User>) -> io::Result<UnixListener> {
    remove_dead_socket(path, SockType::Stream)?;
    let unnamed = unused_name(path);
    let listening = bind_at(&unnamed, SockType::Stream, mode, owner).and_then(|socket| {
        listen(&socket, Backlog::MAXCONN)?;
        match renameat2(AT_FDCWD, &unnamed, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(UnixListener::from(socket)),
            // Somebody else was faster.
            Err(nix::Error::EEXIST) => Err(io::ErrorKind::AddrInUse.into()),
            Err(error) => Err(error.into()),
        }
    });
    if listening.is_err() {
        let _ = std::fs::remove_file(&unnamed);
    }
    listening
}

/// A name beside `path` that nobody looks for. Short, for a socket's path has 107 bytes.
fn unused_name(path: &Path) -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{:x}{number:x}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_dead_listener_is_replaced_and_a_live_one_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let first = bind_unix_listener(&path, 0o600, None).unwrap();
        assert_eq!(bind_unix_listener(&path, 0o600, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let _second = bind_unix_listener(&path, 0o640, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    /// As `wg show` in a loop while a daemon starts: it removes what refuses.
    #[test]
    fn a_socket_that_can_be_seen_can_be_connected_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wg0.sock");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                let mut refused = 0;
                while !done.load(Ordering::Relaxed) {
                    match std::os::unix::net::UnixStream::connect(&path) {
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => refused += 1,
                        Ok(_) | Err(_) => {}
                    }
                }
                refused
            });
            // They stay open: who has found one and is slow to knock would be refused by one that has gone.
            let mut listeners = Vec::new();
            for _ in 0..500 {
                listeners.push(bind_unix_listener(&path, 0o600, None).unwrap());
                std::fs::remove_file(&path).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert_eq!(visitor.join().unwrap(), 0);
        });
    }
}
