//! A snapshot of a device: what UAPI `get`, the metrics and `status` show.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::{Drops, Endpoint, PeerRotation, PresharedKey, Probes, PublicKey, SecretKey, Settled};

/// The device as it is now.
#[derive(Clone)]
pub struct DeviceState {
    /// Our static key, for UAPI `get` alone.
    pub private_key: Option<SecretKey>,
    /// Its public half.
    pub public_key: Option<PublicKey>,
    /// The port really bound; 0 when none was reported.
    pub listen_port: u16,
    /// 0 when none.
    pub fwmark: u32,
    /// Handshakes come faster than they are worth: senders are asked to prove their address.
    pub under_load: bool,
    /// In the order they were added.
    pub peers: Vec<PeerState>,
}

/// A peer as it is now.
#[derive(Clone)]
pub struct PeerState {
    /// Who.
    pub public_key: PublicKey,
    /// The operator's word.
    pub friendly_name: Option<Arc<str>>,
    /// For UAPI `get` alone.
    pub preshared_key: Option<PresharedKey>,
    /// Where it was last heard, or is configured to be.
    pub endpoint: Option<Endpoint>,
    /// When both sides last agreed on keys.
    pub last_handshake: Option<Instant>,
    /// Up since then; `None` while down.
    pub up_since: Option<Instant>,
    /// How long the peer has been up, all its times together.
    pub up_total: Duration,
    /// Wire bytes sent: handshakes, keepalives, data with header, padding and tag.
    pub tx_bytes: u64,
    /// Wire bytes received and authenticated.
    pub rx_bytes: u64,
    /// Datagrams sent.
    pub tx_packets: u64,
    /// Datagrams received and authenticated.
    pub rx_packets: u64,
    /// Seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// In the order they were added.
    pub allowed_ips: Vec<IpNet>,
    /// Handshakes by role and result.
    pub handshakes: HandshakeCounts,
    /// How often the outer address moved.
    pub endpoint_changes: u64,
    /// A rotation of ours that is not over with this peer.
    pub rotation: Option<PeerRotation>,
    /// Drops that could be laid to this peer.
    pub drops: Drops,
    /// What the peer's transport counters say it sent, and what of it never came.
    pub numbers: Settled,
    /// Share of the peer's recent datagrams that never came (0–1).
    pub loss: Option<f32>,
    /// Round trip of the last probe that was answered; without one, of the last handshake we initiated.
    pub rtt: Option<Duration>,
    /// What probes have shown.
    pub probes: Probes,
    /// Packets that wait for a handshake.
    pub staged_packets: usize,
}

/// Handshakes by role and result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCounts {
    /// We asked, the peer answered.
    pub initiator_completed: u64,
    /// We asked, and 90 s of retries went unanswered or the answer did not authenticate.
    pub initiator_failed: u64,
    /// The peer asked, we answered, and its first packet proved the keys.
    pub responder_completed: u64,
    /// The peer's initiation was refused by its session (replayed, or damaged).
    pub responder_failed: u64,
}

impl HandshakeCounts {
    /// Completed in either role.
    pub fn completed(&self) -> u64 {
        self.initiator_completed + self.responder_completed
    }

    /// Failed in either role.
    pub fn failed(&self) -> u64 {
        self.initiator_failed + self.responder_failed
    }
}
