//! Unix stream listeners at a path, with the stale-file rule of other daemons: connect first.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{Backlog, SockType, listen};

use crate::User;
use crate::unix_path::bind_at;

/// Listens at `path` with `mode`, owned by `owner` if given. A socket file that a dead process left is
/// replaced; a live one is `AddrInUse`. The listener does not block.
pub fn bind_unix_listener(path: &Path, mode: u32, owner: Option<User>) -> io::Result<UnixListener> {
    let socket = bind_at(path, SockType::Stream, mode, owner)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(UnixListener::from(socket))
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
    }
}
