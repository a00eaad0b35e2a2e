//! A peer's slot: its settings, its sessions, where it is, and what has been counted.
//!
//! A slot holds a *current* lane and, while a key is being replaced, a *next* one: both begin and answer
//! handshakes, each with its own keys, until the peer has used *next*, which then takes *current*'s place.
//! Sessions of before are *draining*: they open what is under way and seal as long as nothing else can.
//! Each session has its own range of receiver indices, by which inbound data finds it.
//!
//! **Invariants:** at most one handshake of ours is under way in each lane. A range is registered in
//! [`Ranges`] exactly as long as its session lives. Nothing is counted as received, and the endpoint does not
//! move, before a datagram has authenticated. No initiation is taken that was made before another that was.

mod handshake;
mod lane;
mod lanes;
mod staged;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use packet::echo::Addresses;
use packet::split::Split;

use crate::control;
use crate::device::PeerId;
use crate::gaps::Gaps;
use crate::identities::{Generation, Identities};
use crate::limits::from_the_specification::DATA_HEADER_BYTES;
use crate::limits::our_choice::{MAX_PACKET_BYTES, MAX_SESSION_RANGES, PROBE_BYTES, UNANSWERED_INITIATIONS};
use crate::noise::initiation::Timestamp;
use crate::noise::stamp::Stamper;
use crate::probe::Probe;
use crate::session::{Opened, Scratch, Session, Tick};
use crate::timers::Timers;
use crate::{
    Counters, DeviceEvent, DropReason, Drops, Endpoint, HandshakeCounts, Output, PeerIdentity, PeerState,
    Probed, Probes, PublicKey,
};
pub(crate) use lane::{Keys, Place};
use lane::{Lane, Next};
use staged::Staged;
use wire::Wire;

pub(crate) struct Peer {
    id: PeerId,
    public_key: PublicKey,
    friendly_name: Option<Arc<str>>,
    current: Lane,
    next: Option<Next>,
    draining: Vec<Session>,
    /// When the latest initiation that was taken had been made; older ones are recordings.
    last_initiation: Option<Timestamp>,
    /// This daemon's last life may have taken it. Until a handshake has been completed in this one, an
    /// initiation alone moves nothing: it may be a recording.
    initiations_may_be_replayed: bool,
    /// A handshake in the one lane failed: the other is tried at the next tick (not at once, for others drop
    /// two initiations that follow each other closely).
    other_is_due: Option<Place>,
    /// Counts proven handshakes.
    proofs: u64,
    wire: Wire,
    staged: Staged,
    timers: Timers,
    /// Since when a handshake that we have begun has not ended.
    attempting: Option<Instant>,
    /// Initiations of ours since the last handshake that were sent again because nobody answered.
    unanswered: u32,
    handshakes: HandshakeCounts,
    drops: Drops,
    gaps: Gaps,
    probe: Probe,
    /// Asks with packets of a chosen length, whether those come back.
    path_probe: Probe,
}

/// What a peer borrows from its device while it works.
pub(crate) struct Context<'a, O> {
    pub(crate) now: Instant,
    pub(crate) out: &'a mut O,
    pub(crate) identities: &'a Identities,
    pub(crate) ranges: &'a mut Ranges,
    pub(crate) counters: &'a mut Counters,
    /// Dates our initiations.
    pub(crate) stamper: &'a mut Stamper,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) mtu: usize,
    /// While the interface is down nothing is said.
    pub(crate) link_is_up: bool,
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
    pub(crate) fn new(id: PeerId, public_key: PublicKey, own: Generation) -> Peer {
        Peer {
            id,
            public_key,
            friendly_name: None,
            current: Lane::new(Keys { own, peer: public_key, preshared: None }),
            next: None,
            draining: Vec::new(),
            last_initiation: None,
            initiations_may_be_replayed: true,
            other_is_due: None,
            proofs: 0,
            wire: Wire::default(),
            staged: Staged::default(),
            timers: Timers::default(),
            attempting: None,
            unanswered: 0,
            handshakes: HandshakeCounts::default(),
            drops: Drops::default(),
            gaps: Gaps::default(),
            probe: Probe::default(),
            path_probe: Probe::default(),
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.id
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

    /// Everything but the allowed IPs and rotations, which the device holds.
    pub(crate) fn state(&self, now: Instant) -> PeerState {
        let probes = self.probe.seen(now);
        PeerState {
            public_key: self.public_key,
            friendly_name: self.friendly_name.clone(),
            preshared_key: self.configured_preshared_key().cloned(),
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
            rotation: None,
            drops: self.drops.clone(),
            numbers: self.gaps.settled(),
            loss: self.gaps.recent_loss(),
            rtt: probes.round_trip.or(self.timers.round_trip()),
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
        if !self.seal_and_transmit(packet, cx) {
            self.keep(packet, cx);
        } else if !self.a_lane_is_fresh(cx.now) {
            self.initiate(cx);
        }
    }

    /// The same with all packets that a large one stands for.
    pub(crate) fn send_split(&mut self, split: &mut Split<'_>, cx: &mut Context<'_, impl Output>) {
        if self.wire.endpoint.is_none() {
            return self.drop_packets(DropReason::NoEndpoint, split.remaining() as u64, cx);
        }
        let longest = padded_length(split.longest(), cx.mtu);
        if longest > MAX_PACKET_BYTES {
            return self.drop_packets(DropReason::TooBig, split.remaining() as u64, cx);
        }
        let Some(session) = sealing(&mut self.current, &mut self.next, &mut self.draining, cx.now) else {
            return self.keep_split(split, cx);
        };
        let (mut unsealed, mut not_theirs) = (0, 0);
        while split.remaining() > 0 {
            let sent = self.wire.transmit_sealed(Session::sealed_bytes(longest), cx.out, |space| {
                let text = &mut space[DATA_HEADER_BYTES..];
                let length = split.write_next(text)?;
                if !split.is_tcp() && control::is_control(&text[..length]) {
                    not_theirs += 1;
                    return None;
                }
                let padded = padded_length(length, cx.mtu);
                text[length..padded].fill(0);
                let bytes = Session::sealed_bytes(padded);
                session.seal(&mut space[..bytes], cx.now).then_some(bytes)
            });
            unsealed += u64::from(!sent);
        }
        self.timers.sent(cx.now);
        self.drop_packets(DropReason::SourceNotAllowed, not_theirs, cx);
        self.drop_packets(DropReason::NoSession, unsealed - not_theirs, cx);
        if !self.a_lane_is_fresh(cx.now) {
            self.initiate(cx);
        }
    }

    /// Keeps all packets that a large one stands for.
    fn keep_split(&mut self, split: &mut Split<'_>, cx: &mut Context<'_, impl Output>) {
        let mut packet = vec![0; split.longest()];
        while let Some(length) = split.write_next(&mut packet) {
            if !split.is_tcp() && control::is_control(&packet[..length]) {
                self.drop_packets(DropReason::SourceNotAllowed, 1, cx);
            } else {
                self.keep(&packet[..length], cx);
            }
        }
    }

    /// Keeps a packet until there are keys.
    fn keep(&mut self, packet: &[u8], cx: &mut Context<'_, impl Output>) {
        if cx.identities.get(self.current.keys.own).is_none() {
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

    /// The same with a packet of `bytes`, apart from the other questions.
    pub(crate) fn probe_path(
        &mut self,
        addresses: Addresses,
        identifier: u16,
        bytes: u16,
        cx: &mut Context<'_, impl Output>,
    ) -> Probed {
        if self.path_probe.is_under_way(cx.now) {
            return Probed::UnderWay;
        }
        let mut buffer = vec![0; usize::from(bytes)];
        let Some(packet) = self.path_probe.write(addresses, path_identifier(identifier), &mut buffer) else {
            return Probed::NoAddress;
        };
        if !self.seal_and_transmit(packet, cx) {
            return Probed::NoSession;
        }
        self.path_probe.sent(addresses, cx.now);
        Probed::Sent
    }

    /// Whether a packet that this peer sent answers our question; then the TUN is none of its business.
    pub(crate) fn answers_probe(&mut self, packet: &[u8], identifier: u16, now: Instant) -> bool {
        self.probe.is_answered_by(packet, identifier, now)
            || self.path_probe.is_answered_by(packet, path_identifier(identifier), now)
    }

    pub(crate) fn path_probes(&self, now: Instant) -> Probes {
        self.path_probe.seen(now)
    }

    pub(crate) fn probes(&self, now: Instant) -> Probes {
        self.probe.seen(now)
    }

    /// A data datagram for the session with this receiver index. Says where in it the text lies afterwards, if there is any;
    /// whoever calls looks at what it holds and checks its source.
    #[inline]
    pub(crate) fn open<O: Output>(
        &mut self,
        receiver_index: u32,
        datagram: &mut [u8],
        from: Endpoint,
        cx: &mut Context<'_, O>,
    ) -> Result<Option<Range<usize>>, DropReason> {
        let place = self.place_of(receiver_index);
        let session = self.session_mut(receiver_index).ok_or(DropReason::UnknownIndex)?;
        let Opened { bytes, confirms } = session.open(datagram, cx.now)?;
        let text = DATA_HEADER_BYTES..DATA_HEADER_BYTES + bytes;
        if let Some(number) = datagram.get(8..).and_then(|rest| rest.first_chunk()) {
            self.gaps.saw(receiver_index, u64::from_le_bytes(*number));
        }
        self.authenticated(datagram.len(), Some(from), cx.now, cx.out);
        if confirms {
            self.handshakes.responder_completed += 1;
            self.handshake_completed(place, None, cx.now, cx.out);
        }
        if place == Some(Place::Next) {
            self.next_is_in_use(cx);
        }
        if !self.staged.is_empty() {
            self.flush(cx);
        }
        Ok((bytes > 0).then_some(text))
    }

    /// Does what is due.
    pub(crate) fn service(&mut self, cx: &mut Context<'_, impl Output>) {
        if !cx.link_is_up {
            return;
        }
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
        if self.wire.endpoint.is_none() || !cx.link_is_up {
            return;
        }
        if !self.seal_and_transmit(&[], cx) {
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

    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.wire.endpoint
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

    fn tick(&mut self, cx: &mut Context<'_, impl Output>) {
        if let Some(place) = self.other_is_due.take()
            && self.next.is_some()
        {
            self.initiate_in(place, cx);
        }
        let mut old_keys_want_one = false;
        let next_is_ready = self.next.as_ref().is_some_and(|next| next.lane.is_ready(cx.now));
        let a_lane_is_ready = self.a_lane_is_ready(cx.now);
        for session in &mut self.draining {
            match session.tick(cx.now, cx.stamper, cx.scratch) {
                Tick::Nothing | Tick::GaveUp => {}
                // Not sent: it speaks for old keys. The lanes ask in its place.
                Tick::Initiation(_) => old_keys_want_one |= !a_lane_is_ready,
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
        let has_next = self.next.is_some();
        for place in [Place::Current, Place::Next] {
            let lane = match (place, &mut self.next) {
                (Place::Next, Some(next)) => &mut next.lane,
                (Place::Next, None) => continue,
                (Place::Current | Place::Draining, _) => &mut self.current,
            };
            let Some(session) = &mut lane.session else { continue };
            match session.tick(cx.now, cx.stamper, cx.scratch) {
                Tick::Nothing => {}
                Tick::Initiation(initiation) => {
                    if self.attempting.is_some() {
                        // No answer so far: perhaps our own address is no longer the right one.
                        self.wire.forget_local_address();
                        self.unanswered += 1;
                        unanswered = self.unanswered.is_multiple_of(UNANSWERED_INITIATIONS);
                    }
                    self.wire.transmit(initiation, cx.out);
                    self.attempting.get_or_insert(cx.now);
                    self.timers.sent(cx.now);
                    self.timers.initiation_sent(cx.now);
                    // Or the peer no longer knows these keys.
                    self.other_is_due = has_next.then(|| place.other());
                }
                Tick::Keepalive(keepalive) => {
                    self.wire.transmit(keepalive, cx.out);
                    self.timers.sent(cx.now);
                }
                Tick::GaveUp => gave_up |= place == Place::Current && !next_is_ready,
            }
            dormant &= session.is_dormant();
        }
        if dormant && self.draining.is_empty() && self.other_is_due.is_none() {
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
        // Nobody may speak for as long as the interval, and a path that comes back is to be found sooner.
        let is_cut_off = self.wants_keepalives() && !self.can_seal(cx.now);
        if !self.flush(cx) || old_keys_want_one || is_cut_off {
            self.initiate(cx);
        }
    }

    fn a_lane_is_ready(&self, now: Instant) -> bool {
        self.lanes().any(|lane| lane.is_ready(now))
    }

    /// Whether one has keys, and no attempt at others was given up since: the peer may have lost those.
    fn a_lane_is_fresh(&self, now: Instant) -> bool {
        self.lanes().any(|lane| lane.is_fresh(now))
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        [Some(&self.current), self.next.as_ref().map(|next| &next.lane)].into_iter().flatten()
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
        if !cx.link_is_up {
            return false;
        }
        let Some(session) = sealing(&mut self.current, &mut self.next, &mut self.draining, cx.now) else {
            return false;
        };
        let bytes = Session::sealed_bytes(padded_length(packet.len(), cx.mtu));
        let sent = self.wire.transmit_sealed(bytes, cx.out, |space| {
            let text_end = DATA_HEADER_BYTES + packet.len();
            space[DATA_HEADER_BYTES..text_end].copy_from_slice(packet);
            // Padding, and where the tag will be.
            space[text_end..].fill(0);
            session.seal(space, cx.now).then_some(bytes)
        });
        if sent {
            self.timers.sent(cx.now);
        }
        sent
    }

    fn session_mut(&mut self, receiver_index: u32) -> Option<&mut Session> {
        find(&mut self.current, &mut self.next, &mut self.draining, receiver_index)
    }

    /// Where the session with this receiver index is.
    pub(crate) fn place_of(&self, receiver_index: u32) -> Option<Place> {
        let draining = || self.draining.iter().any(|session| session.range() == receiver_index >> 8);
        match &self.next {
            _ if self.current.has(receiver_index) => Some(Place::Current),
            Some(next) if next.lane.has(receiver_index) => Some(Place::Next),
            Some(_) | None => draining().then_some(Place::Draining),
        }
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

/// Tells answers to the one kind of question from those to the other: both count from zero.
fn path_identifier(identifier: u16) -> u16 {
    identifier ^ 1
}

/// The session to seal with: that of the lane whose handshake was proven last, or else the latest of those before.
#[inline]
fn sealing<'a>(
    current: &'a mut Lane,
    next: &'a mut Option<Next>,
    draining: &'a mut [Session],
    now: Instant,
) -> Option<&'a mut Session> {
    let next = next.as_mut().map(|next| &mut next.lane);
    let lanes = [Some(current), next].into_iter().flatten();
    let latest = lanes.filter(|lane| lane.is_ready(now)).max_by_key(|lane| lane.proven);
    match latest.and_then(|lane| lane.session.as_mut()) {
        Some(session) => Some(session),
        None => draining.iter_mut().rev().find(|session| session.is_ready(now)),
    }
}

fn find<'a>(
    current: &'a mut Lane,
    next: &'a mut Option<Next>,
    draining: &'a mut [Session],
    receiver_index: u32,
) -> Option<&'a mut Session> {
    let range = receiver_index >> 8;
    let next = next.as_mut().and_then(|next| next.lane.session.as_mut());
    current.session.iter_mut().chain(next).chain(draining).find(|session| session.range() == range)
}

/// With zeros up to a multiple of 16, but never above the MTU (paper §5.4.6). The kernel's `calculate_skb_padding`: a packet larger than the MTU is padded as its last
/// MTU-sized part would be.
fn padded_length(length: usize, mtu: usize) -> usize {
    let last_unit = if mtu > 0 && length > mtu { length % mtu } else { length };
    let padded = last_unit.next_multiple_of(crate::limits::from_the_specification::PADDING_BYTES);
    let padded = if mtu > 0 { padded.min(mtu) } else { padded };
    length + padded.saturating_sub(last_unit)
}

#[cfg(test)]
mod tests;
