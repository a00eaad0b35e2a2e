//! Outages, from a second to an hour: within ten seconds of its end a path carries packets again.
//!
//! Time is a test's own; handshakes are real.

#[path = "../../tests/device/pair.rs"]
#[expect(dead_code, reason = "the public tests use the rest")]
mod pair;

use std::net::SocketAddr;
use std::time::Duration;

use pair::{Left, Pair, Right, Sink, Who};

use super::*;

const WITHIN: Duration = Duration::from_secs(10);

/// In seconds; around every bound of the protocol (paper §6): 5, 10 + 5, 90, 120, 180 and 3 × 180.
const OUTAGES: [u64; 32] = [
    1, 6, 16, 26, 60, 89, 91, 100, 106, 112, 119, 121, 126, 140, 150, 154, 160, 165, 175, 179, 181, 184, 190,
    199, 206, 215, 300, 400, 539, 541, 600, 3600,
];

/// Packets of both sides come through at once.
fn assert_carries(pair: &mut Pair, what: &str) {
    for who in [Left, Right] {
        let before = pair.side(other(who)).delivered.len();
        pair.send(who, 100);
        pair.settle();
        assert_eq!(pair.side(other(who)).delivered.len(), before + 1, "{what}");
    }
}

fn other(who: Who) -> Who {
    match who {
        Left => Right,
        Right => Left,
    }
}

fn name(who: Who) -> &'static str {
    match who {
        Left => "left",
        Right => "right",
    }
}

#[test]
fn a_path_that_comes_back_is_found_within_ten_seconds_by_keepalives() {
    // Left is the initiator of what the outage interrupts.
    for seconds in OUTAGES {
        for keeping in [&[Left][..], &[Right], &[Left, Right]] {
            let mut pair = Pair::connected();
            for &who in keeping {
                let peer = pair.side(other(who)).public_key().to_hex();
                pair.set(who, &format!("public_key={peer}\npersistent_keepalive_interval=25\n"));
            }
            // Nothing waits for an answer.
            pair.run(Duration::from_secs(27));
            pair.cut = true;
            pair.run(Duration::from_secs(seconds));
            pair.cut = false;
            pair.run(WITHIN);
            let keeping: Vec<&str> = keeping.iter().map(|who| name(*who)).collect();
            pair.sent.clear();
            let what = format!("{seconds} s, kept alive by {keeping:?}");
            assert_carries(&mut pair, &what);
            assert!(!pair.lengths().contains(&148), "{what}: the keys were there before the packets");
        }
    }
}

#[test]
fn a_peer_to_be_kept_alive_does_not_wait_for_its_interval_once_the_keys_are_gone() {
    // Nobody has sent data, so left, who began, has no reason to renew the keys.
    let mut pair = Pair::new();
    let keepalive = |pair: &mut Pair, who: Who, seconds: u16| {
        let peer = pair.side(other(who)).public_key().to_hex();
        pair.set(who, &format!("public_key={peer}\npersistent_keepalive_interval={seconds}\n"));
        pair.settle();
    };
    keepalive(&mut pair, Left, 25);
    keepalive(&mut pair, Left, 0);
    keepalive(&mut pair, Right, 25);
    pair.run(Duration::from_secs(178));
    pair.cut = true;
    pair.run(Duration::from_secs(4));
    pair.cut = false;
    pair.run(WITHIN);
    pair.sent.clear();
    assert_carries(&mut pair, "keys of 180 s, keepalives at 175 s and 200 s");
    assert!(!pair.lengths().contains(&148), "the keys were there before the packets");
}

#[test]
fn without_keepalives_the_first_packet_brings_it_back_within_ten_seconds() {
    for seconds in OUTAGES {
        for speaking in [&[][..], &[Left], &[Right], &[Left, Right]] {
            for first in [Left, Right] {
                let mut pair = Pair::connected();
                pair.cut = true;
                // Into the void: this side tries handshakes, and gives up.
                for &who in speaking {
                    pair.send(who, 100);
                }
                pair.run(Duration::from_secs(seconds));
                pair.cut = false;
                pair.send(first, 100);
                pair.run(WITHIN);
                let speaking: Vec<&str> = speaking.iter().map(|who| name(*who)).collect();
                let what = format!("{seconds} s, {speaking:?} spoke meanwhile, {} first", name(first));
                assert_carries(&mut pair, &what);
            }
        }
    }
}

#[test]
fn the_keys_of_before_outlive_handshakes_that_are_given_up() {
    let mut pair = Pair::connected();
    pair.cut = true;
    pair.send(Left, 100);
    pair.run(Duration::from_secs(110));
    assert_eq!(pair.peer(Left).handshakes.initiator_failed, 1, "after 15 s and 88 s");
    pair.cut = false;
    pair.sent.clear();
    pair.send(Right, 100);
    pair.settle();
    assert_eq!(pair.left.delivered.len(), 1, "right has not heard that left gave up");
    // The answer travels under them as well, and new ones are made.
    pair.send(Left, 100);
    pair.settle();
    assert_eq!(pair.right.delivered.len(), 1);
    assert!(pair.lengths().contains(&148) && pair.lengths().contains(&92), "{:?}", pair.lengths());
    // But not for longer than keys may serve.
    let mut pair = Pair::connected();
    pair.cut = true;
    pair.send(Left, 100);
    pair.run(Duration::from_secs(181));
    pair.sent.clear();
    pair.send(Left, 100);
    assert_eq!(pair.lengths(), [148]);
}

#[test]
fn handshakes_keep_their_distance_for_as_long_as_nobody_answers() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key().to_hex();
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=25\n"));
    pair.cut = true;
    pair.sent.clear();
    pair.run(Duration::from_secs(3600));
    let initiations = pair.lengths().iter().filter(|length| **length == 148).count();
    assert!((620..=720).contains(&initiations), "one every 5 s: {initiations}");
}

#[test]
fn peers_whose_time_has_come_together_are_served_in_turns_and_nobody_is_forgotten() {
    let (mut device, mut sink, mut now) = (Device::new(), Sink::default(), pair::start());
    let peers: Vec<PeerUpdate> = (1..=200)
        .map(|number| PeerUpdate {
            endpoint: Some(SocketAddr::from(([192, 0, 2, number], 51820))),
            persistent_keepalive: Some(25),
            ..PeerUpdate::of(SecretKey::generate().unwrap().public_key())
        })
        .collect();
    let private_key = Change::Set(SecretKey::generate().unwrap());
    device.apply(DeviceUpdate { private_key, peers, ..DeviceUpdate::default() }, now, &mut sink);
    assert_eq!(sink.datagrams.len(), 200, "each is called");
    sink.datagrams.clear();
    // Nobody answers: each is called again 5 s later, and by chance a third of a second more.
    let (end, mut cut_short) = (now + Duration::from_millis(5_900), 0);
    while let Some(at) = device.next_timeout().filter(|at| *at <= end) {
        now = now.max(at);
        let before = sink.datagrams.len();
        device.handle_timeout(now, &mut sink);
        let sent = sink.datagrams.len() - before;
        assert!(sent <= 16, "{sent} handshakes in one turn");
        cut_short += usize::from(device.next_timeout().is_some_and(|at| at <= now));
    }
    assert!(cut_short >= 12, "the share of a turn was hardly ever reached, so nothing is shown");
    let mut called: Vec<SocketAddr> = sink.datagrams.iter().map(|(to, _)| to.remote).collect();
    called.sort_unstable();
    called.dedup();
    assert_eq!((called.len(), sink.datagrams.len()), (200, 200), "each once");
}
