//! Our static key and what guards it: the first MAC, cookies under load, and who an initiation is from.
//!
//! **Invariant:** no handshake message reaches a session before it passed [`Identity::admit`].

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use crate::limits::from_the_specification::COOKIE_REPLY_BYTES;
use crate::limits::our_choice::HANDSHAKES_PER_SECOND_BEFORE_COOKIES;
use crate::{DropReason, PublicKey, SecretKey};

/// A static key in use.
pub(crate) struct Identity {
    secret: SecretKey,
    public: PublicKey,
    x25519_secret: x25519::StaticSecret,
    x25519_public: x25519::PublicKey,
    /// Counts handshakes of the whole device and makes cookies.
    gate: RateLimiter,
    /// The noise implementation insists on a limiter inside each session; this one never limits.
    unlimited: Arc<RateLimiter>,
}

/// What became of a handshake message at the gate.
pub(crate) enum Admission<'a> {
    Pass,
    /// Under load: answer with this, and drop the message.
    Cookie(&'a [u8]),
    Refuse(DropReason),
}

impl Identity {
    pub(crate) fn new(secret: SecretKey) -> Identity {
        let x25519_secret = secret.to_x25519();
        let x25519_public = x25519::PublicKey::from(&x25519_secret);
        Identity {
            public: PublicKey::from_bytes(*x25519_public.as_bytes()),
            gate: RateLimiter::new(&x25519_public, HANDSHAKES_PER_SECOND_BEFORE_COOKIES),
            unlimited: Arc::new(RateLimiter::new(&x25519_public, u64::MAX)),
            secret,
            x25519_secret,
            x25519_public,
        }
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.secret
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn unlimited(&self) -> Arc<RateLimiter> {
        Arc::clone(&self.unlimited)
    }

    /// Whether a key agreement with this peer can give a secret: low-order points cannot, and then
    /// nothing is ever sent (as the kernel does it).
    pub(crate) fn can_agree_with(&self, peer: &PublicKey) -> bool {
        let peer = x25519::PublicKey::from(*peer.as_bytes());
        self.x25519_secret.diffie_hellman(&peer).was_contributory()
    }

    /// Checks the MACs of an initiation or a response.
    pub(crate) fn admit<'a>(
        &self,
        message: &[u8],
        from: IpAddr,
        cookie: &'a mut [u8; COOKIE_REPLY_BYTES],
    ) -> Admission<'a> {
        self.gate.reset_count();
        match self.gate.verify_packet(Some(from), message, cookie) {
            Ok(_) => Admission::Pass,
            Err(TunnResult::WriteToNetwork(reply)) => Admission::Cookie(reply),
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => Admission::Refuse(DropReason::Mac1Invalid),
            Err(TunnResult::Err(WireGuardError::UnderLoad)) => Admission::Refuse(DropReason::Mac2Missing),
            Err(
                TunnResult::Err(_)
                | TunnResult::Done
                | TunnResult::WriteToTunnelV4(..)
                | TunnResult::WriteToTunnelV6(..),
            ) => Admission::Refuse(DropReason::Malformed),
        }
    }

    /// Opens an initiation far enough to see the sender's static key.
    pub(crate) fn initiator_of(&self, message: &[u8]) -> Result<PublicKey, DropReason> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(message) else {
            return Err(DropReason::Malformed);
        };
        let half = parse_handshake_anon(&self.x25519_secret, &self.x25519_public, &initiation)
            .map_err(|_| DropReason::DecryptFailed)?;
        Ok(PublicKey::from_bytes(half.peer_static_public))
    }
}
