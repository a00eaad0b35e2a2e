//! Remembers how late it was at the last handshake, to notice a clock that has stepped back since.
//!
//! A peer refuses a handshake that is not later than the last one it saw (WireGuard paper §5.4.2). A host whose
//! clock has lost years in a power cut is therefore deaf until the clock is right; without this file nobody would
//! know why.
//!
//! Invariant: the time in the file never goes back, and it is written through a descriptor that was opened before
//! the seal.
use daemon::Clock;
use daemon::readiness::Condition;
use prometheus::{IntGauge, Registry};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Digits of milliseconds since 1970 and a line feed: one length for ever, so one write replaces all.
const FILE_BYTES: usize = 21;
/// A clock that is set by NTP may go back by so much: handshakes are seconds apart.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The file and what is known from it.
pub struct ClockState {
    file: File,
    path: PathBuf,
    /// The latest time that anybody wrote.
    latest: SystemTime,
    behind: IntGauge,
    said: bool,
}

impl ClockState {
    /// Opens the interface's file in `directory`, and makes it if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened, or holds something else.
    pub fn open(directory: &Path, interface: &str) -> io::Result<Self> {
        let path = directory.join(format!("{interface}.clock"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path)?;
        let latest = read(&file)?;
        let gauge = IntGauge::new(
            "wgd_clock_behind_state",
            "1 while the clock is behind the last handshake that the state file knows; peers refuse handshakes then.",
        );
        Ok(Self { file, path, latest, behind: gauge.map_err(io::Error::other)?, said: false })
    }

    /// Registers `wgd_clock_behind_state`.
    ///
    /// # Errors
    /// When the name is registered twice.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.behind.clone()))
    }

    /// Looks at the clock; whether it is right as far as the file knows.
    pub fn look(&mut self, now: SystemTime) -> bool {
        let behind = self.latest.duration_since(now).ok().filter(|behind| *behind > TOLERANCE);
        self.behind.set(i64::from(behind.is_some()));
        match behind {
            Some(behind) if !self.said => {
                self.said = true;
                tracing::warn!(
                    path = %self.path.display(),
                    behind_seconds = behind.as_secs(),
                    "the clock has gone back since the last handshake: peers refuse ours until it is later again; \
                     set the clock, or remove the file if it was ahead before"
                );
            }
            None if std::mem::take(&mut self.said) => tracing::info!("the clock has caught up"),
            Some(_) | None => {}
        }
        behind.is_none()
    }

    /// Notes that a handshake was made by now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, now: SystemTime) -> io::Result<()> {
        if now <= self.latest {
            return Ok(());
        }
        let milliseconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.file.write_all_at(format!("{milliseconds:020}\n").as_bytes(), 0)?;
        self.latest = now;
        Ok(())
    }

    /// Keeps `condition` and the file up to date. `newest` says when the last handshake was made.
    pub(crate) async fn follow<F: Future<Output = Option<Instant>>>(
        mut self,
        condition: Condition,
        newest: impl Fn() -> F,
    ) {
        let clock = Clock;
        let mut noted = None;
        let mut ticks = tokio::time::interval(crate::limits::CLOCK_STATE_PERIOD);
        loop {
            ticks.tick().await;
            condition.set(self.look(clock.wall()));
            let newest = newest().await;
            if newest == noted {
                continue;
            }
            noted = newest;
            if let Err(error) = self.note(clock.wall()) {
                tracing::warn!(path = %self.path.display(), %error, "the time of the last handshake is not noted");
                return;
            }
        }
    }
}

/// The time in the file; the beginning of time for a new one.
fn read(file: &File) -> io::Result<SystemTime> {
    let mut bytes = [0; FILE_BYTES + 1];
    let length = file.read_at(&mut bytes, 0)?;
    if length == 0 {
        return Ok(UNIX_EPOCH);
    }
    let text = std::str::from_utf8(&bytes[..length]).ok().and_then(|text| text.strip_suffix('\n'));
    let milliseconds = text.filter(|_| length == FILE_BYTES).and_then(|text| text.parse::<u64>().ok());
    let time = milliseconds.and_then(|number| UNIX_EPOCH.checked_add(Duration::from_millis(number)));
    time.ok_or_else(|| {
        let what = "not a time that wgd wrote; remove the file if nobody needs it";
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_stepped_back_is_noticed_until_it_has_caught_up() {
        let directory = tempfile::tempdir().expect("directory");
        let mut first = ClockState::open(directory.path(), "wg0").expect("new");
        assert!(first.look(at(1_000)));
        first.note(at(1_000)).expect("note");
        let mut second = ClockState::open(directory.path(), "wg0").expect("again");
        assert!(!second.look(at(900)));
        assert_eq!(second.behind.get(), 1);
        assert!(second.look(at(1_000)));
        assert_eq!(second.behind.get(), 0);
    }

    #[test]
    fn the_time_in_the_file_never_goes_back() {
        let directory = tempfile::tempdir().expect("directory");
        let mut state = ClockState::open(directory.path(), "wg0").expect("new");
        for seconds in [1_000, 500, 999] {
            state.note(at(seconds)).expect("note");
        }
        assert_eq!(ClockState::open(directory.path(), "wg0").expect("again").latest, at(1_000));
    }

    #[test]
    fn half_a_second_is_no_step() {
        let directory = tempfile::tempdir().expect("directory");
        let mut state = ClockState::open(directory.path(), "wg0").expect("new");
        state.note(at(1_000)).expect("note");
        assert!(state.look(at(1_000) - Duration::from_millis(500)));
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        for text in ["x", "00000001000000000000", "0000000100000000000x\n", "000000010000000000000000000\n"] {
            std::fs::write(directory.path().join("wg0.clock"), text).expect("write");
            assert!(ClockState::open(directory.path(), "wg0").is_err(), "{text:?}");
        }
        std::fs::remove_file(directory.path().join("wg0.clock")).expect("remove");
        std::os::unix::fs::symlink("/dev/null", directory.path().join("wg0.clock")).expect("link");
        assert!(ClockState::open(directory.path(), "wg0").is_err(), "a link");
    }
}
