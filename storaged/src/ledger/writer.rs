//! The one thread that writes the ledger.
//!
//! **Invariant:** a command is answered, and can be read, after its group is durable — in the log ahead of the
//! databases, or in both of them — or with [`LedgerUnavailable`]. Commands that wait together are committed
//! together, so that a sync is paid once per group and not once per command; the queue is bounded.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use receipt::note::LogKey;
use receipt::{Parts, Receipt};
use redb::{Database, Durability, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use crate::keys::{KeyChange, KeyStore, KeysError};
use crate::ledger::Opened;
use crate::ledger::access::Book;
use crate::ledger::ahead::{Ahead, BringError, Gap, NotAhead, Wrapping};
use crate::ledger::application::{Application, Position};
use crate::ledger::checkpoint::{self, Signer};
use crate::ledger::command::{Area as _, Ask, Command, Outcome};
use crate::ledger::journal::mirror::Mirror;
use crate::ledger::journal::{Coded, Envelope, Frame, JournalError};
use crate::ledger::moment::{self, Moment};
use crate::ledger::read::{Proof, Reader};
use crate::ledger::record::Host;
use crate::ledger::remembered::Remembered;
use crate::ledger::seal::Seal;
use crate::ledger::tables::{CorruptError, Tables};
use crate::limits::{
    JOURNAL_END, JOURNAL_END_STEP, LEDGER_GATHER_STEP, LEDGER_GATHER_STEPS, LEDGER_GROUP, LEDGER_QUEUE,
};

/// The operation cannot be recorded, so it must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ledger cannot record")]
pub struct LedgerUnavailable;

/// What the writer tells about its work.
pub trait Observer: Send + 'static {
    /// A group was committed.
    fn committed(&self, commands: usize, seconds: f64);
    /// A group was lost.
    fn failed(&self, commands: usize);
}

/// The time, as the writer needs it.
pub trait Time: Send + 'static {
    /// Wall clock, milliseconds since 1970.
    fn wall_ms(&self) -> u64;
    /// How long the machine has been running, sleep included, in milliseconds.
    fn running_ms(&self) -> u64;
    /// Seconds of some steady clock.
    fn steady_seconds(&self) -> f64;
}

/// A handle on the ledger; clones share the one writer.
#[derive(Debug, Clone)]
pub struct Ledger {
    queue: mpsc::Sender<Request>,
    reader: Reader,
    usable: Arc<AtomicBool>,
    log_key: LogKey,
    mirror: Option<Mirror>,
    boot_id: Option<String>,
}

/// A command on its way to the writer.
#[derive(Debug)]
struct Request {
    command: Command,
    /// With the group that holds it.
    answer: oneshot::Sender<Result<(Outcome, u64), LedgerUnavailable>>,
}

type Answer = oneshot::Receiver<Result<(Outcome, u64), LedgerUnavailable>>;

/// Where the journal mirror is, and how long is waited for it.
#[derive(Debug, Clone)]
pub struct MirrorPlace {
    /// The directory; what should hold it is there.
    pub directory: PathBuf,
    /// After this it hangs, and what waits for it is refused.
    pub patience: Duration,
    /// What nobody waits for stays this long for others to share its sync.
    pub delay: Duration,
}

impl Ledger {
    /// Starts the writer. It ends when the last handle is dropped.
    pub fn start(
        opened: Opened,
        keys: Arc<dyn KeyStore>,
        mirror: Option<MirrorPlace>,
        host: Host,
        time: impl Time,
        observer: impl Observer,
    ) -> Result<(Ledger, JoinHandle<()>), StartError> {
        let mut opened = opened;
        if let Some(gap) = opened.bring_forward(&keys)? {
            return Err(gap.into());
        }
        let Opened { database, store, ahead } = opened;
        let reader = Reader::new(Arc::clone(&database), Arc::clone(&keys));
        let snapshot = reader.snapshot()?;
        let signer = Signer::new(store, keys.as_ref())?;
        let position = snapshot.position()?;
        // What is on the disk is what was signed, or nothing more is written behind it.
        checkpoint::check(&snapshot.checkpoint()?, &signer.log_key(), &position.edge)?;
        let group = snapshot.group()?;
        drop(snapshot);
        let log_key = signer.log_key();
        let mirror = match mirror {
            Some(place) => {
                let envelope = Envelope::new(store, Arc::clone(&keys));
                Some(Mirror::start(place, envelope, reader.clone())?)
            }
            None => None,
        };
        let wrapping = Wrapping::new(store, Arc::clone(&keys));
        let seal = Seal::new(keys);
        let handle = mirror.as_ref().map(|(mirror, _)| mirror.clone());
        let boot_id = host.boot_id.clone();
        let (queue, requests) = mpsc::channel(LEDGER_QUEUE);
        let usable = Arc::new(AtomicBool::new(true));
        let usable_here = Arc::clone(&usable);
        let writer = Writer {
            database,
            ahead,
            wrapping,
            remembered: Arc::clone(reader.remembered()),
            in_table: true,
            seal,
            signer,
            group,
            mirror,
            host,
            position,
            book: None,
            time,
            observer,
            usable: usable_here,
            whole_group: Arc::clone(reader.whole_group()),
            behind: false,
        };
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(requests))
            .map_err(StartError::Thread)?;
        let ledger = Ledger { queue, reader, usable, log_key, mirror: handle, boot_id };
        Ok((ledger, thread))
    }

    /// Waits until the command is durable: in the ledger, and for those that say so in the journal mirror too.
    pub async fn submit<C: Ask>(&self, command: C) -> Result<C::Outcome, LedgerUnavailable> {
        let (request, waits, answer) = self.request(command.into_command())?;
        self.queue.send(request).await.map_err(|_| LedgerUnavailable)?;
        let (outcome, group) = answer.await.map_err(|_| LedgerUnavailable)??;
        if let (true, Some(mirror)) = (waits, &self.mirror) {
            mirror.wait(group).await?;
        }
        Ok(own::<C>(outcome))
    }

    /// As [`submit`](Self::submit), for threads outside the runtime.
    pub fn submit_blocking<C: Ask>(&self, command: C) -> Result<C::Outcome, LedgerUnavailable> {
        self.submit_any_blocking(command.into_command()).map(own::<C>)
    }

    /// As [`submit_blocking`](Self::submit_blocking), for a command of any area.
    pub(crate) fn submit_any_blocking(&self, command: Command) -> Result<Outcome, LedgerUnavailable> {
        let (request, waits, answer) = self.request(command)?;
        self.queue.blocking_send(request).map_err(|_| LedgerUnavailable)?;
        let (outcome, group) = answer.blocking_recv().map_err(|_| LedgerUnavailable)??;
        if let (true, Some(mirror)) = (waits, &self.mirror) {
            mirror.wait_blocking(group)?;
        }
        Ok(outcome)
    }

    fn request(&self, command: Command) -> Result<(Request, bool, Answer), LedgerUnavailable> {
        let waits = command.waits_for_mirror();
        if (waits || command.leads_to_waiting()) && self.mirror.as_ref().is_some_and(Mirror::hangs) {
            return Err(LedgerUnavailable);
        }
        let (answer, outcome) = oneshot::channel();
        Ok((Request { command, answer }, waits, outcome))
    }

    /// Whether what deletes because of a date may believe the clock now. A ledger that cannot be read trusts nothing.
    pub fn trusts_clock(&self, clock: daemon::Clock) -> bool {
        let now = Moment {
            boot_id: self.boot_id.clone(),
            running_ms: clock.running_milliseconds(),
            wall_ms: clock.unix_milliseconds(),
        };
        let trusted = self.reader.snapshot().and_then(|snapshot| moment::is_trusted(&snapshot, &now));
        trusted.unwrap_or(false)
    }

    /// What proves the record with this index to somebody who has the file and the log's key. `None` where there is
    /// no such record, or it can no longer be read.
    pub fn receipt(&self, index: u64) -> Result<Option<Receipt>, CorruptError> {
        let Some(Proof { index, record, inclusion, checkpoint }) = self.reader.proof(index)? else {
            return Ok(None);
        };
        let record_text = String::from_utf8(record.bytes).map_err(|error| damaged(&error))?;
        let log_key = self.log_key.clone();
        let parts = Parts {
            record: record_text,
            salt: record.salt,
            leaf_index: index,
            inclusion,
            checkpoint,
            log_key,
        };
        Receipt::new(parts).map(Some).map_err(|error| damaged(&error))
    }

    /// Groups that are durable here and not yet in the journal mirror.
    pub fn mirror_lag(&self) -> u64 {
        let Some(mirror) = &self.mirror else { return 0 };
        let group = self.reader.snapshot().and_then(|snapshot| snapshot.group());
        group.unwrap_or(0).saturating_sub(mirror.mirrored())
    }

    /// Records that are durable in the journal mirror, if there is one.
    pub fn mirrored_records(&self) -> Option<u64> {
        self.mirror.as_ref().map(Mirror::records)
    }

    /// Whether the journal mirror keeps up.
    pub fn mirror_keeps_up(&self) -> bool {
        !self.mirror.as_ref().is_some_and(Mirror::hangs)
    }

    /// What the ledger holds.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The public key of the log: who holds it can check every checkpoint and receipt.
    pub fn log_key(&self) -> &LogKey {
        &self.log_key
    }

    /// Whether the last commit was durable and there is a thread for the next.
    pub fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }
}

fn damaged(error: &dyn std::fmt::Display) -> CorruptError {
    CorruptError::Row(error.to_string())
}

fn own<C: Ask>(outcome: Outcome) -> C::Outcome {
    C::of(outcome).expect("an area's commands lead to its own outcomes: `areas!` applies them so")
}

/// Why the writer does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The last record cannot be read.
    #[error("read the last record: {0}")]
    Read(#[from] CorruptError),
    /// The journal mirror cannot be used, or does not fit.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What the databases lack cannot be brought to them.
    #[error(transparent)]
    Bring(#[from] BringError),
    /// The ledger is older than the log ahead of it, or that is damaged.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// No thread.
    #[error("start the ledger's thread: {0}")]
    Thread(std::io::Error),
}

/// Takes what waits. Those who were just answered are about to ask again: as long as more keep coming, and fewer
/// are here than usually share a group, a moment's wait saves them the whole next sync. One writer alone never
/// waits.
///
/// Returns how many share a group now; who left is soon forgotten.
fn gather(group: &mut Vec<Request>, requests: &mut mpsc::Receiver<Request>, usual: usize) -> usize {
    for step in 0..=LEDGER_GATHER_STEPS {
        if step > 0 {
            std::thread::sleep(LEDGER_GATHER_STEP);
        }
        let before = group.len();
        while group.len() < LEDGER_GROUP
            && let Ok(next) = requests.try_recv()
        {
            group.push(next);
        }
        if group.len() == LEDGER_GROUP || group.len() >= usual || (before == group.len() && before > 1) {
            break;
        }
    }
    group.len().max(usual - usual.div_ceil(8))
}

struct Writer<T, O> {
    database: Arc<Database>,
    ahead: Ahead,
    wrapping: Wrapping,
    remembered: Arc<Remembered>,
    /// The table `unmirrored` may have rows.
    in_table: bool,
    seal: Seal,
    signer: Signer,
    group: u64,
    mirror: Option<(Mirror, JoinHandle<()>)>,
    host: Host,
    position: Position,
    /// What the last durable transaction left of the book of access, once one has read it; lost with a transaction.
    book: Option<Book>,
    time: T,
    observer: O,
    usable: Arc<AtomicBool>,
    whole_group: Arc<Mutex<()>>,
    /// A group is durable in the log ahead that memory does not have whole: only a new start helps.
    behind: bool,
}

/// However the thread ends, nobody takes the ledger for usable afterwards.
impl<T, O> Drop for Writer<T, O> {
    fn drop(&mut self) {
        self.usable.store(false, Ordering::Relaxed);
        if let Some((mirror, thread)) = self.mirror.take() {
            mirror.close();
            // It reads the ledger: whoever waits for this thread wants the file to be free.
            let mut patience = JOURNAL_END;
            while !thread.is_finished() && !patience.is_zero() {
                std::thread::sleep(JOURNAL_END_STEP);
                patience = patience.saturating_sub(JOURNAL_END_STEP);
            }
        }
    }
}

impl<T: Time, O: Observer> Writer<T, O> {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut group = Vec::with_capacity(LEDGER_GROUP);
        let mut usual = 1;
        while let Some(first) = requests.blocking_recv() {
            group.push(first);
            usual = gather(&mut group, &mut requests, usual);
            self.commit(std::mem::take(&mut group));
        }
        // What redb's own end would make durable one after the other.
        if self.ahead.is_needed()
            && let Err(error) = self.settle()
        {
            tracing::warn!(%error, "the next start does the last groups again");
        }
    }

    fn refuse(&self, group: Vec<Request>, error: &CommitError) {
        if !matches!(error, CommitError::Damaged(_)) {
            self.usable.store(false, Ordering::Relaxed);
        }
        self.observer.failed(group.len());
        tracing::error!(%error, commands = group.len(), "ledger commit failed");
        for request in group {
            let _ = request.answer.send(Err(LedgerUnavailable));
        }
    }

    /// What one command finds damaged is that command's: the group is done again in halves without an answer to
    /// anybody, until it stands alone and is refused, and the others are recorded.
    fn commit(&mut self, mut group: Vec<Request>) {
        if group.is_empty() {
            return;
        }
        let begun = self.time.steady_seconds();
        let count = group.len();
        let awaited = group.iter().any(|request| request.command.waits_for_mirror());
        match self.transact(&group) {
            Ok(Committed { outcomes, position, frame, book }) => {
                self.position = position;
                self.book = book;
                self.group = frame.last;
                let number = self.group;
                if let Some((mirror, _)) = &self.mirror {
                    mirror.push(frame, awaited);
                }
                self.usable.store(true, Ordering::Relaxed);
                self.observer.committed(count, self.time.steady_seconds() - begun);
                for (request, outcome) in group.into_iter().zip(outcomes) {
                    // Whoever no longer waits finds the operation in the trail.
                    let _ = request.answer.send(Ok((outcome, number)));
                }
            }
            Err(CommitError::Damaged(_)) if count > 1 => {
                let rest = group.split_off(count / 2);
                self.commit(group);
                self.commit(rest);
            }
            Err(error @ CommitError::NewKeys(_)) => {
                // Who brings none can still be recorded: a denial, say.
                let (bringing, rest) =
                    group.into_iter().partition(|request| !request.command.new_keys().is_empty());
                self.commit(rest);
                self.refuse(bringing, &error);
            }
            Err(error) => {
                if matches!(error, CommitError::Behind(_)) {
                    // It is durable: at the end the mirror's table has it, and the log ahead still what the keys lack.
                    (self.behind, self.group) = (true, self.group + 1);
                }
                self.refuse(group, &error);
            }
        }
    }

    /// The group's new keys into memory, its rows into an open transaction; then all of it, and what it destroys, is
    /// made durable by one write; then it can be read. So a row or record is never durable without the key that opens
    /// it, and no answer says of a key that it is gone while it is there.
    ///
    /// The position moves only with a durable group.
    fn transact(&mut self, requests: &[Request]) -> Result<Committed, CommitError> {
        let whole_group = Arc::clone(&self.whole_group);
        let _whole = whole_group.lock().unwrap_or_else(PoisonError::into_inner);
        if self.behind {
            return Err(CommitError::WasBehind);
        }
        let group = self.group + 1;
        let mark = self.ahead.next_mark();
        let keys = self.seal.keys();
        let new: Vec<KeyChange> =
            requests.iter().flat_map(|request| request.command.new_keys()).cloned().collect();
        if !new.is_empty() {
            keys.commit_ahead(mark.inserted(), &new).map_err(CommitError::NewKeys)?;
        }
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        let mut position = self.position.clone();
        let mut outcomes = Vec::with_capacity(requests.len());
        let (redo, book, destroyed) = {
            let mut tables = Tables::open(&transaction).map_err(CorruptError::Table)?;
            let now_ms = self.time.wall_ms();
            let seal = self.seal.remembering();
            let mut app = Application::new(&mut tables, &mut position, &seal, &self.host, now_ms);
            app.redo.keys = new;
            app.book = self.book.take();
            let boot_id = self.host.boot_id.clone();
            moment::look(&mut app, Moment { boot_id, running_ms: self.time.running_ms(), wall_ms: now_ms })?;
            for request in requests {
                outcomes.push(request.command.clone().apply(&mut app).map_err(of_command)?);
            }
            let redo = app.end_group(group, &self.signer)?;
            let destroyed = std::mem::take(&mut app.destroyed);
            let book = app.book.take();
            if let Some((mirror, _)) = &self.mirror {
                self.remembered.drop_mirrored(mirror.mirrored());
                if self.in_table {
                    self.in_table = tables.forget_mirrored(mirror.mirrored())?;
                }
            }
            (redo, book, destroyed)
        };
        let destroy = || match destroyed.is_empty() {
            true => Ok(()),
            false => keys.commit_ahead(mark.destroyed(), &destroyed),
        };
        let (size, root) = (position.edge.size(), position.edge.root());
        let frame = Arc::new(Frame { first: group, last: group, more: false, size, root, redo }.coded());
        let appended = self.ahead.append(&self.wrapping, mark, &frame.plain);
        self.remembered.add(Arc::clone(&frame));
        match appended {
            Ok(()) => {
                // The keys after the record of it: whoever finds a key gone finds the record that says so.
                let taken = transaction.commit().map_err(CommitError::from).and_then(|()| Ok(destroy()?));
                taken.map_err(|error| CommitError::Behind(Box::new(error)))?;
                self.ahead.taken();
            }
            Err(why) => {
                if !matches!(why, NotAhead::Full) {
                    tracing::warn!(error = %why, "the log ahead cannot be written; the databases are made durable instead");
                }
                destroy()?;
                keys.settle()?;
                self.make_durable(transaction, group)?;
            }
        }
        Ok(Committed { outcomes, position, frame, book })
    }

    /// Makes both databases durable, the keys first.
    fn settle(&mut self) -> Result<(), CommitError> {
        self.seal.keys().settle()?;
        self.make_durable(self.database.begin_write()?, self.group)
    }

    /// With what the mirror may lack of the groups up to this one, and with what a start after a crash needs to know of the file, so that it need
    /// not read all of it.
    fn make_durable(&mut self, mut transaction: WriteTransaction, group: u64) -> Result<(), CommitError> {
        {
            let mut tables = Tables::open(&transaction).map_err(CorruptError::Table)?;
            for frame in self.remembered.all().iter().filter(|frame| frame.last <= group) {
                tables.remember(&self.seal, frame.last, &frame.redo()?)?;
                self.in_table = true;
            }
        }
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
        transaction.commit()?;
        self.remembered.clear();
        self.ahead.begin_anew();
        Ok(())
    }
}

/// A durable group.
struct Committed {
    outcomes: Vec<Outcome>,
    position: Position,
    frame: Arc<Coded>,
    book: Option<Book>,
}

/// Why a group was lost.
#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error(transparent)]
    Begin(#[from] redb::TransactionError),
    #[error(transparent)]
    Durability(#[from] redb::SetDurabilityError),
    #[error(transparent)]
    Apply(#[from] CorruptError),
    /// One command met a row that is damaged; the disk and the other rows may be well.
    #[error(transparent)]
    Damaged(CorruptError),
    #[error(transparent)]
    NewKeys(KeysError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Commit(#[from] redb::CommitError),
    /// The group is durable in the log ahead, and memory may have half of it: only a start does it again whole.
    #[error("what is durable could not be taken over, and nothing more is recorded before a new start: {0}")]
    Behind(Box<CommitError>),
    #[error("an earlier group is durable and was not taken over: a new start does it again")]
    WasBehind,
}

/// Whose error it is: the command's that met a damaged row, or the ledger's.
fn of_command(error: CorruptError) -> CommitError {
    match error {
        CorruptError::Row(_) | CorruptError::KeyGone(_) | CorruptError::Keys(KeysError::Corrupt(_)) => {
            CommitError::Damaged(error)
        }
        CorruptError::Storage(_)
        | CorruptError::Table(_)
        | CorruptError::Keys(_)
        | CorruptError::Random(_)
        | CorruptError::Sign(_)
        | CorruptError::Version(_) => CommitError::Apply(error),
    }
}
