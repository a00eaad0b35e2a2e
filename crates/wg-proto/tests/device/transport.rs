//! Handshakes, data, padding, counters, roaming.

use std::time::Duration;

use packet::split::Split;
use packet::virtio::{PartialChecksum, SegmentKind, Segments, VirtioHeader};
use wg_proto::{DeviceEvent, DropReason};

use crate::pair::{Left, Pair, Right, ip_packet};

#[test]
fn the_first_packet_brings_a_handshake_and_then_itself() {
    let mut pair = Pair::new();
    let packet = pair.send(Left, 84);
    pair.settle();
    assert_eq!(pair.right.delivered, [packet]);
    assert_eq!(pair.lengths(), [148, 92, 32, 128], "initiation, response, keepalive, padded data");
    let answer = pair.send(Right, 84);
    pair.settle();
    assert_eq!(pair.left.delivered, [answer]);
    for who in [Left, Right] {
        let names: Vec<_> = pair.side(who).events.iter().map(name).collect();
        assert_eq!(names, ["up", "handshake"]);
    }
}

#[test]
fn packets_that_wait_for_the_handshake_arrive_in_order() {
    let mut pair = Pair::new();
    let packets: Vec<_> = (0..20).map(|index| pair.send(Left, 60 + index)).collect();
    pair.settle();
    assert_eq!(pair.right.delivered, packets);
}

#[test]
fn more_waiting_packets_than_kept_are_counted() {
    let mut pair = Pair::new();
    let packets: Vec<_> = (0..130).map(|index| pair.send(Left, 60 + index)).collect();
    assert_eq!(pair.peer(Left).staged_packets, 128);
    pair.settle();
    assert_eq!(pair.right.delivered, packets[2..]);
    assert_eq!(pair.drops(Left, DropReason::QueueFull), 2);
}

#[test]
fn padding_shows_in_the_datagrams_and_not_in_the_packets() {
    let mut pair = Pair::connected();
    pair.left.device.set_mtu(1420);
    let mut packets = Vec::new();
    for length in [20, 32, 33, 1400, 1409, 1416, 1417, 1420] {
        packets.push(pair.send(Left, length));
    }
    pair.settle();
    assert_eq!(pair.lengths(), [64, 64, 80, 1440, 1452, 1452, 1452, 1452]);
    assert_eq!(pair.right.delivered, packets);
}

/// A large TCP packet from left to right, as a TUN device hands it over, and the packets that it stands for.
fn large_packet(pair: &Pair, payload: usize, segment: u16) -> (VirtioHeader, Vec<u8>, Vec<Vec<u8>>) {
    let mut whole = ip_packet(pair.left.inner, pair.right.inner, 40 + payload);
    (whole[9], whole[32], whole[33]) = (6, 0x50, 0x18);
    let header = VirtioHeader {
        checksum: Some(PartialChecksum { start: 20, offset: 16 }),
        segments: Some(Segments { kind: SegmentKind::TcpV4, header_bytes: 40, payload_bytes: segment }),
    };
    let mut split = Split::new(&header, &whole).unwrap();
    let mut buffer = vec![0; split.longest()];
    let mut packets = Vec::new();
    while let Some(length) = split.write_next(&mut buffer) {
        packets.push(buffer[..length].to_vec());
    }
    (header, whole, packets)
}

#[test]
fn a_large_packet_is_sealed_as_the_packets_that_it_stands_for() {
    let mut pair = Pair::connected();
    let (header, whole, packets) = large_packet(&pair, 10_000, 1_375);
    let split = Split::new(&header, &whole).unwrap();
    pair.input(Left, |device, now, sink| device.handle_tun_split(split, now, sink));
    pair.settle();
    assert_eq!(pair.right.delivered, packets);
    assert_eq!(
        pair.lengths(),
        [[1_452; 7].as_slice(), &[416 + 32]].concat(),
        "padded, but not above the MTU"
    );
    assert_eq!(pair.peer(Left).tx_packets, pair.peer(Right).rx_packets);
}

#[test]
fn a_large_packet_waits_for_the_handshake_in_its_pieces() {
    let mut pair = Pair::new();
    let (header, whole, packets) = large_packet(&pair, 10_000, 1_375);
    let split = Split::new(&header, &whole).unwrap();
    pair.input(Left, |device, now, sink| device.handle_tun_split(split, now, sink));
    assert_eq!(pair.peer(Left).staged_packets, 8);
    pair.settle();
    assert_eq!(pair.right.delivered, packets);
}

#[test]
fn a_large_packet_that_goes_nowhere_counts_as_all_of_its_packets() {
    let mut pair = Pair::connected();
    let (header, mut whole, _) = large_packet(&pair, 10_000, 1_375);
    whole[16..20].copy_from_slice(&[192, 0, 2, 1]);
    let split = Split::new(&header, &whole).unwrap();
    pair.input(Left, |device, now, sink| device.handle_tun_split(split, now, sink));
    assert_eq!(pair.drops(Left, DropReason::NoRoute), 8);
    pair.settle();
    assert_eq!(pair.right.delivered.len(), 0);
    // Without an address to send to, likewise.
    let mut pair = Pair::new();
    let (header, mut whole, _) = large_packet(&pair, 10_000, 1_375);
    whole[16..20].copy_from_slice(&[10, 0, 0, 1]);
    let split = Split::new(&header, &whole).unwrap();
    pair.input(Right, |device, now, sink| device.handle_tun_split(split, now, sink));
    assert_eq!(pair.drops(Right, DropReason::NoEndpoint), 8);
}

#[test]
fn ten_pings_count_as_the_kernel_counts_them() {
    let mut pair = Pair::new();
    for _ in 0..10 {
        pair.send(Left, 84);
        pair.settle();
        pair.send(Right, 84);
        pair.settle();
    }
    let (left, right) = (pair.peer(Left), pair.peer(Right));
    assert_eq!((left.rx_bytes, left.tx_bytes), (1372, 1460));
    assert_eq!((right.rx_bytes, right.tx_bytes), (1460, 1372));
    assert_eq!((left.rx_packets, left.tx_packets), (11, 12));
    assert_eq!((left.handshakes.initiator_completed, right.handshakes.responder_completed), (1, 1));
    assert_eq!((left.rtt, right.rtt), (Some(2 * pair.latency), None), "of the handshake, by who began it");
}

#[test]
fn what_the_line_swallows_is_counted_by_the_other_end() {
    let mut pair = Pair::connected();
    for number in 0..2_000 {
        pair.cut = number % 10 == 0;
        pair.send(Left, 84);
        pair.settle();
    }
    let right = pair.peer(Right);
    // Two datagrams came first; the newest 256 are not settled yet.
    assert_eq!((right.numbers.expected, right.numbers.lost), (1_746, 175));
    assert!(right.loss.is_some_and(|loss| (0.09..0.11).contains(&loss)), "{:?}", right.loss);
}

#[test]
fn an_inner_source_of_somebody_else_is_not_delivered() {
    let mut pair = Pair::connected();
    let packet = ip_packet("10.0.0.77".parse().unwrap(), pair.right.inner, 60);
    pair.send_packet(Left, &packet);
    pair.settle();
    assert!(pair.right.delivered.is_empty());
    assert_eq!(pair.drops(Right, DropReason::SourceNotAllowed), 1);
    assert_eq!(pair.peer(Right).drops.of(DropReason::SourceNotAllowed), 1);
}

#[test]
fn a_destination_of_nobody_is_not_sent() {
    let mut pair = Pair::connected();
    let packet = ip_packet(pair.left.inner, "10.0.0.77".parse().unwrap(), 60);
    pair.send_packet(Left, &packet);
    pair.send_packet(Left, &[0; 40]);
    assert!(pair.sent.is_empty());
    assert_eq!(pair.drops(Left, DropReason::NoRoute), 1);
    assert_eq!(pair.drops(Left, DropReason::Malformed), 1);
}

#[test]
fn a_peer_without_endpoint_gets_nothing() {
    let mut pair = Pair::new();
    pair.send(Right, 60);
    assert!(pair.sent.is_empty());
    assert_eq!(pair.drops(Right, DropReason::NoEndpoint), 1);
}

#[test]
fn the_endpoint_follows_the_last_authenticated_packet() {
    let mut pair = Pair::connected();
    pair.left.address = "198.51.100.7:4444".parse().unwrap();
    pair.send(Left, 60);
    pair.settle();
    let peer = pair.peer(Right);
    let endpoint = peer.endpoint.unwrap();
    assert_eq!(endpoint.remote, pair.left.address);
    assert_eq!(
        endpoint.local.unwrap().ip,
        pair.right.address.ip(),
        "answers leave from where it was spoken to"
    );
    assert_eq!(peer.endpoint_changes, 1);
    assert!(matches!(
        &pair.right.events[..],
        [DeviceEvent::Roamed { to, .. }] if *to == pair.left.address
    ));
    let answer = pair.send(Right, 60);
    pair.settle();
    assert_eq!(pair.left.delivered, [answer]);
}

#[test]
fn both_speaking_first_end_with_one_connection() {
    let mut pair = Pair::new();
    let left = pair.left.public_key().to_hex();
    pair.set(Right, &format!("public_key={left}\nendpoint=192.0.2.1:51820\n"));
    let to_right = pair.send(Left, 60);
    let to_left = pair.send(Right, 70);
    pair.settle();
    assert_eq!((&pair.right.delivered[..], &pair.left.delivered[..]), (&[to_right][..], &[to_left][..]));
    let handshakes = pair.lengths().iter().filter(|length| **length == 148).count();
    assert_eq!(handshakes, 2, "they do not answer each other's initiations for ever");
}

#[test]
fn the_address_inside_tells_the_peer() {
    let mut pair = Pair::new();
    let inside = pair.right.inner;
    assert_eq!(pair.left.device.peer_by_source(inside).unwrap().since, None);
    pair.send(Left, 60);
    pair.settle();
    let identity = pair.left.device.peer_by_source(inside).unwrap();
    assert_eq!(identity.public_key, pair.right.public_key());
    assert!(identity.since.is_some());
    assert!(pair.left.device.peer_by_source("10.0.0.3".parse().unwrap()).is_none());
}

#[test]
fn a_live_pair_stays_up_while_it_speaks() {
    let mut pair = Pair::connected();
    for _ in 0..10 {
        pair.run(Duration::from_secs(60));
        pair.send(Left, 60);
        pair.settle();
    }
    assert!(pair.peer(Right).up_since.is_some());
    assert!(!pair.right.events.iter().any(|event| name(event) == "down"));
}

pub(crate) fn name(event: &DeviceEvent) -> &'static str {
    match event {
        DeviceEvent::PeerUp { .. } => "up",
        DeviceEvent::PeerDown { .. } => "down",
        DeviceEvent::Handshake { .. } => "handshake",
        DeviceEvent::Unanswered { .. } => "unanswered",
        DeviceEvent::Roamed { .. } => "roamed",
        DeviceEvent::KeyChanged { .. } => "key",
    }
}
