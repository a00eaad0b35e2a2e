//! The operator's names of peers, from wgd's admin socket.
//!
//! Invariant: names are a courtesy. Where wgd does not tell them (it is not ours, it does not run, we may
//! not ask, it is slow) the public keys stand alone, and nothing fails or waits.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc;

use serde_json::{Value, json};

use super::uapi::DeviceView;
use crate::limits::NAMES_TIMEOUT;

/// The verb that wgd answers with its peers.
const VERB: &str = "status";

/// Public key (base64) → name.
pub(crate) type Names = HashMap<String, String>;

pub(crate) fn ask(socket: &Path) -> Names {
    if !socket.exists() {
        return Names::new();
    }
    let (sender, answer) = mpsc::channel();
    let socket = socket.to_owned();
    // On its own thread, because a call may take longer than a check has time for.
    let asked = std::thread::Builder::new().name("names".to_owned()).spawn(move || {
        let mut names = Names::new();
        let answer = daemon::admin::call(&socket, VERB, json!({}), &[], |item| collect(&item, &mut names));
        if let Ok(done) = answer {
            collect(&done, &mut names);
        }
        // Nobody may be waiting any more.
        let _ = sender.send(names);
    });
    match asked {
        Ok(_) => answer.recv_timeout(NAMES_TIMEOUT).unwrap_or_default(),
        Err(_) => Names::new(),
    }
}

/// Takes in `{"peers": [{"public_key", "name"}]}`.
fn collect(answer: &Value, names: &mut Names) {
    for peer in answer["peers"].as_array().into_iter().flatten() {
        if let (Some(key), Some(name)) = (peer["public_key"].as_str(), peer["name"].as_str())
            && !name.is_empty()
        {
            names.insert(key.to_owned(), name.to_owned());
        }
    }
}

pub(crate) fn apply(names: &Names, device: &mut DeviceView) {
    for peer in &mut device.peers {
        peer.name = names.get(&peer.public_key).cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::uapi::PeerView;

    #[test]
    fn names_go_to_their_keys() {
        let mut names = Names::new();
        collect(
            &json!({"peers": [{"public_key": "A=", "name": "web1"}, {"public_key": "B=", "name": ""}]}),
            &mut names,
        );
        let peer = |key: &str| PeerView { public_key: key.into(), ..PeerView::default() };
        let mut device = DeviceView { peers: vec![peer("A="), peer("B=")], ..DeviceView::default() };
        apply(&names, &mut device);
        assert_eq!((device.peers[0].name.as_deref(), device.peers[1].name.as_deref()), (Some("web1"), None));
    }

    #[test]
    fn a_missing_daemon_costs_nothing() {
        assert!(ask(Path::new("/nonexistent/wgd.sock")).is_empty());
    }
}
