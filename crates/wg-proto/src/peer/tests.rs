use std::net::SocketAddr;

use super::*;
use crate::SecretKey;
use crate::limits::from_the_specification::REKEY_TIMEOUT;
use crate::limits::our_choice::{SCRATCH_BYTES, TICK};

#[test]
fn padding_fills_sixteens_and_stops_at_the_mtu() {
    for (length, mtu, padded) in [
        (0, 1420, 0),
        (1, 1420, 16),
        (16, 1420, 16),
        (84, 1420, 96),
        (1408, 1420, 1408),
        (1409, 1420, 1420),
        (1420, 1420, 1420),
        (1421, 1420, 1436),
        (2840, 1420, 2840),
        (20, 0, 32),
    ] {
        assert_eq!(padded_length(length, mtu), padded, "{length} bytes at MTU {mtu}");
    }
}

#[test]
fn a_peer_without_keepalive_rests_after_giving_up_and_begins_anew_with_the_next_packet() {
    let mut lab = Lab::new();
    lab.with(|peer, cx| peer.send(PACKET, cx));
    assert_eq!(lab.sent, [148]);
    lab.give_up();
    let tries = lab.sent.len();
    assert!((17..=18).contains(&tries), "one every 5 s: {tries}");
    assert_eq!(lab.peer.next_timeout(), None, "and nothing to wait for");
    assert_eq!(lab.peer.handshakes.initiator_failed, 1);
    assert_eq!(lab.peer.drops.of(DropReason::NoSession), 1, "what waited is dropped and counted");
    lab.now += Duration::from_secs(600);
    lab.with(|peer, cx| peer.send(PACKET, cx));
    assert_eq!(lab.sent.len(), tries + 1);
    assert_eq!(lab.peer.next_timeout(), Some(lab.now + TICK));
}

#[test]
fn a_peer_to_be_kept_alive_never_rests() {
    let mut lab = Lab::new();
    assert!(lab.peer.set_keepalive(25, lab.now));
    lab.with(Peer::send_keepalive);
    for attempt in 1..=7 {
        lab.give_up();
        assert!((17 * attempt..=18 * attempt + 1).contains(&lab.sent.len()), "{attempt}: {}", lab.sent.len());
        assert!(lab.peer.next_timeout() <= Some(lab.now + TICK), "so that retries go on every 5 s");
    }
    assert_eq!(lab.peer.handshakes.initiator_failed, 7);
}

#[test]
fn our_handshake_messages_keep_their_distance() {
    let mut timers = Timers::default();
    let now = start();
    assert!(timers.may_initiate(now));
    timers.handshake_message_sent(now);
    assert!(!timers.may_initiate(now + REKEY_TIMEOUT - Duration::from_nanos(1)));
    assert!(timers.may_initiate(now + REKEY_TIMEOUT));
    timers.handshake_over();
    assert!(timers.may_initiate(now));
}

/// One peer and what it borrows.
struct Lab {
    now: Instant,
    identities: Identities,
    peer: Peer,
    ranges: Ranges,
    counters: Counters,
    scratch: Box<Scratch>,
    stamper: Stamper,
    /// Lengths of what was sent.
    sent: Vec<usize>,
}

const PACKET: &[u8] = &[0x45; 60];

impl Lab {
    fn new() -> Lab {
        let other = SecretKey::generate().unwrap().public_key();
        let mut identities = Identities::default();
        identities.replace(Some(SecretKey::generate().unwrap()));
        let mut peer = Peer::new(0, other, identities.current_generation());
        peer.set_endpoint(Endpoint::to("192.0.2.1:1".parse::<SocketAddr>().unwrap()));
        Lab {
            now: start(),
            identities,
            peer,
            ranges: Ranges::default(),
            counters: Counters::default(),
            scratch: Box::new([0; SCRATCH_BYTES]),
            stamper: Stamper::default(),
            sent: Vec::new(),
        }
    }

    fn with(&mut self, f: impl FnOnce(&mut Peer, &mut Context<'_, Lengths>)) {
        let mut out = Lengths(Vec::new());
        let mut cx = Context {
            now: self.now,
            out: &mut out,
            identities: &self.identities,
            ranges: &mut self.ranges,
            counters: &mut self.counters,
            scratch: &mut self.scratch,
            stamper: &mut self.stamper,
            link_is_up: true,
            mtu: 1420,
        };
        f(&mut self.peer, &mut cx);
        self.sent.append(&mut out.0);
    }

    /// Ninety seconds without an answer.
    fn give_up(&mut self) {
        let failed = self.peer.handshakes.initiator_failed;
        let end = self.now + Duration::from_secs(92);
        while self.peer.handshakes.initiator_failed == failed && self.now < end {
            self.now = self.peer.next_timeout().expect("a handshake is under way");
            self.with(Peer::service);
        }
        assert!(self.peer.handshakes.initiator_failed > failed, "it does not give up");
    }
}

struct Lengths(Vec<usize>);

impl Output for Lengths {
    fn transmit(&mut self, _: Endpoint, datagram: &[u8]) {
        self.0.push(datagram.len());
    }
    fn event(&mut self, _: DeviceEvent) {}
}

#[expect(clippy::disallowed_methods, reason = "tests need one instant to count from")]
fn start() -> Instant {
    Instant::now()
}
