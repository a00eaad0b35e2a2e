//! A network namespace that threads of the harness can go into.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Opens `/proc/<pid>/ns/net`, or a path such as `/run/netns/tunnel`.
    pub fn open(path: &Path) -> Result<Namespace> {
        let file = File::open(path).with_context(|| format!("open the namespace {}", path.display()))?;
        Ok(Namespace { file })
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay there, so that they can be
    /// handed out and used by any thread.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("a thread inside a namespace panicked"))?
        })
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
