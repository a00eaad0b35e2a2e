//! Rotations of keys between two wgds: the states of both sides, and the messages between them.
//!
//! Order, and what a crash finds (`docs/formats/tunnel-control.md`): the new key is *announced* and taken
//! beside the old one in memory; it is written to our disk beside the old one; handshakes *switch* to it; the peer,
//! once it has received under it, writes it to its disk, lets go of the old one and *confirms*; then we let go, on
//! our disk as well. Whoever begins with both on his disk goes on where he was.
//!
//! **Invariants:** we hold both keys alive from before the peer could write the new one until it has, and on disk from
//! before the peer could use it. The peer holds both alive from before we write until it has written. Every message
//! can come twice or not at all.

mod messages;
mod ours;
mod theirs;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use super::{Device, PeerId};
use crate::control::{AnnouncedKey, Body, RotationId};
use crate::identities::Generation;
use crate::limits::our_choice::{CONTROL_RETRY, CONTROL_RETRY_MAX, CONTROL_STALLED, MAX_DENIED_KEYS};
use crate::rotation::{
    Kept, PeerRotation, RotationKind, RotationOutcome, RotationOutput, RotationStep, Ticket,
};
use crate::timers::earliest;
use crate::{Output, PresharedKey, PublicKey, SecretKey};

#[derive(Default)]
pub(super) struct Rotations {
    /// Drawn when first needed; another one after a restart.
    boot: u64,
    /// Theirs, where a message came from.
    learned: HashMap<PeerId, IpAddr>,
    /// What we have begun.
    job: Option<Job>,
    /// What peers have begun.
    theirs: BTreeMap<PeerId, Theirs>,
    /// Compromised since we started: no configuration brings them back.
    denied: BTreeSet<PublicKey>,
    /// What the configuration keeps out.
    denied_by_configuration: BTreeSet<PublicKey>,
}

/// A rotation of ours.
struct Job {
    kind: RotationKind,
    compromised: bool,
    began: Instant,
    /// Of a static key.
    own: Option<OwnKey>,
    members: BTreeMap<PeerId, Member>,
    kept: Option<Kept>,
}

struct OwnKey {
    id: RotationId,
    generation: Generation,
    secret: SecretKey,
    stage: OwnStage,
    /// Of the orders to keep it.
    retry: Retry,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnStage {
    Announcing,
    Keeping,
    Switching,
    /// Everybody has it; our disk is told to forget the old one.
    Settling,
}

/// How far we are with one peer.
struct Member {
    id: RotationId,
    /// Of a pre-shared key's rotation.
    preshared: Option<PresharedKey>,
    /// The peer cannot be told, and the key is replaced all the same.
    alone: Option<RotationOutcome>,
    /// The new key is on our disk: there is no way back with this peer.
    kept: bool,
    /// When the first hello left with keys that the peer should have.
    first_hello: Option<Instant>,
    /// Since when a hello could have been answered: the peer has been heard.
    greeted: Option<Instant>,
    step: Step,
    since: Instant,
    /// It was told that nothing moves.
    told_stalled: bool,
    retry: Retry,
}

#[derive(Clone, PartialEq, Eq)]
enum Step {
    Greeting,
    Announcing,
    /// The peer's rotation comes first.
    Parked,
    Accepted,
    /// The pre-shared key is being written.
    Keeping,
    Switching,
    /// The peer has it; our disk is told to forget the old one.
    Settling,
    Over(RotationOutcome),
}

/// A peer's rotation.
struct Theirs {
    id: RotationId,
    boot: u64,
    key: AnnouncedKey,
    compromised: bool,
    step: TheirStep,
    retry: Retry,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TheirStep {
    Rehearsing,
    Accepted,
    Keeping,
    Settled { kept: bool },
}

/// When to say it again.
#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    tries: u32,
}

impl Retry {
    fn now(now: Instant) -> Retry {
        Retry { at: now, tries: 0 }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.at;
        if due {
            self.at = now + CONTROL_RETRY.saturating_mul(1 << self.tries.min(8)).min(CONTROL_RETRY_MAX);
            self.tries += 1;
        }
        due
    }
}

impl Rotations {
    pub(super) fn denies(&self, key: &PublicKey) -> bool {
        self.denied.contains(key) || self.denied_by_configuration.contains(key)
    }

    /// Whether a peer may add no more to the keys that are kept out.
    pub(super) fn denies_too_many(&self) -> bool {
        self.denied.union(&self.denied_by_configuration).count() >= MAX_DENIED_KEYS
    }

    /// Whether this is the key of ours that is being announced.
    pub(super) fn announces(&self, key: &SecretKey) -> bool {
        let own = self.job.as_ref().and_then(|job| job.own.as_ref());
        own.is_some_and(|own| own.secret.same_as(key))
    }

    /// What of ours is not over with a peer.
    pub(super) fn with(&self, id: PeerId, now: Instant) -> Option<PeerRotation> {
        let job = self.job.as_ref()?;
        let step = match job.members.get(&id)?.step {
            Step::Greeting => RotationStep::Greeting,
            Step::Announcing => RotationStep::Announced,
            Step::Parked => RotationStep::Waiting,
            Step::Accepted | Step::Keeping => RotationStep::Accepted,
            Step::Switching | Step::Settling => RotationStep::Switching,
            Step::Over(_) => return None,
        };
        Some(PeerRotation { kind: job.kind, step, began: job.began, is_stalled: job.is_stalled(now) })
    }

    fn deadline(&self) -> Option<Instant> {
        let own = self.job.iter().filter_map(|job| job.own.as_ref());
        let own = own.filter(|own| matches!(own.stage, OwnStage::Keeping | OwnStage::Settling));
        let own = own.map(|own| own.retry.at);
        let ours = self.job.iter().flat_map(|job| job.members.values()).filter(|member| !member.is_over());
        let theirs = self.theirs.values().filter(|theirs| !matches!(theirs.step, TheirStep::Settled { .. }));
        own.chain(ours.map(|member| member.retry.at)).chain(theirs.map(|theirs| theirs.retry.at)).min()
    }
}

impl Job {
    fn is_stalled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= CONTROL_STALLED
    }
}

impl Member {
    fn new(id: RotationId, preshared: Option<PresharedKey>, now: Instant) -> Member {
        Member {
            id,
            preshared,
            alone: None,
            kept: false,
            first_hello: None,
            greeted: None,
            step: Step::Greeting,
            since: now,
            told_stalled: false,
            retry: Retry::now(now),
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.step, Step::Over(_))
    }

    fn reach(&mut self, step: Step, now: Instant) {
        self.step = step;
        self.since = now;
        self.retry = Retry::now(now);
    }
}

impl Device {
    /// What the configuration keeps out, from now on; peers that are there with such a key go.
    pub(super) fn deny(&mut self, keys: Option<Vec<PublicKey>>, out: &mut impl Output) {
        let Some(keys) = keys else { return };
        self.rotations.denied_by_configuration = keys.into_iter().collect();
        let denied = self.rotations.denied_by_configuration.clone();
        for id in denied.iter().filter_map(|key| self.by_key.get(key).copied()).collect::<Vec<_>>() {
            self.remove_peer(id, out);
        }
    }

    /// The shell's answer to an order to keep a key.
    pub fn kept(&mut self, ticket: Ticket, kept: &Kept, now: Instant, out: &mut impl Output) {
        let failed = matches!(kept, Kept::Failed(_));
        if let Some(id) = self.rotations.theirs.iter().find(|(_, it)| it.id == ticket.id).map(|(id, _)| *id) {
            self.kept_for_them(id, ticket, kept, now, out);
        } else if let Some(job) = &mut self.rotations.job
            && !ticket.rehearsal
        {
            let own = job.own.as_ref().filter(|own| own.id == ticket.id).map(|own| own.stage);
            let at = |step: &Step| {
                let mut members = job.members.iter();
                members.find(|(_, it)| it.id == ticket.id && it.step == *step).map(|(&id, _)| id)
            };
            let (keeping, settling) = (at(&Step::Keeping), at(&Step::Settling));
            if own == Some(OwnStage::Keeping) {
                job.kept = Some(kept.clone());
                if failed { self.abandon_job(now, out) } else { self.switch_own(now, out) }
            } else if own == Some(OwnStage::Settling) {
                // Else it is asked again: both keys stay on the disk, and both serve.
                if !failed {
                    self.own_is_settled(now, out);
                }
            } else if let Some(id) = settling {
                if !failed {
                    self.preshared_is_settled(id, now, out);
                }
            } else if let Some(id) = keeping {
                job.kept = Some(kept.clone());
                if failed {
                    self.say(id, Body::Withdraw, ticket.id, now, out);
                    self.finish_member(id, RotationOutcome::Abandoned, now, out);
                } else {
                    self.switch_preshared(id, now, out);
                }
            }
        }
        self.service_rotations(now, out);
    }

    /// *Next* takes over.
    fn promote(&mut self, id: PeerId, now: Instant, out: &mut impl Output) {
        let old = super::present(&mut self.peers, id).public_key();
        self.with_peer(id, now, out, |peer, cx| peer.promote(cx));
        self.rename(id, old);
    }

    fn rename(&mut self, id: PeerId, old: PublicKey) {
        let new = super::present(&mut self.peers, id).public_key();
        if new != old {
            self.by_key.remove(&old);
            self.by_key.insert(new, id);
            if let Some(name) = self.names.get(&old).cloned() {
                self.names.insert(new, name);
            }
        }
    }

    /// To be called when a peer may have used its next keys.
    pub(super) fn look_at_rotation(&mut self, id: PeerId, now: Instant, out: &mut impl Output) {
        let Some(theirs) = self.rotations.theirs.get_mut(&id) else { return };
        if theirs.step == TheirStep::Accepted && super::present(&mut self.peers, id).next_is_used() {
            theirs.step = TheirStep::Keeping;
            theirs.retry = Retry::now(now);
            self.service_rotations(now, out);
        }
    }

    /// Says again what has not been answered, and goes on where nothing is missing.
    pub(super) fn service_rotations(&mut self, now: Instant, out: &mut impl Output) {
        if self.rotations.job.is_some() {
            self.service_job(now, out);
        }
        if !self.rotations.theirs.is_empty() {
            self.service_theirs(now, out);
        }
        if self.identities.len() > 1 {
            let announced = self.rotations.job.as_ref().and_then(|job| job.own.as_ref());
            let announced = announced.map(|own| own.generation);
            let peers = &self.peers;
            let used = |own| peers.iter().flatten().any(|(_, peer)| peer.uses(own));
            self.identities.retain(|own| announced == Some(own) || used(own));
        }
        self.deadline = earliest(self.deadline, self.rotations.deadline());
    }

    /// The configuration has changed our key: what was under way is over.
    pub(super) fn abandon_rotations(&mut self, now: Instant, out: &mut impl Output) {
        self.abandon_job(now, out);
        let ids: Vec<PeerId> = self.rotations.theirs.keys().copied().collect();
        for id in ids {
            self.forget_theirs(id);
        }
    }

    /// The peer is gone.
    pub(super) fn forget_rotation(&mut self, id: PeerId, _out: &mut impl Output) {
        self.rotations.theirs.remove(&id);
        self.rotations.learned.remove(&id);
        if let Some(job) = &mut self.rotations.job {
            job.members.remove(&id);
        }
    }

    /// What a change of the configuration leaves to be done here.
    pub(super) fn after_configuration(&mut self, now: Instant, out: &mut impl Output) {
        self.service_rotations(now, out);
    }

    fn tell_step(&mut self, id: PeerId, step: RotationStep, out: &mut impl Output) {
        let peer = super::present(&mut self.peers, id).identity();
        out.rotation(RotationOutput::Step { peer, step });
    }
}
