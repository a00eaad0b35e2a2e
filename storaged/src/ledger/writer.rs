//! The one thread that writes the ledger.
//!
//! **Invariant:** a command is answered after the transaction that holds it is durable, or with
//! [`LedgerUnavailable`]. Commands that wait together are committed together, so that a sync is paid
//! once per group and not once per command; the queue is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use redb::{Database, Durability};
use tokio::sync::{mpsc, oneshot};

use crate::ledger::application::{Application, Position};
use crate::ledger::command::{Ask, Command, Outcome};
use crate::ledger::read::Reader;
use crate::ledger::record::Host;
use crate::ledger::tables::{CorruptError, Tables};
use crate::limits::{LEDGER_GROUP, LEDGER_QUEUE};

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
    /// Seconds of some steady clock.
    fn steady_seconds(&self) -> f64;
}

/// A handle on the ledger; clones share the one writer.
#[derive(Debug, Clone)]
pub struct Ledger {
    queue: mpsc::Sender<Request>,
    reader: Reader,
    usable: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Request {
    command: Command,
    answer: oneshot::Sender<Result<Outcome, LedgerUnavailable>>,
}

impl Ledger {
    /// Starts the writer. It ends when the last handle is dropped.
    pub fn start(
        database: Arc<Database>,
        host: Host,
        time: impl Time,
        observer: impl Observer,
    ) -> Result<(Ledger, JoinHandle<()>), StartError> {
        let reader = Reader::new(Arc::clone(&database));
        let position = Position::after(reader.last_record()?.as_ref());
        let (queue, requests) = mpsc::channel(LEDGER_QUEUE);
        let usable = Arc::new(AtomicBool::new(true));
        let writer = Writer { database, host, position, time, observer, usable: Arc::clone(&usable) };
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(requests))
            .map_err(StartError::Thread)?;
        Ok((Ledger { queue, reader, usable }, thread))
    }

    /// Waits until the command is durable.
    pub async fn submit<C: Ask>(&self, command: C) -> Result<C::Outcome, LedgerUnavailable> {
        let (answer, outcome) = oneshot::channel();
        let request = Request { command: command.into_command(), answer };
        self.queue.send(request).await.map_err(|_| LedgerUnavailable)?;
        outcome.await.map_err(|_| LedgerUnavailable)?.map(own::<C>)
    }

    /// As [`submit`](Self::submit), for threads outside the runtime.
    pub fn submit_blocking<C: Ask>(&self, command: C) -> Result<C::Outcome, LedgerUnavailable> {
        let (answer, outcome) = oneshot::channel();
        let request = Request { command: command.into_command(), answer };
        self.queue.blocking_send(request).map_err(|_| LedgerUnavailable)?;
        outcome.blocking_recv().map_err(|_| LedgerUnavailable)?.map(own::<C>)
    }

    /// What the ledger holds.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Whether the last commit was durable and there is a thread for the next.
    pub fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }
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
    /// No thread.
    #[error("start the ledger's thread: {0}")]
    Thread(std::io::Error),
}

struct Writer<T, O> {
    database: Arc<Database>,
    host: Host,
    position: Position,
    time: T,
    observer: O,
    usable: Arc<AtomicBool>,
}

/// However the thread ends, nobody takes the ledger for usable afterwards.
impl<T, O> Drop for Writer<T, O> {
    fn drop(&mut self) {
        self.usable.store(false, Ordering::Relaxed);
    }
}

impl<T: Time, O: Observer> Writer<T, O> {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut group = Vec::with_capacity(LEDGER_GROUP);
        while let Some(first) = requests.blocking_recv() {
            group.push(first);
            while group.len() < LEDGER_GROUP
                && let Ok(next) = requests.try_recv()
            {
                group.push(next);
            }
            self.commit(&mut group);
        }
    }

    fn commit(&mut self, group: &mut Vec<Request>) {
        let begun = self.time.steady_seconds();
        let (commands, answers): (Vec<_>, Vec<_>) =
            group.drain(..).map(|request| (request.command, request.answer)).unzip();
        let count = commands.len();
        match self.transact(commands) {
            Ok((outcomes, position)) => {
                self.position = position;
                self.usable.store(true, Ordering::Relaxed);
                self.observer.committed(count, self.time.steady_seconds() - begun);
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // Whoever no longer waits finds the operation in the trail.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                self.usable.store(false, Ordering::Relaxed);
                self.observer.failed(count);
                tracing::error!(%error, commands = count, "ledger commit failed");
                for answer in answers {
                    let _ = answer.send(Err(LedgerUnavailable));
                }
            }
        }
    }

    /// The position moves only with a durable transaction.
    fn transact(&self, commands: Vec<Command>) -> Result<(Vec<Outcome>, Position), CommitError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut position = self.position;
        let mut outcomes = Vec::with_capacity(commands.len());
        {
            let mut tables = Tables::open(&transaction).map_err(CorruptError::Table)?;
            let now_ms = self.time.wall_ms();
            let mut application =
                Application { tables: &mut tables, position: &mut position, host: &self.host, now_ms };
            for command in commands {
                outcomes.push(command.apply(&mut application)?);
            }
        }
        transaction.commit()?;
        Ok((outcomes, position))
    }
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
    #[error(transparent)]
    Commit(#[from] redb::CommitError),
}
