//! The directory of a socket, such as `/run/culvert`, which is gone after each boot.

use std::fs::{DirBuilder, Permissions, set_permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Makes the directory that `socket` is to be in, if it is not there: 0755 whatever the umask says, for who may
/// speak is decided at the socket.
pub fn make(socket: &Path) -> io::Result<()> {
    let Some(directory) = socket.parent().filter(|directory| !directory.is_dir()) else { return Ok(()) };
    let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
    let made = made.and_then(|()| set_permissions(directory, Permissions::from_mode(0o755)));
    made.map_err(|error| {
        io::Error::new(error.kind(), format!("make directory {}: {error}", directory.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_made_and_an_existing_one_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        make(&folder.path().join("run/culvert/a.sock")).unwrap();
        assert_eq!(mode(&folder.path().join("run/culvert")), 0o755);
        set_permissions(folder.path().join("run"), Permissions::from_mode(0o700)).unwrap();
        make(&folder.path().join("run/b.sock")).unwrap();
        assert_eq!(mode(&folder.path().join("run")), 0o700);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let error = make(&folder.path().join("file/x/a.sock")).unwrap_err().to_string();
        assert!(error.contains("file/x"), "{error}");
    }
}
