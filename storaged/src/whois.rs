//! Whose address is it? storaged asks wgd, over a Unix datagram socket that both keep bound.
//!
//! **Invariant:** an answer counts only if the kernel says that it came from root, from wgd's user or from
//! our own; silence is a refusal; what is remembered is forgotten within [`WHOIS_CACHE`] and at each event
//! of the tunnel; a question that nobody waits for any more takes no place.

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use daemon::Clock;
use linux::unix_datagram::DatagramSocket;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tunnel_events::{Backoff, Event, MAX_DATAGRAM_BYTES, Message, PeerIdentity, Question};

use crate::limits::{
    WHOIS_CACHE, WHOIS_CACHE_ENTRIES, WHOIS_PAUSE, WHOIS_PENDING, WHOIS_SILENCE, WHOIS_TIMEOUT,
};

/// Asks, remembers, and hears events.
#[derive(Debug)]
pub struct Whois {
    socket: AsyncFd<DatagramSocket>,
    wgd: PathBuf,
    trusted_uids: Vec<u32>,
    clock: Clock,
    next_id: AtomicU64,
    /// Questions in a row without an answer.
    unanswered: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<IpAddr, (Instant, Option<PeerIdentity>)>,
    pending: HashMap<u64, oneshot::Sender<Option<PeerIdentity>>>,
    /// Grows with each event: what was asked before it is not remembered after it.
    events: u64,
}

/// Takes a question back when it ends, however it ends: a request whose sender goes away is dropped while it
/// waits, and would keep its place for ever.
struct Waiting<'a> {
    whois: &'a Whois,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.whois.state().pending.remove(&self.id);
    }
}

/// wgd did not answer in time, or cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("wgd does not say whose address it is")]
pub struct Unanswered;

impl Whois {
    /// Uses a socket that is bound; wgd's is at `wgd`.
    pub fn new(
        socket: DatagramSocket,
        wgd: PathBuf,
        trusted_uids: Vec<u32>,
        clock: Clock,
    ) -> io::Result<Whois> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        #[expect(
            deprecated,
            reason = "the new name is unsafe; `DatagramSocket` owns its descriptor and keeps it"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Whois {
            socket,
            wgd,
            trusted_uids,
            clock,
            next_id: AtomicU64::new(u64::from_le_bytes(seed)),
            unanswered: AtomicU32::new(0),
            state: Mutex::default(),
        })
    }

    /// The peer that has this address; `Ok(None)`: no peer has it.
    pub async fn ask(&self, source: IpAddr) -> Result<Option<PeerIdentity>, Unanswered> {
        let source = source.to_canonical();
        let now = self.clock.now();
        let (waiting, answer, events) = {
            let mut state = self.state();
            if let Some((when, known)) = state.known.get(&source)
                && now.duration_since(*when) < WHOIS_CACHE
            {
                return Ok(known.clone());
            }
            if state.pending.len() >= WHOIS_PENDING {
                return Err(Unanswered);
            }
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let (sender, answer) = oneshot::channel();
            state.pending.insert(id, sender);
            (Waiting { whois: self, id }, answer, state.events)
        };
        let found = self.exchange(waiting.id, source, answer).await;
        drop(waiting);
        let found = found?;
        let mut state = self.state();
        if state.events != events {
            return Ok(found);
        }
        if state.known.len() >= WHOIS_CACHE_ENTRIES {
            state.known.clear();
        }
        state.known.insert(source, (now, found.clone()));
        Ok(found)
    }

    async fn exchange(
        &self,
        id: u64,
        source: IpAddr,
        answer: oneshot::Receiver<Option<PeerIdentity>>,
    ) -> Result<Option<PeerIdentity>, Unanswered> {
        let question = Message::Question(Question { id, source }).encode();
        let asked = async {
            self.send(&question).await?;
            Ok::<_, io::Error>(answer.await)
        };
        match tokio::time::timeout(WHOIS_TIMEOUT, asked).await {
            Ok(Err(error)) => Err(self.silence(&error)),
            Ok(Ok(Ok(found))) => {
                if self.unanswered.swap(0, Ordering::Relaxed) >= WHOIS_SILENCE {
                    tracing::info!("wgd answers again");
                }
                Ok(found)
            }
            Ok(Ok(Err(_))) | Err(_) => Err(self.silence(&"no answer within a second")),
        }
    }

    /// Waits for a place in wgd's queue, which holds ten by default (`net.unix.max_dgram_qlen`): as many clients as begin
    /// at one moment ask at one moment.
    async fn send(&self, question: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.get_ref().send_to(question, &self.wgd) {
                // Readiness to write is of our own queue; nothing tells when theirs has room.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(WHOIS_PAUSE).await;
                }
                sent => return sent.map(drop),
            }
        }
    }

    /// Everything is refused from now on, and whoever looks for the reason looks here.
    fn silence(&self, error: &dyn Display) -> Unanswered {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 == WHOIS_SILENCE {
            let socket = self.wgd.display();
            tracing::warn!(%socket, %error, "wgd does not say which peer delivers: requests are refused");
        } else {
            tracing::debug!(%error, "ask wgd");
        }
        Unanswered
    }

    /// Hears answers and events until the runtime ends.
    pub async fn listen(&self, mut on_event: impl FnMut(Event)) -> io::Result<()> {
        let mut buffer = [0; MAX_DATAGRAM_BYTES];
        let mut backoff = Backoff::default();
        loop {
            backoff.wait().await;
            let mut ready = self.socket.readable().await?;
            let received = match ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) {
                Ok(Ok(received)) => received,
                Ok(Err(error)) => {
                    backoff.failed(&error);
                    continue;
                }
                Err(_would_block) => continue,
            };
            backoff.worked();
            if !self.trusted_uids.contains(&received.credentials.uid) {
                tracing::debug!(uid = received.credentials.uid, "a datagram that is not wgd's");
                continue;
            }
            match Message::decode(&buffer[..received.length]) {
                Ok(Message::Answer(answer)) => {
                    if let Some(waiting) = self.state().pending.remove(&answer.id) {
                        let _ = waiting.send(answer.found);
                    }
                }
                Ok(Message::Event(event)) => {
                    self.forget();
                    on_event(event);
                }
                Ok(Message::Question(_)) => {}
                Err(error) => tracing::debug!(%error, "a datagram that is not understood"),
            }
        }
    }

    fn forget(&self) {
        let mut state = self.state();
        state.known.clear();
        state.events += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn questions_that_nobody_waits_for_take_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let wgd = folder.path().join("wgd");
        let _silent = UnixDatagram::bind(&wgd).unwrap();
        let whois = whois(&folder, wgd);
        for i in 0..WHOIS_PENDING + 1 {
            let source = IpAddr::from(u32::try_from(i).unwrap().to_be_bytes());
            // The socket's queue may be full by now, which is an answer too.
            let _ = tokio::time::timeout(Duration::ZERO, whois.ask(source)).await;
        }
        assert!(whois.state().pending.is_empty());
    }

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wgd");
        let wgd = UnixDatagram::bind(&path).unwrap();
        let others = UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        let mut filled = 0;
        while others.send_to(b"another's", &path).is_ok() {
            filled += 1;
        }
        assert!(filled > 0);
        let whois = whois(&folder, path);
        let mut asking = Box::pin(whois.send(b"ours"));
        assert!(tokio::time::timeout(Duration::ZERO, &mut asking).await.is_err(), "it waits");
        let mut buffer = [0; MAX_DATAGRAM_BYTES];
        for _ in 0..filled {
            assert_eq!(wgd.recv(&mut buffer).unwrap(), b"another's".len());
        }
        asking.await.unwrap();
        let length = wgd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"ours");
    }

    #[tokio::test]
    async fn what_was_asked_before_an_event_is_not_remembered_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let wgd = folder.path().join("wgd");
        let _wgd = UnixDatagram::bind(&wgd).unwrap();
        let whois = whois(&folder, wgd);
        let source = IpAddr::from([10, 100, 0, 10]);
        let mut asking = Box::pin(whois.ask(source));
        assert!(tokio::time::timeout(Duration::ZERO, &mut asking).await.is_err());
        whois.forget();
        let (_, waiting) = whois.state().pending.drain().next().unwrap();
        waiting.send(None).unwrap();
        assert_eq!(asking.await, Ok(None));
        assert!(whois.state().known.is_empty());
    }

    #[tokio::test]
    async fn a_wgd_that_cannot_be_asked_counts_as_silent_until_it_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wgd");
        let whois = whois(&folder, path.clone());
        let source = IpAddr::from([10, 100, 0, 10]);
        for asked in 1..=WHOIS_SILENCE + 1 {
            assert_eq!(whois.ask(source).await, Err(Unanswered));
            assert_eq!(whois.unanswered.load(Ordering::Relaxed), asked);
        }
        let _wgd = UnixDatagram::bind(&path).unwrap();
        let mut asking = Box::pin(whois.ask(source));
        assert!(tokio::time::timeout(Duration::ZERO, &mut asking).await.is_err());
        let (_, waiting) = whois.state().pending.drain().next().unwrap();
        waiting.send(None).unwrap();
        assert_eq!(asking.await, Ok(None));
        assert_eq!(whois.unanswered.load(Ordering::Relaxed), 0);
    }

    fn whois(folder: &tempfile::TempDir, wgd: PathBuf) -> Whois {
        let socket = DatagramSocket::bind(&folder.path().join("own"), 0o600, None).unwrap();
        Whois::new(socket, wgd, vec![0], Clock).unwrap()
    }
}
