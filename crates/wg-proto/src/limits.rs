//! Every bound of the protocol core, and why it is what it is.

/// Bounds that the protocol fixes: changing one breaks interoperation.
pub mod from_the_specification {
    use std::time::Duration;

    /// Message 1, WireGuard paper §5.4.2.
    pub const INITIATION_BYTES: usize = 148;
    /// Message 2, paper §5.4.3.
    pub const RESPONSE_BYTES: usize = 92;
    /// Cookie reply, paper §5.4.7.
    pub const COOKIE_REPLY_BYTES: usize = 64;
    /// Header (16) and authentication tag (16) around a data packet, paper §5.4.6.
    pub const DATA_OVERHEAD_BYTES: usize = 32;
    /// Of these, the ones in front.
    pub const DATA_HEADER_BYTES: usize = 16;
    /// And the ones behind.
    pub const DATA_TAG_BYTES: usize = 16;
    /// Inner packets are zero-padded to a multiple of this, paper §5.4.6.
    pub const PADDING_BYTES: usize = 16;
    /// No new initiation sooner than this after a handshake message was sent, paper §6.1.
    pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
    /// Up to so much longer, by chance, paper §6.1: those who began together are not to begin again together.
    pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
    /// Handshakes without an answer are given up after this, paper §6.1.
    pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
    /// Data is answered by something after this, paper §6.1.
    pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
    /// The initiator makes new keys when they are this old, paper §6.1.
    pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
    /// Either side makes new keys after this many packets, paper §6.1.
    pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
    /// A packet with this counter or a higher one is neither sent nor taken, paper §6.1.
    pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
    /// Counters that are remembered, the kernel's `COUNTER_BITS_TOTAL`: up to 8,128 may be overtaken.
    pub const REPLAY_BITS: u64 = 8_192;
    /// A cookie serves for so long, paper §5.4.7.
    pub const COOKIE_TIME: Duration = Duration::from_secs(120);
    /// After this age a session neither seals nor opens, paper §6.1.
    pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
}

/// Bounds that are ours to choose.
pub mod our_choice {
    use std::time::Duration;

    /// Largest inner packet: what fits a UDP datagram over IPv6 with the WireGuard header around it
    /// (65,535 − 40 − 8 − 32, rounded down to the padding).
    pub const MAX_PACKET_BYTES: usize = 65_440;
    /// Scratch space: any UDP payload fits, and what is sealed for it has room.
    pub const SCRATCH_BYTES: usize = 65_536 + super::from_the_specification::DATA_OVERHEAD_BYTES;
    /// Packets that wait for a handshake, per peer: the kernel's `MAX_STAGED_PACKETS`. The oldest
    /// goes first, for the newest is the one whose sender still waits.
    pub const MAX_STAGED_PACKETS: usize = 128;
    /// Sessions end when the interface has been down for so long. Moving it to another namespace takes it down for the
    /// moment until somebody sets it up there, and need cost no handshake.
    pub const SESSIONS_OUTLIVE_LINK: Duration = Duration::from_secs(3);
    /// How often a live session's timers are looked at: its shortest rule is 5 s.
    pub const TICK: Duration = Duration::from_millis(250);
    /// A peer counts as down after this long without an authenticated packet: the age at which no
    /// session can be left.
    pub const PEER_DOWN_AFTER: Duration = super::from_the_specification::REJECT_AFTER_TIME;
    /// Handshake messages a second before proof of address (a cookie) is asked for. One costs about
    /// 0.2 ms of CPU, so the flood is held at some 5 % of a core.
    pub const HANDSHAKES_PER_SECOND_BEFORE_COOKIES: u32 = 250;
    /// The device counts as loaded for this long after it last was: wireguard-go's `UnderLoadAfterTime`.
    pub const LOAD_LASTS: Duration = Duration::from_secs(1);
    /// What one source address is allowed under load, as in the kernel and in wireguard-go's `ratelimiter`.
    pub const SOURCE_HANDSHAKES_PER_SECOND: u32 = 20;
    /// What it may send at once of that.
    pub const SOURCE_HANDSHAKE_BURST: u32 = 5;
    /// An unanswered probe keeps the next one waiting for this long; then it counts as lost when that is sent.
    pub const PROBE_WAIT: Duration = Duration::from_secs(1);
    /// A probe as an inner packet: needs no padding, and is larger than any header.
    pub const PROBE_BYTES: usize = 64;
    /// Source addresses remembered, twice (with and without proof): together some 2 MB.
    pub const HANDSHAKE_SOURCES: usize = 16_384;
    /// So many initiations without an answer, 5 s apart, and the peer may be elsewhere: three lost in a row are rare.
    pub const UNANSWERED_INITIATIONS: u32 = 3;
    /// Old sessions kept to open what is still under way after a pre-shared key changed.
    pub const MAX_DRAINING_SESSIONS: usize = 4;
    /// A control message that was not answered is said again after this, doubling up to the next.
    pub const CONTROL_RETRY: Duration = Duration::from_millis(250);
    /// The longest pause between two tries.
    pub const CONTROL_RETRY_MAX: Duration = Duration::from_secs(5);
    /// A peer that has been heard since the first hello, and has not answered one after this, is no wgd. Another WireGuard
    /// is heard after 10 s at the latest, by the keepalive that answers data (paper §6.5).
    pub const CONTROL_GREETING: Duration = Duration::from_secs(4);
    /// A peer that has a session with us and is not heard at all for this long is not there. That its half of the session is
    /// gone is noticed after 15 s (paper §6.5), and then come three handshakes.
    pub const CONTROL_SILENT: Duration = Duration::from_secs(31);
    /// A peer that has not even made a session after this is not there: three handshakes.
    pub const CONTROL_UNREACHABLE: Duration = Duration::from_secs(16);
    /// A rotation that a peer puts off for this long is given up.
    pub const CONTROL_PATIENCE: Duration = Duration::from_secs(60);
    /// A rotation that is not over after this waits for somebody: ten minutes are more than any restart takes. Neither
    /// key may go, for nobody knows which one the peer has, but operators are told.
    pub const CONTROL_STALLED: Duration = Duration::from_secs(600);
    /// Peers whose timers are served in one turn: to begin a handshake takes some 50 µs, so packets wait for a millisecond and
    /// not for thousands of handshakes.
    pub const PEERS_PER_TURN: usize = 16;
    /// Static keys that were given up as compromised and are kept out. Each is a line of the configuration, so a peer that
    /// gives up one after the other must come to an end; 1,024 of them are 60 KiB, and decades of accidents.
    pub const MAX_DENIED_KEYS: usize = 1_024;
    /// The MTU until the shell names the interface's.
    pub const DEFAULT_MTU: u16 = 1420;
    /// Smallest MTU a configuration may ask for: what every IPv4 host must take (RFC 791).
    pub const MIN_MTU: u16 = 576;
    /// Largest MTU a configuration may ask for: a datagram's 65,535 less the 80 bytes around it.
    pub const MAX_MTU: u16 = 65_440;
    /// Length of a peer's friendly name: it becomes a metric label.
    pub const MAX_FRIENDLY_NAME_BYTES: usize = 64;
    /// Largest configuration request a client may send: 130,560 prefixes take some 6 MB.
    pub const MAX_UAPI_REQUEST_BYTES: usize = 16 << 20;
    /// Longest line of such a request: no value is longer than a key or an address.
    pub const MAX_UAPI_LINE_BYTES: usize = 4096;
    /// Session ranges are 24 bits wide; half of them free keeps the random choice short.
    pub const MAX_SESSION_RANGES: usize = 1 << 23;
}
