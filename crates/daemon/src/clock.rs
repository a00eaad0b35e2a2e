//! The one place that reads the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads the clocks. Cores never hold one: they take `now` as an argument.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The monotonic clock.
    #[expect(clippy::disallowed_methods, reason = "this is the door that the ban points to")]
    pub fn now(self) -> Instant {
        Instant::now()
    }

    /// The wall clock.
    #[expect(clippy::disallowed_methods, reason = "this is the door that the ban points to")]
    pub fn wall(self) -> SystemTime {
        SystemTime::now()
    }

    /// How long the machine has been running, sleep included, in milliseconds: comparable between processes of one
    /// boot.
    pub fn running_milliseconds(self) -> u64 {
        let running = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        let running = running.map(std::time::Duration::from).unwrap_or_default();
        u64::try_from(running.as_millis()).unwrap_or(u64::MAX)
    }

    /// The wall clock as milliseconds since 1970-01-01 UTC; 0 for a clock set before that.
    pub fn unix_milliseconds(self) -> u64 {
        let since = self.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
