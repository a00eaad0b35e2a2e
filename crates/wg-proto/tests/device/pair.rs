//! The harness, after quinn's `Pair`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use wg_proto::{
    Device, DeviceEvent, DeviceUpdate, DropReason, Endpoint, LocalAddress, Output, PeerState, PublicKey,
    RotationOutput, SecretKey, uapi,
};

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) left: Side,
    pub(crate) right: Side,
    pub(crate) latency: Duration,
    /// The path is cut: what is sent goes nowhere.
    pub(crate) cut: bool,
    /// Of the messages between the daemons themselves, which one does not arrive.
    pub(crate) lost_short: Option<usize>,
    /// How many there were.
    pub(crate) short: usize,
    wire: VecDeque<InFlight>,
    /// Every datagram that was sent, in order.
    pub(crate) sent: Vec<Sent>,
}

pub(crate) struct Side {
    pub(crate) device: Device,
    pub(crate) secret: SecretKey,
    /// Where its datagrams come from.
    pub(crate) address: SocketAddr,
    /// Its address inside the tunnel.
    pub(crate) inner: IpAddr,
    pub(crate) delivered: Vec<Vec<u8>>,
    pub(crate) events: Vec<DeviceEvent>,
    pub(crate) rotations: Vec<RotationOutput>,
}

#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) datagram: Vec<u8>,
}

struct InFlight {
    arrives: Instant,
    sent: Sent,
}

#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) datagrams: Vec<(Endpoint, Vec<u8>)>,
    pub(crate) delivered: Vec<Vec<u8>>,
    pub(crate) events: Vec<DeviceEvent>,
    pub(crate) rotations: Vec<RotationOutput>,
}

impl Output for Sink {
    fn transmit(&mut self, to: Endpoint, datagram: &[u8]) {
        self.datagrams.push((to, datagram.to_vec()));
    }
    fn event(&mut self, event: DeviceEvent) {
        self.events.push(event);
    }
    fn rotation(&mut self, output: RotationOutput) {
        self.rotations.push(output);
    }
}

impl Sink {
    /// Hands a datagram to the device and keeps the packet that comes of it.
    pub(crate) fn receive(&mut self, device: &mut Device, datagram: &[u8], from: Endpoint, now: Instant) {
        let mut datagram = datagram.to_vec();
        if let Some(place) = device.handle_udp(&mut datagram, from, now, self) {
            self.delivered.push(datagram[place].to_vec());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Left,
    Right,
}
pub(crate) use Who::{Left, Right};

impl Pair {
    /// Two devices that know each other's key; left knows right's address too.
    pub(crate) fn new() -> Pair {
        let mut pair = Pair {
            now: start(),
            left: Side::new("192.0.2.1:51820", "10.0.0.1"),
            right: Side::new("192.0.2.2:51820", "10.0.0.2"),
            latency: Duration::from_millis(10),
            cut: false,
            lost_short: None,
            short: 0,
            wire: VecDeque::new(),
            sent: Vec::new(),
        };
        let (left, right) = (pair.left.public_key().to_hex(), pair.right.public_key().to_hex());
        pair.set(Left, &format!("public_key={right}\nendpoint=192.0.2.2:51820\nallowed_ip=10.0.0.2/32\n"));
        pair.set(Right, &format!("public_key={left}\nallowed_ip=10.0.0.1/32\n"));
        pair
    }

    /// One that has exchanged a packet in each direction.
    pub(crate) fn connected() -> Pair {
        let mut pair = Pair::new();
        pair.send(Left, 100);
        pair.settle();
        pair.send(Right, 100);
        pair.settle();
        assert_eq!((pair.left.delivered.len(), pair.right.delivered.len()), (1, 1));
        pair.sent.clear();
        for side in [&mut pair.left, &mut pair.right] {
            side.delivered.clear();
            side.events.clear();
        }
        pair
    }

    pub(crate) fn side(&mut self, who: Who) -> &mut Side {
        match who {
            Left => &mut self.left,
            Right => &mut self.right,
        }
    }

    /// A UAPI request, its own key in front unless it brings one.
    pub(crate) fn set(&mut self, who: Who, body: &str) {
        let update = uapi::parse_set(body).unwrap();
        self.apply(who, update);
    }

    pub(crate) fn apply(&mut self, who: Who, update: DeviceUpdate) {
        self.input(who, |device, now, sink| device.apply(update, now, sink));
    }

    /// The interface is set up or down.
    pub(crate) fn set_link_up(&mut self, who: Who, up: bool) {
        self.input(who, |device, now, sink| device.set_link_up(up, now, sink));
    }

    /// A packet of this length from one inner address to the other.
    pub(crate) fn send(&mut self, who: Who, length: usize) -> Vec<u8> {
        let (from, to) = match who {
            Left => (self.left.inner, self.right.inner),
            Right => (self.right.inner, self.left.inner),
        };
        let packet = ip_packet(from, to, length);
        self.send_packet(who, &packet);
        packet
    }

    pub(crate) fn send_packet(&mut self, who: Who, packet: &[u8]) {
        self.input(who, |device, now, sink| device.handle_tun(packet, now, sink));
    }

    /// A datagram from nowhere.
    pub(crate) fn inject(&mut self, who: Who, datagram: &[u8], from: &str) {
        let from = Endpoint::to(from.parse().unwrap());
        self.input(who, |device, now, sink| sink.receive(device, datagram, from, now));
    }

    /// Lets everything arrive that is under way, and what is sent in answer.
    pub(crate) fn settle(&mut self) {
        while self.deliver_next(None) {}
    }

    /// Runs wire and timers for so long.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timeouts = [self.left.device.next_timeout(), self.right.device.next_timeout()];
            let timeout = timeouts.into_iter().flatten().min().filter(|at| *at <= end);
            if self.deliver_next(Some(timeout.unwrap_or(end))) {
                continue;
            }
            let Some(timeout) = timeout else { break };
            self.now = self.now.max(timeout);
            for who in [Left, Right] {
                self.input(who, |device, now, sink| device.handle_timeout(now, sink));
            }
        }
        self.now = end;
    }

    /// The next datagram arrives; `false` if none is under way.
    pub(crate) fn deliver_one(&mut self) -> bool {
        self.deliver_next(None)
    }

    fn deliver_next(&mut self, before: Option<Instant>) -> bool {
        let Some(next) = self.wire.front() else { return false };
        if before.is_some_and(|before| next.arrives > before) {
            return false;
        }
        let Some(InFlight { arrives, sent }) = self.wire.pop_front() else { return false };
        self.now = self.now.max(arrives);
        for who in [Left, Right] {
            if self.side(who).address == sent.to {
                let local = LocalAddress { ip: sent.to.ip(), interface_index: 1 };
                let from = Endpoint { remote: sent.from, local: Some(local) };
                self.input(who, |device, now, sink| sink.receive(device, &sent.datagram, from, now));
            }
        }
        true
    }

    pub(crate) fn input(&mut self, who: Who, f: impl FnOnce(&mut Device, Instant, &mut Sink)) {
        let (now, latency, cut) = (self.now, self.latency, self.cut);
        let side = self.side(who);
        let mut sink = Sink::default();
        f(&mut side.device, now, &mut sink);
        let from = side.address;
        side.delivered.append(&mut sink.delivered);
        side.events.append(&mut sink.events);
        side.rotations.append(&mut sink.rotations);
        for (to, datagram) in sink.datagrams {
            let sent = Sent { from, to: to.remote, datagram };
            self.sent.push(sent.clone());
            self.short += usize::from(is_short(&sent.datagram));
            let is_lost = is_short(&sent.datagram) && self.lost_short == Some(self.short);
            if !cut && !is_lost {
                self.wire.push_back(InFlight { arrives: now + latency, sent });
            }
        }
    }

    /// Lengths of the datagrams sent so far.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.sent.iter().map(|sent| sent.datagram.len()).collect()
    }

    /// The state of the only peer.
    pub(crate) fn peer(&mut self, who: Who) -> PeerState {
        let now = self.now;
        let mut peers = self.side(who).device.state(now).peers;
        assert_eq!(peers.len(), 1);
        peers.remove(0)
    }

    pub(crate) fn drops(&mut self, who: Who, reason: DropReason) -> u64 {
        self.side(who).device.counters().drops.of(reason)
    }
}

impl Side {
    fn new(address: &str, inner: &str) -> Side {
        let secret = SecretKey::generate().unwrap();
        let mut device = Device::new();
        let update =
            DeviceUpdate { private_key: wg_proto::Change::Set(secret.clone()), ..DeviceUpdate::default() };
        device.apply(update, start(), &mut Sink::default());
        Side {
            device,
            secret,
            address: address.parse().unwrap(),
            inner: inner.parse().unwrap(),
            delivered: Vec::new(),
            events: Vec::new(),
            rotations: Vec::new(),
        }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.secret.public_key()
    }
}

/// As long as a message between two daemons is, padded and sealed: with a key in it or without.
fn is_short(datagram: &[u8]) -> bool {
    matches!(datagram.len(), 96 | 128)
}

/// An IPv4 packet with a recognisable payload.
pub(crate) fn ip_packet(from: IpAddr, to: IpAddr, length: usize) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4 only") };
    let mut packet: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
    packet[..20].fill(0);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet
}

#[expect(clippy::disallowed_methods, reason = "tests need one instant to count from")]
pub(crate) fn start() -> Instant {
    Instant::now()
}
