//! Messages between two wgds, carried as inner UDP datagrams between their tunnel addresses.
//!
//! They are made here and taken out of the decrypted stream before the TUN: there is no socket. Layout and
//! rules: `docs/formats/tunnel-control.md`.
//!
//! **Invariants:** [`is_control`] is asked of packets in both directions, so what a wgd would take out of the
//! stream never comes from a program on its peer's host. Every message has one of two fixed lengths.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use packet::Datagram;
use zeroize::Zeroizing;

/// Source and destination port of every control datagram.
pub const CONTROL_PORT: u16 = 51_830;
/// The version of the messages.
pub const CONTROL_VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"cvlt";
const HEADER_BYTES: usize = 32;
const KEY_BYTES: usize = 32;

/// Names one rotation between two wgds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RotationId([u8; 16]);

impl RotationId {
    /// A fresh one, from the system's randomness.
    pub fn random() -> Result<RotationId, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(RotationId(bytes))
    }
}

impl fmt::Debug for RotationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One message, with the number that its sender drew when it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlMessage {
    /// Tells a restarted wgd from the one before.
    pub boot: u64,
    /// The rotation it is about; of a hello, what the answer repeats.
    pub id: RotationId,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// Are you a wgd?
    Hello,
    /// I am.
    Welcome,
    /// Take this key beside the present one.
    Announce {
        /// Which key.
        key: AnnouncedKey,
        /// The present one is to go at once.
        compromised: bool,
    },
    /// I take it.
    Accept,
    /// I do not.
    Refuse(Refusal),
    /// The new key is kept and in use on this side.
    Switched,
    /// On mine as well; the old one is gone.
    Confirm {
        /// Whether it is in the configuration, so that it outlives a restart.
        kept: bool,
    },
    /// I know of no such rotation.
    Unknown,
    /// Forget the key I announced.
    Withdraw,
    /// The old key is gone here too. Nothing is answered.
    Done,
}

/// The key that is announced.
#[derive(Clone, PartialEq, Eq)]
pub enum AnnouncedKey {
    /// The sender's next public key.
    Static([u8; KEY_BYTES]),
    /// The pair's next pre-shared key; the session it travels in keeps it secret.
    Preshared(Zeroizing<[u8; KEY_BYTES]>),
}

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another rotation is under way here; ask again.
    Busy,
    /// The configuration cannot be written.
    CannotKeep,
    /// The key is somebody else's, is denied, or is none.
    BadKey,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Announce { key, compromised } => {
                let kind = match key {
                    AnnouncedKey::Static(_) => "static",
                    AnnouncedKey::Preshared(_) => "preshared",
                };
                write!(f, "Announce({kind}, compromised: {compromised})")
            }
            Body::Refuse(refusal) => write!(f, "Refuse({refusal:?})"),
            Body::Confirm { kept } => write!(f, "Confirm(kept: {kept})"),
            Body::Hello => f.write_str("Hello"),
            Body::Welcome => f.write_str("Welcome"),
            Body::Accept => f.write_str("Accept"),
            Body::Switched => f.write_str("Switched"),
            Body::Unknown => f.write_str("Unknown"),
            Body::Withdraw => f.write_str("Withdraw"),
            Body::Done => f.write_str("Done"),
        }
    }
}

impl ControlMessage {
    /// The payload.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (kind, detail) = match &self.body {
            Body::Hello => (1, 0),
            Body::Welcome => (2, 0),
            Body::Announce { key, compromised } => {
                let kind = match key {
                    AnnouncedKey::Static(_) => 3,
                    AnnouncedKey::Preshared(_) => 4,
                };
                (kind, u8::from(*compromised))
            }
            Body::Accept => (5, 0),
            Body::Refuse(Refusal::Busy) => (6, 1),
            Body::Refuse(Refusal::CannotKeep) => (6, 2),
            Body::Refuse(Refusal::BadKey) => (6, 3),
            Body::Switched => (7, 0),
            Body::Confirm { kept } => (8, u8::from(*kept)),
            Body::Unknown => (9, 0),
            Body::Withdraw => (10, 0),
            Body::Done => (11, 0),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + KEY_BYTES));
        bytes.extend(MAGIC);
        bytes.extend([CONTROL_VERSION, kind, detail, 0]);
        bytes.extend(self.boot.to_be_bytes());
        bytes.extend(self.id.0);
        if let Body::Announce { key, .. } = &self.body {
            match key {
                AnnouncedKey::Static(key) => bytes.extend(key),
                AnnouncedKey::Preshared(key) => bytes.extend(key.iter()),
            }
        }
        bytes
    }

    /// Reads a payload; `None` for anything but exactly one message of our version.
    pub fn decode(bytes: &[u8]) -> Option<ControlMessage> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        if header[..4] != MAGIC || header[4] != CONTROL_VERSION || header[7] != 0 {
            return None;
        }
        let yes = |detail: u8| match detail {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        let key = || <[u8; KEY_BYTES]>::try_from(rest).ok();
        let body = match (header[5], header[6]) {
            (1, 0) => Body::Hello,
            (2, 0) => Body::Welcome,
            (3, detail) => Body::Announce { key: AnnouncedKey::Static(key()?), compromised: yes(detail)? },
            (4, detail) => {
                let key = AnnouncedKey::Preshared(Zeroizing::new(key()?));
                Body::Announce { key, compromised: yes(detail)? }
            }
            (5, 0) => Body::Accept,
            (6, 1) => Body::Refuse(Refusal::Busy),
            (6, 2) => Body::Refuse(Refusal::CannotKeep),
            (6, 3) => Body::Refuse(Refusal::BadKey),
            (7, 0) => Body::Switched,
            (8, detail) => Body::Confirm { kept: yes(detail)? },
            (9, 0) => Body::Unknown,
            (10, 0) => Body::Withdraw,
            (11, 0) => Body::Done,
            _ => return None,
        };
        if !matches!(body, Body::Announce { .. }) && !rest.is_empty() {
            return None;
        }
        let mut boot = [0; 8];
        boot.copy_from_slice(&header[8..16]);
        let mut id = [0; 16];
        id.copy_from_slice(&header[16..]);
        Some(ControlMessage { boot: u64::from_be_bytes(boot), id: RotationId(id), body })
    }

    /// The inner packet from one tunnel address to another of the same family.
    pub(crate) fn to_packet(&self, from: IpAddr, to: IpAddr) -> Option<Zeroizing<Vec<u8>>> {
        let payload = self.encode();
        let datagram = Datagram {
            source: SocketAddr::new(from, CONTROL_PORT),
            destination: SocketAddr::new(to, CONTROL_PORT),
            payload: &payload,
        };
        datagram.to_packet().map(Zeroizing::new)
    }
}

/// Whether a packet is for a wgd rather than for its host: by ports and first bytes, of whatever version.
pub(crate) fn is_control(packet: &[u8]) -> bool {
    payload_of(packet).is_some()
}

/// What a control packet carries.
pub(crate) fn payload_of(packet: &[u8]) -> Option<&[u8]> {
    let datagram = Datagram::parse(packet)?;
    let ports = (datagram.source.port(), datagram.destination.port());
    (ports == (CONTROL_PORT, CONTROL_PORT) && datagram.payload.starts_with(&MAGIC))
        .then_some(datagram.payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        let id = RotationId([7; 16]);
        for body in [
            Body::Hello,
            Body::Welcome,
            Body::Announce { key: AnnouncedKey::Static([1; 32]), compromised: false },
            Body::Announce { key: AnnouncedKey::Preshared(Zeroizing::new([2; 32])), compromised: true },
            Body::Accept,
            Body::Refuse(Refusal::Busy),
            Body::Refuse(Refusal::CannotKeep),
            Body::Refuse(Refusal::BadKey),
            Body::Switched,
            Body::Confirm { kept: true },
            Body::Confirm { kept: false },
            Body::Unknown,
            Body::Withdraw,
            Body::Done,
        ] {
            let message = ControlMessage { boot: 5, id, body };
            let bytes = message.encode();
            assert_eq!(ControlMessage::decode(&bytes), Some(message.clone()));
            assert_eq!(ControlMessage::decode(&bytes[..bytes.len() - 1]), None, "{message:?} cut short");
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert_eq!(ControlMessage::decode(&longer), None, "{message:?} with more behind it");
            let packet = message.to_packet([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).unwrap();
            assert_eq!(payload_of(&packet), Some(&bytes[..]));
        }
    }

    #[test]
    fn a_secret_is_not_in_the_debug_text() {
        let key = AnnouncedKey::Preshared(Zeroizing::new([0xab; 32]));
        let body = Body::Announce { key, compromised: false };
        assert_eq!(format!("{body:?}"), "Announce(preshared, compromised: false)");
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(message) = ControlMessage::decode(&bytes) {
                prop_assert_eq!(&message.encode()[..], &bytes[..]);
            }
        }
    }
}
