//! `process_*` metrics, read through descriptors that were opened before the seal.
//!
//! The `prometheus` crate's own collector opens `/proc` by path at each scrape, which a sealed process may not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use prometheus::core::Collector;
use prometheus::{Counter, Gauge, IntGauge, Registry};

/// The open files and the gauges they feed.
#[derive(Debug)]
pub struct ProcessMetrics {
    stat: File,
    status: File,
    boot_time_seconds: f64,
    ticks_per_second: f64,
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    resident_peak_bytes: IntGauge,
    virtual_bytes: IntGauge,
    threads: IntGauge,
    start_time_seconds: Gauge,
}

impl ProcessMetrics {
    /// Opens `/proc/self/stat` and `status` and registers the gauges.
    pub fn open(registry: &Registry) -> anyhow::Result<Self> {
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
        let this = Self {
            stat: File::open("/proc/self/stat")?,
            status: File::open("/proc/self/status")?,
            boot_time_seconds: boot_time()?,
            ticks_per_second: precise(ticks),
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "CPU time used, user and system, in seconds.",
            )?,
            resident_bytes: IntGauge::new("process_resident_memory_bytes", "Resident memory, in bytes.")?,
            resident_peak_bytes: IntGauge::new(
                "process_resident_memory_peak_bytes",
                "The most resident memory there ever was, in bytes.",
            )?,
            virtual_bytes: IntGauge::new("process_virtual_memory_bytes", "Virtual memory, in bytes.")?,
            threads: IntGauge::new("process_threads", "Threads.")?,
            start_time_seconds: Gauge::new(
                "process_start_time_seconds",
                "Start, in seconds since 1970-01-01 UTC.",
            )?,
        };
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(this.cpu_seconds.clone()),
            Box::new(this.resident_bytes.clone()),
            Box::new(this.resident_peak_bytes.clone()),
            Box::new(this.virtual_bytes.clone()),
            Box::new(this.threads.clone()),
            Box::new(this.start_time_seconds.clone()),
        ];
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(this)
    }

    /// Reads the figures anew; called before each scrape.
    pub fn refresh(&self) {
        if let Err(error) = self.try_refresh() {
            tracing::debug!(%error, "read process figures");
        }
    }

    fn try_refresh(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let length = self.stat.read_at(&mut buffer, 0)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        // proc_pid_stat(5): the name in brackets may hold blanks; fields count from after it, starting at 3.
        let after = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<i64> =
            after.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0);
        let cpu_seconds = (precise(field(14)) + precise(field(15))) / self.ticks_per_second;
        // A counter can only be added to; the kernel's figure never goes back.
        self.cpu_seconds.inc_by((cpu_seconds - self.cpu_seconds.get()).max(0.0));
        self.threads.set(field(20));
        self.start_time_seconds.set(self.boot_time_seconds + precise(field(22)) / self.ticks_per_second);
        self.virtual_bytes.set(field(23));

        let length = self.status.read_at(&mut buffer, 0)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        self.resident_bytes.set(kibibytes(&text, "VmRSS:"));
        self.resident_peak_bytes.set(kibibytes(&text, "VmHWM:"));
        Ok(())
    }
}

fn kibibytes(status: &str, key: &str) -> i64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
    line.split_whitespace().next().and_then(|number| number.parse::<i64>().ok()).unwrap_or(0) * 1024
}

fn boot_time() -> io::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime ")).unwrap_or("0");
    Ok(line.trim().parse().unwrap_or(0.0))
}

/// Metrics are floating point; figures of a process stay far below the 2^53 where that would matter.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn precise(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_this_process() {
        let registry = Registry::new();
        let metrics = ProcessMetrics::open(&registry).unwrap();
        metrics.refresh();
        assert!(metrics.resident_bytes.get() > 100_000);
        assert!(metrics.resident_peak_bytes.get() >= metrics.resident_bytes.get() / 2);
        assert!(metrics.virtual_bytes.get() > metrics.resident_bytes.get());
        assert!(metrics.threads.get() >= 1);
        let now = precise(i64::try_from(crate::Clock.unix_milliseconds() / 1000).unwrap());
        assert!((now - metrics.start_time_seconds.get()).abs() < 3600.0);
    }
}
