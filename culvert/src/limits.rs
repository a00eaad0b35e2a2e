//! Every bound of this program.

use std::time::Duration;

// Our choice.

/// A piece of a file on its way to the server: large enough that hand-overs cost little, small enough
/// that a progress bar moves.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;
/// Pieces between the thread that reads and hashes and the one that sends.
pub(crate) const CHUNKS_IN_FLIGHT: usize = 4;
/// A file that is smaller is sent at once: to begin again costs less than the two round trips of an upload that resumes.
pub(crate) const RESUMABLE_BYTES: u64 = 16 * 1024 * 1024;
/// The pause before the first try to go on; it doubles with each that was in vain.
pub(crate) const RESUME_PAUSE: Duration = Duration::from_millis(250);
/// Servers keep unfinished uploads for days; a note of one is not kept for longer than this.
pub(crate) const NOTE_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Entries of a directory that is sent, or files that are fetched into one: a study has thousands.
pub(crate) const FOLDER_FILES: usize = 1_000_000;
/// Between two tries the pause doubles up to this: a tunnel that comes back is not kept waiting for long.
pub(crate) const RESUME_PAUSE_AT_MOST: Duration = Duration::from_secs(5);
/// A server that does not take a connection within this is not there.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For so long an upload waits to be told to go on before it sends its body all the same. Longer than edge
/// needs to notice that the tunnel is cut (3 s), so that a refused file does not leave this machine.
pub(crate) const CONTINUE_TIMEOUT: Duration = Duration::from_secs(5);
/// The reading thread is done by the time that an honest receipt comes.
pub(crate) const READER_TIMEOUT: Duration = Duration::from_secs(5);
/// A page of a listing is a small document.
pub(crate) const PAGE_BYTES_AT_MOST: usize = 16 * 1024 * 1024;
/// What an upload is answered with: a small document that holds a receipt.
pub(crate) const RECEIPT_BYTES_AT_MOST: usize = 4 * 1024 + receipt::limits::MAX_RECEIPT_BYTES;
/// A file with one log's key: a name, an id and 44 characters.
pub(crate) const VKEY_BYTES_AT_MOST: u64 = 4 * 1024;
/// The remembered keys of logs: hundreds of stores.
pub(crate) const KNOWN_LOGS_BYTES_AT_MOST: u64 = 256 * 1024;
/// A piece of an update: a disk is written in large ones.
pub(crate) const UPDATE_PIECE_BYTES: usize = 1024 * 1024;
/// Who only looks at the boot loader's partition is done with it at once.
pub(crate) const ESP_TRIES: u32 = 50;
/// Between two of them.
pub(crate) const ESP_PAUSE: Duration = Duration::from_millis(100);
/// How often plain progress lines come.
pub(crate) const PROGRESS_LINE_EVERY: Duration = Duration::from_secs(2);
/// How often a transfer looks whether anything moved.
pub(crate) const WATCH_EVERY: Duration = Duration::from_millis(250);
/// A tunnel's control socket answers at once; `tunnel check` promises to end within a second.
pub(crate) const UAPI_TIMEOUT: Duration = Duration::from_millis(500);
/// For so long `tunnel check` waits for all it asks.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_millis(800);
/// wgd answers at once, unless it has thousands of peers.
pub(crate) const WGD_TIMEOUT: Duration = Duration::from_secs(3);
/// A device with 10,000 peers answers with about 5 MB.
pub(crate) const UAPI_BYTES_AT_MOST: u64 = 64 * 1024 * 1024;
/// A configuration is a page or two.
pub(crate) const CONFIG_BYTES_AT_MOST: u64 = 1024 * 1024;
/// The daemons take at most this many descriptors with one request.
pub(crate) const DESCRIPTORS_AT_MOST: usize = linux::descriptors::MAX_DESCRIPTORS;
/// A daemon reads its configuration and a few keys for `--check-config`; one that takes longer is stuck.
pub(crate) const CONFIG_CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks whether it has ended: it takes some 10 ms.
pub(crate) const CONFIG_CHECK_LOOK: Duration = Duration::from_millis(5);
/// A certificate that is not renewed within this of its end was forgotten: ACME clients renew at a third of its life.
pub(crate) const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 86_400);

// From the specification.

/// WireGuard §6.1, REJECT-AFTER-TIME: after this, the last handshake's keys carry nothing any more.
pub(crate) const SESSION_LIFE: Duration = Duration::from_secs(180);
