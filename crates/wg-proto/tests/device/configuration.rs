//! Changes of a live device, as `wg set`, `setconf` and `syncconf` make them.

use std::time::{Duration, UNIX_EPOCH};

use wg_proto::uapi::{self, Epoch};
use wg_proto::{Change, ChangedKey, DeviceEvent, DeviceUpdate, DropReason, SecretKey};

use crate::pair::{Left, Pair, Right, Who};

#[test]
fn what_was_set_is_what_get_shows() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key().to_hex();
    let psk = "11".repeat(32);
    pair.set(
        Left,
        &format!(
            "listen_port=51820\nfwmark=7\npublic_key={right}\npreshared_key={psk}\n\
             endpoint=[fd00::9]:1\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=10.9.9.9/16\nallowed_ip=fd00::/64\n"
        ),
    );
    let text = get(&mut pair, Left);
    let expected = [
        "listen_port=51820".to_owned(),
        "fwmark=7".to_owned(),
        format!("public_key={right}"),
        format!("preshared_key={psk}"),
        "protocol_version=1".to_owned(),
        "endpoint=[fd00::9]:1".to_owned(),
        "persistent_keepalive_interval=25".to_owned(),
        "allowed_ip=10.9.0.0/16".to_owned(),
        "allowed_ip=fd00::/64".to_owned(),
        "errno=0".to_owned(),
    ];
    let mut lines = text.lines();
    for wanted in &expected {
        assert!(lines.any(|line| line == wanted), "{wanted} is missing or out of order in\n{text}");
    }
    assert!(text.ends_with("errno=0\n\n"));

    // Another device, set from what the first shows, shows the same.
    let mut other = Pair::new();
    let body: String = text
        .lines()
        .filter(|line| !["last_", "tx_", "rx_", "errno"].iter().any(|prefix| line.starts_with(prefix)))
        .flat_map(|line| [line, "\n"])
        .collect();
    other.set(Left, "replace_peers=true\n");
    other.set(Left, &body);
    let shown = get(&mut other, Left);
    let stable = |text: &str| -> Vec<String> {
        let volatile = ["last_", "tx_", "rx_"];
        text.lines().filter(|line| !volatile.iter().any(|v| line.starts_with(v))).map(str::to_owned).collect()
    };
    assert_eq!(stable(&shown), stable(&text));
}

#[test]
fn live_settings_change_without_touching_the_session() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key().to_hex();
    let before = pair.peer(Left).last_handshake;
    pair.set(
        Left,
        &format!(
            "public_key={right}\nupdate_only=true\nendpoint=192.0.2.2:51820\nreplace_allowed_ips=true\n\
             allowed_ip=10.0.0.2/32\nallowed_ip=10.7.0.0/16\nallowed_ip=-10.7.0.0/16\n"
        ),
    );
    pair.send(Left, 60);
    pair.settle();
    assert_eq!(pair.lengths(), [96], "data at once, no handshake");
    assert_eq!(pair.peer(Left).last_handshake, before);
    assert_eq!(pair.peer(Left).allowed_ips.len(), 1);
}

#[test]
fn a_sequence_like_syncconfs_keeps_those_who_stay() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key().to_hex();
    let gone = SecretKey::generate().unwrap().public_key().to_hex();
    let new = SecretKey::generate().unwrap().public_key().to_hex();
    pair.set(Left, &format!("public_key={gone}\nallowed_ip=10.3.0.0/16\n"));
    let secret = private_key_line(&mut pair, Left);
    pair.set(
        Left,
        &format!(
            "{secret}listen_port=1\nfwmark=0\npublic_key={gone}\nremove=true\n\
             public_key={right}\nreplace_allowed_ips=true\nallowed_ip=10.0.0.2/32\n\
             public_key={new}\nreplace_allowed_ips=true\nallowed_ip=10.3.0.0/16\n"
        ),
    );
    let now = pair.now;
    let keys: Vec<_> =
        pair.left.device.state(now).peers.iter().map(|peer| peer.public_key.to_hex()).collect();
    assert_eq!(keys, [right, new.clone()]);
    let owner = pair.left.device.peer_by_source("10.3.1.1".parse().unwrap()).unwrap();
    assert_eq!(owner.public_key.to_hex(), new);
    pair.send(Left, 60);
    assert_eq!(pair.lengths(), [96], "the session outlived the sync");
}

#[test]
fn update_only_makes_no_peer_and_remove_of_nobody_is_fine() {
    let mut pair = Pair::connected();
    let nobody = SecretKey::generate().unwrap().public_key().to_hex();
    pair.set(
        Left,
        &format!(
            "public_key={nobody}\nupdate_only=true\nallowed_ip=10.0.0.2/32\n\
             public_key={nobody}\nremove=true\n"
        ),
    );
    let identity = pair.left.device.peer_by_source(pair.right.inner).unwrap();
    assert_eq!(identity.public_key, pair.right.public_key());
    assert_eq!(pair.peer(Left).allowed_ips.len(), 1);
}

#[test]
fn a_prefix_moves_to_the_peer_that_got_it_last() {
    let mut pair = Pair::connected();
    let other = SecretKey::generate().unwrap().public_key();
    pair.set(Left, &format!("public_key={}\nallowed_ip=10.0.0.2/32\n", other.to_hex()));
    assert_eq!(pair.left.device.peer_by_source(pair.right.inner).unwrap().public_key, other);
    pair.send(Left, 60);
    assert!(pair.sent.is_empty(), "the new owner has no endpoint");
}

#[test]
fn a_new_preshared_key_loses_no_session_and_no_packet() {
    let mut pair = Pair::connected();
    let (left, right) = (pair.left.public_key().to_hex(), pair.right.public_key().to_hex());
    let psk = "11".repeat(32);
    pair.set(Left, &format!("public_key={right}\npreshared_key={psk}\n"));
    assert!(matches!(&pair.left.events[..], [DeviceEvent::KeyChanged { key: ChangedKey::Preshared, .. }]));
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(pair.send(Left, 60));
        sent.push(pair.send(Right, 70));
        pair.run(Duration::from_secs(1));
    }
    assert_eq!(pair.left.delivered.len() + pair.right.delivered.len(), sent.len());
    assert!(pair.lengths().iter().all(|length| *length <= 112), "the old session serves on");
    // The other side follows, and asks for a handshake: it fits now.
    pair.set(Right, &format!("public_key={left}\npreshared_key={psk}\n"));
    let before = pair.peer(Right).last_handshake;
    handshake_now(&mut pair, Right);
    assert!(pair.peer(Right).last_handshake > before);
    let (left_before, right_before) = (pair.left.delivered.len(), pair.right.delivered.len());
    pair.send(Left, 60);
    pair.send(Right, 60);
    pair.settle();
    assert_eq!((pair.left.delivered.len(), pair.right.delivered.len()), (left_before + 1, right_before + 1));
}

#[test]
fn after_a_new_private_key_the_next_packet_begins_a_handshake_at_once() {
    let mut pair = Pair::connected();
    let old = pair.left.public_key().to_hex();
    let secret = SecretKey::generate().unwrap();
    let new = secret.public_key();
    pair.apply(Left, DeviceUpdate { private_key: Change::Set(secret), ..DeviceUpdate::default() });
    // The peer is told afterwards, so an initiation now would only stand in the way of the next.
    pair.settle();
    assert!(pair.lengths().is_empty());
    pair.set(Right, &format!("public_key={}\nallowed_ip=10.0.0.1/32\n", new.to_hex()));
    pair.set(Right, &format!("public_key={old}\nremove=true\n"));
    let packet = pair.send(Left, 60);
    pair.settle();
    assert_eq!(pair.right.delivered.last(), Some(&packet));
    assert!(pair.left.events.iter().any(|event| {
        matches!(event, DeviceEvent::KeyChanged { peer, key: ChangedKey::Own } if peer.public_key == new)
    }));
    let answer = pair.send(Right, 60);
    pair.settle();
    assert_eq!(pair.left.delivered, [answer]);
}

#[test]
fn the_same_private_key_again_changes_nothing() {
    let mut pair = Pair::connected();
    let line = private_key_line(&mut pair, Left);
    pair.set(Left, &line);
    pair.send(Left, 60);
    assert_eq!(pair.lengths(), [96]);
}

#[test]
fn no_peer_has_our_own_key() {
    let mut pair = Pair::connected();
    let own = pair.left.public_key().to_hex();
    pair.set(Left, &format!("public_key={own}\nallowed_ip=10.0.0.2/32\n"));
    assert_eq!(pair.peer(Left).public_key, pair.right.public_key(), "the section was ignored");
    assert_eq!(pair.peer(Left).allowed_ips.len(), 1);
    let secret = pair.right.secret.clone();
    pair.apply(Left, DeviceUpdate { private_key: Change::Set(secret), ..DeviceUpdate::default() });
    let now = pair.now;
    assert!(pair.left.device.state(now).peers.is_empty(), "the peer became ourselves");
    assert!(pair.left.device.peer_by_source(pair.right.inner).is_none());
}

#[test]
fn a_device_without_key_is_silent_until_it_gets_one() {
    let mut pair = Pair::new();
    let secret = pair.left.secret.clone();
    pair.apply(Left, DeviceUpdate { private_key: Change::Clear, ..DeviceUpdate::default() });
    let right = pair.right.public_key().to_hex();
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=5\n"));
    pair.send(Left, 60);
    pair.run(Duration::from_secs(11));
    assert!(pair.sent.is_empty());
    pair.apply(Left, DeviceUpdate { private_key: Change::Set(secret), ..DeviceUpdate::default() });
    pair.settle();
    assert_eq!(pair.lengths(), [148, 92, 32]);
}

#[test]
fn an_interface_that_is_down_neither_speaks_nor_answers() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key().to_hex();
    let left = pair.left.public_key().to_hex();
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=5\n"));
    pair.settle();
    let (own, others) = (pair.left.address, pair.right.address);
    pair.set_link_up(Left, false);
    pair.left.events.clear();
    pair.sent.clear();
    // Data under the old keys, handshakes, keepalives of its own, a new wish for them, a probe: nothing moves it.
    pair.send(Right, 100);
    pair.settle();
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=0\n"));
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=5\n"));
    pair.set(Right, &format!("public_key={left}\npersistent_keepalive_interval=5\n"));
    pair.send(Left, 100);
    pair.run(Duration::from_secs(200));
    assert!(pair.sent.iter().any(|sent| sent.from == others), "the other side tries");
    assert!(pair.sent.iter().all(|sent| sent.from != own), "it is silent");
    assert!(pair.left.delivered.is_empty());
    assert!(
        pair.left
            .device
            .counters()
            .drops
            .iter()
            .any(|(reason, count)| { reason == DropReason::LinkDown && count > 0 })
    );

    // Up again it keeps its peer alive at once, under new keys.
    pair.sent.clear();
    pair.set_link_up(Left, true);
    assert_eq!(pair.lengths(), [148]);
    pair.settle();
    pair.send(Right, 100);
    pair.settle();
    assert_eq!(pair.left.delivered.len(), 1);
}

#[test]
fn a_peer_is_told_to_be_down_with_the_interface() {
    let mut pair = Pair::connected();
    pair.set_link_up(Left, false);
    pair.set_link_up(Left, false);
    pair.run(Duration::from_secs(4));
    let downs = pair.left.events.iter().filter(|event| matches!(event, DeviceEvent::PeerDown { .. })).count();
    assert_eq!(downs, 1);
    assert_eq!(pair.peer(Left).up_since, None);
    pair.set_link_up(Left, true);
    assert!(pair.sent.is_empty(), "without keepalives it waits for something to say");
}

#[test]
fn an_interface_that_is_down_for_a_moment_keeps_its_sessions() {
    let mut pair = Pair::connected();
    pair.set_link_up(Left, false);
    pair.send(Right, 100);
    pair.run(Duration::from_secs(2));
    assert!(pair.left.delivered.is_empty(), "meanwhile nothing is taken");
    pair.set_link_up(Left, true);
    pair.sent.clear();
    pair.send(Left, 100);
    pair.settle();
    assert_eq!(pair.right.delivered.len(), 1);
    assert!(!pair.lengths().contains(&148), "it was no reason for a handshake");
}

#[test]
fn ten_thousand_prefixes_are_set_and_shown() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key().to_hex();
    let mut body = format!("public_key={right}\nreplace_allowed_ips=true\n");
    for index in 0..10_000_u32 {
        body += &format!("allowed_ip=10.{}.{}.0/24\n", index >> 8, index & 0xff);
    }
    pair.set(Left, &body);
    assert_eq!(pair.peer(Left).allowed_ips.len(), 10_000);
    assert_eq!(get(&mut pair, Left).matches("allowed_ip=").count(), 10_000);
}

#[test]
fn many_peers_come_and_go() {
    let mut pair = Pair::connected();
    let keys: Vec<String> = (0..500).map(|_| SecretKey::generate().unwrap().public_key().to_hex()).collect();
    let section = |(index, key): (usize, &String)| {
        format!("public_key={key}\nallowed_ip=10.{}.{}.0/24\n", 1 + index / 256, index % 256)
    };
    for _ in 0..2 {
        let added: String = keys.iter().enumerate().map(section).collect();
        pair.set(Left, &added);
        let now = pair.now;
        assert_eq!(pair.left.device.state(now).peers.len(), 501);
        let removed: String = keys.iter().map(|key| format!("public_key={key}\nremove=true\n")).collect();
        pair.set(Left, &removed);
    }
    assert_eq!(pair.peer(Left).public_key, pair.right.public_key());
    assert!(pair.left.device.peer_by_source("10.1.0.1".parse().unwrap()).is_none());
}

fn get(pair: &mut Pair, who: Who) -> String {
    let now = pair.now;
    let state = pair.side(who).device.state(now);
    uapi::render_get(&state, &Epoch { instant: now, wall: UNIX_EPOCH + Duration::from_secs(1_000_000) })
        .to_string()
}

fn private_key_line(pair: &mut Pair, who: Who) -> String {
    let text = get(pair, who);
    let line = text.lines().find(|line| line.starts_with("private_key=")).unwrap();
    format!("{line}\n")
}

/// The session of the old pre-shared key would serve until its keys are old; the private key taken
/// away and given back ends it.
fn handshake_now(pair: &mut Pair, who: Who) {
    let line = private_key_line(pair, who);
    pair.apply(who, DeviceUpdate { private_key: Change::Clear, ..DeviceUpdate::default() });
    pair.set(who, &line);
    pair.send(who, 60);
    pair.settle();
}

#[test]
fn peers_to_be_kept_alive_are_told_with_their_last_handshake() {
    let mut pair = Pair::connected();
    assert_eq!(pair.left.device.kept_alive().count(), 0, "nobody asked for keepalives");
    let right = pair.right.public_key().to_hex();
    pair.set(Left, &format!("public_key={right}\npersistent_keepalive_interval=25\n"));
    let handshake = pair.peer(Left).last_handshake;
    assert!(handshake.is_some());
    assert_eq!(pair.left.device.kept_alive().collect::<Vec<_>>(), [handshake]);
    pair.set(Left, &format!("public_key={}\npersistent_keepalive_interval=25\n", "07".repeat(32)));
    assert_eq!(pair.left.device.kept_alive().filter(Option::is_none).count(), 1, "one has never answered");
}
