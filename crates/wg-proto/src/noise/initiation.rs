//! Message 1 as its receiver reads it: who it is from, when it was made, and what the answer builds on.
//!
//! A peer can have several sessions, with keys of before and after a change, and each of them would accept
//! what another has already seen. So it is read once for the peer, before any session (paper §5.1).
//!
//! **Invariant:** an [`Initiator`] exists only if the sender's key decrypted under ours; an [`Initiation`] only
//! if the rest decrypted under the secret of both static keys, so its sender holds the other one.

use boringtun::x25519;

use super::symmetric::Symmetric;
use super::{agree, word};
use crate::limits::from_the_specification::INITIATION_BYTES;
use crate::{DropReason, PublicKey};

/// When an initiation was made, by its sender's clock: TAI64N, which compares as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(super) [u8; 12]);

/// An initiation, opened as far as the sender's static key.
pub(crate) struct Initiator {
    pub(crate) public: PublicKey,
    sender: u32,
    ephemeral: x25519::PublicKey,
    symmetric: Symmetric,
    sealed_timestamp: [u8; 28],
}

/// An initiation that its sender has proven to have made.
pub(crate) struct Initiation {
    pub(crate) public: PublicKey,
    pub(crate) made: Timestamp,
    /// The sender's index, which the answer goes to.
    pub(super) sender: u32,
    pub(super) ephemeral: x25519::PublicKey,
    pub(super) symmetric: Symmetric,
}

impl Initiator {
    /// Opens the first part of message 1 (paper §5.4.2), as the responder with these keys.
    pub(crate) fn open(
        secret: &x25519::StaticSecret,
        public: &x25519::PublicKey,
        message: &[u8],
    ) -> Result<Initiator, DropReason> {
        let message: &[u8; INITIATION_BYTES] = message.try_into().map_err(|_| DropReason::Malformed)?;
        let mut ephemeral = [0; 32];
        ephemeral.copy_from_slice(&message[8..40]);
        let mut sealed_timestamp = [0; 28];
        sealed_timestamp.copy_from_slice(&message[88..116]);

        let mut symmetric = Symmetric::new(public);
        symmetric.mix_ephemeral(&ephemeral);
        let ephemeral = x25519::PublicKey::from(ephemeral);
        let key = symmetric.mix_secret(agree(secret, &ephemeral)?.as_bytes());
        let sender_key = symmetric.open(&key, &message[40..88])?;
        Ok(Initiator {
            public: PublicKey::from_bytes(sender_key),
            sender: word(message, 4),
            ephemeral,
            symmetric,
            sealed_timestamp,
        })
    }

    /// Opens the second part: now the sender has proven that it holds its key.
    pub(crate) fn prove(mut self, secret: &x25519::StaticSecret) -> Result<Initiation, DropReason> {
        let public = x25519::PublicKey::from(*self.public.as_bytes());
        let key = self.symmetric.mix_secret(agree(secret, &public)?.as_bytes());
        let made = Timestamp(self.symmetric.open(&key, &self.sealed_timestamp)?);
        let Initiator { public, sender, ephemeral, symmetric, .. } = self;
        Ok(Initiation { public, made, sender, ephemeral, symmetric })
    }
}
