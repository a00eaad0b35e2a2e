//! A WireGuard interface without IO: bytes and `now` in, datagrams, packets and events out.
//!
//! Inputs are [`Device::apply`], [`Device::handle_tun`], [`Device::handle_udp`] and
//! [`Device::handle_timeout`]; each speaks through the [`Output`] it is given while it runs. Between
//! them the shell waits for its descriptors, or for [`Device::next_timeout`], whichever is first.
//!
//! **Invariants:** a packet is sealed only for the peer whose allowed IPs hold its destination, and
//! delivered only if they hold its source. No peer has our own key. Everything that goes no further
//! is counted under one [`DropReason`].

mod link;
mod message;
mod probes;
mod rotation;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use packet::IpHeader;
use packet::split::Split;

use crate::allowed_ips::AllowedIps;
use crate::control;
use crate::identities::{Generation, Identities};
use crate::identity::{Admission, Identity};
use crate::limits::from_the_specification::COOKIE_REPLY_BYTES;
use crate::limits::our_choice::{DEFAULT_MTU, PEERS_PER_TURN, SCRATCH_BYTES};
use crate::load::Load;
use crate::noise::stamp::Stamper;
use crate::peer::{Context, Peer, Place, Ranges};
use crate::probe;
use crate::session::Scratch;
use crate::timers::earliest;
use crate::{
    AllowedIpChange, Change, ChangedKey, Counters, DeviceEvent, DeviceState, DeviceUpdate, DropReason,
    Endpoint, Output, PeerIdentity, PeerUpdate, PublicKey, SecretKey,
};
use link::Link;
use message::Message;
use rotation::Rotations;

/// Names a peer for as long as it is there.
pub(crate) type PeerId = usize;

/// One interface: our key, its peers and the routing between them.
pub struct Device {
    identities: Identities,
    load: Load,
    listen_port: u16,
    fwmark: u32,
    mtu: u16,
    link: Link,
    /// Our own inside the tunnel.
    addresses: Vec<IpAddr>,
    /// Tells the answers to our probes from those to pings of programs on this host.
    probe_identifier: u16,
    /// By [`PeerId`]; places are used again.
    peers: Vec<Option<Slot>>,
    free: Vec<PeerId>,
    arrivals: u64,
    /// While a peer replaces its key, both lead to it.
    by_key: HashMap<PublicKey, PeerId>,
    /// What the configuration file calls the holders of keys: `wg` cannot say it, and a peer that it removes
    /// and sets anew is still the same.
    names: HashMap<PublicKey, Arc<str>>,
    rotations: Rotations,
    allowed_ips: AllowedIps<PeerId>,
    ranges: Ranges,
    counters: Counters,
    /// Not later than what any peer waits for; exact once nobody is left over by [`Device::handle_timeout`].
    deadline: Option<Instant>,
    /// Where it goes on.
    next_served: PeerId,
    stamper: Stamper,
    scratch: Box<Scratch>,
}

impl Default for Device {
    fn default() -> Device {
        Device::new()
    }
}

impl Device {
    /// Without key, peers and port: everything comes by [`Device::apply`].
    pub fn new() -> Device {
        Device {
            identities: Identities::default(),
            load: Load::default(),
            listen_port: 0,
            fwmark: 0,
            mtu: DEFAULT_MTU,
            link: Link::Up,
            addresses: Vec::new(),
            probe_identifier: probe::random_identifier(),
            peers: Vec::new(),
            free: Vec::new(),
            arrivals: 0,
            by_key: HashMap::new(),
            names: HashMap::new(),
            rotations: Rotations::default(),
            allowed_ips: AllowedIps::default(),
            ranges: Ranges::default(),
            counters: Counters::default(),
            deadline: None,
            next_served: 0,
            stamper: Stamper::default(),
            scratch: scratch(),
        }
    }

    /// A packet that the host routed into the tunnel.
    pub fn handle_tun(&mut self, packet: &[u8], now: Instant, out: &mut impl Output) {
        let Ok(header) = IpHeader::parse(packet) else {
            return self.count_drop(DropReason::Malformed);
        };
        let Some(id) = self.allowed_ips.lookup(header.destination) else {
            return self.count_drop(DropReason::NoRoute);
        };
        if control::is_control(&packet[..header.total_length]) {
            // Or any program on this host could speak for us.
            return self.count_drop(DropReason::SourceNotAllowed);
        }
        self.with_peer(id, now, out, |peer, cx| peer.send(&packet[..header.total_length], cx));
    }

    /// Packets of one connection that the host routed into the tunnel as one large one.
    pub fn handle_tun_split(&mut self, mut split: Split<'_>, now: Instant, out: &mut impl Output) {
        let Some(id) = self.allowed_ips.lookup(split.ip().destination) else {
            return self.counters.drops.count(DropReason::NoRoute, split.remaining() as u64);
        };
        self.with_peer(id, now, out, |peer, cx| peer.send_split(&mut split, cx));
    }

    /// A datagram from the network, which is opened where it lies. `Some` is the place in it of a packet for the TUN; its
    /// source has been checked.
    pub fn handle_udp(
        &mut self,
        datagram: &mut [u8],
        from: Endpoint,
        now: Instant,
        out: &mut impl Output,
    ) -> Option<Range<usize>> {
        if !self.link_is_up() {
            self.count_drop(DropReason::LinkDown);
            return None;
        }
        let result = match Message::of(datagram) {
            Some(Message::Data { receiver }) => self.handle_data(receiver, datagram, from, now, out),
            Some(Message::Initiation) => self.handle_initiation(datagram, from, now, out).map(|()| None),
            Some(Message::Response { receiver }) => {
                self.handle_response(receiver, datagram, from, now, out).map(|()| None)
            }
            Some(Message::Cookie { receiver }) => {
                self.handle_cookie(receiver, datagram, now, out).map(|()| None)
            }
            None => Err((None, DropReason::Malformed)),
        };
        result.unwrap_or_else(|(id, reason)| {
            self.count_drop(reason);
            if let Some((_, peer)) = id.and_then(|id| self.peers[id].as_mut()) {
                peer.count_drop(reason);
            }
            None
        })
    }

    /// Does what is due by now, or some of it: then [`Device::next_timeout`] has come again.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut impl Output) {
        if self.link != Link::Up {
            return self.end_sessions_when_due(now, out);
        }
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = self.serve_peers(now, out);
        self.service_rotations(now, out);
    }

    /// All whose time has come, but only a turn's share of them: what waits on the sockets is not to wait for them. Returns
    /// when to go on.
    fn serve_peers(&mut self, now: Instant, out: &mut impl Output) -> Option<Instant> {
        let first = self.next_served.min(self.peers.len());
        let (peers, _, mut cx) = self.parts(now, out);
        let (mut deadline, mut served) = (None, 0);
        let (before, from_first) = peers.split_at_mut(first);
        let in_turn = (first..).zip(from_first).chain((0..).zip(before));
        for (id, slot) in in_turn {
            let Some((_, peer)) = slot else { continue };
            if peer.next_timeout().is_some_and(|at| at <= now) {
                if served == PEERS_PER_TURN {
                    self.next_served = id;
                    return Some(now);
                }
                served += 1;
                peer.service(&mut cx);
            }
            deadline = earliest(deadline, peer.next_timeout());
        }
        deadline
    }

    /// When to call [`Device::handle_timeout`] at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.link {
            Link::Up => self.deadline,
            Link::Down { sessions_end } => sessions_end,
        }
    }

    /// Makes the device what the update says. The update has been validated, so this cannot fail.
    ///
    /// Endpoints, keepalives, allowed IPs and pre-shared keys of live peers change without touching
    /// their sessions. A new private key ends all sessions. The next packet begins a handshake: at once
    /// it would often be in vain, for the peer learns the new key after us, and the next attempt may
    /// come only `REKEY_TIMEOUT` later. Where keepalives are wanted no packet is waited for.
    pub fn apply(&mut self, update: DeviceUpdate, now: Instant, out: &mut impl Output) {
        let handshake_anew = match update.private_key {
            Change::Keep => Vec::new(),
            Change::Clear => self.set_identity(None, now, out),
            Change::Set(key) => self.set_identity(Some(key), now, out),
        };
        self.listen_port = update.listen_port.unwrap_or(self.listen_port);
        self.fwmark = update.fwmark.unwrap_or(self.fwmark);
        if update.replace_peers {
            for id in 0..self.peers.len() {
                self.remove_peer(id, out);
            }
        }
        self.deny(update.denied, out);
        let (mut owed_keepalives, mut next_preshared) = (Vec::new(), Vec::new());
        for mut peer in update.peers {
            next_preshared.extend(peer.next_preshared_key.take().map(|key| (peer.public_key, key)));
            if let Some(id) = self.apply_peer(peer, now, out) {
                owed_keepalives.push(id);
            }
        }
        // Last, so that a request which names the key or the endpoint after the peer works as well.
        // The peer may be gone again by now.
        self.resume_rotation(update.next_private_key, next_preshared, now, out);
        for id in handshake_anew {
            if self.peers[id].is_some() {
                self.with_peer(id, now, out, |peer, cx| peer.initiate(cx));
            }
        }
        for id in owed_keepalives {
            if self.peers[id].is_some() {
                self.with_peer(id, now, out, |peer, cx| peer.send_keepalive(cx));
            }
        }
        self.after_configuration(now, out);
    }

    /// A snapshot: for UAPI `get`, metrics and status.
    pub fn state(&self, now: Instant) -> DeviceState {
        let mut peers: Vec<_> = self
            .peers
            .iter()
            .enumerate()
            .filter_map(|(id, slot)| slot.as_ref().map(|(arrival, peer)| (*arrival, id, peer)))
            .collect();
        peers.sort_unstable_by_key(|(arrival, ..)| *arrival);
        DeviceState {
            private_key: self.identities.current().map(|identity| identity.secret().clone()),
            public_key: self.identities.current().map(Identity::public),
            listen_port: self.listen_port,
            fwmark: self.fwmark,
            under_load: self.load.is_high(now),
            peers: peers
                .into_iter()
                .map(|(_, id, peer)| {
                    let mut state = peer.state(now);
                    state.allowed_ips = self.allowed_ips.of_peer(id).collect();
                    state.rotation = self.rotations.with(id, now);
                    state
                })
                .collect(),
        }
    }

    /// Whose inner address this is, by cryptokey routing. Packets with this source come from that
    /// peer or not at all.
    pub fn peer_by_source(&self, source: IpAddr) -> Option<PeerIdentity> {
        let id = self.allowed_ips.lookup(source)?;
        self.peers[id].as_ref().map(|(_, peer)| peer.identity())
    }

    /// For each peer with a persistent keepalive, when it last completed a handshake.
    pub fn kept_alive(&self) -> impl Iterator<Item = Option<Instant>> {
        let peers = self.peers.iter().flatten().map(|(_, peer)| peer);
        peers.filter(|peer| peer.wants_keepalives()).map(|peer| peer.last_handshake())
    }

    /// Our own addresses inside the tunnel: where packets come from that the device makes itself.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
    }

    /// When the last handshake with the peer was that may send from this inner address.
    pub fn last_handshake_by_source(&self, source: IpAddr) -> Option<Instant> {
        let id = self.allowed_ips.lookup(source)?;
        self.peers[id].as_ref()?.1.last_handshake()
    }

    /// The kernel says that the address of ours, at which `remote` last reached us, is gone: it is to choose
    /// another until the peer is heard again.
    pub fn forget_source(&mut self, remote: SocketAddr) {
        for (_, peer) in self.peers.iter_mut().flatten() {
            peer.forget_source(remote);
        }
    }

    /// Each peer's endpoint that has an address of ours with it.
    pub fn sources(&self) -> impl Iterator<Item = Endpoint> {
        let peers = self.peers.iter().flatten().filter_map(|(_, peer)| peer.endpoint());
        peers.filter(|endpoint| endpoint.local.is_some())
    }

    /// The mark of the sockets.
    pub fn fwmark(&self) -> u32 {
        self.fwmark
    }

    /// What the device has counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts a drop that the shell met: the kernel refused a write or a send.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.counters.drops.count(reason, 1);
    }

    fn handle_data(
        &mut self,
        receiver: u32,
        datagram: &mut [u8],
        from: Endpoint,
        now: Instant,
        out: &mut impl Output,
    ) -> Result<Option<Range<usize>>, (Option<PeerId>, DropReason)> {
        let id = self.ranges.owner(receiver).ok_or((None, DropReason::UnknownIndex))?;
        let identifier = self.probe_identifier;
        let (peers, allowed_ips, mut cx) = self.parts(now, &mut *out);
        let peer = present(peers, id);
        if peer.tick_is_due(now) {
            peer.service(&mut cx);
        }
        let place = peer.place_of(receiver);
        let result = match peer.open(receiver, datagram, from, &mut cx) {
            Ok(None) => Ok(None),
            Ok(Some(text)) => match IpHeader::parse(&datagram[text.clone()]) {
                Err(_) => Err(DropReason::Malformed),
                Ok(header) if allowed_ips.lookup(header.source) == Some(id) => {
                    let packet = text.start..text.start + header.total_length;
                    let ours = peer.answers_probe(&datagram[packet.clone()], identifier, now);
                    Ok((!ours).then_some(packet))
                }
                Ok(_) => Err(DropReason::SourceNotAllowed),
            },
            Err(reason) => Err(reason),
        };
        let next = peer.next_timeout();
        self.deadline = earliest(self.deadline, next);
        if place == Some(Place::Next) {
            self.look_at_rotation(id, now, out);
        }
        match result {
            Ok(Some(packet)) if control::is_control(&datagram[packet.clone()]) => {
                self.take_control(id, place, &mut datagram[packet], now, out);
                Ok(None)
            }
            Ok(packet) => Ok(packet),
            Err(reason) => Err((Some(id), reason)),
        }
    }

    fn handle_initiation(
        &mut self,
        message: &[u8],
        from: Endpoint,
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), (Option<PeerId>, DropReason)> {
        let own = self.admit(message, from, now, out).map_err(|reason| (None, reason))?;
        let Some(identity) = self.identities.get(own) else { return Err((None, DropReason::NoSession)) };
        let initiator = identity.initiator_of(message).map_err(|reason| (None, reason))?;
        let id = *self.by_key.get(&initiator.public).ok_or((None, DropReason::UnknownPeer))?;
        let initiation = identity.prove(initiator).map_err(|reason| (Some(id), reason))?;
        self.with_peer(id, now, out, |peer, cx| peer.accept_initiation(&initiation, own, from, cx))
            .map_err(|reason| (Some(id), reason))
    }

    fn handle_response(
        &mut self,
        receiver: u32,
        message: &[u8],
        from: Endpoint,
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), (Option<PeerId>, DropReason)> {
        self.admit(message, from, now, out).map_err(|reason| (None, reason))?;
        let id = self.ranges.owner(receiver).ok_or((None, DropReason::UnknownIndex))?;
        self.with_peer(id, now, out, |peer, cx| peer.accept_response(receiver, message, from, cx))
            .map_err(|reason| (Some(id), reason))?;
        self.look_at_rotation(id, now, out);
        Ok(())
    }

    fn handle_cookie(
        &mut self,
        receiver: u32,
        message: &[u8],
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), (Option<PeerId>, DropReason)> {
        let id = self.ranges.owner(receiver).ok_or((None, DropReason::UnknownIndex))?;
        self.with_peer(id, now, out, |peer, cx| peer.accept_cookie(receiver, message, cx))
            .map_err(|reason| (Some(id), reason))
    }

    /// The gate before handshakes. Gives the key of ours that the message is for.
    fn admit(
        &mut self,
        message: &[u8],
        from: Endpoint,
        now: Instant,
        out: &mut impl Output,
    ) -> Result<Generation, DropReason> {
        let mut refusal = DropReason::NoSession;
        for (generation, identity) in self.identities.iter() {
            let mut cookie = [0; COOKIE_REPLY_BYTES];
            match identity.admit(message, from.remote.ip(), &mut self.load, now, &mut cookie) {
                Admission::Pass => return Ok(generation),
                // Perhaps it is for another key that is alive.
                Admission::Refuse(DropReason::Mac1Invalid) => refusal = DropReason::Mac1Invalid,
                Admission::Refuse(reason) => return Err(reason),
                Admission::Cookie(reply) => {
                    self.counters.cookie_replies_sent += 1;
                    out.transmit(from, reply);
                    return Err(DropReason::Mac2Missing);
                }
            }
        }
        Err(refusal)
    }

    /// Gives the peers that spoke with us under the old key: those need a handshake.
    fn set_identity(&mut self, key: Option<SecretKey>, now: Instant, out: &mut impl Output) -> Vec<PeerId> {
        let same = match (self.identities.current(), &key) {
            // A rotation has written its new key to the file already, and somebody reads the file.
            (Some(identity), Some(key)) => identity.secret().same_as(key) || self.rotations.announces(key),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return Vec::new();
        }
        self.abandon_rotations(now, out);
        let had_key = self.identities.current().is_some();
        self.identities.replace(key);
        let own = self.identities.current_generation();
        let mut handshake_anew = Vec::new();
        for (id, slot) in self.peers.iter_mut().enumerate() {
            let Some((_, peer)) = slot else { continue };
            peer.forget_sessions(own, &mut self.ranges);
            if peer.wants_keepalives() {
                handshake_anew.push(id);
            }
        }
        let Some(public_key) = self.identities.current().map(Identity::public) else { return Vec::new() };
        if let Some(&own) = self.by_key.get(&public_key) {
            self.remove_peer(own, out);
        }
        if had_key {
            self.tell_own_key(public_key, now, out);
        }
        handshake_anew
    }

    fn tell_own_key(&self, public_key: PublicKey, now: Instant, out: &mut impl Output) {
        let peer = PeerIdentity { public_key, friendly_name: None, since: Some(now) };
        out.event(DeviceEvent::KeyChanged { peer, key: ChangedKey::Own });
    }

    /// Gives the peer if it is owed a keepalive.
    fn apply_peer(&mut self, update: PeerUpdate, now: Instant, out: &mut impl Output) -> Option<PeerId> {
        if self.identities.has(&update.public_key) {
            return None;
        }
        if self.rotations.denies(&update.public_key) && !update.remove {
            return None;
        }
        let known = self.by_key.get(&update.public_key).copied();
        if update.remove {
            if let Some(id) = known {
                self.remove_peer(id, out);
            }
            return None;
        }
        let id = match known {
            Some(id) => id,
            None if update.update_only => return None,
            None => self.add_peer(update.public_key),
        };
        if update.replace_allowed_ips {
            self.allowed_ips.remove_peer(id);
        }
        for change in update.allowed_ips {
            match change {
                AllowedIpChange::Add(prefix) => self.allowed_ips.insert(prefix, id),
                AllowedIpChange::Remove(prefix) => self.allowed_ips.remove(prefix, id),
            }
        }
        if let Some(name) = &update.friendly_name {
            self.names.insert(update.public_key, Arc::clone(name));
        }
        let name = self.names.get(&update.public_key).cloned();
        let owed = self.with_peer(id, now, out, |peer, cx| {
            if let Some(name) = name {
                peer.set_friendly_name(name);
            }
            match update.preshared_key {
                Change::Keep => {}
                Change::Clear => peer.set_preshared_key(None, cx),
                Change::Set(key) => peer.set_preshared_key(Some(key), cx),
            }
            if let Some(remote) = update.endpoint {
                peer.set_endpoint(Endpoint::to(remote));
            }
            update.persistent_keepalive.is_some_and(|seconds| peer.set_keepalive(seconds, now))
        });
        owed.then_some(id)
    }

    fn add_peer(&mut self, public_key: PublicKey) -> PeerId {
        let id = self.free.pop().unwrap_or(self.peers.len());
        let own = self.identities.current_generation();
        let slot = Some((self.arrivals, Box::new(Peer::new(id, public_key, own))));
        self.arrivals += 1;
        match self.peers.get_mut(id) {
            Some(free) => *free = slot,
            None => self.peers.push(slot),
        }
        self.by_key.insert(public_key, id);
        id
    }

    fn remove_peer(&mut self, id: PeerId, out: &mut impl Output) {
        let Some((_, mut peer)) = self.peers[id].take() else { return };
        self.free.push(id);
        for key in peer.all_public_keys() {
            self.by_key.remove(&key);
        }
        peer.forget_sessions(self.identities.current_generation(), &mut self.ranges);
        self.allowed_ips.remove_peer(id);
        self.forget_rotation(id, out);
        let peer = peer.identity();
        if peer.since.is_some() {
            out.event(DeviceEvent::PeerDown { peer });
        }
    }

    /// Runs `f` with a peer that is there, its timers up to date, and notes when it wants to be
    /// looked at again.
    fn with_peer<O: Output, T>(
        &mut self,
        id: PeerId,
        now: Instant,
        out: &mut O,
        f: impl FnOnce(&mut Peer, &mut Context<'_, O>) -> T,
    ) -> T {
        let (peers, _, mut cx) = self.parts(now, out);
        let peer = present(peers, id);
        if peer.tick_is_due(now) {
            peer.service(&mut cx);
        }
        let result = f(peer, &mut cx);
        let next = peer.next_timeout();
        self.deadline = earliest(self.deadline, next);
        result
    }

    /// The device taken apart, so that a peer can work while it is borrowed from it.
    fn parts<'a, O>(
        &'a mut self,
        now: Instant,
        out: &'a mut O,
    ) -> (&'a mut [Option<Slot>], &'a AllowedIps<PeerId>, Context<'a, O>) {
        let cx = Context {
            now,
            out,
            identities: &self.identities,
            ranges: &mut self.ranges,
            counters: &mut self.counters,
            stamper: &mut self.stamper,
            scratch: &mut self.scratch,
            mtu: usize::from(self.mtu),
            link_is_up: self.link == Link::Up,
        };
        (&mut self.peers, &self.allowed_ips, cx)
    }
}

/// A peer, with its number of arrival.
type Slot = (u64, Box<Peer>);

fn present(peers: &mut [Option<Slot>], id: PeerId) -> &mut Peer {
    let slot = peers[id].as_mut();
    &mut slot.expect("keys, routes and ranges go with their peer, in `remove_peer`").1
}

fn scratch() -> Box<Scratch> {
    let bytes: Box<[u8]> = vec![0; SCRATCH_BYTES].into_boxed_slice();
    bytes.try_into().expect("made with exactly this length")
}

#[cfg(test)]
mod tests;
