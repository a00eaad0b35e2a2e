//! The datagram socket between wgd and the daemons on its tunnel: events out, whois in.
//!
//! Invariant: only users that the configuration names (and root) are answered, by the credentials that the
//! kernel attached; nobody can make the daemon wait, for a listener that does not read loses its datagram.
use crate::control::Watched;
use crate::io::{Command, Handle};
use crate::metrics::Metrics;
use crate::registered::register;
use daemon::Clock;
use linux::unix_datagram::DatagramSocket;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{Receiver, Sender};
use tunnel_events::{Answer, Backoff, Event, MAX_DATAGRAM_BYTES, Message, PeerIdentity, Question, What};
use wg_proto::uapi::Epoch;
use wg_proto::{ChangedKey, DeviceEvent, PublicKey};

/// The socket and who is heard on it.
pub struct Events {
    socket: AsyncFd<DatagramSocket>,
    listeners: Vec<PathBuf>,
    whois_uids: Vec<u32>,
    said_refused: AtomicBool,
}

impl Events {
    /// Takes over a bound socket. Runs inside of a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be registered.
    pub fn new(socket: DatagramSocket, listeners: Vec<PathBuf>, whois_uids: Vec<u32>) -> io::Result<Self> {
        let socket = register(socket, Interest::READABLE)?;
        Ok(Self { socket, listeners, whois_uids, said_refused: AtomicBool::new(false) })
    }
}

/// Who hears of events within this daemon.
pub(crate) struct Inside {
    /// Looks up the addresses of peers that do not answer.
    pub(crate) unanswered: Sender<PublicKey>,
    /// Operators who watch.
    pub(crate) watched: Watched,
    /// Figures that only events tell.
    pub(crate) metrics: Metrics,
}

impl Inside {
    fn hear(&self, interface: &str, event: &DeviceEvent) {
        log(event);
        look_again(event, &self.unanswered);
        count(event, &self.metrics);
        if self.watched.receiver_count() > 0
            && let Some(told) = in_detail(interface, event)
        {
            // The last one may have gone just now.
            let _ = self.watched.send(told);
        }
    }
}

/// Sends events and answers questions until the data thread is gone. Without a socket events are only logged.
pub(crate) async fn run(
    interface: String,
    events: Option<Events>,
    mut from_device: Receiver<DeviceEvent>,
    data: Handle,
    epoch: Epoch,
    inside: Inside,
) {
    let Some(events) = events else {
        while let Some(event) = from_device.recv().await {
            inside.hear(&interface, &event);
        }
        return;
    };
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES + 1];
    let mut backoff = Backoff::default();
    loop {
        let receive = async {
            backoff.wait().await;
            let receive = |socket: &DatagramSocket| socket.receive(&mut buffer);
            events.socket.async_io(Interest::READABLE, receive).await
        };
        tokio::select! {
            event = from_device.recv() => {
                let Some(event) = event else { return };
                inside.hear(&interface, &event);
                events.send(&interface, &event);
            }
            received = receive => match received {
                Ok(received) => {
                    backoff.worked();
                    let uid = received.credentials.uid;
                    if uid != 0 && !events.whois_uids.contains(&uid) {
                        tracing::debug!(uid, "whois from a user who may not ask");
                        continue;
                    }
                    let (Some(path), Ok(Message::Question(question))) =
                        (received.from, Message::decode(&buffer[..received.length]))
                    else {
                        tracing::debug!(uid, "a datagram that is no question, or from nowhere");
                        continue;
                    };
                    let answer = Message::Answer(answer(question, &data, &epoch).await);
                    if let Err(error) = events.socket.get_ref().send_to(&answer.encode(), &path) {
                        tracing::debug!(%error, "answer a whois");
                    }
                }
                Err(error) => backoff.failed(&error),
            },
        }
    }
}

async fn answer(question: Question, data: &Handle, epoch: &Epoch) -> Answer {
    let owner = data.ask(|reply| Command::Owner { source: question.source, reply }).await.ok().flatten();
    let found = owner.map(|peer| PeerIdentity {
        peer: peer.friendly_name.as_deref().unwrap_or_default().to_owned(),
        public_key: peer.public_key.to_base64(),
        since_unix_ms: peer.since.map_or(0, |handshake| milliseconds(epoch.date(handshake))),
    });
    Answer { id: question.id, found }
}

impl Events {
    fn send(&self, interface: &str, event: &DeviceEvent) {
        let Some((what, peer)) = describe(event) else { return };
        let message = Message::Event(Event {
            what,
            interface: interface.to_owned(),
            peer: peer.friendly_name.as_deref().unwrap_or_default().to_owned(),
            public_key: peer.public_key.to_base64(),
            at_unix_ms: Clock.unix_milliseconds(),
        });
        let bytes = message.encode();
        for listener in &self.listeners {
            let Err(error) = self.socket.get_ref().send_to(&bytes, listener) else { continue };
            // A listener that is not there yet is usual; one that does not let us in will never hear anything.
            if error.kind() == io::ErrorKind::PermissionDenied && !self.said_refused.swap(true, Relaxed) {
                tracing::warn!(
                    listener = %listener.display(),
                    "events may not be sent there: does its daemon's wgd_user name this daemon's user?"
                );
            } else {
                tracing::debug!(listener = %listener.display(), %error, "an event found no listener");
            }
        }
    }
}

/// `None` for what is of no use outside.
fn describe(event: &DeviceEvent) -> Option<(What, &wg_proto::PeerIdentity)> {
    let told = match event {
        DeviceEvent::PeerUp { peer } => (What::Up, peer),
        DeviceEvent::PeerDown { peer } => (What::Down, peer),
        DeviceEvent::Handshake { peer, .. } => (What::Handshake, peer),
        DeviceEvent::Roamed { peer, .. } => (What::Roamed, peer),
        DeviceEvent::KeyChanged { peer, .. } => (What::KeyChanged, peer),
        DeviceEvent::Unanswered { .. } => return None,
    };
    Some(told)
}

fn count(event: &DeviceEvent, metrics: &Metrics) {
    if let DeviceEvent::KeyChanged { key, .. } = event {
        metrics.key_changed(key_name(*key));
    }
    match event {
        DeviceEvent::Handshake { peer, took: Some(took) } => metrics.handshake(peer.public_key, *took),
        DeviceEvent::KeyChanged { peer, key: ChangedKey::Own } => {
            metrics.private_key_changed(peer.public_key)
        }
        DeviceEvent::PeerUp { .. }
        | DeviceEvent::PeerDown { .. }
        | DeviceEvent::Handshake { took: None, .. }
        | DeviceEvent::Roamed { .. }
        | DeviceEvent::KeyChanged { key: ChangedKey::Preshared | ChangedKey::Peer, .. }
        | DeviceEvent::Unanswered { .. } => {}
    }
}

fn key_name(key: ChangedKey) -> &'static str {
    match key {
        ChangedKey::Own => "own",
        ChangedKey::Peer => "peer",
        ChangedKey::Preshared => "preshared",
    }
}

/// An event as an operator reads it: with addresses, which the admin socket may tell.
fn in_detail(interface: &str, event: &DeviceEvent) -> Option<Value> {
    let (what, peer) = describe(event)?;
    let mut told = json!({
        "what": what,
        "interface": interface,
        "peer": peer.friendly_name.as_deref(),
        "public_key": peer.public_key.to_base64(),
        "at_unix_ms": Clock.unix_milliseconds(),
    });
    match event {
        DeviceEvent::Handshake { took, .. } => {
            told["took_ms"] = json!(took.map(|took| took.as_secs_f64() * 1_000.0));
        }
        DeviceEvent::Roamed { from, to, .. } => {
            told["from"] = json!(from.to_string());
            told["to"] = json!(to.to_string());
        }
        DeviceEvent::KeyChanged { key, .. } => {
            told["key"] = json!(key_name(*key));
        }
        DeviceEvent::PeerUp { .. } | DeviceEvent::PeerDown { .. } | DeviceEvent::Unanswered { .. } => {}
    }
    Some(told)
}

/// A peer that does not answer may have another address by now.
fn look_again(event: &DeviceEvent, unanswered: &Sender<PublicKey>) {
    if let DeviceEvent::Unanswered { peer } = event {
        // When the queue is full there is more to look up than can be; the event comes again.
        let _ = unanswered.try_send(peer.public_key);
    }
}

/// Addresses at DEBUG only.
fn log(event: &DeviceEvent) {
    match event {
        DeviceEvent::PeerUp { peer } => tracing::info!(?peer, "peer is up"),
        DeviceEvent::PeerDown { peer } => tracing::info!(?peer, "peer is down"),
        DeviceEvent::Handshake { peer, took } => tracing::debug!(?peer, ?took, "handshake complete"),
        DeviceEvent::Unanswered { peer } => tracing::debug!(?peer, "no answer to handshakes"),
        DeviceEvent::Roamed { peer, from, to } => tracing::debug!(?peer, %from, %to, "peer roamed"),
        DeviceEvent::KeyChanged { peer, key } => tracing::info!(?peer, ?key, "key changed"),
    }
}

fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
