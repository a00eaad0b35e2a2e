//! The receiving end of wgd's events: whose datagrams count, and what happens when there are none to be had.
//!
//! **Invariant:** an event is given out only if the kernel says that root or wgd's user sent it; errors in a row cost ever
//! longer waits, up to [`LONGEST_WAIT`], so that a broken socket never costs a core.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use linux::unix_datagram::{DatagramSocket, Received};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::{Event, MAX_DATAGRAM_BYTES, Message};

/// After the first error: one datagram that cannot be read is not followed by a pause that anybody notices …
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
/// … and a socket that gives nothing but errors is looked at once in so long.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A socket that wgd sends its events to.
#[derive(Debug)]
pub struct Listener {
    socket: DatagramSocket,
    /// A second descriptor of the same socket, which tells when there is something to read.
    readiness: UnixDatagram,
    wgd_uid: Option<u32>,
    backoff: Backoff,
}

/// How long to leave a socket alone that cannot be received from.
#[derive(Debug, Default)]
pub struct Backoff {
    errors: u32,
}

impl Listener {
    /// Hears root and, where there is one, `wgd_uid` on a bound socket. Runs inside of a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be registered.
    pub fn new(socket: DatagramSocket, wgd_uid: Option<u32>) -> io::Result<Listener> {
        let readiness = UnixDatagram::from_std(socket.as_fd().try_clone_to_owned()?.into())?;
        Ok(Listener { socket, readiness, wgd_uid, backoff: Backoff::default() })
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        let mut buffer = [0; MAX_DATAGRAM_BYTES + 1];
        loop {
            self.backoff.wait().await;
            let receive = || self.socket.receive(&mut buffer);
            let received = self.readiness.async_io(Interest::READABLE, receive).await;
            if let Some(event) = self.take(received, &buffer) {
                return event;
            }
        }
    }

    /// The event in what was received, if there is one in it that counts.
    fn take(&mut self, received: io::Result<Received>, buffer: &[u8]) -> Option<Event> {
        let received = match received {
            Ok(received) => received,
            Err(error) => {
                self.backoff.failed(&error);
                return None;
            }
        };
        self.backoff.worked();
        let uid = received.credentials.uid;
        if uid != 0 && Some(uid) != self.wgd_uid {
            tracing::warn!(uid, "an event from somebody who is not wgd; ignored");
            return None;
        }
        match Message::decode(&buffer[..received.length.min(buffer.len())]) {
            Ok(Message::Event(event)) => Some(event),
            Ok(Message::Question(_) | Message::Answer(_)) => None,
            Err(error) => {
                tracing::debug!(%error, "event datagram");
                None
            }
        }
    }
}

impl Backoff {
    /// Nothing could be received.
    pub fn failed(&mut self, error: &io::Error) {
        self.errors = self.errors.saturating_add(1);
        if self.delay() == LONGEST_WAIT {
            tracing::warn!(%error, errors = self.errors, "nothing can be received about the tunnel");
        } else {
            tracing::debug!(%error, "receive about the tunnel");
        }
    }

    /// Something was received.
    pub fn worked(&mut self) {
        self.errors = 0;
    }

    /// Returns at once, or after the wait that the errors so far are worth.
    pub async fn wait(&self) {
        if self.errors > 0 {
            tokio::time::sleep(self.delay()).await;
        }
    }

    fn delay(&self) -> Duration {
        match self.errors {
            0 => Duration::ZERO,
            errors => SHORTEST_WAIT.saturating_mul(1 << (errors - 1).min(16)).min(LONGEST_WAIT),
        }
    }
}

#[cfg(test)]
mod tests {
    use linux::unix_datagram::Credentials;

    use super::*;
    use crate::What;

    const WGD: u32 = 990;

    fn listener(folder: &tempfile::TempDir) -> Listener {
        let socket = DatagramSocket::bind(&folder.path().join("events"), 0o600, None).unwrap();
        Listener::new(socket, Some(WGD)).unwrap()
    }

    fn event() -> Event {
        Event {
            what: What::Up,
            interface: "wg0".into(),
            peer: "svc1".into(),
            public_key: "k=".into(),
            at_unix_ms: 2,
        }
    }

    fn from(uid: u32, length: usize) -> io::Result<Received> {
        Ok(Received { length, from: None, credentials: Credentials { pid: 1, uid, gid: 0 } })
    }

    fn broken() -> io::Result<Received> {
        Err(io::ErrorKind::NotConnected.into())
    }

    #[tokio::test]
    async fn only_root_and_wgd_are_heard() {
        let folder = tempfile::tempdir().unwrap();
        let mut listener = listener(&folder);
        let datagram = Message::Event(event()).encode();
        for (uid, heard) in [(0, true), (WGD, true), (WGD + 1, false), (u32::MAX, false)] {
            let taken = listener.take(from(uid, datagram.len()), &datagram);
            assert_eq!(taken.is_some(), heard, "{uid}");
        }
        listener.wgd_uid = None;
        assert!(listener.take(from(WGD, datagram.len()), &datagram).is_none());
    }

    #[tokio::test]
    async fn junk_is_passed_over_and_the_event_behind_it_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let mut listener = listener(&folder);
        // The kernel's word, not a made one: this process may be anybody.
        let own = std::fs::metadata(folder.path()).unwrap();
        listener.wgd_uid = Some(std::os::unix::fs::MetadataExt::uid(&own));
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let path = folder.path().join("events");
        let long = [b' '; MAX_DATAGRAM_BYTES + 100];
        for datagram in [b"junk".as_slice(), &long, &Message::Event(event()).encode()] {
            sender.send_to(datagram, &path).unwrap();
        }
        assert_eq!(listener.next().await, event());
    }

    #[tokio::test]
    async fn errors_in_a_row_are_worth_ever_longer_waits() {
        let folder = tempfile::tempdir().unwrap();
        let mut listener = listener(&folder);
        assert_eq!(listener.backoff.delay(), Duration::ZERO);
        let mut before = Duration::ZERO;
        for error in 1..=100 {
            assert!(listener.take(broken(), &[]).is_none());
            let delay = listener.backoff.delay();
            assert!(delay > before || delay == LONGEST_WAIT, "{error}: {delay:?}");
            before = delay;
        }
        assert_eq!(before, LONGEST_WAIT);
        assert!(listener.take(from(WGD, 0), &[]).is_none());
        assert_eq!(listener.backoff.delay(), Duration::ZERO, "a datagram, whatever is in it, ends the row");
    }
}
