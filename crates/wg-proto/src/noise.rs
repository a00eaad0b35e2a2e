//! Noise_IKpsk2 as WireGuard speaks it (paper §5.4): the handshake, the transport that comes of it, and their rules of time.
//!
//! What is sent and received, and for whom, is [`crate::session`]'s.
//!
//! **Invariants:** nothing here reads a clock but [`stamp`], which the protocol wants to tell a date. Every secret lies where
//! [`crate::secrets::kept`] puts it and is wiped when it is dropped. A shared secret that an outsider knows beforehand (a point of
//! low order) is refused. What authenticates nobody is compared in constant time.

pub(crate) mod handshake;
pub(crate) mod initiation;
pub(crate) mod macs;
pub(crate) mod rules;
pub(crate) mod stamp;
mod symmetric;
pub(crate) mod transport;
mod window;

use boringtun::x25519;

use crate::DropReason;

/// First byte of message 1, paper §5.4.2; the three that follow are zero in all of them.
const TYPE_INITIATION: u32 = 1;
/// Of message 2, paper §5.4.3.
const TYPE_RESPONSE: u32 = 2;
/// Of a data message, paper §5.4.6.
const TYPE_DATA: u32 = 4;

/// The secret of two keys, unless it is one that everybody knows.
pub(crate) fn agree(
    secret: &x25519::StaticSecret,
    public: &x25519::PublicKey,
) -> Result<x25519::SharedSecret, DropReason> {
    let shared = secret.diffie_hellman(public);
    if shared.was_contributory() { Ok(shared) } else { Err(DropReason::DecryptFailed) }
}

/// The four bytes of a message at this place, which its length holds.
fn word(message: &[u8], at: usize) -> u32 {
    message.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests;
