//! Network namespaces (`network_namespaces(7)`): opening, entering, coming back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

use crate::Privileged;

/// Where named namespaces are bound, by the convention of `ip-netns(8)`.
const NAMED: &str = "/run/netns";

/// A network namespace, held open.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

/// Why a namespace could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {path}: {error}")]
pub struct NetNsError {
    path: String,
    error: io::Error,
}

impl NetNs {
    /// The calling thread's namespace.
    pub fn current() -> io::Result<Self> {
        Ok(Self(File::open("/proc/thread-self/ns/net")?.into()))
    }

    /// Opens `/run/netns/NAME`, or the path itself if it holds a slash.
    pub fn open(name_or_path: &str) -> Result<Self, NetNsError> {
        let path = if name_or_path.contains('/') {
            PathBuf::from(name_or_path)
        } else {
            PathBuf::from(NAMED).join(name_or_path)
        };
        File::open(&path)
            .map(|file| Self(file.into()))
            .map_err(|error| NetNsError { path: path.display().to_string(), error })
    }

    /// Moves the calling thread into the namespace, for good. Needs `CAP_SYS_ADMIN`.
    pub fn enter(&self, _privileged: &Privileged) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` inside the namespace and comes back. A thread that cannot come back would do everything
    /// after this in the wrong namespace, so that ends the process.
    pub fn within<T>(&self, privileged: &Privileged, work: impl FnOnce() -> T) -> io::Result<T> {
        let home = Self::current()?;
        self.enter(privileged)?;
        let result = work();
        home.enter(privileged).expect("the namespace we came from is open and was ours");
        Ok(result)
    }

    /// Runs `work` on a thread of its own inside the namespace: for programs that have threads already.
    pub fn on_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, io::Error>(work())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
