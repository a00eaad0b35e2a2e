//! What a [`Device`](crate::Device) gives back: datagrams, packets and events.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rotation::RotationOutput;
use crate::{Endpoint, PublicKey};

/// The shell's ears. Every call happens while one of the device's inputs runs, in order.
pub trait Output {
    /// Send this datagram. Borrowed from the device's scratch space: copy it or send it now.
    fn transmit(&mut self, to: Endpoint, datagram: &[u8]);
    /// Send what `seal` writes into `bytes` of space: it says how long it is, or that there is nothing to send. So data
    /// is sealed where it is sent from; whoever has no such place gets it by [`Output::transmit`]. Gives what `seal` said.
    fn transmit_sealed(
        &mut self,
        to: Endpoint,
        bytes: usize,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let mut space = vec![0; bytes];
        let length = seal(&mut space)?;
        self.transmit(to, &space[..length]);
        Some(length)
    }
    /// Something an operator or another daemon wants to know.
    fn event(&mut self, event: DeviceEvent);
    /// How a rotation of keys goes on, and what it needs to have written. Whoever does not listen cannot rotate.
    fn rotation(&mut self, output: RotationOutput) {
        let _ = output;
    }
}

/// Who a peer is, to the outside.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The key that proves it.
    pub public_key: PublicKey,
    /// The operator's word for it, if the configuration has one.
    pub friendly_name: Option<Arc<str>>,
    /// Up since then; `None` while the peer is down.
    pub since: Option<Instant>,
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.friendly_name.as_deref().unwrap_or_default())?;
        write!(f, "({})", self.public_key)
    }
}

/// Turning points in a peer's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// First completed handshake, or the first after [`DeviceEvent::PeerDown`].
    PeerUp {
        /// Whose.
        peer: PeerIdentity,
    },
    /// Nothing authenticated came for 180 s, or the peer was removed while up.
    PeerDown {
        /// Whose.
        peer: PeerIdentity,
    },
    /// A handshake completed: both sides hold fresh keys.
    Handshake {
        /// With whom.
        peer: PeerIdentity,
        /// From our initiation to the response; `None` when the peer initiated.
        took: Option<Duration>,
    },
    /// Our initiations have found no answer for a while, or we gave up: perhaps the peer is elsewhere now.
    /// Repeated for as long as we try.
    Unanswered {
        /// Whose answer is missing.
        peer: PeerIdentity,
    },
    /// An authenticated packet came from another outer address than before.
    Roamed {
        /// Who.
        peer: PeerIdentity,
        /// The address it left.
        from: SocketAddr,
        /// The address it has now.
        to: SocketAddr,
    },
    /// A key was replaced on a running device.
    KeyChanged {
        /// The peer, or for our own key our new public key.
        peer: PeerIdentity,
        /// Which key.
        key: ChangedKey,
    },
}

/// Which key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangedKey {
    /// The device's private key.
    Own,
    /// A peer's public key.
    Peer,
    /// A peer's pre-shared key.
    Preshared,
}
