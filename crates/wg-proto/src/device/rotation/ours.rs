//! Rotations that we begin: every peer is told, our disk has the new key, handshakes switch to it.
//!
//! **Invariant:** nobody reaches [`Step::Switching`], and no old key is let go of, before the shell has
//! answered the order to keep the new one.

use std::collections::BTreeMap;
use std::time::Instant;

use zeroize::Zeroizing;

use super::messages::Answer;
use super::{Job, Member, OwnKey, OwnStage, Retry, Step, TheirStep};
use crate::control::{AnnouncedKey, Body, Refusal, RotationId};
use crate::device::{Device, PeerId, present};
use crate::identities::Generation;
use crate::limits::our_choice::{CONTROL_GREETING, CONTROL_PATIENCE, CONTROL_SILENT, CONTROL_UNREACHABLE};
use crate::peer::Keys;
use crate::rotation::{
    Kept, KeptAs, KeptKey, RotateError, RotationKind, RotationOutcome, RotationOutput, RotationRequest,
    RotationStep, Ticket, Verdict,
};
use crate::{Output, PresharedKey, PublicKey, SecretKey};

impl Device {
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
                let (id, stage) = (RotationId::random().map_err(none)?, OwnStage::Announcing);
                Some(OwnKey { id, generation, secret, stage, retry: Retry::now(now) })
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
            members.insert(id, Member::new(number, preshared, now));
        }
        let RotationRequest { kind, compromised, .. } = *request;
        self.rotations.job = Some(Job { kind, compromised, began: now, own, members, kept: None });
        self.service_rotations(now, out);
        Ok(())
    }

    /// The configuration has two keys: our last life began a rotation, and nobody knows how far the peers came.
    /// Handshakes are tried with both, and the rotation goes on.
    pub(in crate::device) fn resume_rotation(
        &mut self,
        own: Option<SecretKey>,
        preshared: Vec<(PublicKey, PresharedKey)>,
        now: Instant,
        out: &mut impl Output,
    ) {
        let Some(current) = self.identities.current().filter(|_| self.rotations.job.is_none()) else {
            return;
        };
        let own = own.filter(|key| !current.secret().same_as(key));
        let (kind, ids) = match &own {
            Some(_) => {
                let all = self.peers.iter().flatten().map(|(_, peer)| (peer.id(), None));
                (RotationKind::Static, all.collect())
            }
            None => {
                let of_peer = |(peer, key)| Some((*self.by_key.get(&peer)?, Some(key)));
                (RotationKind::Preshared, preshared.into_iter().filter_map(of_peer).collect::<Vec<_>>())
            }
        };
        let Ok(number) = RotationId::random() else { return };
        let own = own.map(|secret| {
            let generation = self.identities.announce(secret.clone());
            OwnKey { id: number, generation, secret, stage: OwnStage::Switching, retry: Retry::now(now) }
        });
        let mut members = BTreeMap::new();
        for (id, preshared) in ids {
            let number = if preshared.is_some() { RotationId::random().unwrap_or(number) } else { number };
            members.insert(id, Member { kept: true, ..Member::new(number, preshared, now) });
        }
        if own.is_none() && members.is_empty() {
            return;
        }
        let ids: Vec<PeerId> = members.keys().copied().collect();
        let kept = Some(Kept::OnDisk);
        self.rotations.job = Some(Job { kind, compromised: false, began: now, own, members, kept });
        for id in ids {
            self.hold_ours(id, now, out);
            self.with_peer(id, now, out, |peer, _| peer.prefer_next());
        }
    }

    /// Answers to what we began.
    pub(super) fn hear_answer(
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
            (Answer::Accept { under_the_old }, Step::Announcing) => {
                let kept = member.kept;
                member.reach(if kept { Step::Switching } else { Step::Accepted }, now);
                if kept && under_the_old {
                    // It has started anew; whatever was tried or made with the new key, it knows nothing of.
                    let (peers, _, cx) = self.parts(now, out);
                    present(peers, id).drop_next(cx.ranges);
                    self.hold_ours(id, now, out);
                }
                self.tell_step(id, RotationStep::Accepted, out);
            }
            (Answer::Refuse(Refusal::Busy), Step::Announcing | Step::Parked) => {
                member.step = Step::Parked;
                self.tell_step(id, RotationStep::Waiting, out);
            }
            // It has started anew, and cannot take what it took before. Until it can, both keys serve.
            (Answer::Refuse(_), Step::Announcing | Step::Parked) if member.kept => {}
            (Answer::Refuse(refusal), Step::Announcing | Step::Parked) => {
                self.finish_member(id, RotationOutcome::Refused(refusal), now, out);
            }
            (Answer::Unknown { under_the_old }, Step::Switching) => {
                member.reach(Step::Announcing, now);
                if under_the_old {
                    // Handshakes that it could not answer begin anew once it has the key.
                    let (peers, _, cx) = self.parts(now, out);
                    present(peers, id).drop_next(cx.ranges);
                }
            }
            (Answer::Confirm { kept }, Step::Switching) => {
                let outcome = RotationOutcome::Rotated { kept_there: kept };
                let (number, is_preshared) = (member.id, member.preshared.is_some());
                if is_preshared {
                    member.alone = Some(outcome.clone());
                    member.reach(Step::Settling, now);
                }
                self.promote(id, now, out);
                self.say(id, Body::Done, number, now, out);
                if !is_preshared {
                    self.finish_member(id, outcome, now, out);
                }
            }
            (
                Answer::Welcome
                | Answer::Accept { .. }
                | Answer::Refuse(_)
                | Answer::Confirm { .. }
                | Answer::Unknown { .. },
                _,
            ) => {}
        }
    }

    pub(super) fn service_job(&mut self, now: Instant, out: &mut impl Output) {
        let Some(job) = &self.rotations.job else { return };
        let (compromised, began) = (job.compromised, job.began);
        let ids: Vec<PeerId> = job.members.keys().copied().collect();
        let is_stalled = job.is_stalled(now);
        for id in ids {
            if is_stalled {
                self.tell_stalled(id, out);
            }
            self.service_member(id, compromised, began, now, out);
        }
        self.advance_own(now, out);
        self.finish_job(now, out);
    }

    /// Once.
    fn tell_stalled(&mut self, id: PeerId, out: &mut impl Output) {
        let member = self.rotations.job.as_mut().and_then(|job| job.members.get_mut(&id));
        if let Some(member) = member.filter(|member| !member.is_over() && !member.told_stalled) {
            member.told_stalled = true;
            self.tell_step(id, RotationStep::Stalled, out);
        }
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
        let peer = present(&mut self.peers, id);
        let can_seal = peer.can_seal(now);
        let heard_after = |since| peer.was_heard_after(since);
        let member = self.rotations.job.as_ref().and_then(|job| job.members.get(&id));
        // Keys alone say nothing: it may have died with its half of them.
        let is_there = compromised || member.and_then(|member| member.first_hello).is_some_and(heard_after);
        let Some(job) = &mut self.rotations.job else { return };
        let own = job.own.as_ref().map(|own| (own.generation, own.secret.public_key()));
        let Some(member) = job.members.get_mut(&id).filter(|member| !member.is_over()) else { return };
        let waited = now.saturating_duration_since(member.since);
        if member.step == Step::Greeting && !can_seal {
            (member.first_hello, member.greeted) = (None, None);
        }
        let greeted = member.greeted.is_some_and(|since| now >= since + CONTROL_GREETING);
        let patience = if can_seal { CONTROL_SILENT } else { CONTROL_UNREACHABLE };
        let in_vain = match member.step {
            // Of a pre-shared key's rotation it was a wgd once.
            Step::Greeting if member.kept && (!greeted || member.preshared.is_some()) => None,
            Step::Greeting if !reachable || greeted => Some(RotationOutcome::NotWgd),
            Step::Greeting if waited >= patience => Some(RotationOutcome::Unreachable),
            Step::Announcing | Step::Parked if member.kept => None,
            Step::Announcing | Step::Parked if compromised && waited >= CONTROL_GREETING => {
                Some(RotationOutcome::Unreachable)
            }
            Step::Announcing | Step::Parked if now.saturating_duration_since(began) >= CONTROL_PATIENCE => {
                Some(RotationOutcome::Refused(Refusal::Busy))
            }
            Step::Greeting
            | Step::Announcing
            | Step::Parked
            | Step::Accepted
            | Step::Keeping
            | Step::Switching
            | Step::Settling
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
                if can_seal {
                    member.first_hello.get_or_insert(now);
                }
                if can_seal && is_there {
                    member.greeted.get_or_insert(now);
                }
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
            Step::Keeping | Step::Settling => {
                let beside = member.step == Step::Keeping && !compromised;
                let place = if beside { KeptAs::Next } else { KeptAs::Current };
                let peer = present(&mut self.peers, id).public_key();
                if let Some(key) = preshared {
                    let ticket = Ticket { id: number, rehearsal: false };
                    out.rotation(RotationOutput::Keep {
                        ticket,
                        key: KeptKey::Preshared { peer, key, place },
                    });
                }
            }
            Step::Switching => {
                let waits_long = member.retry.tries > 1;
                self.with_peer(id, now, out, |peer, cx| peer.offer_next(cx));
                // A peer that started anew knows nothing of the new key, and says so if it is asked under the old.
                if waits_long || present(&mut self.peers, id).next_is_used() {
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

    pub(super) fn finish_member(
        &mut self,
        id: PeerId,
        outcome: RotationOutcome,
        now: Instant,
        out: &mut impl Output,
    ) {
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
            let peer = present(peers, id);
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
    pub(super) fn switch_preshared(&mut self, id: PeerId, now: Instant, out: &mut impl Output) {
        self.tell_step(id, RotationStep::Kept, out);
        let Some(job) = &mut self.rotations.job else { return };
        let compromised = job.compromised;
        let Some(member) = job.members.get_mut(&id) else { return };
        let (alone, preshared) = (member.alone.clone(), member.preshared.clone());
        member.kept = true;
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
                (own.stage, own.retry) = (OwnStage::Keeping, Retry::now(now));
            }
            OwnStage::Switching if job.members.values().all(Member::is_over) => {
                if job.compromised {
                    return;
                }
                (own.stage, own.retry) = (OwnStage::Settling, Retry::now(now));
            }
            OwnStage::Keeping | OwnStage::Switching | OwnStage::Settling => {}
        }
        let place = match own.stage {
            OwnStage::Keeping if !job.compromised => KeptAs::Next,
            OwnStage::Keeping | OwnStage::Settling => KeptAs::Current,
            OwnStage::Announcing | OwnStage::Switching => return,
        };
        if own.retry.is_due(now) {
            let current = self.identities.current().map(crate::identity::Identity::public);
            let deny = current.filter(|_| job.compromised);
            let ticket = Ticket { id: own.id, rehearsal: false };
            let key = KeptKey::Own { key: own.secret.clone(), place, deny };
            out.rotation(RotationOutput::Keep { ticket, key });
        }
    }

    /// Our disk has the new pre-shared key alone.
    pub(super) fn preshared_is_settled(&mut self, id: PeerId, now: Instant, out: &mut impl Output) {
        let member = self.rotations.job.as_mut().and_then(|job| job.members.get_mut(&id));
        if let Some(outcome) = member.and_then(|member| member.alone.clone()) {
            self.finish_member(id, outcome, now, out);
        }
    }

    /// Our static key is on our disk, beside the old one unless that is compromised.
    pub(super) fn switch_own(&mut self, now: Instant, out: &mut impl Output) {
        let Some(job) = &mut self.rotations.job else { return };
        let Some(own) = &mut job.own else { return };
        own.stage = OwnStage::Switching;
        let (generation, secret, compromised) = (own.generation, own.secret.clone(), job.compromised);
        let mut untold = Vec::new();
        for (&id, member) in &mut job.members {
            member.kept = true;
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
            let own = job.own.as_ref().is_none_or(|own| own.stage == OwnStage::Switching && job.compromised);
            own && job.members.values().all(Member::is_over)
        };
        if self.rotations.job.as_ref().is_some_and(over) {
            self.conclude(now, out);
        }
    }

    /// Our disk has the new static key alone.
    pub(super) fn own_is_settled(&mut self, now: Instant, out: &mut impl Output) {
        self.conclude(now, out);
    }

    fn conclude(&mut self, now: Instant, out: &mut impl Output) {
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
    pub(super) fn abandon_job(&mut self, now: Instant, out: &mut impl Output) {
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
                let peer = present(peers, id);
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
            | Step::Switching
            | Step::Settling => RotationOutcome::Abandoned,
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
}
