//! The part of an initiation that is read before any session: who it is from, and when it was made.
//!
//! A peer can have several sessions, with keys of before and after a change, and each of them would accept
//! what another has already seen. So the timestamp is checked here, once for the peer.
//!
//! **Invariant:** an [`Initiator`] exists only if the sender's key decrypted under ours; a [`Timestamp`] only
//! if it decrypted under the secret of both static keys, that is, if the sender holds the other half.

use blake2::digest::Digest;
use blake2::{Blake2s256, Blake2sMac256};
use boringtun::x25519;
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use hmac::{Mac, SimpleHmac};
use zeroize::Zeroizing;

use crate::limits::from_the_specification::INITIATION_BYTES;
use crate::{DropReason, PublicKey};
