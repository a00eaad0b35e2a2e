//! The part of an initiation that is read before any session: who it is from, and when it was made.
//!
//! A peer can have several sessions, with keys of before and after a change, and each of them would accept
//! what another has already seen. So the timestamp is checked here, once for the peer (paper §5.1).
//!
//! **Invariant:** an [`Initiator`] exists only if the sender's key decrypted under ours; a [`Timestamp`] only
//! if it decrypted under the secret of both static keys, so its sender holds the other one.

use blake2::{Blake2s256, Digest};
use boringtun::x25519;
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use hmac::{Mac, SimpleHmac};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::limits::from_the_specification::INITIATION_BYTES;
use crate::{DropReason, PublicKey};

/// Paper §5.4.
const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const TAG_BYTES: usize = 16;

/// When an initiation was made, by its sender's clock: TAI64N, which compares as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp([u8; 12]);

/// An initiation, opened as far as the sender's static key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Initiator {
    #[zeroize(skip)]
    pub(crate) public: PublicKey,
    chaining_key: [u8; 32],
    hash: [u8; 32],
    encrypted_timestamp: [u8; 28],
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
        let mut encrypted_static = [0; 48];
        encrypted_static.copy_from_slice(&message[40..88]);
        let mut encrypted_timestamp = [0; 28];
        encrypted_timestamp.copy_from_slice(&message[88..116]);

        let chaining_key = hash(&[CONSTRUCTION]);
        let mut transcript = hash(&[&chaining_key, IDENTIFIER]);
        transcript = hash(&[&transcript, public.as_bytes()]);
        transcript = hash(&[&transcript, &ephemeral]);
        let (chaining_key, _) = derive(&chaining_key, &ephemeral);
        let shared = secret.diffie_hellman(&x25519::PublicKey::from(ephemeral));
        let (chaining_key, key) = derive(&chaining_key[..], shared.as_bytes());
        let sealed = encrypted_static;
        let opened: [u8; 32] = open(&key, &transcript, &mut encrypted_static)?;
        Ok(Initiator {
            public: PublicKey::from_bytes(opened),
            chaining_key: *chaining_key,
            hash: hash(&[&transcript, &sealed]),
            encrypted_timestamp,
        })
    }

    /// Opens the second part: now the sender has proven that it holds its key.
    pub(crate) fn timestamp(&self, secret: &x25519::StaticSecret) -> Result<Timestamp, DropReason> {
        let shared = secret.diffie_hellman(&x25519::PublicKey::from(*self.public.as_bytes()));
        let (_, key) = derive(&self.chaining_key, shared.as_bytes());
        let mut timestamp = self.encrypted_timestamp;
        Ok(Timestamp(open(&key, &self.hash, &mut timestamp)?))
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in parts {
        Digest::update(&mut hash, part);
    }
    hash.finalize().into()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hmac =
        <SimpleHmac<Blake2s256> as Mac>::new_from_slice(key).expect("HMAC takes keys of every length");
    for part in parts {
        Mac::update(&mut hmac, part);
    }
    Zeroizing::new(hmac.finalize().into_bytes().into())
}

/// Paper §5.4: the next chaining key, and a key.
fn derive(chaining_key: &[u8], input: &[u8]) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
    let extracted = hmac(chaining_key, &[input]);
    let first = hmac(&extracted[..], &[&[1]]);
    let second = hmac(&extracted[..], &[&first[..], &[2]]);
    (first, second)
}

/// Opens in place; both parts of the message are the first under their key.
fn open<const N: usize>(
    key: &[u8; 32],
    transcript: &[u8; 32],
    sealed: &mut [u8],
) -> Result<[u8; N], DropReason> {
    let (text, tag) = sealed.split_at_mut(N);
    debug_assert_eq!(tag.len(), TAG_BYTES);
    ChaCha20Poly1305::new(key.into())
        .decrypt_in_place_detached(&Nonce::default(), transcript, text, Tag::from_slice(tag))
        .map_err(|_| DropReason::DecryptFailed)?;
    (&*text).try_into().map_err(|_| DropReason::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use boringtun::noise::{Tunn, TunnResult};

    #[test]
    fn key_and_time_of_an_initiation_are_read_and_times_grow() {
        let (theirs, ours) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let (secret, public) = (ours.to_x25519(), x25519::PublicKey::from(&ours.to_x25519()));
        let mut tunn = Tunn::new(theirs.to_x25519(), public, Some([7; 32]), None, 1, None);
        let mut scratch = [0; 256];
        let mut read = || {
            let TunnResult::WriteToNetwork(message) = tunn.format_handshake_initiation(&mut scratch, true)
            else {
                panic!("no initiation");
            };
            let initiator = Initiator::open(&secret, &public, message).unwrap();
            assert_eq!(initiator.public, theirs.public_key());
            message[100] ^= 1;
            let damaged = Initiator::open(&secret, &public, message).unwrap();
            assert_eq!(damaged.timestamp(&secret).err(), Some(DropReason::DecryptFailed));
            message[60] ^= 1;
            assert!(Initiator::open(&secret, &public, message).is_err());
            initiator.timestamp(&secret).unwrap()
        };
        assert!(read() < read());
    }
}
