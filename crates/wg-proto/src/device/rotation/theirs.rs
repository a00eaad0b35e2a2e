//! Rotations that a peer begins: we take its new key beside the old one, write it, and let go.
//!
//! **Invariant:** a key that is not in force yet is accepted only once the shell has rehearsed keeping it, and
//! the old one is let go of only once the shell has answered the order to keep the new one.

use std::time::Instant;

use super::{Retry, Step, TheirStep, Theirs};
use crate::control::{AnnouncedKey, Body, Refusal, RotationId};
use crate::device::{Device, PeerId, present};
use crate::peer::Keys;
use crate::rotation::{Kept, KeptAs, KeptKey, RotationOutput, RotationStep, Ticket};
use crate::{Output, PresharedKey, PublicKey};

impl Device {
    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    pub(super) fn hear_announcement(
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
        if let Some(theirs) = self.rotations.theirs.get_mut(&id)
            && same_key(&theirs.key, &key)
            && !theirs.compromised
            && !compromised
            && matches!(theirs.step, TheirStep::Accepted | TheirStep::Keeping)
        {
            // The same key, from a wgd that has started anew and goes on where it was.
            (theirs.id, theirs.boot) = (number, boot);
            return self.say(id, Body::Accept, number, now, out);
        }
        let (keys, ours) = {
            let peer = present(&mut self.peers, id);
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
        if compromised && matches!(key, AnnouncedKey::Static(_)) && self.rotations.denies_too_many() {
            return self.say(id, Body::Refuse(Refusal::CannotKeep), number, now, out);
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
            let theirs = present(&mut self.peers, id).public_key();
            self.identities.current().is_some_and(|own| own.public() > theirs)
        };
        let busy_with_theirs = self.rotations.theirs.get(&id).is_some_and(|it| it.step == TheirStep::Keeping);
        let member = self.rotations.job.as_mut().and_then(|job| job.members.get_mut(&id));
        let Some(member) = member.filter(|member| !member.is_over()) else {
            let waits_for_theirs =
                self.rotations.theirs.get(&id).is_some_and(|it| it.step == TheirStep::Accepted);
            return busy_with_theirs || (!waits_for_theirs && present(&mut self.peers, id).has_held_next());
        };
        match member.step {
            // Perhaps the peer knows us by the new key alone.
            Step::Greeting | Step::Announcing | Step::Parked if member.kept => true,
            Step::Greeting | Step::Announcing | Step::Parked if !we_go_first => {
                member.reach(Step::Parked, now);
                let (peers, _, cx) = self.parts(now, out);
                present(peers, id).drop_next(cx.ranges);
                self.tell_step(id, RotationStep::Waiting, out);
                busy_with_theirs
            }
            Step::Greeting | Step::Announcing | Step::Parked => true,
            Step::Accepted | Step::Keeping | Step::Switching | Step::Settling => true,
            Step::Over(_) => busy_with_theirs,
        }
    }

    pub(super) fn kept_for_them(
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
        let old = present(&mut self.peers, id).public_key();
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

    pub(super) fn service_theirs(&mut self, now: Instant, out: &mut impl Output) {
        let ids: Vec<PeerId> = self.rotations.theirs.keys().copied().collect();
        for id in ids {
            let used = present(&mut self.peers, id).next_is_used();
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
                    let peer = present(&mut self.peers, id).public_key();
                    let key = match &theirs.key {
                        AnnouncedKey::Static(new) => {
                            Some(KeptKey::Peer { old: peer, new: PublicKey::from_bytes(*new), deny })
                        }
                        AnnouncedKey::Preshared(bytes) => PresharedKey::from_bytes(bytes)
                            .ok()
                            .map(|key| KeptKey::Preshared { peer, key, place: KeptAs::Current }),
                    };
                    let Some(key) = key else { continue };
                    out.rotation(RotationOutput::Keep { ticket: Ticket { id: number, rehearsal }, key });
                }
                // Is it still the wgd that announced?
                TheirStep::Accepted if present(&mut self.peers, id).can_seal(now) => {
                    if theirs.retry.tries > 3 {
                        self.say(id, Body::Hello, number, now, out);
                    }
                }
                TheirStep::Accepted | TheirStep::Settled { .. } => {}
            }
        }
    }

    pub(super) fn forget_theirs(&mut self, id: PeerId) {
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
}

fn same_key(one: &AnnouncedKey, other: &AnnouncedKey) -> bool {
    match (one, other) {
        (AnnouncedKey::Static(one), AnnouncedKey::Static(other)) => one == other,
        (AnnouncedKey::Preshared(one), AnnouncedKey::Preshared(other)) => {
            let (one, other) = (PresharedKey::from_bytes(one), PresharedKey::from_bytes(other));
            one.ok().zip(other.ok()).is_some_and(|(one, other)| one.same_as(&other))
        }
        (AnnouncedKey::Static(_), AnnouncedKey::Preshared(_))
        | (AnnouncedKey::Preshared(_), AnnouncedKey::Static(_)) => false,
    }
}

fn with_key(keys: &Keys, key: &AnnouncedKey) -> Keys {
    let mut keys = keys.clone();
    match key {
        AnnouncedKey::Static(bytes) => keys.peer = PublicKey::from_bytes(*bytes),
        AnnouncedKey::Preshared(bytes) => keys.preshared = PresharedKey::from_bytes(bytes).ok(),
    }
    keys
}
