//! A volume that fails, stops or tears at its n-th step. Tests include this file beside what it wraps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use store_proto::FileId;

use super::{Backend, Found, Reading, Region, Space, Spool, Writing};

/// What happens at the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies: this step and all that follow do nothing.
    Stop,
    /// As `Stop`, and half of a write arrives.
    Tear,
    /// This one step fails with the error, and does nothing (a write: half).
    Fail(i32),
    /// This one step is done, and answered with the error.
    DoneButFail(i32),
}

/// Does so many steps, then the fault.
#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    inner: Arc<dyn Backend>,
    steps: Arc<Steps>,
}

#[derive(Debug)]
struct Steps {
    left: AtomicUsize,
    fault: Fault,
}

/// What a step does.
enum Step {
    Done,
    Nothing(io::Error),
    Half(io::Error),
    DoneAnd(io::Error),
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Backend>, after: usize, fault: Fault) -> Faulty {
        Faulty { inner, steps: Arc::new(Steps { left: AtomicUsize::new(after), fault }) }
    }
}

impl Steps {
    fn next(&self) -> Step {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
            return Step::Done;
        }
        match self.fault {
            Fault::Stop => Step::Nothing(io::Error::other("the process is dead")),
            Fault::Tear => Step::Half(io::Error::other("the process is dead")),
            Fault::Fail(errno) => {
                self.left.store(usize::MAX, Ordering::Relaxed);
                Step::Half(io::Error::from_raw_os_error(errno))
            }
            Fault::DoneButFail(errno) => {
                self.left.store(usize::MAX, Ordering::Relaxed);
                Step::DoneAnd(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn take<T>(&self, step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.next() {
            Step::Done => step(),
            Step::Nothing(error) | Step::Half(error) => Err(error),
            Step::DoneAnd(error) => step().and(Err(error)),
        }
    }
}

impl Backend for Faulty {
    fn id(&self) -> FileId {
        self.inner.id()
    }
    fn create(&self, object: FileId) -> io::Result<Box<dyn Writing>> {
        let inner = self.steps.take(|| self.inner.create(object))?;
        Ok(Box::new(FaultyWriting { inner, steps: Arc::clone(&self.steps) }))
    }
    fn open(&self, object: FileId) -> io::Result<Box<dyn Reading>> {
        self.inner.open(object)
    }
    fn remove(&self, object: FileId) -> io::Result<()> {
        self.steps.take(|| self.inner.remove(object))
    }
    fn remove_temporary(&self, object: FileId) -> io::Result<()> {
        self.steps.take(|| self.inner.remove_temporary(object))
    }
    fn set_aside(&self, object: FileId) -> io::Result<()> {
        self.steps.take(|| self.inner.set_aside(object))
    }
    fn is_absent(&self, object: FileId) -> io::Result<bool> {
        self.inner.is_absent(object)
    }
    fn check(&self) -> io::Result<()> {
        self.inner.check()
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn spool(&self) -> Option<Arc<Spool>> {
        self.inner.spool()
    }
    fn walk(&self, region: Region, found: &mut dyn FnMut(Found)) -> io::Result<()> {
        self.inner.walk(region, found)
    }
}

#[derive(Debug)]
struct FaultyWriting {
    inner: Box<dyn Writing>,
    steps: Arc<Steps>,
}

impl Writing for FaultyWriting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.steps.next() {
            Step::Done => self.inner.write(bytes),
            Step::Nothing(error) => Err(error),
            Step::Half(error) => self.inner.write(&bytes[..bytes.len() / 2]).and(Err(error)),
            Step::DoneAnd(error) => self.inner.write(bytes).and(Err(error)),
        }
    }
    fn sync(&mut self) -> io::Result<()> {
        self.steps.take(|| self.inner.sync())
    }
    fn publish(&mut self) -> io::Result<()> {
        self.steps.take(|| self.inner.publish())
    }
    fn settle(&mut self) -> io::Result<()> {
        self.steps.take(|| self.inner.settle())
    }
}
