//! The `[limits]` table.

use std::fmt;
use std::time::Duration;

use daemon::config::Problems;

use super::raw::RawLimits;

/// Limits a site can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest body; `None`: storaged alone decides.
    pub max_body_bytes: Option<u64>,
    /// Connections at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Connections of one address at once; more are closed.
    pub max_connections_per_address: usize,
    /// Requests under way at once; more are refused.
    pub max_requests: usize,
    /// Sustained requests of one principal, and of one address; `None`: no bound.
    pub rate_per_second: Option<u32>,
    /// Requests that may come at once beyond the rate.
    pub rate_burst: u32,
    /// Failed attempts within [`auth_cooloff`](Self::auth_cooloff) that lock a principal or an address out;
    /// `None`: nobody is.
    pub auth_failure_limit: Option<u32>,
    /// How long nothing is listened to then.
    pub auth_cooloff: Duration,
    /// From the first byte of a head (or the end of the last request) to its end.
    pub header_timeout: Duration,
    /// The longest pause within a body, in either direction.
    pub idle_timeout: Duration,
    /// How long a stop waits for what is under way.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_body_bytes: None,
            // An idle connection costs a few KiB.
            max_connections: 1024,
            // A hospital behind one address has hundreds of people, of whom a few send at a time.
            max_connections_per_address: 256,
            // With bodies passing, about 220 KiB each were measured at 64 at once: 256 stay within 64 MiB.
            max_requests: 256,
            // Small files over a few connections come to some hundreds a second.
            rate_per_second: Some(500),
            rate_burst: 1000,
            // A person mistypes a few times; a program that guesses needs thousands.
            auth_failure_limit: Some(20),
            auth_cooloff: Duration::from_secs(300),
            header_timeout: Duration::from_secs(15),
            // A laptop that changes its network is back within a minute.
            idle_timeout: Duration::from_secs(60),
            // Below systemd's TimeoutStopSec of 90 s.
            drain_timeout: Duration::from_secs(60),
        }
    }
}

/// As the table that would give the same limits.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[limits]")?;
        writeln!(f, "max_body_bytes = {}", self.max_body_bytes.unwrap_or(0))?;
        writeln!(f, "max_connections = {}", self.max_connections)?;
        writeln!(f, "max_connections_per_address = {}", self.max_connections_per_address)?;
        writeln!(f, "max_requests = {}", self.max_requests)?;
        writeln!(f, "rate_per_second = {}", self.rate_per_second.unwrap_or(0))?;
        writeln!(f, "rate_burst = {}", self.rate_burst)?;
        writeln!(f, "auth_failure_limit = {}", self.auth_failure_limit.unwrap_or(0))?;
        writeln!(f, "auth_cooloff = \"{}ms\"", self.auth_cooloff.as_millis())?;
        writeln!(f, "header_timeout = \"{}ms\"", self.header_timeout.as_millis())?;
        writeln!(f, "idle_timeout = \"{}ms\"", self.idle_timeout.as_millis())?;
        writeln!(f, "drain_timeout = \"{}ms\"", self.drain_timeout.as_millis())
    }
}

pub(super) fn limits(problems: &mut Problems, raw: &RawLimits) -> Limits {
    let default = Limits::default();
    let mut duration = |key: &str, text: &Option<String>, default: Duration| match text {
        None => default,
        Some(text) => problems.take(key, duration_of(text)).unwrap_or(default),
    };
    let header_timeout = duration("limits.header_timeout", &raw.header_timeout, default.header_timeout);
    let idle_timeout = duration("limits.idle_timeout", &raw.idle_timeout, default.idle_timeout);
    let drain_timeout = duration("limits.drain_timeout", &raw.drain_timeout, default.drain_timeout);
    let auth_cooloff = duration("limits.auth_cooloff", &raw.auth_cooloff, default.auth_cooloff);
    let mut number = |key: &str, value: Option<u32>, least: u32, default: u32| match value {
        None => default,
        Some(value) if (least..=1_000_000).contains(&value) => value,
        Some(value) => {
            problems.add(key, format!("{value} is not between {least} and 1000000"));
            default
        }
    };
    let or_off = |value: u32| (value != 0).then_some(value);
    let rate = number("limits.rate_per_second", raw.rate_per_second, 0, default.rate_per_second.unwrap_or(0));
    let rate_burst = number("limits.rate_burst", raw.rate_burst, 1, default.rate_burst);
    let failures = number(
        "limits.auth_failure_limit",
        raw.auth_failure_limit,
        0,
        default.auth_failure_limit.unwrap_or(0),
    );
    let mut count = |key: &str, value: Option<usize>, default: usize| match value {
        None => default,
        Some(value @ 1..=65_536) => value,
        Some(value) => {
            problems.add(key, format!("{value} is not between 1 and 65536"));
            default
        }
    };
    Limits {
        max_body_bytes: raw.max_body_bytes.filter(|limit| *limit != 0),
        max_connections: count("limits.max_connections", raw.max_connections, default.max_connections),
        max_connections_per_address: count(
            "limits.max_connections_per_address",
            raw.max_connections_per_address,
            default.max_connections_per_address,
        ),
        max_requests: count("limits.max_requests", raw.max_requests, default.max_requests),
        rate_per_second: or_off(rate),
        rate_burst,
        auth_failure_limit: or_off(failures),
        auth_cooloff,
        header_timeout,
        idle_timeout,
        drain_timeout,
    }
}

/// `250ms`, `10s`, `2m`, `1h`; zero would mean never or at once, so it is neither.
fn duration_of(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let milliseconds =
        digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    match milliseconds {
        Some(milliseconds @ 1..=86_400_000) => Ok(Duration::from_millis(milliseconds)),
        Some(_) | None => {
            Err(format!("{text:?} is not a duration such as \"500ms\", \"30s\" or \"5m\", up to a day"))
        }
    }
}
