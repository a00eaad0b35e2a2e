//! Rotations of keys between two wgds: the states of both sides, and the messages between them.
//!
//! Order, and what a crash finds (`docs/formats/tunnel-control.md`): the new key is *announced* and taken
//! beside the old one in memory; it is written to our disk; handshakes *switch* to it; the peer, once it has
//! received under it, writes it to its disk, lets go of the old one and *confirms*; then we let go.
//!
//! **Invariants:** we hold both keys alive from before the peer could write the new one until it has. The peer
//! holds both alive from before we write until it has written. Every message can come twice or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use zeroize::Zeroizing;

use super::{Device, PeerId, earliest};
use crate::control::{AnnouncedKey, Body, ControlMessage, Refusal, RotationId, payload_of};
use crate::identities::Generation;
use crate::limits::our_choice::{
    CONTROL_GREETING, CONTROL_PATIENCE, CONTROL_RETRY, CONTROL_RETRY_MAX, CONTROL_UNREACHABLE,
};
use crate::peer::{Keys, Place};
use crate::rotation::{
    Kept, KeptKey, RotateError, RotationKind, RotationOutcome, RotationOutput, RotationRequest, RotationStep,
    Ticket, Verdict,
};
use crate::{DropReason, Output, PresharedKey, PublicKey, SecretKey};

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
    denied: BTreeSet<PublicKey>,
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
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnStage {
    Announcing,
    Keeping,
    Switching,
}

/// How far we are with one peer.
struct Member {
    id: RotationId,
    /// Of a pre-shared key's rotation.
    preshared: Option<PresharedKey>,
    /// The peer cannot be told, and the key is replaced all the same.
    alone: Option<RotationOutcome>,
    step: Step,
    since: Instant,
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
        self.denied.contains(key)
    }

    /// Whether this is the key of ours that is being announced.
    pub(super) fn announces(&self, key: &SecretKey) -> bool {
        let own = self.job.as_ref().and_then(|job| job.own.as_ref());
        own.is_some_and(|own| own.secret.same_as(key))
    }

    fn deadline(&self) -> Option<Instant> {
        let ours = self.job.iter().flat_map(|job| job.members.values()).filter(|member| !member.is_over());
        let theirs = self.theirs.values().filter(|theirs| !matches!(theirs.step, TheirStep::Settled { .. }));
        ours.map(|member| member.retry.at).chain(theirs.map(|theirs| theirs.retry.at)).min()
    }
}

impl Member {
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
    /// Keys that are never to be a peer's again.
    pub fn deny(&mut self, keys: impl IntoIterator<Item = PublicKey>) {
        self.rotations.denied.extend(keys);
    }

    /// Begins to replace a key. How it goes on is told by [`Output::rotation`].
    pub fn rotate(
        &mut self,
        request: &RotationRequest,
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), RotateError> {
        if self.rotations.job.is_some() {
            return Err(RotateError::Busy);
        }
        if self.identities.current().is_none() {
            return Err(RotateError::NoKey);
        }
        let ids: Vec<PeerId> = match (request.kind, &request.peer) {
            (RotationKind::Preshared, Some(key)) => vec![*self.by_key.get(key).ok_or(RotateError::NoPeer)?],
            (RotationKind::Static, Some(key)) if !self.by_key.contains_key(key) => {
                return Err(RotateError::NoPeer);
            }
            (RotationKind::Preshared, None) | (RotationKind::Static, _) => {
                self.peers.iter().flatten().map(|(_, peer)| peer.id()).collect()
            }
        };
        if ids.is_empty() && request.kind == RotationKind::Preshared {
            return Err(RotateError::NoPeer);
        }
        let none = |_| RotateError::NoRandomness;
        let own = match request.kind {
            RotationKind::Static => {
                let secret = SecretKey::generate().map_err(none)?;
                let generation = self.identities.announce(secret.clone());
                let stage = OwnStage::Announcing;
                Some(OwnKey { id: RotationId::random().map_err(none)?, generation, secret, stage })
            }
            RotationKind::Preshared => None,
        };
        let mut members = BTreeMap::new();
        for id in ids {
            let (number, preshared) = match &own {
                Some(own) => (own.id, None),
                None => {
                    let key = PresharedKey::generate().map_err(none)?;
                    (RotationId::random().map_err(none)?, Some(key))
                }
            };
            let retry = Retry::now(now);
            members.insert(
                id,
                Member { id: number, preshared, alone: None, step: Step::Greeting, since: now, retry },
            );
        }
        let RotationRequest { kind, compromised, .. } = *request;
        self.rotations.job = Some(Job { kind, compromised, began: now, own, members, kept: None });
        self.service_rotations(now, out);
        Ok(())
    }

    /// The shell's answer to an order to keep a key.
    pub fn kept(&mut self, ticket: Ticket, kept: &Kept, now: Instant, out: &mut impl Output) {
        let failed = matches!(kept, Kept::Failed(_));
        if let Some(id) = self.rotations.theirs.iter().find(|(_, it)| it.id == ticket.id).map(|(id, _)| *id) {
            self.kept_for_them(id, ticket, kept, now, out);
        } else if let Some(job) = &mut self.rotations.job
            && !ticket.rehearsal
        {
            let is_own = job.own.as_ref().is_some_and(|own| own.id == ticket.id);
            let keeping =
                job.members.iter().find(|(_, member)| member.id == ticket.id && member.step == Step::Keeping);
            if is_own && job.own.as_ref().is_some_and(|own| own.stage == OwnStage::Keeping) {
                job.kept = Some(kept.clone());
                if failed { self.abandon_job(now, out) } else { self.switch_own(now, out) }
            } else if let Some((&id, _)) = keeping {
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

    /// A message that was taken out of the stream. Its source is the peer's.
    pub(super) fn take_control(
        &mut self,
        id: PeerId,
        place: Option<Place>,
        length: usize,
        now: Instant,
        out: &mut impl Output,
    ) {
        let packet = Zeroizing::new(self.scratch[..length].to_vec());
        let Some((source, destination)) =
            packet::Datagram::parse(&packet).map(|it| (it.source.ip(), it.destination.ip()))
        else {
            return;
        };
        if !self.addresses.contains(&destination) {
            return self.count_drop(DropReason::NoRoute);
        }
        let Some(message) = payload_of(&packet).and_then(ControlMessage::decode) else {
            return self.count_drop(DropReason::Malformed);
        };
        self.rotations.learned.insert(id, source);
        self.hear(id, place, message, now, out);
        self.service_rotations(now, out);
    }

    fn hear(
        &mut self,
        id: PeerId,
        place: Option<Place>,
        message: ControlMessage,
        now: Instant,
        out: &mut impl Output,
    ) {
        if let Some(theirs) = self.rotations.theirs.get(&id)
            && theirs.step == TheirStep::Accepted
            && theirs.boot != message.boot
            && place == Some(Place::Current)
        {
            // It has started anew, with the old key: it never wrote the new one and knows nothing of it.
            self.forget_theirs(id);
        }
        let ControlMessage { boot, id: number, body } = message;
        match body {
            Body::Hello => self.say(id, Body::Welcome, number, now, out),
            Body::Announce { key, compromised } => {
                self.hear_announcement(id, boot, number, key, compromised, now, out);
            }
            Body::Switched => {
                let answer = match self.rotations.theirs.get(&id) {
                    Some(theirs) if theirs.id == number => match theirs.step {
                        TheirStep::Settled { kept } => Some(Body::Confirm { kept }),
                        TheirStep::Rehearsing | TheirStep::Accepted | TheirStep::Keeping => None,
                    },
                    Some(_) | None => Some(Body::Unknown),
                };
                if let Some(answer) = answer {
                    self.say(id, answer, number, now, out);
                }
            }
            Body::Withdraw => {
                let theirs = self.rotations.theirs.get(&id).filter(|theirs| theirs.id == number);
                if theirs.is_some_and(|it| matches!(it.step, TheirStep::Rehearsing | TheirStep::Accepted)) {
                    self.forget_theirs(id);
                }
            }
            Body::Done => {}
            Body::Welcome => self.hear_answer(id, None, Answer::Welcome, now, out),
            Body::Accept => self.hear_answer(id, Some(number), Answer::Accept, now, out),
            Body::Refuse(refusal) => self.hear_answer(id, Some(number), Answer::Refuse(refusal), now, out),
            Body::Confirm { kept } => self.hear_answer(id, Some(number), Answer::Confirm { kept }, now, out),
            Body::Unknown => {
                let under_the_old = place != Some(Place::Next);
                self.hear_answer(id, Some(number), Answer::Unknown { under_the_old }, now, out);
            }
        }
    }

    /// Answers to what we began.
    fn hear_answer(
        &mut self,
        id: PeerId,
        number: Option<RotationId>,
        answer: Answer,
        now: Instant,
        out: &mut impl Output,
    ) {
        let Some(job) = &mut self.rotations.job else { return };
        let Some(member) = job.members.get_mut(&id) else { return };
        if number.is_some_and(|number| number != member.id) {
            return;
        }
        match (answer, &member.step) {
            (Answer::Welcome, Step::Greeting) => member.reach(Step::Announcing, now),
            (Answer::Accept, Step::Announcing) => {
                let resumes = job.own.as_ref().is_some_and(|own| own.stage == OwnStage::Switching);
                member.reach(if resumes { Step::Switching } else { Step::Accepted }, now);
                self.tell_step(id, RotationStep::Accepted, out);
            }
            (Answer::Refuse(Refusal::Busy), Step::Announcing | Step::Parked) => {
                member.step = Step::Parked;
                self.tell_step(id, RotationStep::Waiting, out);
            }
            (Answer::Refuse(refusal), Step::Announcing | Step::Parked) => {
                self.finish_member(id, RotationOutcome::Refused(refusal), now, out);
            }
            (Answer::Unknown { under_the_old }, Step::Switching) => {
                member.reach(Step::Announcing, now);
                if under_the_old {
                    // Handshakes that it could not answer begin anew once it has the key.
                    let (peers, _, cx) = self.parts(now, out);
                    super::present(peers, id).drop_next(cx.ranges);
                }
            }
            (Answer::Confirm { kept }, Step::Switching) => {
                let number = member.id;
                self.promote(id, now, out);
                self.say(id, Body::Done, number, now, out);
                self.finish_member(id, RotationOutcome::Rotated { kept_there: kept }, now, out);
            }
            (
                Answer::Welcome
                | Answer::Accept
                | Answer::Refuse(_)
                | Answer::Confirm { .. }
                | Answer::Unknown { .. },
                _,
            ) => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn hear_announcement(
        &mut self,
        id: PeerId,
        boot: u64,
        number: RotationId,
        key: AnnouncedKey,
        compromised: bool,
        now: Instant,
        out: &mut impl Output,
    ) {
        if let Some(theirs) = self.rotations.theirs.get(&id).filter(|theirs| theirs.id == number) {
            match theirs.step {
                TheirStep::Rehearsing => {}
                TheirStep::Accepted | TheirStep::Keeping | TheirStep::Settled { .. } => {
                    self.say(id, Body::Accept, number, now, out);
                }
            }
            return;
        }
        let (keys, ours) = {
            let peer = super::present(&mut self.peers, id);
            let mut keys = peer.keys().clone();
            let current = keys.clone();
            match &key {
                AnnouncedKey::Static(bytes) => keys.peer = PublicKey::from_bytes(*bytes),
                AnnouncedKey::Preshared(bytes) => keys.preshared = PresharedKey::from_bytes(bytes).ok(),
            }
            (keys, current)
        };
        let unchanged = keys.peer == ours.peer && keys.same_preshared(ours.preshared.as_ref());
        if unchanged && keys.preshared.is_some() | matches!(key, AnnouncedKey::Static(_)) {
            // It was settled before we started anew.
            let step = TheirStep::Settled { kept: true };
            let retry = Retry::now(now);
            self.rotations.theirs.insert(id, Theirs { id: number, boot, key, compromised, step, retry });
            return self.say(id, Body::Accept, number, now, out);
        }
        let good = match &key {
            AnnouncedKey::Static(_) => {
                let is_new = !self.by_key.contains_key(&keys.peer)
                    && !self.identities.has(&keys.peer)
                    && !self.rotations.denies(&keys.peer);
                is_new && self.identities.current().is_some_and(|own| own.can_agree_with(&keys.peer))
            }
            AnnouncedKey::Preshared(_) => keys.preshared.is_some(),
        };
        if !good {
            return self.say(id, Body::Refuse(Refusal::BadKey), number, now, out);
        }
        if self.is_in_the_way(id, now, out) {
            return self.say(id, Body::Refuse(Refusal::Busy), number, now, out);
        }
        self.forget_theirs(id);
        let step = TheirStep::Rehearsing;
        let retry = Retry::now(now);
        self.rotations.theirs.insert(id, Theirs { id: number, boot, key, compromised, step, retry });
    }

    /// Whether a rotation of ours, or a key that was set by hand, comes before the peer's. If both have just
    /// begun, the side with the larger key goes first and the other waits.
    fn is_in_the_way(&mut self, id: PeerId, now: Instant, out: &mut impl Output) -> bool {
        let we_go_first = {
            let theirs = super::present(&mut self.peers, id).public_key();
            self.identities.current().is_some_and(|own| own.public() > theirs)
        };
        let busy_with_theirs = self.rotations.theirs.get(&id).is_some_and(|it| it.step == TheirStep::Keeping);
        let member = self.rotations.job.as_mut().and_then(|job| job.members.get_mut(&id));
        let Some(member) = member.filter(|member| !member.is_over()) else {
            let waits_for_theirs =
                self.rotations.theirs.get(&id).is_some_and(|it| it.step == TheirStep::Accepted);
            return busy_with_theirs
                || (!waits_for_theirs && super::present(&mut self.peers, id).has_held_next());
        };
        match member.step {
            Step::Greeting | Step::Announcing | Step::Parked if !we_go_first => {
                member.reach(Step::Parked, now);
                let (peers, _, cx) = self.parts(now, out);
                super::present(peers, id).drop_next(cx.ranges);
                self.tell_step(id, RotationStep::Waiting, out);
                busy_with_theirs
            }
            Step::Greeting | Step::Announcing | Step::Parked => true,
            Step::Accepted | Step::Keeping | Step::Switching => true,
            Step::Over(_) => busy_with_theirs,
        }
    }

    fn kept_for_them(
        &mut self,
        id: PeerId,
        ticket: Ticket,
        kept: &Kept,
        now: Instant,
        out: &mut impl Output,
    ) {
        let Some(theirs) = self.rotations.theirs.get_mut(&id) else { return };
        let number = theirs.id;
        match (theirs.step, ticket.rehearsal) {
            (TheirStep::Rehearsing, true) => {
                if matches!(kept, Kept::Failed(_)) {
                    self.rotations.theirs.remove(&id);
                    return self.say(id, Body::Refuse(Refusal::CannotKeep), number, now, out);
                }
                theirs.retry = Retry::now(now);
                theirs.step = if theirs.compromised { TheirStep::Keeping } else { TheirStep::Accepted };
                let key = theirs.key.clone();
                if let AnnouncedKey::Static(bytes) = &key {
                    self.by_key.insert(PublicKey::from_bytes(*bytes), id);
                }
                self.with_peer(id, now, out, |peer, cx| {
                    let keys = with_key(peer.keys(), &key);
                    peer.hold_next(keys, cx.ranges);
                });
                self.say(id, Body::Accept, number, now, out);
                self.tell_step(id, RotationStep::Accepted, out);
            }
            (TheirStep::Keeping, false) => {
                let kept_here = *kept == Kept::OnDisk;
                theirs.step = TheirStep::Settled { kept: kept_here };
                let (compromised, key) = (theirs.compromised, theirs.key.clone());
                self.settle(id, compromised, &key, now, out);
                if !compromised {
                    self.say(id, Body::Confirm { kept: kept_here }, number, now, out);
                }
                self.tell_step(id, RotationStep::Done, out);
            }
            (
                TheirStep::Rehearsing | TheirStep::Accepted | TheirStep::Keeping | TheirStep::Settled { .. },
                _,
            ) => {}
        }
    }

    /// The peer's new key takes over on this side.
    fn settle(
        &mut self,
        id: PeerId,
        compromised: bool,
        key: &AnnouncedKey,
        now: Instant,
        out: &mut impl Output,
    ) {
        if !compromised {
            return self.promote(id, now, out);
        }
        let old = super::present(&mut self.peers, id).public_key();
        self.with_peer(id, now, out, |peer, cx| {
            let keys = with_key(peer.keys(), key);
            peer.replace_keys(keys, cx);
        });
        if matches!(key, AnnouncedKey::Static(_)) {
            self.rename(id, old);
            self.rotations.denied.insert(old);
        }
        self.with_peer(id, now, out, |peer, cx| peer.initiate(cx));
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

    fn service_theirs(&mut self, now: Instant, out: &mut impl Output) {
        let ids: Vec<PeerId> = self.rotations.theirs.keys().copied().collect();
        for id in ids {
            let used = super::present(&mut self.peers, id).next_is_used();
            let Some(theirs) = self.rotations.theirs.get_mut(&id) else { continue };
            if theirs.step == TheirStep::Accepted && used {
                theirs.step = TheirStep::Keeping;
                theirs.retry = Retry::now(now);
            }
            if !theirs.retry.is_due(now) {
                continue;
            }
            let (number, rehearsal) = (theirs.id, theirs.step == TheirStep::Rehearsing);
            match theirs.step {
                TheirStep::Rehearsing | TheirStep::Keeping => {
                    let deny = theirs.compromised;
                    let peer = super::present(&mut self.peers, id).public_key();
                    let key = match &theirs.key {
                        AnnouncedKey::Static(new) => {
                            Some(KeptKey::Peer { old: peer, new: PublicKey::from_bytes(*new), deny })
                        }
                        AnnouncedKey::Preshared(bytes) => {
                            PresharedKey::from_bytes(bytes).ok().map(|key| KeptKey::Preshared { peer, key })
                        }
                    };
                    let Some(key) = key else { continue };
                    out.rotation(RotationOutput::Keep { ticket: Ticket { id: number, rehearsal }, key });
                }
                // Is it still the wgd that announced?
                TheirStep::Accepted if super::present(&mut self.peers, id).can_seal() => {
                    if theirs.retry.tries > 3 {
                        self.say(id, Body::Hello, number, now, out);
                    }
                }
                TheirStep::Accepted | TheirStep::Settled { .. } => {}
            }
        }
    }

    fn service_job(&mut self, now: Instant, out: &mut impl Output) {
        let Some(job) = &self.rotations.job else { return };
        let (compromised, began) = (job.compromised, job.began);
        let ids: Vec<PeerId> = job.members.keys().copied().collect();
        for id in ids {
            self.service_member(id, compromised, began, now, out);
        }
        self.advance_own(now, out);
        self.finish_job(now, out);
    }

    fn service_member(
        &mut self,
        id: PeerId,
        compromised: bool,
        began: Instant,
        now: Instant,
        out: &mut impl Output,
    ) {
        let theirs_first =
            self.rotations.theirs.get(&id).is_some_and(|it| !matches!(it.step, TheirStep::Settled { .. }));
        let reachable = self.address_of(id).is_some();
        let can_seal = super::present(&mut self.peers, id).can_seal();
        let Some(job) = &mut self.rotations.job else { return };
        let own = job.own.as_ref().map(|own| (own.generation, own.secret.public_key()));
        let Some(member) = job.members.get_mut(&id).filter(|member| !member.is_over()) else { return };
        let waited = now.saturating_duration_since(member.since);
        let in_vain = match member.step {
            Step::Greeting if !reachable => Some(RotationOutcome::NotWgd),
            Step::Greeting if can_seal && waited >= CONTROL_GREETING => Some(RotationOutcome::NotWgd),
            Step::Greeting if waited >= CONTROL_UNREACHABLE => Some(RotationOutcome::Unreachable),
            Step::Announcing | Step::Parked if compromised && waited >= CONTROL_GREETING => {
                Some(RotationOutcome::Unreachable)
            }
            Step::Announcing | Step::Parked
                if now.saturating_duration_since(began) >= CONTROL_PATIENCE && job.kept.is_none() =>
            {
                Some(RotationOutcome::Refused(Refusal::Busy))
            }
            Step::Greeting
            | Step::Announcing
            | Step::Parked
            | Step::Accepted
            | Step::Keeping
            | Step::Switching
            | Step::Over(_) => None,
        };
        if let Some(outcome) = in_vain {
            return self.in_vain(id, outcome, now, out);
        }
        if member.step == Step::Accepted && member.preshared.is_some() {
            member.reach(Step::Keeping, now);
        }
        if !member.retry.is_due(now) {
            return;
        }
        let number = member.id;
        let preshared = member.preshared.clone();
        match member.step {
            Step::Greeting => {
                if member.retry.tries == 1 {
                    self.tell_step(id, RotationStep::Greeting, out);
                }
                self.say(id, Body::Hello, number, now, out);
            }
            Step::Parked | Step::Announcing if theirs_first => member.step = Step::Parked,
            Step::Parked | Step::Announcing => {
                member.step = Step::Announcing;
                let key = match (preshared, own) {
                    (Some(key), _) => AnnouncedKey::Preshared(Zeroizing::new(*key.reveal_bytes())),
                    (None, Some((_, public))) => AnnouncedKey::Static(*public.as_bytes()),
                    (None, None) => return,
                };
                self.hold_ours(id, now, out);
                self.say(id, Body::Announce { key, compromised }, number, now, out);
                self.tell_step(id, RotationStep::Announced, out);
            }
            Step::Keeping => {
                let peer = super::present(&mut self.peers, id).public_key();
                if let Some(key) = preshared {
                    let ticket = Ticket { id: number, rehearsal: false };
                    out.rotation(RotationOutput::Keep { ticket, key: KeptKey::Preshared { peer, key } });
                }
            }
            Step::Switching => {
                let waits_long = member.retry.tries > 1;
                self.with_peer(id, now, out, |peer, cx| peer.offer_next(cx));
                // A peer that started anew knows nothing of the new key, and says so if it is asked under the old.
                if waits_long || super::present(&mut self.peers, id).next_is_used() {
                    self.say(id, Body::Switched, number, now, out);
                }
                self.tell_step(id, RotationStep::Switching, out);
            }
            Step::Accepted | Step::Over(_) => {}
        }
    }

    /// With this peer it cannot be done as it is meant to be.
    fn in_vain(&mut self, id: PeerId, outcome: RotationOutcome, now: Instant, out: &mut impl Output) {
        let Some(job) = &mut self.rotations.job else { return };
        let Some(member) = job.members.get_mut(&id) else { return };
        if job.compromised && member.preshared.is_some() {
            member.alone = Some(outcome);
            return member.reach(Step::Keeping, now);
        }
        let number = member.id;
        if member.step != Step::Greeting {
            self.say(id, Body::Withdraw, number, now, out);
        }
        self.finish_member(id, outcome, now, out);
    }

    fn finish_member(&mut self, id: PeerId, outcome: RotationOutcome, now: Instant, out: &mut impl Output) {
        let rotated = matches!(outcome, RotationOutcome::Rotated { .. });
        let Some(member) = self.rotations.job.as_mut().and_then(|job| job.members.get_mut(&id)) else {
            return;
        };
        member.reach(Step::Over(outcome), now);
        if rotated {
            self.tell_step(id, RotationStep::Done, out);
        } else if self.rotations.theirs.get(&id).is_none_or(|it| matches!(it.step, TheirStep::Settled { .. }))
        {
            // Whatever is held there is ours.
            let (peers, _, cx) = self.parts(now, out);
            let peer = super::present(peers, id);
            if peer.has_held_next() {
                peer.drop_next(cx.ranges);
            }
        }
    }

    /// The new keys live on our side from the announcement on: a peer that starts anew may have them alone.
    fn hold_ours(&mut self, id: PeerId, now: Instant, out: &mut impl Output) {
        let Some(job) = &self.rotations.job else { return };
        let own = job.own.as_ref().map(|own| own.generation);
        let preshared = job.members.get(&id).and_then(|member| member.preshared.clone());
        self.with_peer(id, now, out, |peer, cx| {
            if !peer.has_held_next() {
                let mut keys = peer.keys().clone();
                keys.own = own.unwrap_or(keys.own);
                keys.preshared = preshared.or(keys.preshared);
                peer.hold_next(keys, cx.ranges);
            }
        });
    }

    /// A pre-shared key is on our disk.
    fn switch_preshared(&mut self, id: PeerId, now: Instant, out: &mut impl Output) {
        self.tell_step(id, RotationStep::Kept, out);
        let Some(job) = &mut self.rotations.job else { return };
        let compromised = job.compromised;
        let Some(member) = job.members.get_mut(&id) else { return };
        let (alone, preshared) = (member.alone.clone(), member.preshared.clone());
        if !compromised {
            return member.reach(Step::Switching, now);
        }
        self.with_peer(id, now, out, |peer, cx| {
            let keys = Keys { preshared, ..peer.keys().clone() };
            peer.replace_keys(keys, cx);
            peer.initiate(cx);
        });
        let outcome = alone.unwrap_or(RotationOutcome::Rotated { kept_there: true });
        self.finish_member(id, outcome, now, out);
    }

    /// Goes on with our static key when every peer has it or cannot be told.
    fn advance_own(&mut self, now: Instant, out: &mut impl Output) {
        let Some(job) = &mut self.rotations.job else { return };
        let Some(own) = &mut job.own else { return };
        match own.stage {
            OwnStage::Announcing => {
                let stopped = |member: &Member| {
                    matches!(
                        member.step,
                        Step::Over(RotationOutcome::Unreachable | RotationOutcome::Refused(_))
                    )
                };
                if !job.compromised && job.members.values().any(stopped) {
                    return self.abandon_job(now, out);
                }
                if !job.members.values().all(|member| member.is_over() || member.step == Step::Accepted) {
                    return;
                }
                own.stage = OwnStage::Keeping;
                let ticket = Ticket { id: own.id, rehearsal: false };
                out.rotation(RotationOutput::Keep { ticket, key: KeptKey::Own(own.secret.clone()) });
            }
            OwnStage::Keeping | OwnStage::Switching => {}
        }
    }

    /// Our static key is on our disk.
    fn switch_own(&mut self, now: Instant, out: &mut impl Output) {
        let Some(job) = &mut self.rotations.job else { return };
        let Some(own) = &mut job.own else { return };
        own.stage = OwnStage::Switching;
        let (generation, secret, compromised) = (own.generation, own.secret.clone(), job.compromised);
        let mut untold = Vec::new();
        for (&id, member) in &mut job.members {
            if member.is_over() {
                untold.push(id);
            } else if compromised {
                member.reach(Step::Over(RotationOutcome::Rotated { kept_there: true }), now);
            } else {
                member.reach(Step::Switching, now);
            }
        }
        let told: Vec<PeerId> = job.members.keys().copied().filter(|id| !untold.contains(id)).collect();
        for id in told {
            self.tell_step(id, RotationStep::Kept, out);
        }
        if compromised {
            if let Some(old) = self.identities.current().map(crate::identity::Identity::public) {
                self.rotations.denied.insert(old);
            }
            let ids: Vec<PeerId> = self.peers.iter().flatten().map(|(_, peer)| peer.id()).collect();
            for id in &ids {
                self.with_peer(*id, now, out, |peer, cx| {
                    peer.forget_sessions(generation, cx.ranges);
                });
            }
            self.identities.establish(generation);
            self.identities.retain(|_| false);
            self.tell_own_key(secret.public_key(), now, out);
            for id in ids {
                self.with_peer(id, now, out, |peer, cx| peer.initiate(cx));
            }
            return;
        }
        for id in untold {
            self.await_own(id, generation, now, out);
        }
    }

    /// The peer is on its own: it gets our new key from its operator, and until then it has the old one.
    fn await_own(&mut self, id: PeerId, generation: Generation, now: Instant, out: &mut impl Output) {
        self.with_peer(id, now, out, |peer, cx| {
            let keys = Keys { own: generation, ..peer.keys().clone() };
            peer.await_next(keys, cx.ranges);
        });
    }

    fn finish_job(&mut self, now: Instant, out: &mut impl Output) {
        let over = |job: &Job| {
            let own = job.own.as_ref().is_none_or(|own| own.stage == OwnStage::Switching);
            own && job.members.values().all(Member::is_over)
        };
        if !self.rotations.job.as_ref().is_some_and(over) {
            return;
        }
        let Some(job) = self.rotations.job.take() else { return };
        let public_key = job.own.as_ref().map(|own| own.secret.public_key());
        if let Some(own) = &job.own
            && self.identities.current_generation() != own.generation
        {
            self.identities.establish(own.generation);
            self.tell_own_key(own.secret.public_key(), now, out);
            // Peers that came meanwhile.
            let late: Vec<PeerId> = self
                .peers
                .iter()
                .flatten()
                .map(|(_, peer)| peer)
                .filter(|peer| !peer.uses(own.generation))
                .map(|peer| peer.id())
                .collect();
            for id in late {
                self.await_own(id, own.generation, now, out);
            }
        }
        self.tell_verdict(job, public_key, out);
    }

    /// The old keys stay in force, with everybody.
    fn abandon_job(&mut self, now: Instant, out: &mut impl Output) {
        let Some(mut job) = self.rotations.job.take() else { return };
        for (&id, member) in &mut job.members {
            if member.is_over() {
                continue;
            }
            if member.step != Step::Greeting {
                self.say(id, Body::Withdraw, member.id, now, out);
            }
            member.step = Step::Over(RotationOutcome::Abandoned);
            let theirs = self.rotations.theirs.get(&id);
            if theirs.is_none_or(|it| matches!(it.step, TheirStep::Settled { .. })) {
                let (peers, _, cx) = self.parts(now, out);
                let peer = super::present(peers, id);
                if peer.has_held_next() {
                    peer.drop_next(cx.ranges);
                }
            }
        }
        self.tell_verdict(job, None, out);
    }

    fn tell_verdict(&self, job: Job, public_key: Option<PublicKey>, out: &mut impl Output) {
        let outcome = |step: Step| match step {
            Step::Over(outcome) => outcome,
            Step::Greeting
            | Step::Announcing
            | Step::Parked
            | Step::Accepted
            | Step::Keeping
            | Step::Switching => RotationOutcome::Abandoned,
        };
        let peers = job.members.into_iter().filter_map(|(id, member)| {
            let (_, peer) = self.peers.get(id)?.as_ref()?;
            Some((peer.identity(), outcome(member.step)))
        });
        out.rotation(RotationOutput::Finished(Verdict {
            kind: job.kind,
            compromised: job.compromised,
            public_key,
            kept: job.kept,
            peers: peers.collect(),
        }));
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

    fn forget_theirs(&mut self, id: PeerId) {
        let Some(theirs) = self.rotations.theirs.remove(&id) else { return };
        if matches!(theirs.step, TheirStep::Settled { .. }) {
            return;
        }
        let Some((_, peer)) = self.peers.get_mut(id).and_then(Option::as_mut) else { return };
        if peer.has_held_next() {
            peer.drop_next(&mut self.ranges);
        }
        if let AnnouncedKey::Static(bytes) = &theirs.key {
            let key = PublicKey::from_bytes(*bytes);
            if peer.public_key() != key {
                self.by_key.remove(&key);
            }
        }
    }

    fn tell_step(&mut self, id: PeerId, step: RotationStep, out: &mut impl Output) {
        let peer = super::present(&mut self.peers, id).identity();
        out.rotation(RotationOutput::Step { peer, step });
    }

    /// Where the peer's wgd is to be found inside the tunnel: where it wrote from, else its only address.
    fn address_of(&self, id: PeerId) -> Option<(IpAddr, IpAddr)> {
        let of_family =
            |to: &IpAddr| self.addresses.iter().copied().find(|own| own.is_ipv4() == to.is_ipv4());
        let single = |net: &ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
        let configured = self.allowed_ips.of_peer(id).filter(single).map(|net| net.addr());
        let learned = self.rotations.learned.get(&id).copied();
        let learned = learned.filter(|address| self.allowed_ips.lookup(*address) == Some(id));
        learned.into_iter().chain(configured).find_map(|to| Some((of_family(&to)?, to)))
    }

    fn say(&mut self, id: PeerId, body: Body, number: RotationId, now: Instant, out: &mut impl Output) {
        if self.rotations.boot == 0 {
            self.rotations.boot = getrandom::u64().unwrap_or(1).max(1);
        }
        let Some((from, to)) = self.address_of(id) else { return };
        let message = ControlMessage { boot: self.rotations.boot, id: number, body };
        let Some(packet) = message.to_packet(from, to) else { return };
        self.with_peer(id, now, out, |peer, cx| peer.send(&packet, cx));
    }
}

enum Answer {
    Welcome,
    Accept,
    Refuse(Refusal),
    Confirm { kept: bool },
    Unknown { under_the_old: bool },
}

fn with_key(keys: &Keys, key: &AnnouncedKey) -> Keys {
    let mut keys = keys.clone();
    match key {
        AnnouncedKey::Static(bytes) => keys.peer = PublicKey::from_bytes(*bytes),
        AnnouncedKey::Preshared(bytes) => keys.preshared = PresharedKey::from_bytes(bytes).ok(),
    }
    keys
}
