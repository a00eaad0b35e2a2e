//! The answer to `get=1`, in wireguard-go's order.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::Epoch;
use crate::{DeviceState, PeerState};

/// Text of the whole answer, `errno=0` and the empty line included. It holds our private key.
pub fn render_get(state: &DeviceState, epoch: &Epoch) -> Zeroizing<String> {
    // Enough from the start: growing would leave copies of the keys behind.
    let prefixes: usize = state.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(256 + 512 * state.peers.len() + 64 * prefixes));
    let out: &mut String = &mut text;
    if let Some(key) = &state.private_key {
        out.push_str("private_key=");
        key.push_hex(out);
        out.push('\n');
    }
    if state.listen_port != 0 {
        line(out, "listen_port", state.listen_port);
    }
    if state.fwmark != 0 {
        line(out, "fwmark", state.fwmark);
    }
    for peer in &state.peers {
        render_peer(out, peer, epoch);
    }
    out.push_str("errno=0\n\n");
    text
}

fn render_peer(out: &mut String, peer: &PeerState, epoch: &Epoch) {
    line(out, "public_key", peer.public_key.to_hex());
    out.push_str("preshared_key=");
    match &peer.preshared_key {
        Some(key) => key.push_hex(out),
        None => out.push_str(NO_KEY),
    }
    out.push('\n');
    line(out, "protocol_version", 1);
    if let Some(endpoint) = peer.endpoint {
        line(out, "endpoint", endpoint.remote);
    }
    let (seconds, nanoseconds) = match peer.last_handshake {
        None => (0, 0),
        Some(at) => {
            let since_1970 = epoch.date(at);
            // wgctrl-go takes a zero here for "never".
            (since_1970.as_secs(), since_1970.subsec_nanos().max(1))
        }
    };
    line(out, "last_handshake_time_sec", seconds);
    line(out, "last_handshake_time_nsec", nanoseconds);
    line(out, "tx_bytes", peer.tx_bytes);
    line(out, "rx_bytes", peer.rx_bytes);
    line(out, "persistent_keepalive_interval", peer.persistent_keepalive);
    for prefix in &peer.allowed_ips {
        line(out, "allowed_ip", prefix);
    }
}

fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{key}={value}");
}

const NO_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, UNIX_EPOCH};

    use super::*;
    use crate::{Drops, HandshakeCounts, PublicKey};

    #[test]
    fn a_handshake_on_the_full_second_is_not_shown_as_never() {
        let epoch = Epoch { instant: now(), wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000) };
        let mut peer = peer();
        peer.last_handshake = Some(epoch.instant + Duration::from_secs(5));
        let mut text = String::new();
        render_peer(&mut text, &peer, &epoch);
        assert!(text.contains("last_handshake_time_sec=1700000005\nlast_handshake_time_nsec=1\n"), "{text}");
    }

    #[test]
    fn a_peer_is_rendered_in_the_order_of_wireguard_go() {
        let epoch = Epoch { instant: now(), wall: UNIX_EPOCH };
        let mut peer = peer();
        peer.endpoint = Some("[fd00::1]:51820".parse::<std::net::SocketAddr>().unwrap().into());
        peer.allowed_ips = vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()];
        let mut text = String::new();
        render_peer(&mut text, &peer, &epoch);
        let key = "07".repeat(32);
        assert_eq!(
            text,
            format!(
                "public_key={key}\npreshared_key={NO_KEY}\nprotocol_version=1\nendpoint=[fd00::1]:51820\n\
                 last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=1\nrx_bytes=2\n\
                 persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\n"
            )
        );
    }

    #[expect(clippy::disallowed_methods, reason = "tests need one instant to count from")]
    fn now() -> Instant {
        Instant::now()
    }

    fn peer() -> PeerState {
        PeerState {
            public_key: PublicKey::from_bytes([7; 32]),
            friendly_name: None,
            preshared_key: None,
            endpoint: None,
            last_handshake: None,
            up_since: None,
            up_total: Duration::ZERO,
            tx_bytes: 1,
            rx_bytes: 2,
            tx_packets: 0,
            rx_packets: 0,
            persistent_keepalive: 25,
            allowed_ips: Vec::new(),
            handshakes: HandshakeCounts::default(),
            endpoint_changes: 0,
            rotation: None,
            drops: Drops::default(),
            numbers: crate::Settled::default(),
            loss: None,
            rtt: None,
            probes: crate::Probes::default(),
            staged_packets: 0,
        }
    }
}
