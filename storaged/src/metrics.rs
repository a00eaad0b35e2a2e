//! What storaged counts. Labels come from closed enums, and from the names of volumes in the
//! configuration; never from a request.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::denial::Denial;
use crate::integrity::Verdict;
use crate::keys::Keys;
use crate::ledger::integrity::{CycleRow, FindingKind};
use crate::ledger::writer::{Observer, Time};
use crate::ledger::{Action, Ending, Ledger, backup};
use crate::objects::get::Damage;

/// The counters and gauges.
#[derive(Debug, Clone)]
pub struct Metrics {
    operations: IntCounterVec,
    operation_seconds: HistogramVec,
    /// Bytes of bodies that came in.
    pub received_bytes: IntCounter,
    /// Bytes of bodies that went out.
    pub sent_bytes: IntCounter,
    /// Seconds that publishing an object took: sync, rename, sync of directories.
    pub fsync_seconds: Histogram,
    /// Transfers under way.
    pub transfers: IntGauge,
    /// Objects on the volumes that the ledger does not know.
    pub unclaimed_objects: IntGauge,
    /// The clock of the edge that asked last, minus ours.
    pub edge_clock_offset_seconds: Gauge,
    /// Whether the last reload was taken.
    pub reload_success: IntGauge,
    reload_seconds: Gauge,
    /// Room on the volumes.
    pub filesystem_avail_bytes: IntGaugeVec,
    /// Room on the ledger's disk.
    pub state_avail_bytes: IntGauge,
    held_files: IntGauge,
    partial_uploads: IntGauge,
    /// Size of the volumes.
    pub filesystem_size_bytes: IntGaugeVec,
    /// Whether the volume is the one of the start and answers.
    pub volume_usable: IntGaugeVec,
    /// Whether small objects cannot be brought from the volume's spool to their own files.
    pub spool_broken: IntGaugeVec,
    auth_failures: IntCounterVec,
    /// Shreds of keys, by result.
    pub shreds: IntCounterVec,
    kek_age_seconds: Gauge,
    backup_seconds: Gauge,
    backup_keys_outdated: IntGauge,
    dek_rewrap_pending: IntGauge,
    integrity_failures: IntCounterVec,
    /// Looks at objects, by result.
    pub integrity_checks: IntCounterVec,
    /// Bytes of objects that were read to see whether they are what was sealed.
    pub scrubbed_bytes: IntCounter,
    scrub_success_seconds: GaugeVec,
    scrub_duration_seconds: GaugeVec,
    scrub_progress: GaugeVec,
    scrub_elapsed: GaugeVec,
    /// Attempts to take away what must not stay.
    pub cleanups: IntCounterVec,
    /// What must not stay and is not known to be gone.
    pub cleanups_pending: IntGauge,
    /// Of these, past their deadline.
    pub cleanups_overdue: IntGauge,
    /// How far the first of them is past it.
    pub cleanup_oldest_overdue_seconds: Gauge,
    /// Hours in which a user asked more of a cohort than is usual.
    pub access_anomalies: IntCounter,
    /// Legal holds that stand.
    pub legal_holds: IntGauge,
    objects: IntGauge,
    stored_bytes: IntGauge,
    open_operations: IntGauge,
    ledger_entries: IntGauge,
    ledger_time_hold: IntGauge,
    ledger_verify_success: IntGauge,
    ledger_verify_seconds: Gauge,
    mirror_lag_records: IntGauge,
    mirror_up: IntGauge,
    ledger_size_bytes: IntGauge,
    ledger_commit_seconds: Histogram,
    ledger_commit_commands: Histogram,
    audit_append_failures: IntCounter,
}

impl Metrics {
    /// Registers everything, with all closed labels at zero.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let made = Made { registry };
        let metrics = Metrics {
            operations: made.counters(
                "operations_total",
                "Operations that ended, by action and result.",
                &["action", "result"],
            )?,
            operation_seconds: made.histograms(
                "operation_duration_seconds",
                "Seconds from the intent to the outcome.",
                &["action"],
                vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0],
            )?,
            received_bytes: made.counter("received_bytes_total", "Bytes of files that came in.")?,
            sent_bytes: made.counter("sent_bytes_total", "Bytes of files that went out.")?,
            fsync_seconds: made.histogram(
                "fsync_duration_seconds",
                "Seconds to make an object durable: sync, rename, sync of the directories.",
                SYNC_BUCKETS,
            )?,
            transfers: made.gauge("transfers", "Transfers under way.")?,
            unclaimed_objects: made.gauge(
                "unclaimed_objects",
                "Objects on the volumes that the ledger does not know, counted at start.",
            )?,
            edge_clock_offset_seconds: made.float(
                "edge_clock_offset_seconds",
                "The clock of the edge that asked last, minus this host's.",
            )?,
            reload_success: made
                .gauge("config_last_reload_successful", "Whether the last reload was taken.")?,
            reload_seconds: made.float(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in force was taken, in seconds since 1970.",
            )?,
            filesystem_avail_bytes: made.gauges(
                "filesystem_avail_bytes",
                "Bytes free on a volume.",
                &["volume"],
            )?,
            state_avail_bytes: made
                .gauge("state_avail_bytes", "Bytes free on the disk that holds the ledger.")?,
            held_files: made.gauge("held_files", "Files that wait for a scanner.")?,
            partial_uploads: made
                .gauge("partial_uploads", "Uploads that can be resumed and are no file yet.")?,
            filesystem_size_bytes: made.gauges(
                "filesystem_size_bytes",
                "Bytes of a volume's file system.",
                &["volume"],
            )?,
            spool_broken: made.gauges(
                "spool_broken",
                "1: small objects stand in the volume's spool and cannot be brought to their own files; no more are taken there.",
                &["volume"],
            )?,
            volume_usable: made.gauges(
                "volume_usable",
                "Whether a volume answers and has its marker.",
                &["volume"],
            )?,
            auth_failures: made.counters(
                "auth_failures_total",
                "Requests refused, by reason.",
                &["reason"],
            )?,
            shreds: made.counters(
                "shreds_total",
                "Times that keys of deleted files were destroyed for good, by result.",
                &["result"],
            )?,
            backup_seconds: made.float(
                "backup_last_success_timestamp_seconds",
                "When the newest backup that is kept was begun, in seconds since 1970; 0 if there is none.",
            )?,
            backup_keys_outdated: made.gauge(
                "backup_keys_outdated",
                "1 while no backup holds the keys of this epoch: a shred or a new root key came after the newest.",
            )?,
            kek_age_seconds: made
                .float("kek_age_seconds", "Age of the oldest cohort key that wraps new file keys.")?,
            dek_rewrap_pending: made.gauge(
                "dek_rewrap_pending",
                "File keys that are still under an older key of their cohort.",
            )?,
            integrity_failures: made.counters(
                "integrity_failures_total",
                "Objects that were not what the ledger says, when they were to be served or looked at.",
                &["kind"],
            )?,
            integrity_checks: made.counters(
                "integrity_checks_total",
                "Looks at objects, by result.",
                &["result"],
            )?,
            scrubbed_bytes: made.counter(
                "scrubbed_bytes_total",
                "Bytes of objects that were read to see whether they are what was sealed.",
            )?,
            scrub_success_seconds: made.floats(
                "scrub_last_success_timestamp_seconds",
                "When each object of a volume had been read once, in seconds since 1970; 0: never yet.",
            )?,
            scrub_duration_seconds: made.floats(
                "scrub_duration_seconds",
                "Seconds of the running cycle of the scrub, or of the last one until the next begins.",
            )?,
            scrub_progress: made.floats(
                "scrub_progress_ratio",
                "How much of a volume the cycle of the scrub has read, from 0 to 1.",
            )?,
            scrub_elapsed: made.floats(
                "scrub_elapsed_ratio",
                "How much of the time of a cycle of the scrub is over, from 0 to 1.",
            )?,
            cleanups: made.counters(
                "cleanups_total",
                "Attempts to take away what must not stay, by result.",
                &["result"],
            )?,
            cleanups_pending: made
                .gauge("cleanups_pending", "Temporary things that are not known to be gone.")?,
            cleanups_overdue: made
                .gauge("cleanups_overdue", "Temporary things that are past their deadline.")?,
            cleanup_oldest_overdue_seconds: made.float(
                "cleanup_oldest_overdue_seconds",
                "How far the most urgent temporary thing is past its deadline; 0 if none is.",
            )?,
            access_anomalies: made.counter(
                "access_anomalies_total",
                "Times that a user's hour with a cohort became unusual.",
            )?,
            legal_holds: made.gauge("legal_holds", "Legal holds that stand.")?,
            objects: made.gauge("objects", "Files in the store.")?,
            stored_bytes: made.gauge("stored_bytes", "Bytes of all files in the store.")?,
            open_operations: made
                .gauge("open_operations", "Operations that have an intent and no outcome yet.")?,
            ledger_time_hold: made.gauge(
                "ledger_time_hold",
                "1 while what deletes because of a date waits, for the clock went forward.",
            )?,
            ledger_verify_success: made.gauge(
                "ledger_verify_success",
                "0: the last walk over the whole log found something; 1 until there was one.",
            )?,
            ledger_verify_seconds: made.float(
                "ledger_verify_timestamp_seconds",
                "When the last walk over the whole log ended, in seconds since 1970; 0: none since the start.",
            )?,
            mirror_lag_records: made
                .gauge("journal_mirror_lag_records", "Records that the journal mirror does not hold yet.")?,
            mirror_up: made.gauge("journal_mirror_up", "1 while the journal mirror keeps up.")?,
            ledger_entries: made.gauge("ledger_entries", "Records in the ledger.")?,
            ledger_size_bytes: made.gauge("ledger_size_bytes", "Bytes of the ledger's file.")?,
            ledger_commit_seconds: made.histogram(
                "ledger_commit_duration_seconds",
                "Seconds of one ledger transaction, with its sync.",
                SYNC_BUCKETS,
            )?,
            ledger_commit_commands: made.histogram(
                "ledger_commit_commands",
                "Commands committed by one ledger transaction.",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0],
            )?,
            audit_append_failures: made.counter(
                "audit_append_failures_total",
                "Operations that were refused because they could not be recorded.",
            )?,
        };
        metrics.ledger_verify_success.set(1);
        for result in ["succeeded", "failed"] {
            metrics.cleanups.with_label_values(&[result]);
            metrics.shreds.with_label_values(&[result]);
        }
        for action in Action::ALL {
            for ending in Ending::ALL {
                metrics.operations.with_label_values(&[action.name(), ending.name()]);
            }
        }
        for kind in FindingKind::ALL {
            metrics.integrity_failures.with_label_values(&[kind.name()]);
        }
        for result in Verdict::RESULTS {
            metrics.integrity_checks.with_label_values(&[result]);
        }
        for denial in Denial::ALL {
            metrics.auth_failures.with_label_values(&[denial.name()]);
        }
        Ok(metrics)
    }

    /// An operation ended.
    pub fn operation(&self, action: Action, ending: Ending, seconds: Option<f64>) {
        self.operations.with_label_values(&[action.name(), ending.name()]).inc();
        if let Some(seconds) = seconds {
            self.operation_seconds.with_label_values(&[action.name()]).observe(seconds);
        }
    }

    /// A request was refused.
    pub fn denied(&self, denial: Denial) {
        self.auth_failures.with_label_values(&[denial.name()]).inc();
    }

    /// An object could not be served; counted if the object itself is what is wrong.
    pub fn damaged(&self, error: &std::io::Error) {
        let damage = error.get_ref().and_then(|inner| inner.downcast_ref::<Damage>());
        let kind = match damage {
            Some(Damage::Length { .. } | Damage::Short) => FindingKind::Length,
            Some(Damage::Content) => FindingKind::HashMismatch,
            None if error.kind() == std::io::ErrorKind::NotFound => FindingKind::Missing,
            None => return,
        };
        self.integrity_failed(kind);
    }

    /// Something new was found wrong with an object.
    pub fn integrity_failed(&self, kind: FindingKind) {
        self.integrity_failures.with_label_values(&[kind.name()]).inc();
    }

    /// How far the scrub of a volume is, as shares of its bytes and of its time.
    pub fn scrub(&self, volume: &str, cycle: &CycleRow, now_ms: u64, progress: f64, elapsed: f64) {
        let label = &[volume];
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        let end = cycle.ended_ms.unwrap_or(now_ms);
        self.scrub_success_seconds
            .with_label_values(label)
            .set(seconds(cycle.ended_ms.unwrap_or(cycle.succeeded_ms)));
        self.scrub_duration_seconds.with_label_values(label).set(seconds(end.saturating_sub(cycle.begun_ms)));
        self.scrub_progress.with_label_values(label).set(progress);
        self.scrub_elapsed.with_label_values(label).set(elapsed);
    }

    /// A configuration is in force from now on.
    pub fn configured(&self, now_ms: u64) {
        self.reload_success.set(1);
        let seconds = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        self.reload_seconds.set(f64::from(seconds));
    }

    /// A walk over the whole log ended.
    pub fn ledger_verified(&self, fine: bool, now_ms: u64) {
        self.ledger_verify_success.set(i64::from(fine));
        self.ledger_verify_seconds.set(Duration::from_millis(now_ms).as_secs_f64());
    }

    /// Looks at the ledger; called before each scrape.
    pub fn refresh(&self, ledger: &Ledger, keys_epoch: u64, ledger_file: &PathBuf) {
        match ledger.reader().totals() {
            Ok(totals) => {
                self.objects.set(signed(totals.files));
                self.stored_bytes.set(signed(totals.stored_bytes));
                self.open_operations.set(signed(totals.open_intents));
                self.ledger_entries.set(signed(totals.records));
                self.held_files.set(signed(totals.held_files));
                self.partial_uploads.set(signed(totals.partial_uploads));
                let mirrored = ledger.mirrored_records().unwrap_or(totals.records);
                self.mirror_lag_records.set(signed(totals.records.saturating_sub(mirrored)));
            }
            Err(error) => tracing::debug!(%error, "read the ledger's totals"),
        }
        self.mirror_up.set(i64::from(ledger.mirror_keeps_up()));
        if let Ok(hold) = ledger.reader().time_hold() {
            self.ledger_time_hold.set(i64::from(hold.is_some()));
        }
        if let Ok(backups) = ledger.reader().snapshot().and_then(|snapshot| backup::all(&snapshot)) {
            let newest = backups.first().map(|(_, row)| row);
            self.backup_seconds.set(Duration::from_millis(newest.map_or(0, |row| row.made_ms)).as_secs_f64());
            let outdated = newest.is_none_or(|row| row.keys_epoch != keys_epoch);
            self.backup_keys_outdated.set(i64::from(outdated));
        }
        if let Ok(metadata) = std::fs::metadata(ledger_file) {
            self.ledger_size_bytes.set(signed(metadata.len()));
        }
    }

    /// Looks at the keys; called before each scrape.
    pub fn refresh_keys(&self, keys: &Keys, now_ms: u64) {
        match keys.cohorts() {
            Ok(cohorts) => {
                let oldest = cohorts.iter().map(|keys| now_ms.saturating_sub(keys.created_ms)).max();
                self.kek_age_seconds.set(Duration::from_millis(oldest.unwrap_or(0)).as_secs_f64());
                self.dek_rewrap_pending.set(signed(cohorts.iter().map(|keys| keys.pending).sum()));
            }
            Err(error) => tracing::debug!(%error, "read the state of the keys"),
        }
    }

    /// What the ledger's writer tells.
    pub fn observer(self: &Arc<Self>) -> LedgerObserver {
        LedgerObserver(Arc::clone(self))
    }
}

/// Counts commits.
#[derive(Debug)]
pub struct LedgerObserver(Arc<Metrics>);

impl Observer for LedgerObserver {
    fn committed(&self, commands: usize, seconds: f64) {
        self.0.ledger_commit_seconds.observe(seconds);
        self.0.ledger_commit_commands.observe(f64::from(u32::try_from(commands).unwrap_or(u32::MAX)));
    }

    fn failed(&self, commands: usize) {
        self.0.audit_append_failures.inc_by(commands as u64);
    }
}

/// The ledger's clock.
#[derive(Debug, Clone, Copy)]
pub struct LedgerTime {
    clock: daemon::Clock,
    start: std::time::Instant,
}

impl LedgerTime {
    /// Counts steady seconds from now.
    pub fn new(clock: daemon::Clock) -> LedgerTime {
        LedgerTime { clock, start: clock.now() }
    }
}

impl Time for LedgerTime {
    fn wall_ms(&self) -> u64 {
        self.clock.unix_milliseconds()
    }

    fn running_ms(&self) -> u64 {
        self.clock.running_milliseconds()
    }

    fn steady_seconds(&self) -> f64 {
        self.clock.now().duration_since(self.start).as_secs_f64()
    }
}

/// Prometheus counts in signed 64 bits: 8 EiB are enough.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A local disk's sync takes 0.3 ms, a busy one's or a network's seconds.
const SYNC_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0];

struct Made<'a> {
    registry: &'a Registry,
}

impl Made<'_> {
    fn take<C: Collector + Clone + 'static>(
        &self,
        collector: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let collector = collector?;
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.take(IntCounter::with_opts(options(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.take(IntCounterVec::new(options(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.take(IntGauge::with_opts(options(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.take(IntGaugeVec::new(options(name, help), labels))
    }

    fn float(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.take(Gauge::with_opts(options(name, help)))
    }

    /// One for each volume.
    fn floats(&self, name: &str, help: &str) -> prometheus::Result<GaugeVec> {
        self.take(GaugeVec::new(options(name, help), &["volume"]))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.take(Histogram::with_opts(HistogramOpts::from(options(name, help)).buckets(buckets.to_vec())))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> prometheus::Result<HistogramVec> {
        self.take(HistogramVec::new(HistogramOpts::from(options(name, help)).buckets(buckets), labels))
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("storaged_{name}"), help)
}

#[cfg(test)]
mod documentation {
    use super::*;
    use crate::documented;

    #[test]
    fn every_metric_is_documented() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        // No series before the first operation, and before a volume was looked at.
        metrics.operation(Action::ALL[0], Ending::ALL[0], Some(1.0));
        let of_volumes = [
            &metrics.filesystem_avail_bytes,
            &metrics.filesystem_size_bytes,
            &metrics.volume_usable,
            &metrics.spool_broken,
        ];
        for gauge in of_volumes {
            gauge.with_label_values(&["main"]).set(1);
        }
        metrics.scrub("main", &CycleRow::default(), 0, 0.0, 0.0);
        let names = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        documented::compare(documented::table(documented::section("storaged"), "metric"), names);
    }
}
