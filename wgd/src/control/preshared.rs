//! Production demands a pre-shared key of every peer, whoever configures it.
//!
//! Invariant: a change after which a peer would be without one is refused as a whole, before any of it is done.
use std::collections::HashMap;
use wg_proto::{Change, DeviceState, DeviceUpdate, PublicKey};

/// The first peer that this change would leave without a pre-shared key.
pub(super) fn first_without(state: &DeviceState, update: &DeviceUpdate) -> Option<PublicKey> {
    let own = match &update.private_key {
        Change::Keep => state.public_key,
        Change::Clear => None,
        Change::Set(key) => Some(key.public_key()),
    };
    let mut has_key: HashMap<PublicKey, bool> = HashMap::new();
    if !update.replace_peers {
        has_key.extend(state.peers.iter().map(|peer| (peer.public_key, peer.preshared_key.is_some())));
    }
    for peer in &update.peers {
        // A section with our own key is ignored by the device.
        if own == Some(peer.public_key) {
            continue;
        }
        if peer.remove {
            has_key.remove(&peer.public_key);
            continue;
        }
        let before = has_key.get(&peer.public_key).copied();
        if before.is_none() && peer.update_only {
            continue;
        }
        let after = match peer.preshared_key {
            Change::Keep => before.unwrap_or(false),
            Change::Clear => false,
            Change::Set(_) => true,
        };
        if !after {
            return Some(peer.public_key);
        }
        has_key.insert(peer.public_key, after);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::Clock;
    use wg_proto::{Device, DeviceEvent, Endpoint, Output, uapi};

    struct Nowhere;
    impl Output for Nowhere {
        fn transmit(&mut self, _: Endpoint, _: &[u8]) {}
        fn event(&mut self, _: DeviceEvent) {}
    }

    fn update(body: &str) -> DeviceUpdate {
        let body = body.replace("ONE", &"11".repeat(32)).replace("TWO", &"22".repeat(32));
        let body = body.replace("PSK", &"33".repeat(32)).replace("ZEROS", &"00".repeat(32));
        uapi::parse_set(&body).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Peer ONE is there with a pre-shared key.
    fn refuses(body: &str) -> bool {
        let mut device = Device::new();
        device.apply(update("public_key=ONE\npreshared_key=PSK\n"), Clock.now(), &mut Nowhere);
        first_without(&device.state(Clock.now()), &update(body)).is_some()
    }

    #[test]
    fn a_peer_without_a_key_is_neither_added_nor_left_behind() {
        for body in [
            "public_key=TWO\nallowed_ip=10.0.0.0/8\n",
            "public_key=ONE\npreshared_key=ZEROS\n",
            "replace_peers=true\npublic_key=ONE\n",
            "public_key=ONE\nremove=true\npublic_key=ONE\nallowed_ip=10.0.0.0/8\n",
            "public_key=ONE\nallowed_ip=10.0.0.0/8\npublic_key=TWO\n",
        ] {
            assert!(refuses(body), "{body}");
        }
    }

    #[test]
    fn peers_with_a_key_are_changed_as_ever() {
        for body in [
            "listen_port=1\n",
            "public_key=TWO\npreshared_key=PSK\nallowed_ip=10.0.0.0/8\n",
            "public_key=ONE\nendpoint=192.0.2.1:1\n",
            "public_key=ONE\nremove=true\n",
            "public_key=TWO\nremove=true\n",
            "public_key=TWO\nupdate_only=true\nendpoint=192.0.2.1:1\n",
        ] {
            assert!(!refuses(body), "{body}");
        }
    }

    #[test]
    fn a_section_with_our_own_key_is_ignored() {
        let secret = wg_proto::SecretKey::generate().expect("randomness");
        let mut change = update("public_key=ONE\npreshared_key=PSK\n");
        change.peers.push(wg_proto::PeerUpdate::of(secret.public_key()));
        change.private_key = Change::Set(secret);
        assert_eq!(first_without(&Device::new().state(Clock.now()), &change), None);
    }
}
