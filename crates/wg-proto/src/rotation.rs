//! What a rotation of keys says to the shell, and what the shell answers.

use crate::control::{Refusal, RotationId};
use crate::{PeerIdentity, PresharedKey, PublicKey, SecretKey};

/// Which key is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RotationKind {
    /// Our own static key.
    Static,
    /// The key that we share with a peer.
    Preshared,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct RotationRequest {
    /// Which key.
    pub kind: RotationKind,
    /// With this peer alone; a static key is every peer's business.
    pub peer: Option<PublicKey>,
    /// No overlap: the old key is worth nothing from now on.
    pub compromised: bool,
}

/// Why a rotation does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    /// Nothing to rotate.
    #[error("the interface has no private key")]
    NoKey,
    /// No peer has this key, or there is none at all.
    #[error("no such peer")]
    NoPeer,
    /// One at a time.
    #[error("another rotation is under way")]
    Busy,
    /// The system has none.
    #[error("no random numbers from the system")]
    NoRandomness,
}

/// Speaks to the shell about rotations, while one of the device's inputs runs. What is lost is said again.
#[derive(Clone)]
pub enum RotationOutput {
    /// Make a key durable (or see whether that is possible), then call [`Device::kept`](crate::Device::kept).
    Keep {
        /// Comes back with the answer.
        ticket: Ticket,
        /// What.
        key: KeptKey,
    },
    /// How far it is with a peer.
    Step {
        /// With whom.
        peer: PeerIdentity,
        /// What has been reached.
        step: RotationStep,
    },
    /// The rotation that we began is over.
    Finished(Verdict),
}

/// Names an order to keep a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) id: RotationId,
    /// Only find out whether it would be possible.
    pub rehearsal: bool,
}

/// Where a key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptAs {
    /// Beside the one in force: both are tried until the rotation is over, after a crash as well.
    Next,
    /// In its place.
    Current,
}

/// A key to be written to the configuration.
#[derive(Clone)]
pub enum KeptKey {
    /// Our own.
    Own {
        /// The key.
        key: SecretKey,
        /// Where.
        place: KeptAs,
        /// A public key that is never to be let in: the old one, if it is compromised.
        deny: Option<PublicKey>,
    },
    /// A peer's new public key.
    Peer {
        /// Under which it stands there.
        old: PublicKey,
        /// What is to stand there.
        new: PublicKey,
        /// The old one is never to be let in again.
        deny: bool,
    },
    /// The key shared with a peer.
    Preshared {
        /// Whose.
        peer: PublicKey,
        /// The key.
        key: PresharedKey,
        /// Where.
        place: KeptAs,
    },
}

/// The shell's answer to [`RotationOutput::Keep`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is on the disk.
    OnDisk,
    /// There is no configuration file, so nothing of this interface outlives it.
    NoFile,
    /// It could not be written; says why.
    Failed(String),
}

/// How far a rotation is with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// Asking whether the peer is a wgd.
    Greeting,
    /// The new key has been announced.
    Announced,
    /// The peer takes it beside the old one.
    Accepted,
    /// The peer's own rotation comes first.
    Waiting,
    /// Ours is on the disk.
    Kept,
    /// Handshakes are made with it.
    Switching,
    /// The old one is gone on both sides.
    Done,
    /// It has not been over for long: the peer does not answer, or cannot. Both keys serve until it does.
    Stalled,
}

/// A rotation that we began and that is not over with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRotation {
    /// Which key.
    pub kind: RotationKind,
    /// What was reached last.
    pub step: RotationStep,
    /// Since when it has been under way, in this life.
    pub began: std::time::Instant,
    /// Whether that is longer than it can take.
    pub is_stalled: bool,
}

/// How a rotation ended.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which key.
    pub kind: RotationKind,
    /// There was no overlap.
    pub compromised: bool,
    /// Our public key, if it is a new one.
    pub public_key: Option<PublicKey>,
    /// Whether our side will come up with the new key. `None`: no new key is in force.
    pub kept: Option<Kept>,
    /// With each peer.
    pub peers: Vec<(PeerIdentity, RotationOutcome)>,
}

impl Verdict {
    /// Whether every peer uses the new key.
    pub fn is_complete(&self) -> bool {
        self.peers.iter().all(|(_, outcome)| matches!(outcome, RotationOutcome::Rotated { .. }))
    }
}

/// How it ended with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationOutcome {
    /// Both sides use the new key.
    Rotated {
        /// Whether the peer will come up with it.
        kept_there: bool,
    },
    /// It is no wgd, so nobody told it. We use the new key with it as soon as it has it, and the old one until
    /// then (unless that is compromised).
    NotWgd,
    /// It did not answer at all.
    Unreachable,
    /// It does not take the key.
    Refused(Refusal),
    /// Our side could not keep the key, or another peer stood in the way: the old key stays in force.
    Abandoned,
}
