//! The operator's names of peers, as wgd tells them.
//!
//! Invariant: names are a courtesy. Where wgd does not tell them the public keys stand alone.

use std::collections::HashMap;

use serde_json::Value;

use super::uapi::DeviceView;

/// Public key (base64) → name.
pub(crate) type Names = HashMap<String, String>;

/// Those in `{"peers": [{"public_key", "name"}]}`, wgd's answer to the verb `status`.
pub(crate) fn of(answer: &Value) -> Names {
    let mut names = Names::new();
    for peer in answer["peers"].as_array().into_iter().flatten() {
        if let (Some(key), Some(name)) = (peer["public_key"].as_str(), peer["name"].as_str())
            && !name.is_empty()
        {
            names.insert(key.to_owned(), name.to_owned());
        }
    }
    names
}

pub(crate) fn apply(names: &Names, device: &mut DeviceView) {
    for peer in &mut device.peers {
        peer.name = names.get(&peer.public_key).cloned();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tunnel::uapi::PeerView;

    #[test]
    fn names_go_to_their_keys() {
        let names =
            of(&json!({"peers": [{"public_key": "A=", "name": "web1"}, {"public_key": "B=", "name": ""}]}));
        let peer = |key: &str| PeerView { public_key: key.into(), ..PeerView::default() };
        let mut device = DeviceView { peers: vec![peer("A="), peer("B=")], ..DeviceView::default() };
        apply(&names, &mut device);
        assert_eq!((device.peers[0].name.as_deref(), device.peers[1].name.as_deref()), (Some("web1"), None));
    }
}
