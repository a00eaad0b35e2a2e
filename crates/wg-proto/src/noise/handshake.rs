//! Messages 1 and 2 of the handshake (paper §5.4.2 and §5.4.3): made by either side, and the answer read by the one who began.
//!
//! **Invariant:** a response that does not authenticate changes nothing, so nobody but the peer ends a handshake that is under
//! way. The key of the moment is wiped as soon as the transport's keys are there.

use boringtun::x25519;
use zeroize::Zeroizing;

use super::initiation::{Initiation, Timestamp};
use super::symmetric::{Key, Symmetric};
use super::{TYPE_INITIATION, TYPE_RESPONSE, agree, word};
use crate::limits::from_the_specification::{INITIATION_BYTES, RESPONSE_BYTES};
use crate::secrets::kept;
use crate::{DropReason, PresharedKey, PublicKey};

/// The keys that a handshake begins with.
pub(crate) struct Parties {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    peer: x25519::PublicKey,
    /// Of both static keys; with a peer's key of low order there is none, and then nothing is ever said (as the kernel has it).
    shared: Option<x25519::SharedSecret>,
    preshared: Zeroizing<[u8; 32]>,
}

/// A handshake that we have begun.
pub(crate) struct Initiated {
    index: u32,
    ephemeral: x25519::StaticSecret,
    symmetric: Symmetric,
}

/// What a handshake ends with.
pub(crate) struct Agreed {
    /// What the peer calls it.
    pub(super) peer_index: u32,
    pub(super) sending: Key,
    pub(super) receiving: Key,
}

impl Parties {
    /// In its place for as long as a session lives.
    pub(crate) fn kept(
        secret: &x25519::StaticSecret,
        public: x25519::PublicKey,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
    ) -> Box<Parties> {
        let peer = x25519::PublicKey::from(*peer.as_bytes());
        kept(|| {
            Box::new(Parties {
                secret: secret.clone(),
                public,
                peer,
                shared: agree(secret, &peer).ok(),
                // Zeros are WireGuard's word for none.
                preshared: Zeroizing::new(preshared.map_or([0; 32], |key| *key.reveal_bytes())),
            })
        })
    }

    /// Whether a handshake can ever succeed.
    pub(crate) fn can_agree(&self) -> bool {
        self.shared.is_some()
    }

    pub(crate) fn peer(&self) -> &x25519::PublicKey {
        &self.peer
    }

    /// Writes message 1 but for its MACs. `None` if no secret is to be had.
    pub(crate) fn initiate(
        &self,
        index: u32,
        made: Timestamp,
        message: &mut [u8; INITIATION_BYTES],
    ) -> Option<Box<Initiated>> {
        let shared = self.shared.as_ref()?;
        let ephemeral = ephemeral()?;
        let public = x25519::PublicKey::from(&ephemeral);
        message[..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..40].copy_from_slice(public.as_bytes());
        let mut symmetric = Symmetric::new(&self.peer);
        symmetric.mix_ephemeral(public.as_bytes());
        let key = symmetric.mix_secret(agree(&ephemeral, &self.peer).ok()?.as_bytes());
        symmetric.seal(&key, self.public.as_bytes(), &mut message[40..88]);
        let key = symmetric.mix_secret(shared.as_bytes());
        symmetric.seal(&key, &made.0, &mut message[88..116]);
        Some(kept(|| Box::new(Initiated { index, ephemeral, symmetric })))
    }

    /// Writes message 2 but for its MACs.
    pub(crate) fn respond(
        &self,
        initiation: &Initiation,
        index: u32,
        message: &mut [u8; RESPONSE_BYTES],
    ) -> Result<Agreed, DropReason> {
        let ephemeral = ephemeral().ok_or(DropReason::NoSession)?;
        let public = x25519::PublicKey::from(&ephemeral);
        message[..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..12].copy_from_slice(&initiation.sender.to_le_bytes());
        message[12..44].copy_from_slice(public.as_bytes());
        let mut symmetric = initiation.symmetric.clone();
        symmetric.mix_ephemeral(public.as_bytes());
        symmetric.mix_key(agree(&ephemeral, &initiation.ephemeral)?.as_bytes());
        symmetric.mix_key(agree(&ephemeral, &self.peer)?.as_bytes());
        let key = symmetric.mix_preshared(&self.preshared);
        symmetric.seal(&key, &[], &mut message[44..60]);
        let [receiving, sending] = symmetric.split();
        Ok(Agreed { peer_index: initiation.sender, sending, receiving })
    }

    /// Reads message 2 as the answer to ours.
    pub(crate) fn finish(&self, initiated: &Initiated, message: &[u8]) -> Result<Agreed, DropReason> {
        let message: &[u8; RESPONSE_BYTES] = message.try_into().map_err(|_| DropReason::Malformed)?;
        if word(message, 8) != initiated.index {
            return Err(DropReason::UnknownIndex);
        }
        let mut public = [0; 32];
        public.copy_from_slice(&message[12..44]);
        let mut symmetric = initiated.symmetric.clone();
        symmetric.mix_ephemeral(&public);
        let public = x25519::PublicKey::from(public);
        symmetric.mix_key(agree(&initiated.ephemeral, &public)?.as_bytes());
        symmetric.mix_key(agree(&self.secret, &public)?.as_bytes());
        let key = symmetric.mix_preshared(&self.preshared);
        let [] = symmetric.open(&key, &message[44..60])?;
        let [sending, receiving] = symmetric.split();
        Ok(Agreed { peer_index: word(message, 4), sending, receiving })
    }
}

impl Initiated {
    pub(crate) fn index(&self) -> u32 {
        self.index
    }
}

fn ephemeral() -> Option<x25519::StaticSecret> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut()).ok()?;
    Some(x25519::StaticSecret::from(*bytes))
}
