//! What the requests share: policy, ledger, volumes, whois, counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use daemon::Clock;
use daemon::drain::Drain;
use store_proto::{Cohort, FileId, LogicalPath, ServerRole};
use tokio::sync::Semaphore;

use crate::denial::Denial;
use crate::keys::Keys;
use crate::ledger::Note;
use crate::ledger::access::{self, Change, Refusal, Wish};
use crate::ledger::{Action, Ending, Ledger, LedgerUnavailable, Origin, Reader};
use crate::limits::{STRANGER_WINDOW, VOLUME_CHECK, VOLUME_CHECK_TIMEOUT};
use crate::metrics::{Metrics, signed};
use crate::objects::{Backend, Buffers, Found, Pool};
use crate::policy_in_force::PolicyInForce;
use crate::strangers::{Noted, Stranger, Strangers};
use crate::whois::Whois;

/// A running store.
#[derive(Debug)]
pub struct Store {
    /// `services` or `testing`.
    pub role: ServerRole,
    /// The rules in force.
    pub policy: PolicyInForce,
    /// What happened.
    pub ledger: Ledger,
    /// What opens them.
    pub keys: Arc<Keys>,
    /// Where objects are.
    pub volumes: Vec<VolumeState>,
    /// The threads that touch them.
    pub pool: Pool,
    /// How long an upload waits for one step of a volume.
    pub io_patience: Duration,
    /// The buffers of transfers.
    pub buffers: Buffers,
    /// Whose address is it?
    pub whois: Arc<Whois>,
    /// Refusals that are not recorded one by one.
    pub strangers: Strangers,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Ending in order.
    pub drain: Drain,
    /// The time.
    pub clock: Clock,
}

/// A volume and whether it can be used.
#[derive(Debug)]
pub struct VolumeState {
    /// The name in the configuration.
    pub name: String,
    /// The volume.
    pub disk: Arc<dyn Backend>,
    usable: AtomicBool,
    /// A look that has not come back holds one thread; another would only hold one more.
    looking: Arc<Semaphore>,
}

impl VolumeState {
    /// A volume that was just opened, so it is usable.
    pub fn new(name: String, disk: Arc<dyn Backend>) -> VolumeState {
        VolumeState { name, disk, usable: AtomicBool::new(true), looking: Arc::new(Semaphore::new(1)) }
    }

    /// Whether the last look found it in order.
    pub fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }
}

impl Store {
    /// The volume with this id.
    pub fn disk(&self, volume: FileId) -> Option<&Arc<dyn Backend>> {
        self.volumes.iter().map(|state| &state.disk).find(|disk| disk.id() == volume)
    }

    /// Where a new object goes.
    pub fn volume_for_writing(&self) -> Option<&Arc<dyn Backend>> {
        self.volumes.iter().find(|state| state.is_usable()).map(|state| &state.disk)
    }

    /// Records something that has no before, and counts it.
    pub async fn note(&self, note: Note) -> Result<u64, LedgerUnavailable> {
        let (action, ending) = (note.action, note.ending);
        let index = self.ledger.submit(note).await?;
        self.metrics.operation(action, ending, None);
        Ok(index)
    }

    /// Changes who may do what: recorded, and in force before this returns.
    pub async fn change_access(
        &self,
        origin: Origin,
        wish: Wish,
    ) -> Result<Result<Vec<Change>, Refusal>, LedgerUnavailable> {
        let outcome = self.ledger.submit(access::Command::Change { origin, wish: Box::new(wish) }).await?;
        let result = match outcome {
            access::Outcome::Changed(changes) => Ok(changes),
            access::Outcome::Refused(refusal) => Err(refusal),
            access::Outcome::Seen => unreachable!("a wish is granted or refused"),
        };
        match &result {
            Ok(changes) => {
                for change in changes {
                    self.metrics.operation(change.action(), Ending::Succeeded, None);
                }
                self.policy.follow(self.ledger.reader()).await?;
            }
            Err(_) => self.metrics.operation(Action::AccessRefused, Ending::Denied, None),
        }
        Ok(result)
    }

    /// Counts the refusal of somebody who is not known, and records it unless there were many like it. It
    /// stands whether or not it can be recorded.
    pub async fn refuse_stranger(&self, denial: Denial, health: bool, origin: Origin) {
        self.metrics.denied(denial);
        let stranger = Stranger::new(denial, health, origin.source_address, origin.client_address);
        match self.strangers.note(stranger, self.clock.now()) {
            Noted::Record { more } => self.record_refusal(denial, origin, None, None, more).await,
            Noted::Counted => {}
        }
    }

    /// Records a refusal, and that there were so many more like it.
    pub async fn record_refusal(
        &self,
        denial: Denial,
        origin: Origin,
        cohort: Option<&Cohort>,
        path: Option<&LogicalPath>,
        more: u64,
    ) {
        let detail = match more {
            0 => denial.name().to_owned(),
            more => format!("{}, and {more} more before", denial.name()),
        };
        let note = Note {
            cohort: cohort.cloned(),
            path: path.cloned(),
            detail: Some(detail),
            ..Note::new(Action::AccessDenied, Ending::Denied, origin)
        };
        if self.note(note).await.is_err() {
            tracing::warn!(reason = denial.name(), "a refusal could not be recorded");
        }
    }

    /// Records how many refusals were not recorded one by one, again and again, until the runtime ends.
    pub async fn settle_strangers_each_minute(self: Arc<Self>) {
        loop {
            tokio::time::sleep(STRANGER_WINDOW).await;
            self.settle_strangers(false).await;
        }
    }

    /// Records how many refusals were not recorded one by one: of the minutes that are over, or `all`.
    pub async fn settle_strangers(&self, all: bool) {
        for (stranger, more) in self.strangers.settle(self.clock.now(), all) {
            let origin = Origin {
                source_address: stranger.source,
                client_address: stranger.client,
                ..Origin::default()
            };
            let note = Note {
                detail: Some(format!("{}: {more} more, not recorded one by one", stranger.denial.name())),
                ..Note::new(Action::AccessDenied, Ending::Denied, origin)
            };
            if self.note(note).await.is_err() {
                tracing::warn!(more, reason = stranger.denial.name(), "refusals could not be recorded");
            }
        }
    }

    /// Counts an operation that began at `begun`.
    pub fn ended(&self, action: Action, ending: Ending, begun: Instant) {
        let seconds = self.clock.now().duration_since(begun).as_secs_f64();
        self.metrics.operation(action, ending, Some(seconds));
    }

    /// Looks at the volumes again and again, until the runtime ends.
    pub async fn watch_volumes(self: Arc<Self>) {
        loop {
            for state in &self.volumes {
                self.look_at(state).await;
            }
            tokio::time::sleep(VOLUME_CHECK).await;
        }
    }

    async fn look_at(&self, state: &VolumeState) {
        let disk = Arc::clone(&state.disk);
        let found = match Arc::clone(&state.looking).try_acquire_owned() {
            Err(_still_looking) => Err(std::io::ErrorKind::TimedOut.into()),
            Ok(only_one) => {
                let look = self.pool.run(move || {
                    let found = disk.check().and_then(|()| disk.space());
                    drop(only_one);
                    found
                });
                match tokio::time::timeout(VOLUME_CHECK_TIMEOUT, look).await {
                    Ok(Ok(found)) => found,
                    Ok(Err(lost)) => Err(lost.into()),
                    Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
                }
            }
        };
        let usable = found.is_ok();
        let was_usable = state.usable.swap(usable, Ordering::Relaxed);
        let label = &[state.name.as_str()];
        self.metrics.volume_usable.with_label_values(label).set(i64::from(usable));
        match found {
            Ok(space) => {
                self.metrics
                    .filesystem_avail_bytes
                    .with_label_values(label)
                    .set(signed(space.available_bytes));
                self.metrics.filesystem_size_bytes.with_label_values(label).set(signed(space.size_bytes));
                if !was_usable {
                    tracing::info!(volume = %state.name, "the volume is usable again");
                }
            }
            Err(error) if was_usable => {
                tracing::error!(volume = %state.name, %error, "the volume cannot be used");
            }
            Err(_) => {}
        }
    }

    /// Counts what lies on the volumes and is in no ledger. Deletes nothing.
    pub async fn count_unclaimed(self: Arc<Self>) {
        let mut unclaimed: u64 = 0;
        for state in &self.volumes {
            let (disk, reader) = (Arc::clone(&state.disk), self.ledger.reader().clone());
            let counted = self.pool.run(move || count_unknown(disk.as_ref(), &reader));
            match counted.await {
                Ok(Ok(count)) => unclaimed += count,
                Ok(Err(error)) => tracing::warn!(volume = %state.name, error, "count unclaimed objects"),
                Err(error) => tracing::warn!(volume = %state.name, %error, "count unclaimed objects"),
            }
        }
        self.metrics.unclaimed_objects.set(signed(unclaimed));
        if unclaimed > 0 {
            tracing::warn!(objects = unclaimed, "objects that this ledger does not know; they are kept");
        }
    }
}

fn count_unknown(disk: &dyn Backend, reader: &Reader) -> Result<u64, String> {
    let mut without_name: u64 = 0;
    let mut unknown = Vec::new();
    let mut come_back = Vec::new();
    let walked = disk.walk(&mut |found| match found {
        Found::Object(id) if matches!(reader.file(id), Ok(Some(_))) => {}
        Found::Temporary(id) if matches!(reader.file(id), Ok(Some(_))) => come_back.push(id),
        Found::Object(id) | Found::Temporary(id) => unknown.push(id),
        Found::Stray(_) => without_name += 1,
    });
    walked.map_err(|error| error.to_string())?;
    for id in come_back {
        // The object was durable under its name before the file was recorded.
        disk.open(id).and_then(|_| disk.remove_temporary(id)).map_err(|error| error.to_string())?;
    }
    // Asked after the walk: an upload that runs has its intent before it has its file, and one that has
    // ended since has its row.
    let open = reader.open_intents().map_err(|error| error.to_string())?;
    unknown.retain(|id| {
        !open.iter().any(|(_, intent)| intent.file_id == *id) && !matches!(reader.file(*id), Ok(Some(_)))
    });
    Ok(without_name + unknown.len() as u64)
}
