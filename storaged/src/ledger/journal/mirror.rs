//! The thread that keeps the journal abreast of the ledger.
//!
//! **Invariant:** a group is called mirrored after its frame is durable. The ledger remembers the places of what
//! it changed since the last mirrored group, so frames that were lost — with the process, with a full queue,
//! with a failing disk — are made again from the ledger itself.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::ledger::journal::{Coded, Envelope, Frame, Journal, JournalError, OnDisk};
use crate::ledger::read::{Reader, Snapshot};
use crate::ledger::redo::{Redo, Write};
use crate::ledger::writer::{LedgerUnavailable, MirrorPlace};
use crate::limits::{JOURNAL_FRAME_BYTES, JOURNAL_QUEUE_BYTES, JOURNAL_RETRY};

/// A handle on the mirror's thread.
#[derive(Debug, Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    grown: Condvar,
    mirrored: watch::Sender<u64>,
    /// Records in the journal.
    records: AtomicU64,
    /// For threads that wait outside a runtime.
    progress: Condvar,
    /// Somebody waited for longer than is reasonable, and nothing was mirrored since.
    hangs: AtomicBool,
    delay: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Arc<Coded>>,
    bytes: usize,
    /// Somebody waits for one of them.
    awaited: bool,
    /// Frames were thrown away: they must be made again from the ledger.
    behind: bool,
    closed: bool,
    mirrored: u64,
}

impl Mirror {
    /// Opens the journal, brings it up to the ledger, and starts the thread. What cannot be true of a mirror
    /// and its ledger is refused, and nothing is changed.
    pub(crate) fn start(
        place: MirrorPlace,
        envelope: Envelope,
        reader: Reader,
    ) -> Result<(Mirror, JoinHandle<()>), JournalError> {
        let MirrorPlace { directory, patience, delay } = place;
        let on_disk = OnDisk::OnceSynced;
        let mut worker = Worker { directory, envelope, reader, journal: None, on_disk };
        let mirrored = worker.catch_up()?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { mirrored, ..Queue::default() }),
            grown: Condvar::new(),
            mirrored: watch::Sender::new(mirrored),
            records: AtomicU64::new(worker.records()),
            progress: Condvar::new(),
            hangs: AtomicBool::new(false),
            delay,
        });
        let of_worker = Arc::clone(&shared);
        let path = worker.directory.clone();
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || worker.run(&of_worker))
            .map_err(|error| JournalError::Io { step: "start the thread for", path, error })?;
        Ok((Mirror { shared, patience }, thread))
    }

    /// Hands a committed group over; it never waits. `awaited`: somebody waits for it to be mirrored.
    pub(crate) fn push(&self, frame: Arc<Coded>, awaited: bool) {
        let mut queue = self.shared.lock();
        queue.awaited |= awaited;
        let bytes = frame.plain.len();
        if queue.behind || queue.bytes + bytes > JOURNAL_QUEUE_BYTES {
            queue.frames.clear();
            queue.bytes = 0;
            queue.behind = true;
        } else {
            queue.bytes += bytes;
            queue.frames.push_back(frame);
        }
        self.shared.grown.notify_one();
    }

    /// Lets the thread end when it has written what is queued.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.grown.notify_one();
    }

    /// The last group that is durable in the journal.
    pub fn mirrored(&self) -> u64 {
        *self.shared.mirrored.borrow()
    }

    /// Records that are durable in the journal.
    pub fn records(&self) -> u64 {
        self.shared.records.load(Ordering::Relaxed)
    }

    /// Whether it has not kept up for so long that what would wait for it is refused at once.
    pub fn hangs(&self) -> bool {
        self.shared.hangs.load(Ordering::Relaxed)
    }

    /// Waits until a group is durable in the journal.
    pub(crate) async fn wait(&self, group: u64) -> Result<(), LedgerUnavailable> {
        let mut mirrored = self.shared.mirrored.subscribe();
        match tokio::time::timeout(self.patience, mirrored.wait_for(|mirrored| *mirrored >= group)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => self.lost_patience(group),
        }
    }

    /// As [`wait`](Self::wait), for threads outside the runtime.
    pub(crate) fn wait_blocking(&self, group: u64) -> Result<(), LedgerUnavailable> {
        let queue = self.shared.lock();
        let behind = |queue: &mut Queue| queue.mirrored < group;
        let waited = self.shared.progress.wait_timeout_while(queue, self.patience, behind);
        let (queue, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(queue);
        if waited.timed_out() { self.lost_patience(group) } else { Ok(()) }
    }

    /// Whoever waited in vain says so; unless it has come meanwhile, for then nothing may come that says otherwise.
    fn lost_patience(&self, group: u64) -> Result<(), LedgerUnavailable> {
        let queue = self.shared.lock();
        if queue.mirrored >= group {
            return Ok(());
        }
        if !self.shared.hangs.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the journal mirror does not keep up; what must be in it is refused until it does"
            );
        }
        Err(LedgerUnavailable)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self, group: u64) {
        let mut queue = self.lock();
        queue.mirrored = group;
        let hung = self.hangs.swap(false, Ordering::Relaxed);
        drop(queue);
        self.mirrored.send_replace(group);
        self.progress.notify_all();
        if hung {
            tracing::info!("the journal mirror keeps up again");
        }
    }
}

struct Worker {
    directory: PathBuf,
    envelope: Envelope,
    reader: Reader,
    /// None after a failure: what is on the disk must be looked at anew.
    journal: Option<Journal>,
    /// What may be believed of it then.
    on_disk: OnDisk,
}

enum Work {
    Frames(Vec<Arc<Coded>>),
    CatchUp,
    End,
}

impl Worker {
    fn run(mut self, shared: &Shared) {
        let mut failing = false;
        loop {
            let done = match Self::take(shared, self.journal.is_none()) {
                Work::End => return,
                Work::CatchUp => self.catch_up(),
                Work::Frames(frames) => self.append(&frames),
            };
            match done {
                Ok(group) => {
                    failing = false;
                    shared.records.store(self.records(), Ordering::Relaxed);
                    shared.reached(group);
                }
                Err(error) => {
                    // A failed sync may have lost what it was to write, whatever the file seems to hold.
                    if let Some(journal) = self.journal.take() {
                        self.on_disk = OnDisk::Before(journal.next_place());
                    }
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "the journal mirror cannot be written; it is tried again");
                    }
                    let queue = shared.lock();
                    if queue.closed {
                        return;
                    }
                    let _ = shared.grown.wait_timeout_while(queue, JOURNAL_RETRY, |queue| !queue.closed);
                }
            }
        }
    }

    fn records(&self) -> u64 {
        self.journal.as_ref().and_then(Journal::end).map_or(0, |end| end.size)
    }

    fn take(shared: &Shared, catch_up: bool) -> Work {
        let mut queue = shared.lock();
        loop {
            if catch_up || queue.behind {
                queue.frames.clear();
                queue.bytes = 0;
                queue.behind = false;
                queue.awaited = false;
                return Work::CatchUp;
            }
            if !queue.frames.is_empty() {
                // For what nobody waits for, a sync is shared with what comes within a moment.
                let idle = |queue: &mut Queue| !(queue.awaited || queue.behind || queue.closed);
                let waited = shared.grown.wait_timeout_while(queue, shared.delay, idle);
                (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
                if queue.behind {
                    continue;
                }
                queue.bytes = 0;
                queue.awaited = false;
                return Work::Frames(queue.frames.drain(..).collect());
            }
            if queue.closed {
                return Work::End;
            }
            queue = shared.grown.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn append(&mut self, frames: &[Arc<Coded>]) -> Result<u64, JournalError> {
        let Some(journal) = &mut self.journal else { return self.catch_up() };
        let mirrored = journal.end().map(|end| end.group);
        // What a catching-up took from the ledger may be in the queue as well.
        let is_new = |frame: &&Coded| mirrored.is_none_or(|mirrored| frame.last > mirrored);
        let new: Vec<&Coded> = frames.iter().map(Arc::as_ref).filter(is_new).collect();
        match (new.first(), mirrored) {
            (None, _) => return Ok(mirrored.unwrap_or(0)),
            (Some(next), Some(mirrored)) if next.first != mirrored + 1 => return self.catch_up(),
            (Some(_), _) => {}
        }
        journal.append(&new)?;
        Ok(new.last().map_or(0, |frame| frame.last))
    }

    /// Makes the frames that the journal lacks from what the ledger holds. Returns the last group.
    fn catch_up(&mut self) -> Result<u64, JournalError> {
        let journal = match self.journal.take() {
            Some(journal) => journal,
            None => Journal::open(&self.directory, self.envelope.clone(), self.on_disk)?,
        };
        let journal = self.journal.insert(journal);
        let snapshot = self.reader.whole_snapshot()?;
        let group = snapshot.group()?;
        if let (OnDisk::OnceSynced, Some(end), Some(left)) =
            (self.on_disk, journal.end(), journal.left_behind())
            && end.group == group
        {
            // Frames are written after the ledger's own commit: whoever has the bytes has had the group.
            return Err(JournalError::Unreadable(left.clone()));
        }
        let first = match journal.end() {
            Some(end) if end.group > group => {
                return Err(JournalError::Ahead { ledger: group, mirror: end.group });
            }
            Some(end) => {
                if snapshot.root(end.size)? != end.root {
                    return Err(JournalError::Fork { group: end.group });
                }
                end.group + 1
            }
            None => snapshot.first_unmirrored()?.unwrap_or(group + 1),
        };
        if first > group {
            return Ok(group);
        }
        let Some(redo) = snapshot.changes(first, group)? else {
            return Err(JournalError::Hole { mirror: first - 1 });
        };
        let checkpoint = snapshot.checkpoint()?;
        let (size, root) = (checkpoint.unverified().size, checkpoint.unverified().root);
        let mut writes = redo.writes.into_iter().peekable();
        let mut keys = redo.keys;
        loop {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while bytes < JOURNAL_FRAME_BYTES
                && let Some(write) = writes.next()
            {
                bytes += write.bytes();
                part.push(write);
            }
            let more = writes.peek().is_some();
            let redo = Redo { writes: part, keys: std::mem::take(&mut keys) };
            journal.append(&[&Frame { first, last: group, more, size, root, redo }.coded()])?;
            if !more {
                return Ok(group);
            }
        }
    }
}

impl Snapshot {
    /// What the groups changed, as it is now; `None` if one of them is not remembered any more.
    fn changes(&self, first: u64, last: u64) -> Result<Option<Redo>, JournalError> {
        let mut places = BTreeSet::new();
        let mut keys = Vec::new();
        let mut expected = first;
        for (group, changed) in self.unmirrored(first, last)? {
            if group != expected {
                return Ok(None);
            }
            expected += 1;
            places.extend(changed.places);
            keys.extend(changed.keys);
        }
        if expected != last + 1 {
            return Ok(None);
        }
        let mut writes = Vec::with_capacity(places.len());
        for (place, key) in places {
            let value = self.value(place, &key)?;
            writes.push(Write { place, key, value });
        }
        Ok(Some(Redo { writes, keys }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_just_too_late_leaves_no_hang_behind() {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            grown: Condvar::new(),
            mirrored: watch::Sender::new(0),
            records: AtomicU64::new(0),
            progress: Condvar::new(),
            hangs: AtomicBool::new(false),
            delay: Duration::ZERO,
        });
        let mirror = Mirror { shared: Arc::clone(&shared), patience: Duration::ZERO };
        assert_eq!(mirror.wait_blocking(1), Err(LedgerUnavailable));
        assert!(mirror.hangs());
        // The thread was faster than whoever had just stopped waiting: nothing comes after this group.
        shared.reached(1);
        assert_eq!(mirror.lost_patience(1), Ok(()));
        assert!(!mirror.hangs());
    }
}
