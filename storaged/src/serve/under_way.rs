//! Uploads whose request runs: how much came, how fast, when last, and what they wait for.
//!
//! **Invariant:** this is for people who look. Nothing is decided by it but an operator's word that ends one.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use daemon::Clock;
use store_proto::{FileId, RequestId, UserName};
use tokio::sync::watch;

use crate::limits::RATE_WINDOW;

/// What an upload waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// More bytes: from the client, by the edge, through the tunnel.
    Sender,
    /// The volume that they go to.
    Volume,
    /// Its record, and the journal mirror where that is waited for.
    Ledger,
}

impl WaitsFor {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            WaitsFor::Sender => "sender",
            WaitsFor::Volume => "volume",
            WaitsFor::Ledger => "ledger",
        }
    }
}

/// What is known of an upload from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Whether it can be resumed; else its id is the file's.
    pub resumable: bool,
    /// Whose.
    pub user: Option<UserName>,
    /// The request that brings it.
    pub request: Option<RequestId>,
    /// Where this request goes on.
    pub offset: u64,
    /// How long the file will be, if it was said.
    pub length: Option<u64>,
}

/// How it is at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// From its beginning.
    pub about: About,
    /// Bytes that this request brought.
    pub received: u64,
    /// Of late.
    pub bytes_per_second: u64,
    /// When the last byte came, or the request began.
    pub last_byte: Instant,
    /// What it waits for, or has just waited for.
    pub waits_for: WaitsFor,
}

/// All of them, by the upload's or the file's id.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Mutex<HashMap<FileId, Arc<Row>>>>);

#[derive(Debug)]
struct Row {
    about: About,
    pace: Mutex<Pace>,
    given_up: watch::Sender<bool>,
}

#[derive(Debug)]
struct Pace {
    received: u64,
    last_byte: Instant,
    waits_for: WaitsFor,
    window_began: Instant,
    window_bytes: u64,
    /// Of the window before.
    before: Option<u64>,
}

/// An upload's place in the table; dropping it takes it out.
#[derive(Debug)]
pub struct Progress {
    all: UnderWay,
    upload: FileId,
    row: Arc<Row>,
    clock: Clock,
}

impl UnderWay {
    /// Puts an upload into the table.
    pub fn begin(&self, upload: FileId, about: About, clock: Clock) -> Progress {
        let now = clock.now();
        let pace = Pace {
            received: 0,
            last_byte: now,
            waits_for: WaitsFor::Sender,
            window_began: now,
            window_bytes: 0,
            before: None,
        };
        let row = Arc::new(Row { about, pace: Mutex::new(pace), given_up: watch::Sender::new(false) });
        self.rows().insert(upload, Arc::clone(&row));
        Progress { all: self.clone(), upload, row, clock }
    }

    /// One of them.
    pub fn find(&self, upload: FileId, now: Instant) -> Option<Moment> {
        let row = Arc::clone(self.rows().get(&upload)?);
        Some(row.at(now))
    }

    /// All of them.
    pub fn list(&self, now: Instant) -> Vec<(FileId, Moment)> {
        let rows: Vec<_> = self.rows().iter().map(|(upload, row)| (*upload, Arc::clone(row))).collect();
        rows.into_iter().map(|(upload, row)| (upload, row.at(now))).collect()
    }

    /// Ends one; whether it was there.
    pub fn give_up(&self, upload: FileId) -> bool {
        let row = self.rows().get(&upload).cloned();
        row.is_some_and(|row| !row.given_up.send_replace(true))
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<FileId, Arc<Row>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, now: Instant) -> Moment {
        let pace = self.pace();
        Moment {
            about: self.about.clone(),
            received: pace.received,
            bytes_per_second: pace.rate(now),
            last_byte: pace.last_byte,
            waits_for: pace.waits_for,
        }
    }
}

impl Pace {
    fn add(&mut self, bytes: u64, now: Instant) {
        self.received += bytes;
        self.last_byte = now;
        if now.duration_since(self.window_began) >= RATE_WINDOW {
            self.before = Some(self.of_window(now));
            (self.window_began, self.window_bytes) = (now, 0);
        }
        self.window_bytes += bytes;
    }

    fn rate(&self, now: Instant) -> u64 {
        match self.before {
            Some(before) if now.duration_since(self.window_began) < RATE_WINDOW => before,
            Some(_) | None => self.of_window(now),
        }
    }

    fn of_window(&self, now: Instant) -> u64 {
        let milliseconds = now.duration_since(self.window_began).as_millis().max(1);
        u64::try_from(u128::from(self.window_bytes) * 1000 / milliseconds).unwrap_or(u64::MAX)
    }
}

impl Progress {
    /// Waits for a step, and says so.
    pub async fn waiting<T>(&self, waits_for: WaitsFor, step: impl Future<Output = T>) -> T {
        self.row.pace().waits_for = waits_for;
        step.await
    }

    /// More came.
    pub fn received(&self, bytes: u64) {
        self.row.pace().add(bytes, self.clock.now());
    }

    /// Returns when an operator has ended it.
    pub async fn given_up(&self) {
        let mut told = self.row.given_up.subscribe();
        // The sender is in the row, which is ours.
        let _ = told.wait_for(|told| *told).await;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut rows = self.all.rows();
        // A newer request may have taken the place.
        if rows.get(&self.upload).is_some_and(|row| Arc::ptr_eq(row, &self.row)) {
            rows.remove(&self.upload);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rate_is_of_late_and_falls_when_nothing_comes() {
        let began = Clock.now();
        let mut pace = Pace {
            received: 0,
            last_byte: began,
            waits_for: WaitsFor::Sender,
            window_began: began,
            window_bytes: 0,
            before: None,
        };
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        for step in 1..=100 {
            pace.add(1000, at(step * 100));
        }
        assert_eq!(pace.received, 100_000);
        let rate = pace.rate(at(10_000));
        assert!((9_000..=11_000).contains(&rate), "{rate}");
        // What came long ago does not count for ever.
        assert!(pace.rate(at(60_000)) < 1_100, "{}", pace.rate(at(60_000)));
    }

    #[tokio::test]
    async fn a_row_is_there_while_its_request_runs_and_a_newer_one_keeps_the_place() {
        let all = UnderWay::default();
        let id = FileId::from_bytes([1; 16]);
        let about = About { resumable: true, user: None, request: None, offset: 7, length: Some(9) };
        let first = all.begin(id, about.clone(), Clock);
        first.waiting(WaitsFor::Volume, async {}).await;
        first.received(5);
        let moment = all.find(id, Clock.now()).unwrap();
        assert_eq!((moment.received, moment.waits_for, &moment.about), (5, WaitsFor::Volume, &about));
        let second = all.begin(id, about, Clock);
        drop(first);
        assert_eq!(all.list(Clock.now()).len(), 1);
        assert!(all.give_up(id));
        second.given_up().await;
        drop(second);
        assert!(all.list(Clock.now()).is_empty() && !all.give_up(id));
    }
}
