//! The bounds of the tunnel daemon.
//!
//! Those of the protocol itself are in `wg_proto::limits`.
use std::time::Duration;

// From the specification.

/// The MTU of a tunnel when nothing better is known (wg-quick(8): 1500 minus the largest overhead).
pub const DEFAULT_MTU: u16 = 1420;
/// What a datagram adds at most: IPv6 40 + UDP 8 + transport header 16 + tag 16.
pub const OVERHEAD_BYTES: u32 = 80;
/// The least MTU of IPv6 (RFC 8200 §5); a tunnel below it cannot carry it.
pub const MIN_MTU: u16 = 1280;
/// What the TUN driver gives a new device (drivers/net/tun.c, ETH_DATA_LEN): nobody has chosen an MTU yet.
pub const TUN_DRIVER_MTU: u16 = 1500;
/// What a read from the TUN device brings at most: the longest packet (IPv6's length is counted without its header) and
/// the virtio header before it.
pub const READ_BYTES: usize = 10 + 40 + 65_535;

// Our choice.

/// How often a socket of the daemon's is tried for while it is in use, and the pause between: half a second in all,
/// several times what a predecessor takes to end after its interface was deleted.
pub const PREDECESSOR_TRIES: u32 = 25;
/// See [`PREDECESSOR_TRIES`].
pub const PREDECESSOR_PAUSE: Duration = Duration::from_millis(20);
/// Packets taken from one descriptor before the other has its turn: enough to fill a batch of datagrams.
pub const PACKETS_PER_TURN: usize = 64;
/// Bytes taken from the TUN device before the sockets have their turn: two large packets, so that what has arrived waits
/// less than a tenth of a millisecond for what is to be sent.
pub const BYTES_PER_TURN: usize = 128 * 1024;
/// How long packets that come one by one are let gather, once there are many: a hundred thousand a second make ten of it,
/// and it is a third of a round trip through two idle daemons. The kernel adds its 50 µs of slack.
pub const PAUSE: Duration = Duration::from_micros(100);
/// So many packets in one turn begin that: more than a handful of programs that wait for each answer send at once.
pub const PAUSE_FROM: usize = 12;
/// So many in a turn, gathered in a pause, are worth the next one: 40,000 to 60,000 a second.
pub const PAUSE_STAY: usize = 6;
/// What is opened before it is written: two large packets' worth, which stays in the processor's cache.
pub const OPENED_BYTES: usize = 128 * 1024;
/// Requests from the control thread that may wait for the data thread; each waits for its answer.
pub const CONTROL_QUEUE: usize = 16;
/// What the data thread says about rotations; what finds no room is said again.
pub const ROTATION_QUEUE: usize = 64;
/// How long an operator is kept waiting for the verdict on a rotation, which goes on all the same.
pub const ROTATION_TIME: Duration = Duration::from_secs(90);
/// Events on their way from the data thread to the listeners; beyond it they are dropped and counted.
pub const EVENT_QUEUE: usize = 256;
/// Connections on the UAPI socket at once; wgctrl programs keep one each. Beyond it the longest idle one goes.
pub const UAPI_CONNECTIONS: usize = 64;
/// The longest `set`: 130,560 prefixes of 60 bytes, twice over.
pub const UAPI_REQUEST_BYTES: usize = 16 << 20;
/// The longest line of a `set` (wgctrl-go's scanner reads no longer one either).
pub const UAPI_LINE_BYTES: usize = 64 * 1024;
/// How long a half-sent request may take to arrive.
pub const UAPI_REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long a client may ask nothing before its connection is closed.
pub const UAPI_IDLE_TIME: Duration = Duration::from_secs(60);
/// The longest configuration file, on the same grounds as the longest `set`.
pub const CONFIG_BYTES: u64 = 16 << 20;
/// How long after a look at changed routes the next look comes at the earliest, and how much longer for each peer
/// that the kernel was asked about: a host with all the routes of the Internet hears of changes without end.
pub const ROUTES_PERIOD: Duration = Duration::from_millis(5);
/// As above; a question takes some microseconds.
pub const ROUTES_PERIOD_PER_PEER: Duration = Duration::from_micros(50);
/// How long the data thread may take to answer the control thread before that is called a fault.
pub const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long it may take to answer a scrape, which blocks the control thread: a state of 10,000 peers takes milliseconds.
pub const SCRAPE_TIME: Duration = Duration::from_secs(1);
/// How long netcfg may take to answer; longer than any of its own waits. Then it counts as gone, for a late
/// answer would be taken for the answer to the next question.
pub const NETCFG_TIME: Duration = Duration::from_secs(20);
/// The pause before the data thread's queue is tried again when it is full.
pub const QUEUE_RETRY: Duration = Duration::from_millis(1);
/// How long netcfg waits for a name; resolv.conf's own time-outs can be minutes.
pub const RESOLVE_TIME: Duration = Duration::from_secs(5);
/// A name that could not be looked up is tried again after this, doubling up to [`RESOLVE_RETRY_MAX`].
pub const RESOLVE_RETRY: Duration = Duration::from_secs(2);
/// The longest pause between two tries.
pub const RESOLVE_RETRY_MAX: Duration = Duration::from_secs(60);
/// A name that was looked up is not looked up again before this, however often its peer does not answer.
pub const RESOLVE_AGAIN: Duration = Duration::from_secs(10);
/// Peers without an answer whose names wait to be looked up.
pub const UNANSWERED_QUEUE: usize = 64;
/// How often the clock is compared with the state file, and the file with the last handshake.
pub const CLOCK_STATE_PERIOD: Duration = Duration::from_secs(5);
/// How often readiness is looked at.
pub const READINESS_PERIOD: Duration = Duration::from_millis(250);
/// The longest pause between two probes: beyond it a round trip says nothing about the present.
pub const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// How often it is looked whether full-sized packets still come through to a peer.
pub const PATH_PERIOD: Duration = Duration::from_secs(60);
/// How often it is looked whether there are keys for that.
pub const PATH_LOOK: Duration = Duration::from_secs(3);
/// The pause between two packets of that search; above `wg_proto`'s wait for an answer.
pub const PATH_STEP: Duration = Duration::from_millis(1_100);
/// A length counts as too long when so many packets of it in a row found no answer.
pub const PATH_MISSES: u8 = 3;
/// Every IPv4 path carries this (RFC 791); when it finds no answer, lengths are not the reason.
pub const PATH_LEAST: u16 = 576;
/// How exactly the length is found.
pub const PATH_RESOLUTION: u16 = 8;
/// Searches that take a step at the same time.
pub const PATH_STEPS: usize = 64;
/// How long an operator's probe waits for its answer: the command is to end within a second.
pub const PROBE_ANSWER: Duration = Duration::from_millis(900);
/// How often it looks whether the answer is there.
pub const PROBE_LOOK: Duration = Duration::from_millis(20);
/// Memory for keys and sessions, which not even root reads: 0.9 KB at most for each session (4 KB where `ring` is the cipher), so those of a
/// thousand peers; sessions beyond that lie in ordinary memory, and the status counts them. Well below what a service may lock (8 MiB by systemd's default).
pub const SECRET_BYTES: usize = 1024 * 1024;
/// Events that an operator who reads slowly may be behind.
pub const WATCHED_EVENTS: usize = 256;
/// How often an operator who watches hears that nothing happened; clients give up after 60 s of silence.
pub const FOLLOW_BEAT: Duration = Duration::from_secs(20);
/// The kernel tells at once when the interface is set up or down, except of one that was moved out of hearing; and
/// whoever set it down expects silence before the next keepalive.
pub const LINK_LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A peer counts as up for this long after a handshake (WireGuard paper §6.1: sessions end at 180 s).
pub const PEER_UP: Duration = Duration::from_secs(180);

/// The tunnel's MTU over a route of `route_mtu` bytes.
#[must_use]
pub fn tunnel_mtu(route_mtu: u32) -> u16 {
    let longest = u32::from(wg_proto::limits::our_choice::MAX_MTU);
    let inner = route_mtu.saturating_sub(OVERHEAD_BYTES).clamp(u32::from(MIN_MTU), longest);
    u16::try_from(inner).unwrap_or(DEFAULT_MTU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mtu_leaves_room_for_the_overhead_and_never_falls_below_ipv6s_least() {
        assert_eq!(tunnel_mtu(1500), 1420);
        assert_eq!(tunnel_mtu(1300), 1280);
        assert_eq!(tunnel_mtu(65_536), 65_440);
        assert_eq!(tunnel_mtu(9_000), 8_920);
    }
}
