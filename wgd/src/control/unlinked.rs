//! Notices that the configuration socket's file is gone, which ends a userspace WireGuard.
//!
//! Invariant: the directory is watched, not the file, so that nothing has to be looked up after the seal.
use crate::registered::register;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An inotify descriptor, in the words of the runtime.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A watch for one file.
pub struct Unlinked {
    /// `None`: there is no file to watch.
    inotify: Option<AsyncFd<Watch>>,
    name: OsString,
}

impl Unlinked {
    /// Waits for ever: the configuration socket was handed in and has no file.
    #[must_use]
    pub fn never() -> Self {
        Self { inotify: None, name: OsString::new() }
    }

    /// Watches for the end of `path`. Runs inside of a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be watched.
    pub fn watch(path: &Path) -> io::Result<Self> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags)?;
        let directory = path.parent().unwrap_or_else(|| Path::new("/"));
        inotify.add_watch(directory, AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM)?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Self { inotify: Some(register(Watch(inotify), Interest::READABLE)?), name })
    }

    /// Returns when the file is gone.
    pub(super) async fn wait(&mut self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        loop {
            let read = |watch: &Watch| watch.0.read_events().map_err(io::Error::from);
            match inotify.async_io(Interest::READABLE, read).await {
                Ok(events) if events.iter().any(|event| event.name.as_ref() == Some(&self.name)) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the configuration socket is no longer watched");
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_of_the_own_socket_counts() {
        let directory = tempfile::tempdir().expect("directory");
        let (own, other) = (directory.path().join("wg0.sock"), directory.path().join("wg1.sock"));
        for path in [&own, &other] {
            std::fs::write(path, "").expect("file");
        }
        let mut unlinked = Unlinked::watch(&own).expect("watch");
        std::fs::remove_file(&other).expect("remove");
        let short = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(short, unlinked.wait()).await.is_err());
        std::fs::remove_file(&own).expect("remove");
        unlinked.wait().await;
    }
}
