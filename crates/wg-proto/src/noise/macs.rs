//! The two MACs at the end of each of our handshake messages (paper §5.4.4), and the cookie that the second is made with.
//!
//! **Invariant:** a cookie is taken only if it answers the message that we sent last, and only once; it serves for two minutes
//! (paper §5.4.7).

use std::time::Instant;

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use boringtun::x25519;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};
use hmac::Mac;

use super::symmetric::hash;
use super::word;
use crate::DropReason;
use crate::limits::from_the_specification::{COOKIE_REPLY_BYTES, COOKIE_TIME};

/// Paper §5.4.
const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";
const MAC_BYTES: usize = 16;

/// What our messages to one peer are signed with. None of it is secret: outsiders know the peer's key, and cookies come in the open.
pub(crate) struct Macs {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    /// Of the message that a cookie may answer: its index and its first MAC.
    last: Option<(u32, [u8; MAC_BYTES])>,
    cookie: Option<(Instant, [u8; MAC_BYTES])>,
}

impl Macs {
    pub(crate) fn new(peer: &x25519::PublicKey) -> Macs {
        Macs {
            mac1_key: hash(&[LABEL_MAC1, peer.as_bytes()]),
            cookie_key: hash(&[LABEL_COOKIE, peer.as_bytes()]),
            last: None,
            cookie: None,
        }
    }

    /// Writes both MACs at the end of a message with this index of ours.
    pub(crate) fn sign(&mut self, index: u32, message: &mut [u8], now: Instant) {
        self.cookie = self.cookie.take().filter(|(since, _)| now < *since + COOKIE_TIME);
        let (text, macs) = message.split_at_mut(message.len() - 2 * MAC_BYTES);
        let (mac1, mac2) = macs.split_at_mut(MAC_BYTES);
        let first = mac(&self.mac1_key, &[text]);
        mac1.copy_from_slice(&first);
        match &self.cookie {
            Some((_, cookie)) => mac2.copy_from_slice(&mac(cookie, &[text, mac1])),
            None => mac2.fill(0),
        }
        self.last = Some((index, first));
    }

    /// Takes the cookie of message 3.
    pub(crate) fn take_cookie(&mut self, reply: &[u8], now: Instant) -> Result<(), DropReason> {
        let reply: &[u8; COOKIE_REPLY_BYTES] = reply.try_into().map_err(|_| DropReason::Malformed)?;
        let (index, mac1) = self.last.as_ref().ok_or(DropReason::UnknownIndex)?;
        if word(reply, 4) != *index {
            return Err(DropReason::UnknownIndex);
        }
        let mut cookie = [0; MAC_BYTES];
        cookie.copy_from_slice(&reply[32..48]);
        XChaCha20Poly1305::new(&self.cookie_key.into())
            .decrypt_in_place_detached(
                XNonce::from_slice(&reply[8..32]),
                mac1,
                &mut cookie,
                Tag::from_slice(&reply[48..]),
            )
            .map_err(|_| DropReason::DecryptFailed)?;
        self.last = None;
        self.cookie = Some((now, cookie));
        Ok(())
    }
}

/// Keyed BLAKE2s of 16 bytes.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_BYTES] {
    let mut mac =
        <Blake2sMac<U16> as Mac>::new_from_slice(key).expect("keys of 16 and of 32 bytes are short enough");
    for part in parts {
        Mac::update(&mut mac, part);
    }
    mac.finalize().into_bytes().into()
}
