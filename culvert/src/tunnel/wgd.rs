//! What wgd itself tells of its tunnel, beyond the configuration protocol.
//!
//! Invariant: it is asked first and never waited for: where it does not answer (it is not ours, it does not run, we
//! may not ask, it is slow) the configuration protocol's answer stands alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};

use serde::Deserialize;
use serde_json::{Value, json};

use super::uapi::{DeviceKind, DeviceView, PeerView};
use crate::limits::WGD_TIMEOUT;

/// Asks on a thread of its own, because a call may take longer than a command has time for.
pub(crate) fn ask(socket: &Path) -> Receiver<Value> {
    let (sender, answer) = mpsc::channel();
    let socket = socket.to_owned();
    let asking = std::thread::Builder::new().name("wgd".to_owned()).spawn(move || {
        if let Ok(status) = daemon::admin::call(&socket, "status", json!({}), &[], |_| {}) {
            // Nobody may be waiting any more.
            let _ = sender.send(status);
        }
    });
    // Without a thread the sender is gone, as when nobody answers.
    drop(asking);
    answer
}

/// The device of `interface`, if it is the one that the wgd behind `socket` makes.
pub(crate) fn device(socket: &Path) -> Option<(String, DeviceView)> {
    let status = ask(socket).recv_timeout(WGD_TIMEOUT).ok()?;
    let status: Status = serde_json::from_value(status).ok()?;
    Some((status.interface.clone(), status.into()))
}

/// The answer to the verb `status`; what else is in it is for others.
#[derive(Deserialize)]
struct Status {
    interface: String,
    public_key: Option<String>,
    listen_port: u16,
    fwmark: u32,
    mtu: u16,
    /// An older wgd does not tell.
    link_up: Option<bool>,
    netcfg: bool,
    /// An older wgd does not tell.
    device: Option<DeviceKind>,
    #[serde(default)]
    under_load: bool,
    drops: BTreeMap<String, u64>,
    peers: Vec<Peer>,
}

#[derive(Deserialize)]
struct Peer {
    name: Option<String>,
    public_key: String,
    endpoint: Option<String>,
    allowed_ips: Vec<String>,
    latest_handshake_unix: Option<u64>,
    latest_handshake_age_seconds: Option<u64>,
    up_seconds: Option<u64>,
    rx_bytes: u64,
    tx_bytes: u64,
    persistent_keepalive_seconds: u16,
    preshared_key: bool,
    loss_ratio: Option<f64>,
    rtt_ms: Option<f64>,
    rtt_from: Option<String>,
}

impl From<Status> for DeviceView {
    fn from(status: Status) -> DeviceView {
        DeviceView {
            public_key: status.public_key,
            listen_port: Some(status.listen_port).filter(|port| *port > 0),
            fwmark: Some(status.fwmark).filter(|mark| *mark > 0),
            mtu: Some(status.mtu),
            link_up: status.link_up,
            netcfg: Some(status.netcfg),
            device: status.device,
            under_load: Some(status.under_load),
            drops: Some(status.drops),
            peers: status.peers.into_iter().map(PeerView::from).collect(),
        }
    }
}

impl From<Peer> for PeerView {
    fn from(peer: Peer) -> PeerView {
        PeerView {
            name: peer.name.filter(|name| !name.is_empty()),
            public_key: peer.public_key,
            has_preshared_key: peer.preshared_key,
            endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips,
            last_handshake_unix: peer.latest_handshake_unix,
            last_handshake_age_seconds: peer.latest_handshake_age_seconds,
            receive_bytes: peer.rx_bytes,
            transmit_bytes: peer.tx_bytes,
            persistent_keepalive_seconds: Some(peer.persistent_keepalive_seconds).filter(|it| *it > 0),
            up_seconds: peer.up_seconds,
            loss_ratio: peer.loss_ratio,
            rtt_ms: peer.rtt_ms,
            rtt_from: peer.rtt_from,
            probe: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whatever_else_it_holds() {
        let status = json!({
            "interface": "wg0", "version": "1", "public_key": "K=", "listen_port": 51820, "fwmark": 0,
            "mtu": 1420, "netcfg": true, "device": {"kind": "offload", "tcp": true, "udp": false, "udp_send": true,
            "udp_receive": true}, "drops": {"replay": 2}, "lockdown": {},
            "peers": [{
                "name": "web1", "public_key": "P=", "endpoint": "192.0.2.1:1", "allowed_ips": ["10.0.0.1/32"],
                "up": true, "latest_handshake_unix": 7, "latest_handshake_age_seconds": 3, "up_seconds": 4,
                "rx_bytes": 1, "tx_bytes": 2, "persistent_keepalive_seconds": 0, "preshared_key": true,
                "loss_ratio": 0.25, "rtt_ms": 1.5, "rtt_from": "probe", "new": [],
            }],
        });
        let status: Status = serde_json::from_value(status).unwrap();
        let device = DeviceView::from(status);
        assert_eq!((device.mtu, device.fwmark, device.peers.len()), (Some(1420), None, 1));
        assert_eq!(
            device.device.map(|device| (device.kind, device.udp)),
            Some(("offload".to_owned(), false))
        );
        let peer = &device.peers[0];
        assert_eq!((peer.loss_ratio, peer.rtt_ms, peer.up_seconds), (Some(0.25), Some(1.5), Some(4)));
        assert_eq!((peer.persistent_keepalive_seconds, peer.has_preshared_key), (None, true));
    }
}
