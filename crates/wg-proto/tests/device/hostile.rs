//! What others send: junk, recordings, forgeries, strangers.

use proptest::prelude::*;
use wg_proto::{DropReason, SecretKey};

use crate::pair::{Left, Pair, Right};

#[test]
fn a_replayed_datagram_is_dropped() {
    let mut pair = Pair::connected();
    pair.send(Left, 60);
    pair.settle();
    let recorded = pair.sent[0].datagram.clone();
    let before = pair.peer(Right);
    pair.inject(Right, &recorded, "203.0.113.9:1");
    assert_eq!(pair.right.delivered.len(), 1);
    assert_eq!(pair.drops(Right, DropReason::Replay), 1);
    let after = pair.peer(Right);
    assert_eq!(after.endpoint, before.endpoint, "a recording moves nobody");
    assert_eq!(after.rx_bytes, before.rx_bytes);
}

#[test]
fn a_replayed_initiation_is_dropped() {
    let mut pair = Pair::new();
    pair.send(Left, 60);
    pair.settle();
    let initiation = pair.sent[0].datagram.clone();
    let sent = pair.sent.len();
    pair.inject(Right, &initiation, "203.0.113.9:1");
    assert_eq!(pair.sent.len(), sent);
    assert_eq!(pair.drops(Right, DropReason::Replay), 1);
    assert_eq!(pair.peer(Right).endpoint.unwrap().remote, pair.left.address);
}

#[test]
fn after_a_new_preshared_key_a_recorded_initiation_moves_nobody() {
    let mut pair = Pair::new();
    pair.send(Left, 60);
    pair.settle();
    let initiation = pair.sent[0].datagram.clone();
    let left = pair.left.public_key().to_hex();
    pair.set(Right, &format!("public_key={left}\npreshared_key={}\n", "11".repeat(32)));
    pair.inject(Right, &initiation, "203.0.113.9:1");
    assert_eq!(pair.peer(Right).endpoint.unwrap().remote, pair.left.address);
}

#[test]
fn after_a_restart_a_recorded_initiation_moves_nobody() {
    let mut pair = Pair::new();
    pair.send(Left, 60);
    pair.settle();
    let initiation = pair.sent[0].datagram.clone();
    // The same peer again, as a new process has it: no timestamp is known, only the configured endpoint.
    let left = pair.left.public_key().to_hex();
    let peer = format!("public_key={left}\nendpoint=192.0.2.1:51820\nallowed_ip=10.0.0.1/32\n");
    pair.set(Right, &format!("replace_peers=true\n{peer}"));
    pair.inject(Right, &initiation, "203.0.113.9:1");
    assert_eq!(pair.peer(Right).endpoint.unwrap().remote, pair.left.address);
}

#[test]
fn counters_near_their_end_are_refused_before_they_are_added_to() {
    let mut pair = Pair::connected();
    pair.cut = true;
    pair.send(Left, 60);
    let mut datagram = pair.sent[0].datagram.clone();
    for counter in [u64::MAX, u64::MAX - 1, u64::MAX - (1 << 13)] {
        datagram[8..16].copy_from_slice(&counter.to_le_bytes());
        pair.inject(Right, &datagram, "192.0.2.1:51820");
    }
    assert_eq!(pair.drops(Right, DropReason::Replay), 3);
    datagram[8..16].copy_from_slice(&(u64::MAX - (1 << 13) - 1).to_le_bytes());
    pair.inject(Right, &datagram, "192.0.2.1:51820");
    assert_eq!(pair.drops(Right, DropReason::DecryptFailed), 1, "the last one that is looked at");
}

#[test]
fn an_unknown_peers_initiation_is_dropped() {
    let mut pair = Pair::new();
    let stranger = SecretKey::generate().unwrap().public_key().to_hex();
    let left = pair.left.public_key().to_hex();
    pair.set(Right, &format!("public_key={left}\nremove=true\npublic_key={stranger}\n"));
    pair.send(Left, 60);
    pair.settle();
    assert_eq!(pair.lengths(), [148]);
    assert_eq!(pair.drops(Right, DropReason::UnknownPeer), 1);
}

#[test]
fn an_initiation_for_another_key_fails_its_first_mac() {
    let mut pair = Pair::new();
    pair.send(Left, 60);
    let mut initiation = pair.sent[0].datagram.clone();
    initiation[120] ^= 1;
    pair.inject(Right, &initiation, "203.0.113.9:1");
    assert_eq!(pair.drops(Right, DropReason::Mac1Invalid), 1);
}

#[test]
fn a_damaged_datagram_does_not_decrypt() {
    let mut pair = Pair::connected();
    pair.cut = true;
    pair.send(Left, 60);
    let mut datagram = pair.sent[0].datagram.clone();
    datagram[20] ^= 1;
    pair.inject(Right, &datagram, "192.0.2.1:51820");
    assert_eq!(pair.drops(Right, DropReason::DecryptFailed), 1);
    datagram[20] ^= 1;
    pair.inject(Right, &datagram, "192.0.2.1:51820");
    assert_eq!(pair.right.delivered.len(), 1, "the forgery has not used up the counter");
}

#[test]
fn an_index_of_nobody_is_counted() {
    let mut pair = Pair::connected();
    pair.cut = true;
    pair.send(Left, 60);
    let mut datagram = pair.sent[0].datagram.clone();
    datagram[7] ^= 0x55;
    pair.inject(Right, &datagram, "192.0.2.1:51820");
    assert_eq!(pair.drops(Right, DropReason::UnknownIndex), 1);
}

#[test]
fn different_preshared_keys_never_connect() {
    let mut pair = Pair::new();
    let (left, right) = (pair.left.public_key().to_hex(), pair.right.public_key().to_hex());
    pair.set(Left, &format!("public_key={right}\npreshared_key={}\n", "11".repeat(32)));
    pair.set(Right, &format!("public_key={left}\npreshared_key={}\n", "22".repeat(32)));
    pair.send(Left, 60);
    pair.settle();
    assert_eq!(pair.lengths(), [148, 92], "the response does not open, so nothing follows");
    assert_eq!(pair.drops(Left, DropReason::DecryptFailed), 1);
    assert_eq!(pair.peer(Left).handshakes.initiator_failed, 1);
    assert!(pair.right.delivered.is_empty());
    assert!(pair.peer(Left).last_handshake.is_none() && pair.peer(Right).last_handshake.is_none());
}

#[test]
fn a_flood_of_initiations_is_answered_with_cookies() {
    let mut pair = Pair::new();
    pair.send(Left, 60);
    let initiation = pair.sent[0].datagram.clone();
    pair.cut = true;
    for _ in 0..1000 {
        pair.inject(Right, &initiation, "203.0.113.9:1");
    }
    let counters = pair.right.device.counters();
    assert!(counters.cookie_replies_sent > 0);
    assert_eq!(counters.cookie_replies_sent, counters.drops.of(DropReason::Mac2Missing));
}

#[test]
fn a_flood_from_one_address_does_not_delay_anothers_handshake() {
    let mut pair = Pair::new();
    // A stranger knows our public key, so its first MAC is right.
    let mut stranger = Pair::new();
    let right = pair.right.public_key().to_hex();
    stranger.set(
        Left,
        &format!(
            "replace_peers=true\npublic_key={right}\nendpoint=192.0.2.2:51820\nallowed_ip=10.0.0.2/32\n"
        ),
    );
    stranger.cut = true;
    stranger.send(Left, 60);
    let initiation = stranger.sent[0].datagram.clone();
    for _ in 0..1000 {
        pair.inject(Right, &initiation, "203.0.113.9:1");
    }
    assert!(pair.right.device.state(pair.now).under_load);
    let cookies = pair.right.device.counters().cookie_replies_sent;
    assert!(cookies > 700, "{cookies}");

    pair.send(Left, 60);
    pair.settle();
    assert_eq!(pair.right.delivered.len(), 1);
    assert_eq!(pair.right.device.counters().cookie_replies_sent, cookies, "it was not asked for proof");
}

#[test]
fn low_order_keys_are_accepted_and_nothing_is_sent() {
    let mut pair = Pair::new();
    let low_order = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    pair.set(
        Left,
        &format!(
            "replace_peers=true\npublic_key={low_order}\nendpoint=192.0.2.2:51820\n\
             persistent_keepalive_interval=1\nallowed_ip=10.0.0.2/32\n"
        ),
    );
    pair.send(Left, 60);
    pair.run(std::time::Duration::from_secs(30));
    assert!(pair.sent.is_empty());
    assert_eq!(pair.drops(Left, DropReason::NoSession), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn junk_never_panics(datagrams in proptest::collection::vec(junk(), 1..40)) {
        let mut pair = Pair::connected();
        for datagram in &datagrams {
            pair.inject(Right, datagram, "203.0.113.9:1");
            pair.inject(Left, datagram, "203.0.113.9:1");
            pair.send_packet(Left, datagram);
        }
        prop_assert!(pair.left.delivered.is_empty() && pair.right.delivered.is_empty());
        prop_assert_eq!(pair.peer(Right).endpoint.unwrap().remote, pair.left.address);
        pair.send(Left, 60);
        pair.settle();
        prop_assert_eq!(pair.right.delivered.len(), 1, "the session has not suffered");
    }

    #[test]
    fn damaged_datagrams_never_panic(at in 0_usize..148, bit in 0_u8..8, cut in 0_usize..148) {
        let mut pair = Pair::new();
        pair.send(Left, 60);
        pair.settle();
        for mut sent in pair.sent.clone() {
            if let Some(byte) = sent.datagram.get_mut(at) {
                *byte ^= 1 << bit;
            }
            pair.inject(Right, &sent.datagram, "203.0.113.9:1");
            pair.inject(Left, &sent.datagram, "203.0.113.9:1");
            sent.datagram.truncate(cut);
            pair.inject(Right, &sent.datagram, "203.0.113.9:1");
            pair.inject(Left, &sent.datagram, "203.0.113.9:1");
        }
    }
}

/// Bytes that often look like one of the four messages.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![Just(148_usize), Just(92), Just(64), Just(32), 0_usize..200, Just(70_000)];
    (0_u8..6, length, any::<u8>()).prop_map(|(kind, length, fill)| {
        let mut bytes = vec![fill; length];
        for (byte, value) in bytes.iter_mut().zip([kind, 0, 0, 0]) {
            *byte = value;
        }
        bytes
    })
}
