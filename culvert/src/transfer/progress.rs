//! How far a transfer is: a bar on a terminal, plain lines now and then elsewhere, always on standard error.

use std::time::{Duration, Instant};

use daemon::Clock;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};

use crate::console::{ProgressStyle, human_bytes};
use crate::limits::PROGRESS_LINE_EVERY;

/// A transfer's progress.
pub(crate) struct Progress {
    /// `put data.csv`.
    label: String,
    total: Option<u64>,
    unit: Unit,
    shown: Shown,
    started: Instant,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    /// Things of this name.
    Count(&'static str),
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant },
    Nothing,
}

impl Progress {
    pub(crate) fn start(label: String, total: Option<u64>, style: ProgressStyle) -> Self {
        Self::begin(label, total, Unit::Bytes, style)
    }

    /// Of things that are counted, under the name for many of them.
    pub(crate) fn count(label: String, name: &'static str, total: u64, style: ProgressStyle) -> Self {
        Self::begin(label, Some(total), Unit::Count(name), style)
    }

    fn begin(label: String, total: Option<u64>, unit: Unit, style: ProgressStyle) -> Self {
        let started = Clock.now();
        let shown = match style {
            ProgressStyle::Bar => Shown::Bar(bar(&label, total, unit)),
            ProgressStyle::Lines => Shown::Lines { last: started },
            ProgressStyle::None => Shown::Nothing,
        };
        Self { label, total, unit, shown, started }
    }

    pub(crate) fn set(&mut self, done: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines { last } => {
                let now = Clock.now();
                if now.duration_since(*last) >= PROGRESS_LINE_EVERY {
                    *last = now;
                    let elapsed = now.duration_since(self.started);
                    print(&line(&self.label, done, self.total, self.unit, elapsed));
                }
            }
            Shown::Nothing => {}
        }
    }

    /// The last word about a transfer that went through.
    pub(crate) fn finish(self, done: u64) {
        match self.shown {
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.finish();
            }
            Shown::Lines { .. } => {
                let elapsed = Clock.now().duration_since(self.started);
                print(&last_line(&self.label, done, self.unit, elapsed));
            }
            Shown::Nothing => {}
        }
    }
}

#[expect(clippy::print_stderr, reason = "progress belongs beside the result, not into it")]
fn print(line: &str) {
    eprintln!("{line}");
}

fn bar(label: &str, total: Option<u64>, unit: Unit) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match (unit, total) {
        (Unit::Bytes, Some(_)) => {
            "{prefix} {wide_bar} {percent:>3} % of {binary_total_bytes}  {binary_bytes_per_sec}  ETA {eta}"
        }
        (Unit::Bytes, None) => "{prefix} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
        (Unit::Count(_), _) => "{prefix} {wide_bar} {percent:>3} % of {human_len}  {per_sec}  ETA {eta}",
    };
    // The templates are fixed; indicatif's default is the worst that a typo in them could bring.
    bar.set_style(BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar()));
    bar.set_prefix(label.to_owned());
    bar
}

impl Unit {
    fn show(self, amount: u64) -> String {
        match self {
            Unit::Bytes => human_bytes(amount),
            Unit::Count(name) => format!("{} {name}", HumanCount(amount)),
        }
    }
}

fn line(label: &str, done: u64, total: Option<u64>, unit: Unit, elapsed: Duration) -> String {
    let rate = rate(done, elapsed);
    let speed = unit.show(rate);
    match total {
        Some(total) if total > 0 => {
            let percent = u128::from(done) * 100 / u128::from(total);
            let left = total.saturating_sub(done).checked_div(rate).map(Duration::from_secs);
            let left =
                left.map_or("time left unknown".to_owned(), |left| format!("{} left", HumanDuration(left)));
            let (done, total) = (unit.show(done), unit.show(total));
            format!("{label}: {percent} % ({done} of {total}), {speed}/s, {left}")
        }
        _ => format!("{label}: {}, {speed}/s", unit.show(done)),
    }
}

fn last_line(label: &str, done: u64, unit: Unit, elapsed: Duration) -> String {
    let speed = unit.show(rate(done, elapsed));
    format!("{label}: {} in {:.1} s, {speed}/s", unit.show(done), elapsed.as_secs_f64())
}

/// Bytes per second since the start.
fn rate(done: u64, elapsed: Duration) -> u64 {
    let milliseconds = elapsed.as_millis().max(1);
    u64::try_from(u128::from(done) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_line_tells_share_rate_and_time_left() {
        let line = line("put a.csv", 256 * MIB, Some(1024 * MIB), Unit::Bytes, Duration::from_secs(2));
        assert_eq!(line, "put a.csv: 25 % (256.00 MiB of 1.00 GiB), 128.00 MiB/s, 6 seconds left");
    }

    #[test]
    fn without_a_known_length_there_is_no_share() {
        assert_eq!(
            line("put -", 2 * MIB, None, Unit::Bytes, Duration::from_secs(1)),
            "put -: 2.00 MiB, 2.00 MiB/s"
        );
        assert_eq!(line("put e", 0, Some(0), Unit::Bytes, Duration::ZERO), "put e: 0 B, 0 B/s");
    }

    #[test]
    fn nothing_moved_yet_is_no_division_by_zero() {
        let line = line("get a", 0, Some(MIB), Unit::Bytes, Duration::from_secs(2));
        assert!(line.ends_with("0 B/s, time left unknown"), "{line}");
    }

    #[test]
    fn what_is_counted_has_its_name() {
        let line = line("verify", 5000, Some(20_000), Unit::Count("records"), Duration::from_secs(1));
        assert_eq!(line, "verify: 25 % (5,000 records of 20,000 records), 5,000 records/s, 3 seconds left");
    }

    #[test]
    fn the_last_line_tells_the_whole() {
        assert_eq!(
            last_line("get a", MIB, Unit::Bytes, Duration::from_millis(500)),
            "get a: 1.00 MiB in 0.5 s, 2.00 MiB/s"
        );
    }
}
