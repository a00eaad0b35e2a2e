//! `sd_notify(3)`: telling the service manager how we are. The socket is connected before the seal.
//!
//! **Invariant:** the watchdog is fed by a turn of the loop that it watches over ([`Heartbeat::beat`] is one arm of its
//! `select!`), never by a task of its own, which would go on while the loop hangs.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use linux::Privileged;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The connected notify socket; does nothing where no manager listens.
#[derive(Debug)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    /// How often the service manager is to hear of a turn of the data loop.
    beat: Option<Duration>,
}

/// The watchdog's share of a loop.
#[derive(Debug)]
pub struct Heartbeat {
    notify: Arc<Notify>,
    tick: Option<Interval>,
}

impl Heartbeat {
    /// For a loop inside a runtime. Where no manager watches it never comes round.
    pub fn new(notify: Arc<Notify>) -> Self {
        let tick = notify.beat.map(|beat| {
            let mut tick = interval(beat);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tick
        });
        Self { notify, tick }
    }

    /// Waits until a sign of life is due. To be followed by [`Heartbeat::alive`] once the loop is known to have turned.
    pub async fn due(&mut self) {
        match &mut self.tick {
            Some(tick) => drop(tick.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Gives the sign of life.
    pub fn alive(&self) {
        self.notify.watchdog();
    }

    /// Both, for a loop whose own `select!` has this as an arm: that it was polled is the turn. It can be dropped at any
    /// time without losing a beat.
    pub async fn beat(&mut self) {
        self.due().await;
        self.alive();
    }
}

impl Notify {
    /// Connects to `NOTIFY_SOCKET`, if there is one.
    pub fn from_environment(_privileged: &Privileged) -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self::nobody()) };
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        let variable = |name| std::env::var(name).ok();
        let beat = beat(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Ok(Self { socket: Some(socket), beat })
    }

    /// Tells nobody anything.
    pub fn nobody() -> Self {
        Self { socket: None, beat: None }
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={text}"));
    }

    /// The daemon is going down.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A reload has begun; [`Notify::ready`] ends it.
    pub fn reloading(&self) {
        let micros = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(0, |now| now.tv_sec().saturating_mul(1_000_000).saturating_add(now.tv_nsec() / 1000));
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, text: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(text.as_bytes())
        {
            tracing::debug!(%error, "notify the service manager");
        }
    }
}

/// Half of the manager's patience (`sd_watchdog_enabled(3)`), so that one late turn is no death.
fn beat(microseconds: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let patience = microseconds?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(patience) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beat_is_half_of_the_patience_and_only_for_the_process_that_is_meant() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(beat(text("30000000"), None, 7), Some(Duration::from_secs(15)));
        assert_eq!(beat(text("30000000"), text("7"), 7), Some(Duration::from_secs(15)));
        assert_eq!(beat(text("30000000"), text("8"), 7), None);
        assert_eq!(beat(text("0"), None, 7), None);
        assert_eq!(beat(text("soon"), None, 7), None);
        assert_eq!(beat(None, None, 7), None);
    }

    /// A manager that listens, and a loop that is held up: what arrives are the turns.
    #[tokio::test]
    async fn a_loop_that_does_not_turn_is_not_heard_of() {
        let folder = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        manager.set_nonblocking(true).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(folder.path().join("notify")).unwrap();
        let notify = Notify { socket: Some(socket), beat: Some(Duration::from_millis(5)) };
        let mut heartbeat = Heartbeat::new(Arc::new(notify));
        let heard = || {
            let mut buffer = [0; 32];
            std::iter::from_fn(|| manager.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
                .inspect(|text| assert_eq!(text, b"WATCHDOG=1"))
                .count()
        };
        for _ in 0..3 {
            heartbeat.beat().await;
        }
        assert_eq!(heard(), 3);
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(heard(), 0, "nobody turned the loop");
        let nobody = tokio::time::timeout(Duration::from_millis(20), async {
            Heartbeat::new(Arc::new(Notify::nobody())).beat().await;
        });
        assert!(nobody.await.is_err(), "without a manager there is nothing to tell");
    }
}
