//! Why a packet or datagram went no further, as a closed list.
//!
//! **Invariant:** one list serves as return value, metric label and test assertion; the label of a
//! reason never changes once released.

/// A reason for dropping. [`DropReason::label`] is the `reason` of `wgd_packets_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// A handshake message whose first MAC does not fit our public key: not meant for us.
    Mac1Invalid,
    /// Under load, and the sender has not proved its address yet; a cookie went back.
    Mac2Missing,
    /// Authentication failed: forged, damaged, or another pre-shared key.
    DecryptFailed,
    /// Seen before, or too old to tell.
    Replay,
    /// A well-formed handshake from a key that no peer has.
    UnknownPeer,
    /// No session has this receiver index.
    UnknownIndex,
    /// Decrypted, but its source address does not belong to the peer.
    SourceNotAllowed,
    /// No peer's allowed IPs hold the destination.
    NoRoute,
    /// The peer's address is not known yet.
    NoEndpoint,
    /// No session, and none could be started or finished.
    NoSession,
    /// Under load, and the sender has proved its address and sends more handshakes than one address may.
    HandshakeAllowance,
    /// More packets wait for the handshake than are kept.
    QueueFull,
    /// It has been through too many tunnels: a route leads a tunnel's datagrams back into it.
    RoutingLoop,
    /// Larger than any datagram may be.
    TooBig,
    /// Not a WireGuard message, or its content is no IP packet.
    Malformed,
    /// The interface is down: nothing is answered.
    LinkDown,
    /// The kernel did not take the packet from us.
    TunWriteError,
    /// The kernel did not take the datagram from us.
    UdpSendError,
}

impl DropReason {
    /// All of them, in the order of the metric's documentation.
    pub const ALL: [DropReason; 18] = [
        DropReason::Mac1Invalid,
        DropReason::Mac2Missing,
        DropReason::DecryptFailed,
        DropReason::Replay,
        DropReason::UnknownPeer,
        DropReason::UnknownIndex,
        DropReason::SourceNotAllowed,
        DropReason::NoRoute,
        DropReason::NoEndpoint,
        DropReason::NoSession,
        DropReason::HandshakeAllowance,
        DropReason::QueueFull,
        DropReason::RoutingLoop,
        DropReason::TooBig,
        DropReason::Malformed,
        DropReason::LinkDown,
        DropReason::TunWriteError,
        DropReason::UdpSendError,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            DropReason::Mac1Invalid => "mac1_invalid",
            DropReason::Mac2Missing => "mac2_missing",
            DropReason::DecryptFailed => "decrypt_failed",
            DropReason::Replay => "replay",
            DropReason::UnknownPeer => "unknown_peer",
            DropReason::UnknownIndex => "unknown_index",
            DropReason::SourceNotAllowed => "source_not_allowed",
            DropReason::NoRoute => "no_route",
            DropReason::NoEndpoint => "no_endpoint",
            DropReason::NoSession => "no_session",
            DropReason::HandshakeAllowance => "handshake_allowance",
            DropReason::QueueFull => "queue_full",
            DropReason::RoutingLoop => "routing_loop",
            DropReason::TooBig => "too_big",
            DropReason::Malformed => "malformed",
            DropReason::LinkDown => "link_down",
            DropReason::TunWriteError => "tun_write_error",
            DropReason::UdpSendError => "udp_send_error",
        }
    }
}

/// How often each reason was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// The count of one reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Each reason with its count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }

    /// All reasons together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: DropReason, packets: u64) {
        self.0[reason as usize] += packets;
    }
}

/// What the device as a whole has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Everything dropped, whether its peer is known or not.
    pub drops: Drops,
    /// Cookie replies sent while under load.
    pub cookie_replies_sent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_counts_under_its_own_place() {
        let mut drops = Drops::default();
        for (position, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, position);
            drops.count(reason, position as u64);
        }
        for (position, (_, count)) in drops.iter().enumerate() {
            assert_eq!(count, position as u64);
        }
    }
}
