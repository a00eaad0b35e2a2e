//! What the requests share: policy, ledger, volumes, whois, counters.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::Clock;
use daemon::drain::Drain;
use store_proto::{CapabilitySigner, Cohort, FileId, LogicalPath, ServerRole, UserName};

use crate::access_monitor::AccessMonitor;
use crate::denial::Denial;
use crate::keys::Keys;
use crate::ledger::Note;
use crate::ledger::access::{self, Change, Refusal, Wish};
use crate::ledger::capability;
use crate::ledger::{Action, Ending, Ledger, LedgerUnavailable, Origin, Reader};
use crate::ledger_disk::LedgerDisk;
use crate::limits::{COUNT_PAUSE, LEDGER_DISK_CHECK, STRANGER_WINDOW, VOLUME_CHECK, VOLUME_CHECK_TIMEOUT};
use crate::live::{Ended, LiveRequests};
use crate::metrics::{Metrics, signed};
use crate::objects::{Backend, Buffers, Found, Region};
use crate::policy_in_force::PolicyInForce;
use crate::reaper;
use crate::seen::Seen;
use crate::serve::expiry;
use crate::serve::under_way::UnderWay;
use crate::serve::writers::Writers;
use crate::strangers::{Noted, Stranger, Strangers};
use crate::volumes::{self, NoPlace, Promise, VolumeState};
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
    pub volumes: Vec<Arc<VolumeState>>,
    /// The room that the ledger needs.
    pub ledger_disk: LedgerDisk,
    /// How long a transfer waits for one step of a volume.
    pub io_patience: Duration,
    /// Who writes which resumable upload.
    pub writers: Writers,
    /// Uploads whose request runs, for whoever looks.
    pub under_way: UnderWay,
    /// How long a resumable upload that nothing arrives for is kept.
    pub upload_expiry: Duration,
    /// How often and how fast objects are read again.
    pub scrub: crate::integrity::scrub::Rules,
    /// The buffers of transfers.
    pub buffers: Buffers,
    /// Whose address is it?
    pub whois: Arc<Whois>,
    /// What each user asked of each cohort within the hour.
    pub access_monitor: AccessMonitor,
    /// Refusals that are not recorded one by one.
    pub strangers: Strangers,
    /// Requests under way, by user.
    pub live: Arc<LiveRequests>,
    /// Signs links.
    pub signer: CapabilitySigner,
    /// When tokens were last shown.
    pub seen: Seen,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Ending in order.
    pub drain: Drain,
    /// The time.
    pub clock: Clock,
}

/// What a user had open when they were shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Links that they had made.
    pub links: u32,
    /// Requests under way.
    pub requests: Ended,
    /// Uploads that waited to be resumed.
    pub partial_uploads: u64,
}

impl Store {
    /// The volume with this id.
    pub fn volume(&self, id: FileId) -> Option<&Arc<VolumeState>> {
        volumes::find(&self.volumes, id)
    }

    /// Whether an object could be stored now: a volume can be used.
    pub fn has_volume(&self) -> bool {
        self.volumes.iter().any(|volume| volume.is_usable())
    }

    /// Where a new object goes. The ledger's disk comes first: a full one would stop everything.
    pub fn place(&self, bytes: Option<u64>) -> Result<Promise, NoPlace> {
        if self.ledger_disk.is_full() {
            return Err(NoPlace::Full);
        }
        volumes::place(&self.volumes, bytes)
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
        let submitted = self.ledger.submit(access::Command::Change { origin, wish: Box::new(wish) }).await;
        let outcome = match submitted {
            Ok(outcome) => outcome,
            Err(error) => {
                // It may stand in the ledger all the same, and only its mirror not have it: whoever is shut out there
                // is shut out here.
                self.policy.follow(self.ledger.reader()).await?;
                return Err(error);
            }
        };
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

    /// Ends the requests under way whose right these changes took away: of a token, that token's; where a user may do less
    /// from here on, all of theirs, for which of them still may go on is found out by asking again.
    pub fn end_without_right(&self, changes: &[Change]) -> Ended {
        let mut ended = Ended::default();
        for change in changes {
            let now = match change {
                Change::TokenRevoked { token, .. } => self.live.end_token(*token),
                Change::Revoked { user, .. }
                | Change::GroupLeft { user, .. }
                | Change::UserRoleSet { user, .. } => self.live.end_user(user),
                // Whoever is shut out has links and unfinished uploads too: `end_what_is_open`.
                Change::UserDisabled { .. }
                | Change::UserAdded { .. }
                | Change::UserEnabled { .. }
                | Change::GroupJoined { .. }
                | Change::TokenIssued { .. }
                | Change::CohortAdded { .. }
                | Change::CohortSet { .. }
                | Change::Granted { .. }
                // Each request of an edge is asked for anew, and an edge that is struck out asks for none.
                | Change::EdgeAdded { .. }
                | Change::EdgeSet { .. }
                | Change::EdgeRemoved { .. }
                | Change::SettingsSet { .. } => Ended::default(),
            };
            ended.uploads += now.uploads;
            ended.downloads += now.downloads;
            ended.others += now.others;
        }
        ended
    }

    /// Ends what a user has open: links, requests under way, those through links too, and unfinished uploads. The rights
    /// are gone already.
    pub async fn end_what_is_open(
        &self,
        origin: Origin,
        user: &UserName,
    ) -> Result<Closed, LedgerUnavailable> {
        let command = capability::Command::RevokeAllOf { origin, user: user.clone() };
        let links = match self.ledger.submit(command).await? {
            capability::Outcome::Revoked(links) => links,
            capability::Outcome::Created
            | capability::Outcome::Counted
            | capability::Outcome::Resumed
            | capability::Outcome::Returned
            | capability::Outcome::Refused(_) => unreachable!("all of a user's links are revoked"),
        };
        let requests = self.live.end_user(user);
        let partial_uploads = expiry::end_uploads_of(self, user).await;
        Ok(Closed { links, requests, partial_uploads })
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

    /// Records a refusal, and that there were so many more like it. The name stands in it only where a file has it, for
    /// then the record falls with that file.
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
        let named = cohort.zip(path).map(|(cohort, path)| self.ledger.reader().file_at(cohort, path));
        let file = named.and_then(|found| found.ok().flatten());
        let note = Note {
            cohort: cohort.cloned(),
            path: file.is_some().then(|| path.cloned()).flatten(),
            file_id: file.map(|file| file.file_id),
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

    /// Looks at the ledger's disk again and again, until the runtime ends. Often: small uploads fill megabytes of it
    /// within a second.
    pub async fn watch_ledger_disk(self: Arc<Self>) {
        loop {
            self.look_at_ledger_disk();
            tokio::time::sleep(LEDGER_DISK_CHECK).await;
        }
    }

    /// Looks at the volumes again and again, until the runtime ends.
    pub async fn watch_volumes(self: Arc<Self>) {
        loop {
            // Each by itself: one that hangs does not keep the others from being looked at.
            futures_util::future::join_all(self.volumes.iter().map(|state| self.look_at(state))).await;
            tokio::time::sleep(VOLUME_CHECK).await;
        }
    }

    fn look_at_ledger_disk(&self) {
        let was_full = self.ledger_disk.is_full();
        match self.ledger_disk.look() {
            Ok(available) => self.metrics.state_avail_bytes.set(signed(available)),
            Err(error) => tracing::warn!(%error, "look at the ledger's disk"),
        }
        if self.ledger_disk.is_full() && !was_full {
            tracing::error!("the ledger's disk is down to its reserve: no uploads are taken");
        }
    }

    /// Looks whether a volume is there and answers.
    pub async fn look_at(&self, state: &VolumeState) {
        let backend = Arc::clone(&state.backend);
        let found = match Arc::clone(state.looking()).try_acquire_owned() {
            Err(_still_looking) => Err(std::io::ErrorKind::TimedOut.into()),
            Ok(only_one) => {
                let look = state.pool.run(move || {
                    let found = backend.check().and_then(|()| backend.space());
                    // Asked here: a disk that hangs may hold whoever asks.
                    let broken = backend.spool().is_some_and(|spool| spool.is_broken());
                    let found = found.map(|space| (space, broken));
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
        let was_usable = state.set_usable(usable);
        let label = &[state.name.as_str()];
        self.metrics.volume_usable.with_label_values(label).set(i64::from(usable));
        match found {
            Ok((space, broken)) => {
                state.seen(space);
                self.metrics.spool_broken.with_label_values(label).set(i64::from(broken));
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

    /// Brings small objects to their own files, so that the next start finds none in a spool. What does not get there
    /// in time, and what an upload that was cut off still writes, is left to it, as after a crash.
    pub async fn empty_spools(&self, patience: Duration) {
        let usable = self.volumes.iter().filter(|volume| volume.is_usable());
        let each = usable.map(|volume| {
            let backend = Arc::clone(&volume.backend);
            volume.pool.run(move || {
                if let Some(spool) = backend.spool() {
                    spool.end();
                }
            })
        });
        if tokio::time::timeout(patience, futures_util::future::join_all(each)).await.is_err() {
            tracing::warn!(
                "small objects stay in the spool of a volume; the next start brings them to their own files"
            );
        }
    }

    /// Counts what lies on the volumes and is in no ledger, without haste. Deletes nothing but temporaries of objects that
    /// a file has.
    pub async fn count_unclaimed(self: Arc<Self>) {
        let mut unclaimed: u64 = 0;
        for state in &self.volumes {
            match self.unclaimed_paced(state, COUNT_PAUSE).await {
                Ok(found) => unclaimed += found.len() as u64,
                Err(error) => tracing::warn!(volume = %state.name, error, "count unclaimed objects"),
            }
        }
        self.metrics.unclaimed_objects.set(signed(unclaimed));
        if unclaimed > 0 {
            tracing::warn!(objects = unclaimed, "objects that this ledger does not know; they are kept");
        }
    }

    /// What lies on a volume and is in no file, no partial upload, no open intent and no cleanup.
    pub async fn unclaimed(&self, state: &VolumeState) -> Result<Vec<Found>, String> {
        self.unclaimed_paced(state, Duration::ZERO).await
    }

    /// The same, region by region with a pause between two, so that transfers have the volume's threads.
    async fn unclaimed_paced(&self, state: &VolumeState, pause: Duration) -> Result<Vec<Found>, String> {
        let mut all = Vec::new();
        for region in Region::all() {
            let (backend, reader) = (Arc::clone(&state.backend), self.ledger.reader().clone());
            let walked = state.pool.run(move || unknown(backend.as_ref(), region, &reader)).await;
            all.extend(walked.map_err(|lost| lost.to_string())??);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        let to_be_removed: HashSet<FileId> =
            reaper::pending(self)?.into_iter().map(|(_, cleanup)| cleanup.object).collect();
        all.retain(|found| match found {
            Found::Object(object) | Found::Temporary(object) => !to_be_removed.contains(object),
            Found::Stray(_) => true,
        });
        Ok(all)
    }
}

fn unknown(backend: &dyn Backend, region: Region, reader: &Reader) -> Result<Vec<Found>, String> {
    let claimed = |object| matches!(reader.is_claimed(object), Ok(true));
    let mut unknown = Vec::new();
    let mut come_back = Vec::new();
    let walked = backend.walk(region, &mut |found| match found {
        Found::Object(object) if claimed(object) => {}
        Found::Temporary(object) if claimed(object) => come_back.push(object),
        other @ (Found::Temporary(_) | Found::Object(_) | Found::Stray(_)) => unknown.push(other),
    });
    walked.map_err(|error| error.to_string())?;
    for object in come_back {
        // The object was durable under its name before the file was recorded.
        backend
            .open(object)
            .and_then(|_| backend.remove_temporary(object))
            .map_err(|error| error.to_string())?;
    }
    if unknown.is_empty() {
        return Ok(unknown);
    }
    // Asked after the walk: an upload that runs has its intent before it has its file, and one that has
    // ended since has its row.
    let open = reader.open_intents().map_err(|error| error.to_string())?;
    let being_written = |object: FileId| {
        open.iter().any(|(_, intent)| intent.claim.is_some_and(|claim| claim.object == object))
    };
    unknown.retain(|found| match found {
        Found::Object(object) | Found::Temporary(object) => !being_written(*object) && !claimed(*object),
        Found::Stray(_) => true,
    });
    Ok(unknown)
}
