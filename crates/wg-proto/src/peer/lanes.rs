//! How keys of a live peer are replaced: a *next* lane comes, is used, takes over; the old session drains.

use std::time::Instant;

use super::{Context, Keys, Lane, Next, Peer, Place, Ranges};
use crate::identities::Generation;
use crate::limits::our_choice::MAX_DRAINING_SESSIONS;
use crate::session::Session;
use crate::{ChangedKey, DeviceEvent, Output, PresharedKey, PublicKey};

impl Place {
    /// The other lane.
    pub(super) fn other(self) -> Place {
        match self {
            Place::Current => Place::Next,
            Place::Next | Place::Draining => Place::Current,
        }
    }
}

impl Peer {
    /// The keys in force.
    pub(crate) fn keys(&self) -> &Keys {
        &self.current.keys
    }

    /// What `get` shows: a key that was set stands there even if the peer has not used it yet.
    pub(super) fn configured_preshared_key(&self) -> Option<&PresharedKey> {
        let set = self.next.as_ref().filter(|next| !next.held);
        set.map_or(&self.current, |next| &next.lane).keys.preshared.as_ref()
    }

    /// All keys that the peer may be known by.
    pub(crate) fn all_public_keys(&self) -> impl Iterator<Item = PublicKey> + use<> {
        let next = self.next.as_ref().map(|next| next.lane.keys.peer);
        [Some(self.current.keys.peer), next].into_iter().flatten()
    }

    /// Whether a set of keys waits to be told to take over.
    pub(crate) fn has_held_next(&self) -> bool {
        self.next.as_ref().is_some_and(|next| next.held)
    }

    /// Whether the peer has used the next keys.
    pub(crate) fn next_is_used(&self) -> bool {
        self.next.as_ref().is_some_and(|next| next.in_use)
    }

    /// Whether any of the lanes uses this key of ours.
    pub(crate) fn uses(&self, own: Generation) -> bool {
        self.current.keys.own == own || self.next.as_ref().is_some_and(|next| next.lane.keys.own == own)
    }

    /// Whether anything authentic has come from it since then.
    pub(crate) fn was_heard_after(&self, then: Instant) -> bool {
        self.timers.was_heard_after(then)
    }

    /// Whether a packet can be sealed now.
    pub(crate) fn can_seal(&self, now: Instant) -> bool {
        self.a_lane_is_ready(now) || self.draining.iter().any(|session| session.is_ready(now))
    }

    /// The next handshake uses the key; what runs goes on, and as long as the peer has the old key alone,
    /// handshakes are made with that.
    pub(crate) fn set_preshared_key(&mut self, key: Option<PresharedKey>, cx: &mut Context<'_, impl Output>) {
        let target = self.next.as_ref().map_or(&self.current, |next| &next.lane);
        if target.keys.same_preshared(key.as_ref()) {
            return;
        }
        if self.has_held_next() && self.current.keys.same_preshared(key.as_ref()) {
            // A rotation is under way, and somebody reads the file, which has this key until it is over.
            return;
        }
        let keys = Keys { preshared: key, ..self.current.keys.clone() };
        self.drop_next(cx.ranges);
        let Some(session) = &self.current.session else {
            self.current.keys = keys;
            return;
        };
        if !session.may_hold_keys() && self.draining.is_empty() {
            cx.ranges.release(session);
            self.current = Lane::new(keys);
            self.attempting = None;
            self.timers.handshake_over();
        } else if !self.current.keys.same_preshared(keys.preshared.as_ref()) {
            self.put_next(keys, true, false);
        }
        let peer = self.identity();
        cx.out.event(DeviceEvent::KeyChanged { peer, key: ChangedKey::Preshared });
    }

    /// Takes these keys beside the present ones, until [`Peer::promote`] or [`Peer::drop_next`].
    pub(crate) fn hold_next(&mut self, keys: Keys, ranges: &mut Ranges) {
        self.drop_next(ranges);
        self.put_next(keys, false, true);
    }

    /// Takes these keys beside the present ones; they take over as soon as the peer uses them.
    pub(crate) fn await_next(&mut self, keys: Keys, ranges: &mut Ranges) {
        self.drop_next(ranges);
        self.put_next(keys, false, false);
    }

    /// Forgets the next keys.
    pub(crate) fn drop_next(&mut self, ranges: &mut Ranges) {
        if let Some(session) = self.next.take().and_then(|next| next.lane.session) {
            ranges.release(&session);
        }
        self.other_is_due = None;
    }

    /// Handshakes of ours begin with the next keys.
    pub(crate) fn prefer_next(&mut self) {
        if let Some(next) = &mut self.next {
            next.offered = true;
        }
    }

    /// Begins a handshake with the next keys, unless they are in use or one is under way.
    pub(crate) fn offer_next(&mut self, cx: &mut Context<'_, impl Output>) {
        let Some(next) = &mut self.next else { return };
        next.offered = true;
        if !next.in_use {
            self.initiate_in(Place::Next, cx);
        }
    }

    /// The next keys take over; the old session opens what is still under way.
    pub(crate) fn promote(&mut self, cx: &mut Context<'_, impl Output>) {
        let Some(next) = self.next.take() else { return };
        let old = std::mem::replace(&mut self.current, next.lane);
        self.public_key = self.current.keys.peer;
        self.other_is_due = None;
        self.drain(old.session, cx.ranges);
        self.timers.keep_ticking(cx.now);
        if next.held {
            self.announce_change(&old.keys, cx.out);
        }
    }

    /// The keys take over at once, and nothing of the old ones is opened any more.
    pub(crate) fn replace_keys(&mut self, keys: Keys, cx: &mut Context<'_, impl Output>) {
        let old = self.current.keys.clone();
        let own = keys.own;
        self.forget_sessions(own, cx.ranges);
        self.current = Lane::new(keys);
        self.public_key = self.current.keys.peer;
        self.announce_change(&old, cx.out);
    }

    /// Our own key changed or went: nothing of the old sessions is of use.
    pub(crate) fn forget_sessions(&mut self, own: Generation, ranges: &mut Ranges) {
        if let Some(set) = self.next.as_ref().filter(|next| !next.held) {
            self.current.keys.preshared.clone_from(&set.lane.keys.preshared);
        }
        self.current.keys.own = own;
        self.drop_next(ranges);
        for session in self.current.session.take().into_iter().chain(self.draining.drain(..)) {
            ranges.release(&session);
        }
        self.attempting = None;
        self.initiations_may_be_replayed = false;
        self.timers.handshake_over();
        self.timers.stop_ticking();
    }

    /// The interface went down: its sessions end, and the keys that they hold go with them.
    pub(crate) fn end_sessions(&mut self, cx: &mut Context<'_, impl Output>) {
        let next = self.next.as_mut().and_then(|next| next.lane.session.take());
        for session in self.current.session.take().into_iter().chain(next).chain(self.draining.drain(..)) {
            cx.ranges.release(&session);
        }
        self.attempting = None;
        self.other_is_due = None;
        self.drop_staged(cx);
        let peer = self.identity();
        if self.timers.link_down(cx.now) {
            cx.out.event(DeviceEvent::PeerDown { peer });
        }
    }

    pub(super) fn next_is_in_use(&mut self, cx: &mut Context<'_, impl Output>) {
        let Some(next) = &mut self.next else { return };
        next.in_use = true;
        if !next.held {
            self.promote(cx);
        }
    }

    fn put_next(&mut self, keys: Keys, offered: bool, held: bool) {
        self.next = Some(Next { lane: Lane::new(keys), offered, held, in_use: false });
        // The first handshake with these keys need not keep its distance to one with others.
        self.timers.handshake_over();
    }

    fn drain(&mut self, session: Option<Session>, ranges: &mut Ranges) {
        let Some(session) = session else { return };
        if !session.may_hold_keys() {
            return ranges.release(&session);
        }
        self.draining.push(session);
        if self.draining.len() > MAX_DRAINING_SESSIONS {
            let oldest = self.draining.remove(0);
            ranges.release(&oldest);
        }
    }

    fn announce_change(&self, old: &Keys, out: &mut impl Output) {
        let changes = [
            (old.peer != self.current.keys.peer, ChangedKey::Peer),
            (!old.same_preshared(self.current.keys.preshared.as_ref()), ChangedKey::Preshared),
        ];
        for (_, key) in changes.into_iter().filter(|(changed, _)| *changed) {
            out.event(DeviceEvent::KeyChanged { peer: self.identity(), key });
        }
    }
}
