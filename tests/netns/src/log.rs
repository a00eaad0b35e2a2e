//! What a program wrote to its standard error (and output), kept in memory.
//!
//! Invariant: a program under test never gets a regular file to write to. edge lives under `RLIMIT_FSIZE=0`, and a
//! file outside the world would outlive it.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::Value;

/// Lines kept per program; older ones leave.
const KEPT_LINES: usize = 4_000;

/// Bytes kept per line.
const KEPT_BYTES: usize = 4_096;

/// The log of one program.
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    forgotten: usize,
}

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything below a warning.
    Quiet,
    /// Look in the morning.
    Warning,
    /// Broken now; a panic counts as one.
    Error,
}

impl Log {
    /// Reads `source` to its end on a thread.
    pub(crate) fn follow(&self, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(source);
            let mut line = Vec::new();
            loop {
                line.clear();
                match reader.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => log.push(&line),
                }
            }
        })
    }

    /// All kept lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lock().kept.iter().cloned().collect()
    }

    /// How many lines have been forgotten because there were too many.
    pub fn forgotten(&self) -> usize {
        self.lock().forgotten
    }

    /// Whether a line contains `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.lock().kept.iter().any(|line| line.contains(text))
    }

    /// The lines at or above `level`.
    pub fn at_least(&self, level: Level) -> Vec<String> {
        self.lock().kept.iter().filter(|line| level_of(line) >= level).cloned().collect()
    }

    fn push(&self, line: &[u8]) {
        let end = line.len().min(KEPT_BYTES);
        let text = String::from_utf8_lossy(&line[..end]).trim_end().to_owned();
        let mut lines = self.lock();
        lines.kept.push_back(text);
        if lines.kept.len() > KEPT_LINES {
            lines.kept.pop_front();
            lines.forgotten += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the level of a line in either format of the daemons.
fn level_of(line: &str) -> Level {
    if line.contains("panicked at") || line.starts_with("panic in thread ") {
        return Level::Error;
    }
    let level = match serde_json::from_str::<Value>(line) {
        Ok(record) => record.get("level").and_then(Value::as_str).unwrap_or_default().to_owned(),
        Err(_) => line.split_whitespace().nth(1).unwrap_or_default().to_owned(),
    };
    match level.as_str() {
        "WARN" => Level::Warning,
        "ERROR" => Level::Error,
        _ => Level::Quiet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_from_both_formats() {
        assert_eq!(level_of(r#"{"timestamp":"t","level":"WARN","message":"m"}"#), Level::Warning);
        assert_eq!(level_of("2026-01-01T00:00:00Z ERROR wgd: broken"), Level::Error);
        assert_eq!(level_of("2026-01-01T00:00:00Z  INFO wgd: an ERROR in words"), Level::Quiet);
        assert_eq!(level_of("thread 'main' panicked at src/main.rs:1:1:"), Level::Error);
    }

    #[test]
    fn old_lines_leave_and_are_counted() {
        let log = Log::default();
        for _ in 0..KEPT_LINES + 3 {
            log.push(b"x\n");
        }
        assert_eq!(log.lines().len(), KEPT_LINES);
        assert_eq!(log.forgotten(), 3);
    }
}
