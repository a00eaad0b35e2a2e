//! Round trips measured in the tunnel: who answers, what counts, what goes on to the TUN.

use std::time::Duration;

use packet::checksum;
use packet::echo::{Addresses, EchoRequest};
use wg_proto::{DropReason, Probed, Probes, PublicKey};

use crate::pair::{Left, Pair, Right};

/// A connected pair whose left side knows its own address.
fn pair() -> Pair {
    let mut pair = Pair::connected();
    let own = pair.left.inner;
    pair.left.device.set_addresses(vec!["fd00::1".parse().unwrap(), own]);
    pair
}

fn ask(pair: &mut Pair) -> Option<Probed> {
    let right = pair.right.public_key();
    let mut probed = None;
    pair.input(Left, |device, now, sink| probed = device.probe(&right, now, sink));
    pair.settle();
    probed
}

/// What right's host makes of the newest packet it got.
fn echo(pair: &Pair) -> Vec<u8> {
    let mut packet = pair.right.delivered.last().unwrap().clone();
    assert_eq!((packet.len(), packet[9], packet[20]), (64, 1, 8), "an echo request");
    assert_eq!(checksum::of(&packet[20..]), 0);
    let source: [u8; 4] = packet[12..16].try_into().unwrap();
    packet.copy_within(16..20, 12);
    packet[16..20].copy_from_slice(&source);
    packet[20] = 0;
    packet[22..24].fill(0);
    let sum = checksum::of(&packet[20..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn probes(pair: &mut Pair) -> Probes {
    let now = pair.now;
    let all: Vec<_> = pair.left.device.probes(now).collect();
    let right = pair.right.public_key();
    all.into_iter().find(|(peer, _)| *peer == right).unwrap().1
}

#[test]
fn an_answer_is_measured_and_not_delivered() {
    let mut pair = pair();
    assert_eq!(ask(&mut pair), Some(Probed::Sent));
    let answer = echo(&pair);
    pair.now += Duration::from_millis(7);
    pair.send_packet(Right, &answer);
    pair.settle();
    let round_trip = Some(2 * pair.latency + Duration::from_millis(7));
    assert_eq!(probes(&mut pair), Probes { round_trip, sent: 1, answered: 1, ..Probes::default() });
    assert_eq!(pair.peer(Left).rtt, round_trip);
    assert!(pair.left.delivered.is_empty());
    // The same once more answers nothing.
    pair.send_packet(Right, &answer);
    pair.settle();
    assert_eq!(pair.left.delivered, [answer]);
}

#[test]
fn other_answers_are_packets_like_any_other() {
    let mut pair = pair();
    let left = pair.left.public_key().to_hex();
    pair.set(Right, &format!("public_key={left}\nallowed_ip=10.0.0.1/32\n"));
    let right = pair.right.public_key().to_hex();
    pair.set(Left, &format!("public_key={right}\nallowed_ip=10.0.0.3/32\n"));
    ask(&mut pair);
    let answer = echo(&pair);
    let with = |place: usize, value: u8| {
        let mut packet = answer.clone();
        packet[place] ^= value;
        packet[22..24].fill(0);
        let sum = checksum::of(&packet[20..]);
        packet[22..24].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    let mut damaged = answer.clone();
    damaged[40] ^= 1;
    // Another identifier, another number, another address of the same peer, a wrong checksum, a question.
    let others = [with(25, 1), with(27, 1), with(15, 1), damaged, with(20, 8)];
    for packet in &others {
        pair.send_packet(Right, packet);
    }
    pair.settle();
    assert_eq!(pair.left.delivered, others);
    assert_eq!(probes(&mut pair).answered, 0);
    pair.send_packet(Right, &answer);
    pair.settle();
    assert_eq!((pair.left.delivered.len(), probes(&mut pair).answered), (others.len(), 1));
}

#[test]
fn an_answer_from_a_peer_that_does_not_own_the_address_does_not_count() {
    let mut pair = pair();
    ask(&mut pair);
    let answer = echo(&pair);
    let other = PublicKey::from_bytes([9; 32]).to_hex();
    pair.set(Left, &format!("public_key={other}\nallowed_ip=10.0.0.2/32\n"));
    pair.send_packet(Right, &answer);
    pair.settle();
    assert_eq!(pair.drops(Left, DropReason::SourceNotAllowed), 1);
    assert_eq!(probes(&mut pair).answered, 0);
    assert!(pair.left.delivered.is_empty());
}

#[test]
fn a_ping_of_a_program_is_left_alone() {
    let mut pair = pair();
    let addresses = Addresses::between(pair.right.inner, pair.left.inner).unwrap();
    let mut buffer = [0; 64];
    let request = EchoRequest { addresses, identifier: 7, sequence: 1, total_length: 64 };
    let ping = request.write(&mut buffer).unwrap().to_vec();
    pair.send_packet(Right, &ping);
    pair.settle();
    assert_eq!(pair.left.delivered, [ping]);
}

#[test]
fn a_probe_without_an_answer_is_lost_when_the_next_is_sent() {
    let mut pair = pair();
    assert_eq!(ask(&mut pair), Some(Probed::Sent));
    assert_eq!(ask(&mut pair), Some(Probed::UnderWay));
    pair.now += Duration::from_secs(1);
    let open_for = Some(pair.latency + Duration::from_secs(1));
    assert_eq!(probes(&mut pair), Probes { open_for, sent: 1, ..Probes::default() });
    let late = echo(&pair);
    assert_eq!(ask(&mut pair), Some(Probed::Sent));
    assert_eq!(probes(&mut pair).lost, 1);
    pair.send_packet(Right, &late);
    pair.settle();
    assert_eq!(pair.left.delivered, [late]);
}

#[test]
fn asking_one_peer_wakes_it_and_asking_all_does_not() {
    let mut pair = Pair::new();
    let own = pair.left.inner;
    let right = pair.right.public_key();
    assert_eq!(ask(&mut pair), Some(Probed::NoAddress), "we do not know our own");
    pair.left.device.set_addresses(vec![own]);
    pair.input(Left, |device, now, sink| {
        assert_eq!(device.probe_all(now, sink), [(right, Probed::NoSession)]);
    });
    assert!(pair.sent.is_empty());
    assert_eq!(ask(&mut pair), Some(Probed::NoSession));
    assert_eq!(ask(&mut pair), Some(Probed::Sent));
    pair.now += Duration::from_secs(2);
    pair.input(Left, |device, now, sink| assert_eq!(device.probe_all(now, sink), [(right, Probed::Sent)]));
    assert_eq!(probes(&mut pair).sent, 2);
    let nobody = PublicKey::from_bytes([9; 32]);
    assert_ne!(nobody, right);
    pair.input(Left, |device, now, sink| assert_eq!(device.probe(&nobody, now, sink), None));
}
