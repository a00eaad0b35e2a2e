//! What happens by time: keepalives, giving up, beginning again, up and down.

use std::time::Duration;

use crate::pair::{Left, Pair, Right};
use crate::transport::name;

#[test]
fn a_new_keepalive_goes_out_at_once_and_then_at_its_interval() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key().to_hex();
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=25\n"));
    assert_eq!(pair.lengths(), [32]);
    pair.run(Duration::from_secs(101));
    assert_eq!(pair.lengths(), [32; 5]);
    pair.send(Left, 60);
    pair.run(Duration::from_secs(24));
    let left = pair.left.address;
    let count = |pair: &Pair| pair.sent.iter().filter(|sent| sent.from == left).count();
    assert_eq!(count(&pair), 6, "data counts as a sign of life");
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=0\n"));
    pair.run(Duration::from_secs(60));
    assert_eq!(count(&pair), 6);
}

#[test]
fn a_keepalive_without_session_begins_a_handshake() {
    let mut pair = Pair::new();
    let right = pair.right.public_key().to_hex();
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=25\n"));
    pair.settle();
    assert_eq!(pair.lengths(), [148, 92, 32]);
    assert!(pair.peer(Left).up_since.is_some() && pair.peer(Right).up_since.is_some());
}

#[test]
fn silence_takes_a_peer_down_and_a_handshake_brings_it_up() {
    let mut pair = Pair::connected();
    pair.run(Duration::from_secs(179));
    assert!(pair.left.events.is_empty());
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.left.events.iter().map(name).collect::<Vec<_>>(), ["down"]);
    assert!(pair.peer(Left).up_since.is_none());
    let total = pair.peer(Left).up_total;
    assert!(total >= Duration::from_secs(180) && total < Duration::from_secs(181), "{total:?}");
    // Right spoke last, and was answered by a keepalive 10 s later.
    assert!(pair.right.events.is_empty());
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.right.events.iter().map(name).collect::<Vec<_>>(), ["down"]);
}

#[test]
fn an_authenticated_packet_brings_a_peer_up_again() {
    let mut pair = Pair::connected();
    pair.run(Duration::from_secs(191));
    pair.right.events.clear();
    pair.send(Left, 60);
    pair.settle();
    // The keys of before are gone as well.
    assert_eq!(pair.right.events.iter().map(name).collect::<Vec<_>>(), ["up", "handshake"]);
    let total = pair.peer(Right).up_total;
    pair.run(Duration::from_secs(7));
    assert_eq!(pair.peer(Right).up_total, total + Duration::from_secs(7), "its times add up");
}

#[test]
fn a_peer_that_is_removed_while_up_goes_down() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key().to_hex();
    pair.set(Left, &format!("public_key={right}\nremove=true\n"));
    assert_eq!(pair.left.events.iter().map(name).collect::<Vec<_>>(), ["down"]);
}

#[test]
fn nothing_is_due_for_a_peer_that_was_never_spoken_to() {
    let pair = Pair::new();
    assert_eq!(pair.left.device.next_timeout(), None);
    assert_eq!(pair.right.device.next_timeout(), None);
}

#[test]
fn a_lost_initiation_is_not_repeated_for_every_packet() {
    let mut pair = Pair::new();
    pair.cut = true;
    for _ in 0..50 {
        pair.send(Left, 60);
        pair.run(Duration::from_millis(20));
    }
    assert_eq!(pair.lengths(), [148]);
}
