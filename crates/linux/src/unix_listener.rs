//! Unix stream listeners at a path, with the stale-file rule of other daemons: connect first.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::User;
use crate::unix_datagram::remove_dead_socket;

/// Listens at `path` with `mode`, owned by `owner` if given. A socket file that a dead process left is
/// replaced; a live one is `AddrInUse`. The listener does not block.
pub fn bind_unix_listener(path: &Path, mode: u32, owner: Option<User>) -> io::Result<UnixListener> {
    remove_dead_socket(path, |path| UnixStream::connect(path).map(drop))?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if let Some(owner) = owner {
        std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid))?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
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
