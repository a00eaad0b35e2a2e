//! Every bound of edge, with the reason for its number.
//!
//! Whatever a stranger can make grow has a line here: nothing in edge is limited by memory alone.

use std::time::Duration;

// --- from the specification ---------------------------------------------------------------------

/// A silent cut of the tunnel must end in 503 within 3 s: this much without proof of life opens the
/// circuit, and half a second is left to abort the streams and answer.
pub const PROOF_OF_LIFE: Duration = Duration::from_millis(2500);
/// Health requests come each second.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A body that comes more slowly than this for as long as a pause may be is given up: whoever sends a byte
/// now and then would hold one of storaged's transfers for ever. A modem's rate is four times as much.
pub const MIN_BYTES_PER_SECOND: u64 = 1024;
/// What of a refused client's further bytes is read; the rest waits in a window that is soon full.
pub const LINGER_BYTES: usize = 256 * 1024;
/// How long a refused client may take to notice the refusal.
pub const LINGER_TIME: Duration = Duration::from_secs(2);

/// The version of tus that is spoken.
pub const TUS_VERSION: &str = "1.0.0";
/// The wire formats of the resumable-upload draft that are understood: from 5 (draft -03) on, the headers that are read
/// here have kept their meaning. A later one may not.
pub const DRAFT_VERSIONS: std::ops::RangeInclusive<u32> = 5..=8;

// --- our choice ---------------------------------------------------------------------------------

/// Request line and header section. Our longest honest head is a 1,024-byte path, percent-encoded
/// to 3 KiB, and a token; 16 KiB leaves room for what proxies add.
pub const HEAD_BYTES: usize = 16 * 1024;
/// Header fields in one head; hyper's own default, stated because it is a limit.
pub const HEAD_FIELDS: usize = 100;
/// hyper's read buffer for one connection, and so the largest body frame: as large as one offloaded TCP segment …
pub const FRAME_BYTES: usize = 64 * 1024;
/// … for so many connections as the usual requests need, …
pub const LARGE_FRAMES: i64 = 64;
/// … and as large as a head for those that come beyond them: a thousand open uploads wait for their clients, and most of
/// what each holds meanwhile is this buffer.
pub const CROWDED_FRAME_BYTES: usize = HEAD_BYTES;
/// Body bytes that edge holds in all, over every stream: beyond them a request with a body to pass is refused, and may come
/// again. A stream holds a frame or two, so the usual 256 requests come to half of it; what is under way is never cut,
/// or a few slow clients would take the place of all others.
pub const BUFFERED_BYTES: i64 = 32 * 1024 * 1024;
/// A JSON answer of storaged that edge collects (permission, receipt, problem). Listings stream.
pub const ANSWER_BYTES: usize = 64 * 1024;
/// The cohorts that are open to a user, or their uploads, of one of several storageds: 200 bytes each.
pub const EACH_BYTES: usize = 1024 * 1024;
/// A connection to storaged is up within a tunnel round trip; a lost SYN is retried after one second.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The kernel gives a connection up when its data stays unacknowledged for this long.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long storaged may take to answer a permission question; the circuit catches a dead tunnel
/// earlier, this catches one request that hangs.
pub const PERMISSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Durable write and ledger commit after the last byte of a body. A disk under a scrub is slow; a
/// minute says that it is not coming back.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections to storaged that are kept for the next request.
pub const POOLED_CONNECTIONS: usize = 32;
/// Younger than storaged lets an idle connection become (10 s), so that a pooled one is seldom stale.
pub const POOLED_IDLE: Duration = Duration::from_secs(8);
/// A listing's cursor is opaque to edge, but not endless.
pub const CURSOR_BYTES: usize = 2 * 1024;
/// What a refused client is told to wait, in seconds: the time one probe takes to see the tunnel again.
pub const RETRY_AFTER_SECONDS: u32 = 2;
/// How often the circuit takes stock.
pub const TICK: Duration = Duration::from_millis(100);
/// A gap between two ticks counts as silence up to this: longer ones mean that edge itself did not run.
pub const TICK_WORTH: Duration = Duration::from_millis(500);
/// Health requests under way at once: the next starts while one hangs, so that a lost packet or a
/// dead connection does not look like a dead tunnel.
pub const PROBES: usize = 3;
/// Worker threads. Two serve 10 Gbit/s of forwarding; more cost memory in idle stacks and arenas.
pub const WORKERS: usize = 2;
/// The body of a request for a link: a handful of numbers and a network.
pub const PRESIGN_BYTES: usize = 4096;
/// `Upload-Metadata`: the longest path in base64 and a few short values; it has to fit the head beside the token.
pub const METADATA_BYTES: usize = 8 * 1024;
/// Memory for the TLS key and those that a reload brings: a chain's key is at most a few KiB, and two are there at a time.
pub const SECRET_BYTES: usize = 256 * 1024;
/// Keys in it: clients send a handful.
pub const METADATA_PAIRS: usize = 32;
/// Ranges of one request: each is a round trip and two records. Viewers of large files ask for two or three.
pub const RANGES: usize = 8;
/// A boundary (RFC 2046 §5.1.1).
pub const BOUNDARY_BYTES: usize = 70;
/// Fields of a form before its file: a page has a handful.
pub const FORM_FIELDS: usize = 16;
/// One field, or one part's head, of a form: the longest path and some. Kept until it is read.
pub const FORM_HEAD_BYTES: usize = 16 * 1024;
/// A certificate chain or a key: four certificates of RSA 4096 come to 8 KiB.
pub const TLS_FILE_BYTES: usize = 64 * 1024;
/// Streams of one HTTP/2 connection at once; RFC 9113 advises 100 at least, so that nobody opens a second.
pub const H2_STREAMS: u32 = 100;
/// What a client may send ahead on a stream, and on all of a connection: the product of rate and round trip that
/// an upload can fill. 512 KiB carry 80 Mbit/s over 50 ms; whoever has more is faster with HTTP/1.1, whose window is the
/// kernel's.
pub const H2_WINDOW: u32 = 512 * 1024;
/// HTTP/2 connections at once; the next ones are offered HTTP/1.1. Each may fill its window while storaged is
/// slow, so this many times [`H2_WINDOW`] is what strangers can make edge hold.
pub const H2_CONNECTIONS: usize = 64;
// All that strangers send ahead fits into the memory that there is for bodies.
const _: () = assert!(H2_CONNECTIONS as i64 * H2_WINDOW as i64 <= BUFFERED_BYTES);
/// The frame that every client must take; a larger one only delays the other streams.
pub const H2_FRAME_BYTES: u32 = 16 * 1024;
/// Streams that were reset before edge saw them, until the connection is given up (rapid reset).
pub const H2_PENDING_RESETS: usize = 20;
/// Streams that edge itself had to reset for a client's fault, until the connection is given up.
pub const H2_FAULTS: usize = 64;
/// A ping asks a silent client whether it lives; two of them missed end the connection.
pub const H2_PING: Duration = Duration::from_secs(20);
/// Frames that carry nothing (PING, SETTINGS, RST_STREAM, PRIORITY, empty DATA …) which a connection may send at
/// once: opening, a page that is left with all its downloads, a change of the network.
pub const H2_CONTROL_BURST: u32 = 256;
/// And how many more each second.
pub const H2_CONTROL_PER_SECOND: u32 = 32;
/// A client may give room back in steps as small as this; a window's update for less is work without worth.
pub const H2_UPDATE_BYTES: u64 = 256;
/// Storageds behind one edge: a probe each second and its own connections for each of them. A site has one, or one for
/// each department that keeps its own.
pub const UPSTREAMS: usize = 16;
/// What a PROXY header may have in addresses and extras: the addresses take 36 bytes, extras are skipped.
pub const PROXY_HEADER_BYTES: usize = 1024;
/// A balancer sends its header with the first packet.
pub const PROXY_HEADER_TIME: Duration = Duration::from_secs(3);
/// Principals and addresses whose attempts and rates are known; with 100 bytes each this is 3 MiB.
pub const GATE_SUBJECTS: usize = 32 * 1024;
/// Who is faster than the rate is told of in storaged's ledger once in so long: what they do is known after the first time, and
/// a record is a durable write that they must not be able to ask for at will.
pub const RATE_RECORDED_EVERY: Duration = Duration::from_secs(600);
/// For so long a principal that was let in is not locked out together with its address.
pub const KNOWN_GOOD: Duration = Duration::from_secs(3600);
/// Requests that ended and are remembered for `culvert trace`; with 150 bytes each this is 600 KiB.
pub const RECENT_REQUESTS: usize = 4096;
/// Lock-outs that wait to be told to storaged; each has cost its author twenty refused requests.
pub const LOCKOUTS_QUEUED: usize = 256;
