//! Datagrams between wgd and those who live on its tunnel: events, and *whois*.
//!
//! wgd sends an [`Event`] to each listener it is configured with; storaged asks whose address a connection
//! comes from ([`Question`]) and wgd answers by cryptokey routing ([`Answer`]). Each datagram is one JSON
//! object of at most [`MAX_DATAGRAM_BYTES`]. Nobody connects and nothing is acknowledged: a listener that was
//! away asks, or waits for the next event.
//!
//! **Invariant:** the identity is the kernel's and WireGuard's word, never the sender's: receivers check the
//! datagram's credentials (`SO_PASSCRED`) before they decode it.
#![forbid(unsafe_code)]

mod listener;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use listener::{Backoff, Listener};

/// The version of this exchange.
pub const VERSION: u8 = 1;
/// The largest datagram; longer ones are dropped unread.
pub const MAX_DATAGRAM_BYTES: usize = 2048;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// Something happened to a peer.
    Event(Event),
    /// Who is behind an address?
    Question(Question),
    /// The answer to a question.
    Answer(Answer),
}

/// Something that happened to a peer of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What happened.
    pub what: What,
    /// The tunnel's interface.
    pub interface: String,
    /// The peer's friendly name; empty if it has none.
    pub peer: String,
    /// The peer's public key, base64.
    pub public_key: String,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub at_unix_ms: u64,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The peer answers again, or for the first time: keys were agreed on, or a packet of its authenticated.
    Up,
    /// Nothing authentic came from the peer for 180 s, or it was removed while up.
    Down,
    /// A handshake was completed: both ends hold fresh keys. With traffic, about every two minutes.
    Handshake,
    /// The peer's endpoint changed.
    Roamed,
    /// A key of the peer or of this end changed.
    KeyChanged,
}

/// Who is behind an address of the tunnel?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Comes back in the answer.
    pub id: u64,
    /// The source address of a connection that came through the tunnel.
    pub source: IpAddr,
}

/// Who is behind the address that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The question's.
    pub id: u64,
    /// `None`: no peer has this address.
    pub found: Option<PeerIdentity>,
}

/// A peer, as cryptokey routing knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerIdentity {
    /// The friendly name; empty if it has none.
    pub peer: String,
    /// The public key, base64.
    pub public_key: String,
    /// When it last proved to hold this key, by a handshake, in milliseconds since 1970-01-01 UTC; 0: not since wgd
    /// was started.
    pub since_unix_ms: u64,
}

/// Why a datagram was not understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is longer than any of ours.
    #[error("a datagram of {0} bytes")]
    TooLong(usize),
    /// Another version.
    #[error("version {0}, and this side speaks {VERSION}")]
    Version(u8),
    /// Not what was expected.
    #[error("malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Outgoing<'a> {
    v: u8,
    message: &'a Message,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    v: u8,
    #[serde(borrow)]
    message: &'a serde_json::value::RawValue,
}

impl Message {
    /// The datagram. Callers keep names short: with one of 128 bytes it stays far below the limit.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&Outgoing { v: VERSION, message: self })
            .expect("strings and numbers always serialize to JSON")
    }

    /// Reads a datagram.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        if datagram.len() > MAX_DATAGRAM_BYTES {
            return Err(DecodeError::TooLong(datagram.len()));
        }
        let incoming: Incoming<'_> = serde_json::from_slice(datagram)?;
        if incoming.v != VERSION {
            return Err(DecodeError::Version(incoming.v));
        }
        Ok(serde_json::from_str(incoming.message.get())?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question() -> Message {
        Message::Question(Question { id: 7, source: "10.100.0.10".parse().unwrap() })
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let identity = PeerIdentity { peer: "web1".into(), public_key: "k=".into(), since_unix_ms: 1 };
        let event = Event {
            what: What::KeyChanged,
            interface: "wg0".into(),
            peer: "svc1".into(),
            public_key: "k=".into(),
            at_unix_ms: 2,
        };
        for message in
            [question(), Message::Answer(Answer { id: 7, found: Some(identity) }), Message::Event(event)]
        {
            assert_eq!(Message::decode(&message.encode()).unwrap(), message);
        }
    }

    #[test]
    fn another_version_is_named() {
        let text = String::from_utf8(question().encode()).unwrap().replace("\"v\":1", "\"v\":9");
        assert!(matches!(Message::decode(text.as_bytes()), Err(DecodeError::Version(9))));
    }

    #[test]
    fn a_long_datagram_is_not_parsed() {
        assert!(matches!(Message::decode(&[b' '; MAX_DATAGRAM_BYTES + 1]), Err(DecodeError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Message::decode(&bytes);
        }
    }
}
