//! A peer's handshakes: those we begin, those we answer, and what follows when one is completed.
//!
//! **Invariant:** a response moves the endpoint only once it has authenticated, and an initiation alone only
//! if it cannot be a recording from this daemon's last life.

use std::time::{Duration, Instant};

use super::{Context, Lane, Peer, Place, find};
use crate::identities::Generation;
use crate::limits::from_the_specification::INITIATION_BYTES;
use crate::noise::initiation::Initiation;
use crate::session::Session;
use crate::{DeviceEvent, DropReason, Endpoint, Output};

impl Peer {
    /// An initiation that has passed the gate, by a key of the peer's to a key of ours; each lane with these
    /// keys answers, and the initiator takes the answer that fits its pre-shared key.
    pub(crate) fn accept_initiation(
        &mut self,
        initiation: &Initiation,
        own: Generation,
        from: Endpoint,
        cx: &mut Context<'_, impl Output>,
    ) -> Result<(), DropReason> {
        let fits = |lane: &Lane| lane.keys.own == own && lane.keys.peer == initiation.public;
        let lanes = [fits(&self.current), self.next.as_ref().is_some_and(|next| fits(&next.lane))];
        if lanes == [false, false] {
            return Err(DropReason::UnknownPeer);
        }
        if self.last_initiation.is_some_and(|last| initiation.made <= last) {
            self.handshakes.responder_failed += 1;
            return Err(DropReason::Replay);
        }
        self.last_initiation = Some(initiation.made);
        let mut result = Err(DropReason::NoSession);
        for (place, _) in [Place::Current, Place::Next].into_iter().zip(lanes).filter(|(_, fits)| *fits) {
            if !self.ensure_session(place, cx) {
                continue;
            }
            let lane = match (place, &mut self.next) {
                (Place::Next, Some(next)) => &mut next.lane,
                (Place::Next | Place::Current | Place::Draining, _) => &mut self.current,
            };
            let Some(session) = &mut lane.session else { continue };
            match session.accept_initiation(initiation, cx.now, cx.scratch) {
                Ok(response) => {
                    self.wire.transmit_to(from, response, cx.out);
                    result = Ok(());
                }
                Err(reason) if result.is_err() => result = Err(reason),
                Err(_) => {}
            }
        }
        if let Err(reason) = result {
            self.handshakes.responder_failed += 1;
            return Err(reason);
        }
        let follows = (!self.initiations_may_be_replayed).then_some(from);
        if let Some((from, to)) = self.wire.received(INITIATION_BYTES, follows) {
            let peer = self.identity();
            cx.out.event(DeviceEvent::Roamed { peer, from, to });
        }
        self.timers.received(cx.now);
        self.timers.sent(cx.now);
        self.timers.handshake_message_sent(cx.now);
        Ok(())
    }

    /// The answer to an initiation of ours; it has passed the gate.
    pub(crate) fn accept_response(
        &mut self,
        receiver_index: u32,
        response: &[u8],
        from: Endpoint,
        cx: &mut Context<'_, impl Output>,
    ) -> Result<(), DropReason> {
        let place = self.place_of(receiver_index);
        let session = find(&mut self.current, &mut self.next, &mut self.draining, receiver_index)
            .ok_or(DropReason::UnknownIndex)?;
        let keepalive = match session.accept_response(response, cx.now, cx.scratch) {
            Ok(keepalive) => keepalive,
            Err(reason) => {
                if reason == DropReason::DecryptFailed {
                    match place {
                        // Made with the keys of the other lane; perhaps the peer has those alone.
                        Some(place) if self.next.is_some() => self.other_is_due = Some(place.other()),
                        Some(_) | None => self.handshakes.initiator_failed += 1,
                    }
                }
                return Err(reason);
            }
        };
        // The keepalive that follows goes where the response came from.
        let roamed = self.wire.received(response.len(), Some(from));
        self.wire.transmit(keepalive, cx.out);
        let took = self.timers.initiation_answered(cx.now);
        self.timers.received(cx.now);
        if let Some((from, to)) = roamed {
            let peer = self.identity();
            cx.out.event(DeviceEvent::Roamed { peer, from, to });
        }
        self.handshakes.initiator_completed += 1;
        self.handshake_completed(place, took, cx.now, cx.out);
        if place == Some(Place::Next) {
            self.next_is_in_use(cx);
        }
        self.flush(cx);
        Ok(())
    }

    /// A cookie in answer to a handshake message of ours.
    pub(crate) fn accept_cookie(
        &mut self,
        receiver_index: u32,
        reply: &[u8],
        cx: &mut Context<'_, impl Output>,
    ) -> Result<(), DropReason> {
        let session = self.session_mut(receiver_index).ok_or(DropReason::UnknownIndex)?;
        session.accept_cookie(reply, cx.now)?;
        self.wire.rx_bytes += reply.len() as u64;
        self.wire.rx_packets += 1;
        Ok(())
    }

    /// Begins a handshake unless one is under way, or one of our messages may still be answered.
    pub(crate) fn initiate(&mut self, cx: &mut Context<'_, impl Output>) {
        if self.wire.endpoint.is_none() || !self.timers.may_initiate(cx.now) {
            return;
        }
        let offered = self.next.as_ref().is_some_and(|next| next.offered);
        self.initiate_in(if offered { Place::Next } else { Place::Current }, cx);
        if offered && !self.can_seal(cx.now) {
            // Perhaps the peer has the present keys alone.
            self.other_is_due = Some(Place::Current);
        }
    }

    pub(super) fn initiate_in(&mut self, place: Place, cx: &mut Context<'_, impl Output>) {
        if self.wire.endpoint.is_none() || !cx.link_is_up || !self.ensure_session(place, cx) {
            return;
        }
        let lane = match (place, &mut self.next) {
            (Place::Next, Some(next)) => &mut next.lane,
            (Place::Next | Place::Current | Place::Draining, _) => &mut self.current,
        };
        let Some(session) = &mut lane.session else { return };
        if let Some(initiation) = session.initiate(cx.now, cx.stamper, cx.scratch) {
            self.wire.transmit(initiation, cx.out);
            self.attempting.get_or_insert(cx.now);
            self.timers.sent(cx.now);
            self.timers.initiation_sent(cx.now);
        } else if !session.can_agree() {
            self.drop_staged(cx);
        }
    }

    /// `false` if there can be none: no key of ours, or no range is left.
    fn ensure_session(&mut self, place: Place, cx: &mut Context<'_, impl Output>) -> bool {
        let lane = match (place, &mut self.next) {
            (Place::Next, Some(next)) => &mut next.lane,
            (Place::Next | Place::Draining, _) => return false,
            (Place::Current, _) => &mut self.current,
        };
        if lane.session.is_none() {
            let Some(identity) = cx.identities.get(lane.keys.own) else { return false };
            let Some(range) = cx.ranges.take(self.id) else { return false };
            lane.session = Some(Session::new(identity, &lane.keys.peer, lane.keys.preshared.as_ref(), range));
        }
        true
    }

    pub(super) fn handshake_completed(
        &mut self,
        place: Option<Place>,
        took: Option<Duration>,
        now: Instant,
        out: &mut impl Output,
    ) {
        self.attempting = None;
        self.unanswered = 0;
        self.initiations_may_be_replayed = false;
        self.other_is_due = None;
        self.proofs += 1;
        match (place, &mut self.next) {
            (Some(Place::Current), _) => self.current.proven = self.proofs,
            (Some(Place::Next), Some(next)) => next.lane.proven = self.proofs,
            (Some(Place::Next | Place::Draining) | None, _) => {}
        }
        self.timers.handshake_completed(now);
        let peer = self.identity();
        if self.timers.up(now) {
            out.event(DeviceEvent::PeerUp { peer: self.identity() });
        }
        out.event(DeviceEvent::Handshake { peer, took });
    }

    /// No answer for 90 s. Keys of before serve on, for the peer may still speak under them. Packets that waited are dropped; the next one, or a peer that is to be kept
    /// alive, begins anew, so that a path that comes back is found within one retry.
    pub(super) fn gave_up(&mut self, cx: &mut Context<'_, impl Output>) {
        self.timers.handshake_over();
        if self.attempting.take().is_some() {
            self.handshakes.initiator_failed += 1;
        }
        self.drop_staged(cx);
        if self.wants_keepalives() {
            self.initiate(cx);
        }
    }
}
