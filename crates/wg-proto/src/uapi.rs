//! WireGuard's cross-platform configuration protocol: `set=1` parsed, `get=1` rendered.
//!
//! **Invariant:** a request is read and checked to its end before anything comes of it, so no
//! half-applied configuration exists. Unknown keys are refused on `set`, as wireguard-go does.

mod get;
mod set;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;

pub use get::render_get;
pub use set::parse_set;

/// The first line of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `get=1`; an empty line follows.
    Get,
    /// `set=1`; `key=value` lines follow, then an empty one.
    Set,
}

impl Operation {
    /// `None` for anything else: then the connection is closed.
    pub fn parse(line: &str) -> Option<Operation> {
        match line.strip_suffix('\n').unwrap_or(line) {
            "get=1" => Some(Operation::Get),
            "set=1" => Some(Operation::Set),
            _ => None,
        }
    }
}

/// Error numbers of `errno.h` that the protocol answers with. Positive here; on a failed `set` they
/// are sent negated, as wireguard-go sends them and `wg` expects them, on a failed `get` as they are.
pub mod errno {
    /// Reading the request failed.
    pub const EIO: i32 = 5;
    /// Unknown key or bad value.
    pub const EINVAL: i32 = 22;
    /// What has no better number.
    pub const ENOANO: i32 = 55;
    /// A line without `=`.
    pub const EPROTO: i32 = 71;
    /// The port could not be bound, or the mark not be set.
    pub const EADDRINUSE: i32 = 98;
    /// Not permitted (no helper that may).
    pub const EPERM: i32 = 1;
}

/// Why a `set` request is refused. Never quotes a value: it may be a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {message}")]
pub struct UapiError {
    /// Counted from 1 behind `set=1`.
    pub line: usize,
    /// What is wrong, by key.
    pub message: String,
    /// See [`errno`].
    pub errno: i32,
}

/// The answer to a `set`: one line and the empty one, well below the 32 bytes wgctrl-go reads.
/// `errno` is positive (or 0 for success).
pub fn render_set_answer(errno: i32) -> String {
    format!("errno={}\n\n", -errno.abs())
}

/// The answer to a `get` that failed.
pub fn render_get_failure(errno: i32) -> String {
    format!("errno={}\n\n", errno.abs())
}

/// A moment on both clocks, taken once by the shell: it dates instants, and the same instant always
/// to the same nanosecond.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// The monotonic clock then.
    pub instant: Instant,
    /// The wall clock then.
    pub wall: SystemTime,
}

impl Epoch {
    /// Time since 1970 of an instant.
    pub fn date(&self, at: Instant) -> Duration {
        let base = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        match at.checked_duration_since(self.instant) {
            Some(later) => base + later,
            None => base.saturating_sub(self.instant.duration_since(at)),
        }
    }
}
