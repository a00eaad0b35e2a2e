//! A peer's slot: its settings, its sessions, where it is, and what has been counted.
//!
//! A slot holds one *current* session, which begins and answers handshakes, and some *draining* ones
//! with keys from before a pre-shared key changed: those open what is under way and seal until
//! *current* has keys of its own. Each session has its own range of receiver indices.
//!
//! **Invariants:** at most one handshake of ours is under way, and it is *current*'s. A range is
//! registered in [`Ranges`] exactly as long as its session lives. Nothing is counted as received, and
//! the endpoint does not move, before a datagram has authenticated.

mod staged;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use packet::echo::Addresses;

use crate::device::PeerId;
use crate::gaps::Gaps;
use crate::identity::Identity;
use crate::limits::our_choice::{
    MAX_DRAINING_SESSIONS, MAX_PACKET_BYTES, MAX_SESSION_RANGES, PROBE_BYTES, UNANSWERED_INITIATIONS,
};
use crate::probe::Probe;
use crate::session::{Content, Opened, Scratch, Session, Tick};
use crate::timers::{Role, Timers};
use crate::{
    ChangedKey, Counters, DeviceEvent, DropReason, Drops, Endpoint, HandshakeCounts, Output, PeerIdentity,
    PeerState, PresharedKey, Probed, Probes, PublicKey,
};
use staged::Staged;
use wire::Wire;

pub(crate) struct Peer {
    id: PeerId,
    public_key: PublicKey,
    friendly_name: Option<Arc<str>>,
    preshared_key: Option<PresharedKey>,
    /// Made on first use: a session is 11 KB, and needs our key.
    current: Option<Session>,
    draining: Vec<Session>,
    /// *current* stands in for a session that knew which initiations were used up: one with another
    /// pre-shared key, or one of this daemon's last life. Until it has completed a handshake, an
    /// initiation alone moves nothing: it may be a recording.
    initiations_may_be_replayed: bool,
    wire: Wire,
    staged: Staged,
    timers: Timers,
    /// We have begun a handshake that has not ended yet.
    attempting: bool,
    /// Initiations of ours since the last handshake that were sent again because nobody answered.
    unanswered: u32,
    handshakes: HandshakeCounts,
    drops: Drops,
    gaps: Gaps,
    probe: Probe,
}

/// What a peer borrows from its device while it works.
pub(crate) struct Context<'a, O> {
    pub(crate) now: Instant,
    pub(crate) out: &'a mut O,
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) ranges: &'a mut Ranges,
    pub(crate) counters: &'a mut Counters,
    pub(crate) scratch: &'a mut Scratch,
    /// Where a packet gets its padding.
    pub(crate) padded: &'a mut Scratch,
    pub(crate) mtu: usize,
}

/// Which peer's session a receiver index belongs to, by its upper 24 bits.
#[derive(Default)]
pub(crate) struct Ranges(HashMap<u32, PeerId>);

impl Ranges {
    pub(crate) fn owner(&self, receiver_index: u32) -> Option<PeerId> {
        self.0.get(&(receiver_index >> 8)).copied()
    }

    /// A range that nobody has. Random, so that an outsider cannot guess a live index.
    fn take(&mut self, peer: PeerId) -> Option<u32> {
        if self.0.len() >= MAX_SESSION_RANGES {
            return None;
        }
        loop {
            let range = getrandom::u32().ok()? >> 8;
            if let std::collections::hash_map::Entry::Vacant(free) = self.0.entry(range) {
                free.insert(peer);
                return Some(range);
            }
        }
    }

    fn release(&mut self, session: &Session) {
        self.0.remove(&session.range());
    }
}

impl Peer {
    pub(crate) fn new(id: PeerId, public_key: PublicKey) -> Peer {
        Peer {
            id,
            public_key,
            friendly_name: None,
            preshared_key: None,
            current: None,
            draining: Vec::new(),
            initiations_may_be_replayed: true,
            wire: Wire::default(),
            staged: Staged::default(),
            timers: Timers::default(),
            attempting: false,
            unanswered: 0,
            handshakes: HandshakeCounts::default(),
            drops: Drops::default(),
            gaps: Gaps::default(),
            probe: Probe::default(),
        }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.public_key
    }

    pub(crate) fn identity(&self) -> PeerIdentity {
        PeerIdentity {
            public_key: self.public_key,
            friendly_name: self.friendly_name.clone(),
            since: self.timers.up_since(),
        }
    }

    pub(crate) fn last_handshake(&self) -> Option<Instant> {
        self.timers.last_handshake()
    }

    /// When this peer next wants [`Peer::service`].
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Everything but the allowed IPs, which the device holds.
    pub(crate) fn state(&self, now: Instant) -> PeerState {
        let probes = self.probe.seen(now);
        let handshake = self.current.as_ref().and_then(Session::round_trip);
        PeerState {
            public_key: self.public_key,
            friendly_name: self.friendly_name.clone(),
            preshared_key: self.preshared_key.clone(),
            endpoint: self.wire.endpoint,
            last_handshake: self.timers.last_handshake(),
            up_since: self.timers.up_since(),
            up_total: self.timers.up_total(now),
            tx_bytes: self.wire.tx_bytes,
            rx_bytes: self.wire.rx_bytes,
            tx_packets: self.wire.tx_packets,
            rx_packets: self.wire.rx_packets,
            persistent_keepalive: u16::try_from(self.timers.keepalive().as_secs()).unwrap_or(u16::MAX),
            allowed_ips: Vec::new(),
            handshakes: self.handshakes,
            endpoint_changes: self.wire.endpoint_changes,
            drops: self.drops.clone(),
            numbers: self.gaps.settled(),
            loss: self.gaps.recent_loss(),
            rtt: probes.round_trip.or(handshake),
            probes,
            staged_packets: self.staged.len(),
        }
    }

    /// Sends an inner packet, or keeps it until there are keys. Its length is that of its header.
    pub(crate) fn send(&mut self, packet: &[u8], cx: &mut Context<'_, impl Output>) {
        if self.wire.endpoint.is_none() {
            return self.drop_packets(DropReason::NoEndpoint, 1, cx);
        }
        if packet.len() > MAX_PACKET_BYTES {
            return self.drop_packets(DropReason::TooBig, 1, cx);
        }
        if self.seal_and_transmit(packet, cx) {
            return;
        }
        if cx.identity.is_none() {
            return self.drop_packets(DropReason::NoSession, 1, cx);
        }
        let overflowed = self.staged.push(packet);
        self.drop_packets(DropReason::QueueFull, overflowed, cx);
        self.initiate(cx);
    }

    /// Asks the peer's host for an echo, if there are keys to seal the question with.
    pub(crate) fn probe(
        &mut self,
        addresses: Addresses,
        identifier: u16,
        cx: &mut Context<'_, impl Output>,
    ) -> Probed {
        if self.probe.is_under_way(cx.now) {
            return Probed::UnderWay;
        }
        let mut buffer = [0; PROBE_BYTES];
        let Some(packet) = self.probe.write(addresses, identifier, &mut buffer) else {
            return Probed::NoAddress;
        };
        if !self.seal_and_transmit(packet, cx) {
            return Probed::NoSession;
        }
        self.probe.sent(addresses, cx.now);
        Probed::Sent
    }

    /// Whether a packet that this peer sent answers our question; then the TUN is none of its business.
    pub(crate) fn answers_probe(&mut self, packet: &[u8], identifier: u16, now: Instant) -> bool {
        self.probe.is_answered_by(packet, identifier, now)
    }

    pub(crate) fn probes(&self, now: Instant) -> Probes {
        self.probe.seen(now)
    }

    /// A data datagram for the session with this receiver index. Gives the packet, if it holds one
    /// that may be looked at; whoever calls checks its source and then delivers it.
    pub(crate) fn open<'a, O: Output>(
        &mut self,
        receiver_index: u32,
        datagram: &[u8],
        from: Endpoint,
        cx: &'a mut Context<'_, O>,
    ) -> Result<Option<&'a [u8]>, DropReason> {
        let session = self.session_mut(receiver_index).ok_or(DropReason::UnknownIndex)?;
        let Opened { content, confirms } = session.open(datagram, cx.scratch)?;
        let length = match content {
            Content::Keepalive => Ok(0),
            Content::Packet(packet) => Ok(packet.len()),
            Content::NotIp => Err(DropReason::Malformed),
        };
        if let Some(number) = datagram.get(8..).and_then(|rest| rest.first_chunk()) {
            self.gaps.saw(receiver_index, u64::from_le_bytes(*number));
        }
        self.authenticated(datagram.len(), Some(from), cx.now, cx.out);
        if confirms {
            self.handshakes.responder_completed += 1;
            self.handshake_completed(Role::Responder, None, cx.now, cx.out);
        }
        if !self.staged.is_empty() {
            // Sealing overwrites the scratch space that the packet lies in: keep it aside meanwhile.
            let length = length?;
            let packet = cx.scratch[..length].to_vec();
            self.flush(cx);
            cx.scratch[..length].copy_from_slice(&packet);
        }
        let length = length?;
        Ok((length > 0).then(|| &cx.scratch[..length]))
    }

    /// An initiation that carries our peer's static key and has passed the gate.
    pub(crate) fn accept_initiation(
        &mut self,
        initiation: &[u8],
        from: Endpoint,
        cx: &mut Context<'_, impl Output>,
    ) -> Result<(), DropReason> {
        let session = self.ensure_current(cx).ok_or(DropReason::NoSession)?;
        let response = match session.accept_initiation(initiation, cx.scratch) {
            Ok(response) => response,
            Err(reason) => {
                self.handshakes.responder_failed += 1;
                return Err(reason);
            }
        };
        let roams = !self.initiations_may_be_replayed;
        // `response` borrows the scratch space, which `authenticated` leaves alone.
        if let Some((from, to)) = self.wire.received(initiation.len(), roams.then_some(from)) {
            let peer = self.identity();
            cx.out.event(DeviceEvent::Roamed { peer, from, to });
        }
        self.timers.received(cx.now);
        self.wire.transmit_to(from, response, cx.out);
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
        let session =
            find(&mut self.current, &mut self.draining, receiver_index).ok_or(DropReason::UnknownIndex)?;
        // The keepalive that follows goes where the response came from, so that comes first; whether
        // the response authenticates is known before anything is sent.
        let wire = &mut self.wire;
        let out = &mut *cx.out;
        let mut roamed = None;
        let mut authentic = false;
        let result = session.accept_response(response, cx.scratch, |datagram| {
            if !std::mem::replace(&mut authentic, true) {
                roamed = wire.received(response.len(), Some(from));
            }
            wire.transmit(datagram, out);
        });
        if let Err(reason) = result {
            if reason == DropReason::DecryptFailed {
                self.handshakes.initiator_failed += 1;
            }
            return Err(reason);
        }
        let rtt = session.round_trip();
        self.timers.received(cx.now);
        if let Some((from, to)) = roamed {
            let peer = self.identity();
            cx.out.event(DeviceEvent::Roamed { peer, from, to });
        }
        self.handshakes.initiator_completed += 1;
        self.handshake_completed(Role::Initiator, rtt, cx.now, cx.out);
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
        session.accept_cookie(reply, cx.scratch)?;
        self.wire.rx_bytes += reply.len() as u64;
        self.wire.rx_packets += 1;
        Ok(())
    }

    /// Does what is due.
    pub(crate) fn service(&mut self, cx: &mut Context<'_, impl Output>) {
        if self.timers.tick_is_due(cx.now) {
            self.tick(cx);
        }
        if self.timers.take_keepalive(cx.now) {
            self.send_keepalive(cx);
        }
        if self.timers.take_down(cx.now) {
            let peer = self.identity();
            cx.out.event(DeviceEvent::PeerDown { peer });
        }
    }

    /// Whether the sessions' timers have been waiting longer than they should.
    pub(crate) fn tick_is_due(&self, now: Instant) -> bool {
        self.timers.tick_is_due(now)
    }

    /// Says that we are here, or begins the handshake that must come before.
    pub(crate) fn send_keepalive(&mut self, cx: &mut Context<'_, impl Output>) {
        if self.wire.endpoint.is_none() {
            return;
        }
        let sent = self.seal_and_transmit(&[], cx);
        if !sent || self.timers.keys_are_old(cx.now) {
            self.initiate(cx);
        }
    }

    pub(crate) fn set_friendly_name(&mut self, name: Arc<str>) {
        self.friendly_name = Some(name);
    }

    /// Given by configuration: our own address for it is unknown again.
    pub(crate) fn set_endpoint(&mut self, endpoint: Endpoint) {
        self.wire.endpoint = Some(endpoint);
    }

    /// Lets the kernel choose our address for `remote` again.
    pub(crate) fn forget_source(&mut self, remote: SocketAddr) {
        if let Some(endpoint) = self.wire.endpoint.as_mut().filter(|endpoint| endpoint.remote == remote) {
            endpoint.local = None;
        }
    }

    /// `true` if keepalives were off and are on now: then one is owed at once.
    pub(crate) fn set_keepalive(&mut self, seconds: u16, now: Instant) -> bool {
        self.timers.set_keepalive(Duration::from_secs(u64::from(seconds)), now)
    }

    pub(crate) fn wants_keepalives(&self) -> bool {
        !self.timers.keepalive().is_zero()
    }

    /// The next handshake uses the key; what runs goes on. The session cannot be given another key,
    /// so a new one is made for handshakes and the old one drains.
    pub(crate) fn set_preshared_key(&mut self, key: Option<PresharedKey>, cx: &mut Context<'_, impl Output>) {
        let same = match (&self.preshared_key, &key) {
            (Some(old), Some(new)) => old.same_as(new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return;
        }
        self.preshared_key = key;
        let Some(old) = self.current.take() else { return };
        self.initiations_may_be_replayed = true;
        self.attempting = false;
        self.timers.handshake_over();
        if old.may_hold_keys() {
            self.draining.push(old);
            if self.draining.len() > MAX_DRAINING_SESSIONS {
                let oldest = self.draining.remove(0);
                cx.ranges.release(&oldest);
            }
        } else {
            cx.ranges.release(&old);
        }
        let peer = self.identity();
        cx.out.event(DeviceEvent::KeyChanged { peer, key: ChangedKey::Preshared });
    }

    /// Our own key changed or went: nothing of the old sessions is of use.
    pub(crate) fn forget_sessions(&mut self, ranges: &mut Ranges) {
        for session in self.current.take().into_iter().chain(self.draining.drain(..)) {
            ranges.release(&session);
        }
        self.attempting = false;
        self.initiations_may_be_replayed = false;
        self.timers.handshake_over();
        self.timers.stop_ticking();
    }

    /// Begins a handshake unless one is under way, or one of our messages may still be answered.
    pub(crate) fn initiate(&mut self, cx: &mut Context<'_, impl Output>) {
        if self.wire.endpoint.is_none() || !self.timers.may_initiate(cx.now) {
            return;
        }
        let Some(session) = self.ensure_current(cx) else { return };
        if let Some(initiation) = session.initiate(cx.scratch) {
            self.wire.transmit(initiation, cx.out);
            self.attempting = true;
            self.timers.sent(cx.now);
            self.timers.handshake_message_sent(cx.now);
        } else if !session.can_agree() {
            self.drop_staged(cx);
        }
    }

    fn tick(&mut self, cx: &mut Context<'_, impl Output>) {
        let mut wants_handshake = !self.staged.is_empty();
        let current_is_ready = self.current.as_ref().is_some_and(Session::is_ready);
        for session in &mut self.draining {
            match session.tick(cx.scratch) {
                Tick::Nothing | Tick::GaveUp => {}
                // Not sent: it speaks for the old pre-shared key. *current* asks in its place.
                Tick::Initiation(_) => wants_handshake |= !current_is_ready,
                Tick::Keepalive(keepalive) => {
                    self.wire.transmit(keepalive, cx.out);
                    self.timers.sent(cx.now);
                }
            }
        }
        self.draining.retain(|session| {
            let keep = session.may_hold_keys() && !session.is_dormant();
            if !keep {
                cx.ranges.release(session);
            }
            keep
        });
        let (mut gave_up, mut unanswered) = (false, false);
        let mut dormant = true;
        if let Some(session) = &mut self.current {
            match session.tick(cx.scratch) {
                Tick::Nothing => {}
                Tick::Initiation(initiation) => {
                    if self.attempting {
                        // No answer so far: perhaps our own address is no longer the right one.
                        self.wire.forget_local_address();
                        self.unanswered += 1;
                        unanswered = self.unanswered.is_multiple_of(UNANSWERED_INITIATIONS);
                    }
                    self.wire.transmit(initiation, cx.out);
                    self.attempting = true;
                    self.timers.sent(cx.now);
                    self.timers.handshake_message_sent(cx.now);
                }
                Tick::Keepalive(keepalive) => {
                    self.wire.transmit(keepalive, cx.out);
                    self.timers.sent(cx.now);
                }
                Tick::GaveUp => gave_up = true,
            }
            dormant = session.is_dormant();
        }
        if dormant && self.draining.is_empty() {
            self.timers.stop_ticking();
        } else {
            self.timers.tick_again(cx.now);
        }
        if unanswered || gave_up {
            cx.out.event(DeviceEvent::Unanswered { peer: self.identity() });
        }
        if gave_up {
            return self.gave_up(cx);
        }
        if wants_handshake && !self.flush(cx) {
            self.initiate(cx);
        }
    }

    /// No answer for 90 s. Packets that waited are dropped; the next one, or a peer that is to be kept
    /// alive, begins anew, so that a path that comes back is found within one retry.
    fn gave_up(&mut self, cx: &mut Context<'_, impl Output>) {
        self.timers.handshake_over();
        if std::mem::take(&mut self.attempting) {
            self.handshakes.initiator_failed += 1;
        }
        self.drop_staged(cx);
        if self.wants_keepalives() {
            self.initiate(cx);
        }
    }

    fn handshake_completed(
        &mut self,
        role: Role,
        took: Option<Duration>,
        now: Instant,
        out: &mut impl Output,
    ) {
        self.attempting = false;
        self.unanswered = 0;
        self.initiations_may_be_replayed = false;
        self.timers.handshake_completed(now, role);
        let peer = self.identity();
        if self.timers.up(now) {
            out.event(DeviceEvent::PeerUp { peer: self.identity() });
        }
        out.event(DeviceEvent::Handshake { peer, took });
    }

    /// Counts an authenticated data datagram and follows its sender.
    fn authenticated(&mut self, bytes: usize, from: Option<Endpoint>, now: Instant, out: &mut impl Output) {
        self.timers.received(now);
        if let Some((from, to)) = self.wire.received(bytes, from) {
            out.event(DeviceEvent::Roamed { peer: self.identity(), from, to });
        }
        if self.timers.up(now) {
            out.event(DeviceEvent::PeerUp { peer: self.identity() });
        }
    }

    /// Sends what waited, if there are keys by now. `true` if nothing waits any more.
    fn flush(&mut self, cx: &mut Context<'_, impl Output>) -> bool {
        while let Some(packet) = self.staged.pop() {
            if !self.seal_and_transmit(&packet, cx) {
                self.staged.put_back(packet);
                return false;
            }
        }
        true
    }

    fn seal_and_transmit(&mut self, packet: &[u8], cx: &mut Context<'_, impl Output>) -> bool {
        let sealing = match &mut self.current {
            Some(session) if session.is_ready() => Some(session),
            Some(_) | None => self.draining.iter_mut().rev().find(|session| session.is_ready()),
        };
        let Some(session) = sealing else { return false };
        let Some(datagram) = session.seal(pad(packet, cx.mtu, cx.padded), cx.scratch) else { return false };
        self.wire.transmit(datagram, cx.out);
        self.timers.sent(cx.now);
        true
    }

    fn ensure_current(&mut self, cx: &mut Context<'_, impl Output>) -> Option<&mut Session> {
        if self.current.is_none() {
            let identity = cx.identity?;
            let range = cx.ranges.take(self.id)?;
            self.current = Some(Session::new(identity, &self.public_key, self.preshared_key.as_ref(), range));
        }
        self.current.as_mut()
    }

    fn session_mut(&mut self, receiver_index: u32) -> Option<&mut Session> {
        find(&mut self.current, &mut self.draining, receiver_index)
    }

    fn drop_staged(&mut self, cx: &mut Context<'_, impl Output>) {
        let dropped = self.staged.clear();
        self.drop_packets(DropReason::NoSession, dropped, cx);
    }

    fn drop_packets(&mut self, reason: DropReason, packets: u64, cx: &mut Context<'_, impl Output>) {
        self.drops.count(reason, packets);
        cx.counters.drops.count(reason, packets);
    }

    /// Lays a drop to this peer; the device counts it for itself.
    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        self.drops.count(reason, 1);
    }
}

fn find<'a>(
    current: &'a mut Option<Session>,
    draining: &'a mut [Session],
    receiver_index: u32,
) -> Option<&'a mut Session> {
    let range = receiver_index >> 8;
    current.iter_mut().chain(draining).find(|session| session.range() == range)
}

/// Zero-pads to a multiple of 16, but never above the MTU (paper §5.4.6). A packet that needs none,
/// as every full-sized one does at the usual MTU, is not copied.
fn pad<'a>(packet: &'a [u8], mtu: usize, padded: &'a mut Scratch) -> &'a [u8] {
    let length = padded_length(packet.len(), mtu);
    if length == packet.len() {
        return packet;
    }
    padded[..packet.len()].copy_from_slice(packet);
    padded[packet.len()..length].fill(0);
    &padded[..length]
}

/// The kernel's `calculate_skb_padding`: a packet larger than the MTU is padded as its last
/// MTU-sized part would be.
fn padded_length(length: usize, mtu: usize) -> usize {
    let last_unit = if mtu > 0 && length > mtu { length % mtu } else { length };
    let padded = last_unit.next_multiple_of(crate::limits::from_the_specification::PADDING_BYTES);
    let padded = if mtu > 0 { padded.min(mtu) } else { padded };
    length + padded.saturating_sub(last_unit)
}

#[cfg(test)]
mod tests;
