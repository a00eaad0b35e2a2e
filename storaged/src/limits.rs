//! Every bound of storaged, with its reason.

use std::time::Duration;

// ---- From the specification ---------------------------------------------------------------------

/// The longest pause in an upload's body, unless configured. Longer than edge allows its clients (60 s): edge knows
/// the client and can answer it, this end would only cut the line.
pub const BODY_IDLE: Duration = Duration::from_secs(75);
/// wgd answers a whois within this, or the request is refused.
pub const WHOIS_TIMEOUT: Duration = Duration::from_secs(1);

// ---- Our choice ---------------------------------------------------------------------------------

/// Commands that wait for the ledger. Past it, requests wait for a place: back-pressure, not memory.
pub const LEDGER_QUEUE: usize = 1024;
/// Commands that come while a group is put together belong to it; the writer looks for more after this …
pub const LEDGER_GATHER_STEP: Duration = Duration::from_micros(50);
/// … so often at most: less than a sync takes.
pub const LEDGER_GATHER_STEPS: usize = 4;
/// What a database's file has room for ahead of its last page: about a thousand records, and on a disk with
/// little room not much.
pub const DATABASE_STEP_BYTES: u64 = 1024 * 1024;
/// What the log ahead of the ledger holds: with a busy store, groups of some seconds, of which hundreds change the same
/// pages; a start reads it in a tenth of a second.
pub const LEDGER_AHEAD_BYTES: u64 = 16 * 1024 * 1024;
/// The same for a file of the journal mirror.
pub const JOURNAL_STEP_BYTES: usize = 512 * 1024;
/// Commands in one transaction. Measured elsewhere: 53 k records/s at 32 per commit, 114 k at 128.
pub const LEDGER_GROUP: usize = 256;

/// A wall clock that goes further ahead of the machine's running time than this is not believed by what deletes.
pub const CLOCK_STEP_MS: u64 = 3_600_000;
/// Entries of a record's metadata, …
pub const METADATA_ENTRIES: usize = 32;
/// … bytes of a name, …
pub const METADATA_NAME_BYTES: usize = 64;
/// … and of a value: a record stays far below what a receipt may carry.
pub const METADATA_VALUE_BYTES: usize = 512;
/// A file of the journal mirror is followed by a new one when it is as long as this: what a backup has made
/// needless is removed in such pieces.
pub const JOURNAL_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Frames that wait for the journal mirror; past it they are made again from the ledger. A minute of a busy
/// store fits.
pub const JOURNAL_QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// The longest piece of a backup: one row can be as long as this, and file rows stay below 5 MB …
pub const BACKUP_PIECE_BYTES: usize = 16 * 1024 * 1024;
/// … but its head, its manifest and its files, which are small, …
pub const BACKUP_JSON_BYTES: usize = 1024 * 1024;
/// … as a configuration or a key is.
pub const BACKUP_FILE_BYTES: u64 = 1024 * 1024;
/// Whom a backup is for, at most.
pub const BACKUP_RECIPIENTS: usize = 32;
/// Backups that the ledger remembers: more than a year of daily ones.
pub const BACKUPS_REMEMBERED: usize = 400;
/// Backups that were made and are not known to be kept, at once.
pub const BACKUPS_PENDING: usize = 4;
/// Rows of a backup that become one transaction when it is restored.
pub const RESTORE_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How often whoever waits for a backup is told how far it is.
pub const BACKUP_PROGRESS: Duration = Duration::from_millis(500);
/// What is made again from the ledger comes in frames of about this.
pub const JOURNAL_FRAME_BYTES: usize = 1024 * 1024;
/// Groups that nobody waits for are mirrored together after this, instead of a sync for each.
pub const JOURNAL_DELAY: Duration = Duration::from_millis(10);
/// A mirror that cannot be written is tried again after this.
pub const JOURNAL_RETRY: Duration = Duration::from_secs(1);
/// At the end the mirror gets this long for what is queued; what it does not get done is made at the next start …
pub const JOURNAL_END: Duration = Duration::from_secs(5);
/// … looked at so often.
pub const JOURNAL_END_STEP: Duration = Duration::from_millis(2);
/// At the end, whoever still reads the ledger or the keys gets this long; a service manager waits 90 seconds.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// Looked at so often.
pub const CLOSE_STEP: Duration = Duration::from_millis(2);
/// A mirror that takes longer for a group hangs, and what must be in it is refused: a network disk's sync takes
/// seconds at worst, and edge waits a minute for a commit.
pub const JOURNAL_PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of one transfer buffer, one sealed segment: large enough that a hand-over between threads (25–60 µs)
/// is small beside hashing it (150 µs), small enough for the second-level cache.
pub const BUFFER_BYTES: usize = vault::stream::SEGMENT_BYTES as usize;
/// Buffers of one transfer: one is filled while the other is written.
pub const BUFFERS_PER_TRANSFER: usize = 2;
/// Transfers that run at once, unless configured. With the two lines above: 16 MiB of buffers at most.
pub const TRANSFERS: usize = 32;
/// How long a transfer waits for its buffers before it is told to come back.
pub const TRANSFER_WAIT: Duration = Duration::from_secs(10);
/// A volume that needs longer for one step of an upload hangs, and its sender is told so. Shorter than the
/// minute that edge waits for a commit; a busy disk's sync takes seconds.
pub const IO_PATIENCE: Duration = Duration::from_secs(50);
/// Threads for the files of the volumes: a hung mount holds these, and nothing else.
pub const IO_THREADS: usize = 8;
/// Small objects of a volume that wait for a sync of their own files: some thousand of 64 KiB, which a start after a crash
/// makes again in a second or two …
pub const SPOOL_BYTES: u64 = 64 * 1024 * 1024;
/// … and each half of that is at most this share of the file system …
pub const SPOOL_SHARE: u64 = 32;
/// … and gets its blocks so far ahead.
pub const SPOOL_STEP_BYTES: u64 = 1024 * 1024;

/// A link of somebody whom an identity provider vouches for: nobody tells the store when they leave, so their links end
/// with the day.
pub const VOUCHED_LINK_SECONDS: u64 = 24 * 3600;
/// Connections at once, unless configured: edge keeps a pool of some dozens.
pub const CONNECTIONS: usize = 512;
/// Time for a request's head.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read from a connection at once, and the bound of a request's head: the context (12 KiB), a path
/// (3 KiB) and room. More saves calls on uploads; it is memory per connection that carries one.
pub const READ_BUFFER_BYTES: usize = 128 * 1024;
/// After a refusal in the middle of a body, so much more of it is read and thrown away …
pub const LINGER_BYTES: u64 = 64 * 1024 * 1024;
/// … for at most so long, for the sender to see the answer before the connection closes.
pub const LINGER: Duration = Duration::from_secs(2);
/// A reader that takes nothing for this long is given up.
pub const SEND_IDLE: Duration = Duration::from_secs(30);
/// Requests under way may take this long once the daemon is told to end, unless configured.
pub const DRAIN: Duration = Duration::from_secs(20);

/// How long an answer of whois is believed. A peer that changes its key or leaves is noticed within it,
/// Between tries to ask while wgd's queue is full: it reads a queue in less.
pub const WHOIS_PAUSE: Duration = Duration::from_millis(1);
/// and wgd's events empty the cache at once.
pub const WHOIS_CACHE: Duration = Duration::from_secs(3);
/// Addresses in the whois cache: many times the edges that one store has.
pub const WHOIS_CACHE_ENTRIES: usize = 1024;
/// Questions to wgd under way at once.
pub const WHOIS_PENDING: usize = 256;

/// Refusals of one reason and address that are recorded one by one in a [`STRANGER_WINDOW`]: enough to see
/// who tries what …
pub const STRANGER_RECORDS: u32 = 10;
/// … and the time after which the rest is recorded as a number.
pub const STRANGER_WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are told apart at once. With the lines above, whoever guesses from everywhere writes
/// 2,560 records a minute at most, about 1 MB.
pub const STRANGERS: usize = 256;

/// So many questions in a row that wgd leaves unanswered are worth a warning: fewer may be its restart.
pub const WHOIS_SILENCE: u32 = 3;

/// How often the volumes' markers and free space are looked at.
pub const VOLUME_CHECK: Duration = Duration::from_secs(5);
/// A volume that does not answer within this is unusable.
pub const VOLUME_CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes that an upload of unknown length reserves of its cohort's quota at a time.
pub const RESERVE_STEP_BYTES: u64 = 64 * 1024 * 1024;
/// A resumable upload makes what has arrived durable after so many bytes: a crash costs no more …
pub const STRETCH_BYTES: u64 = 64 * 1024 * 1024;
/// … or after this share of what has arrived before, so that the parts of a large file stay few: 420 of 1 TiB.
pub const STRETCH_SHARE: u64 = 64;
/// Parts of a file. Each stretch that fills a segment is one, so a sender who breaks off every 256 KiB comes to
/// 4 GiB; the file's row stays below 5 MB.
pub const MAX_PARTS: u32 = 16_384;
/// A resumable upload that nothing arrives for is given up, unless configured.
pub const UPLOAD_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);
/// How often expired uploads are looked for.
pub const EXPIRY_CHECK: Duration = Duration::from_secs(60);
/// How long a new request waits for the one that it pre-empts to make its bytes durable.
pub const PREEMPTION_WAIT: Duration = Duration::from_secs(20);
/// Uploads that one user may have begun and not ended: a folder at once from a few machines. What they hold of
/// the ledger (a tail of a segment each) stays below 100 MB.
pub const UPLOADS_PER_USER: usize = 256;
/// Rows of uploads that are looked at together; each holds a tail of up to a segment.
pub const UPLOADS_BATCH: usize = 32;
/// The key of a request that was answered is remembered for so long: whoever repeats a request does it within a day.
pub const REPEATS_KEPT_MS: u64 = 24 * 3600 * 1000;
/// Keys of one user that are remembered, the newest: with 500 bytes each half a megabyte.
pub const REPEATS_PER_USER: u32 = 1024;
/// How many rounds of looking for expired uploads come before one for keys that are over: an hour.
pub const REPEATS_EVERY: u32 = 60;
/// Keys that are looked at together.
pub const REPEATS_BATCH: usize = 256;
/// Versions of a name that one answer lists.
pub const MAX_VERSIONS: usize = 1000;

/// The largest file, unless the cohort says otherwise: 1 TiB.
pub const MAX_FILE_BYTES: u64 = 1 << 40;
/// Records that one `audit.trail` streams at most, unless it asks for fewer.
pub const TRAIL_RECORDS: usize = 1_000_000;
/// Longest time that `audit.trail` looks back: 100 years.
pub const TRAIL_DAYS: u64 = 36_525;
/// Events of the tunnel that wait to be recorded.
pub const EVENT_QUEUE: usize = 256;
/// How often readiness follows the ledger and the volumes.
pub const READINESS_CHECK: Duration = Duration::from_millis(500);

/// The first pause after a cleanup that failed; it doubles with each …
pub const CLEANUP_RETRY_FIRST_MS: u64 = 60_000;
/// … up to this, so that a volume that is away for a weekend costs a record an hour.
pub const CLEANUP_RETRY_LAST_MS: u64 = 3_600_000;
/// What a cleanup keeps of an error.
pub const CLEANUP_ERROR_BYTES: usize = 200;
/// What a hold keeps of its reason: a case number and a sentence.
pub const HOLD_REASON_BYTES: usize = 500;
/// Legal holds that stand at once; more is a rule for a cohort, not holds on files.
pub const HOLDS: usize = 10_000;

/// How often somebody looks whether file keys wait for their cohort's new key.
pub const REWRAP_CHECK: Duration = Duration::from_secs(1);
/// File keys that move in one transaction: some 20 ms during which no other change of keys commits …
pub const REWRAP_KEYS: usize = 1000;
/// … and the pause before the next.
pub const REWRAP_PAUSE: Duration = Duration::from_millis(20);
/// How often cleanups are looked at; each has its own pause between attempts.
pub const CLEANUP_CHECK: Duration = Duration::from_secs(30);
/// The pause between two of the 257 regions of a volume when a start counts what it does not know: with 10⁷ objects some
/// 40,000 of them are looked up in between.
pub const COUNT_PAUSE: Duration = Duration::from_millis(100);
/// Cleanups that are looked at in one round, the most urgent first.
pub const CLEANUP_BATCH: usize = 100_000;
/// A volume that needs longer for one cleanup does not answer.
pub const CLEANUP_PATIENCE: Duration = Duration::from_secs(20);
/// Users of one store. The ledger's thread keeps the book once a change has read it, some hundred bytes a row.
pub const USERS: usize = 20_000;
/// Tokens that one user may have alive: a few machines and what runs on them.
pub const TOKENS_PER_USER: usize = 64;
/// Groups that one user may be in: about one a cohort.
pub const GROUPS_PER_USER: usize = 256;
/// Cohorts of one store.
pub const COHORTS: usize = 4096;
/// Edges of one store.
pub const EDGES: usize = 256;
/// A group's name, as directories hand them out.
pub const GROUP_BYTES: usize = 128;
/// What somebody calls a token.
pub const LABEL_BYTES: usize = 128;
/// Whose members may read files that are held for the scanner. No cohort's group: a pattern holds a cohort's name.
pub const SCANNER_GROUP: &str = "culvert_scanners";

/// Users and cohorts whose last hour is counted at once; a row is 300 bytes. With more, who has been quiet
/// longest is forgotten.
pub const MONITORED: usize = 4096;

/// A report goes out in pieces of about this size: far below the admin socket's bound of a line.
pub const REPORT_CHUNK_BYTES: usize = 64 * 1024;
/// A report that is stored may look at so many records for so long without finding one that belongs to it.
pub const REPORT_IDLE: Duration = Duration::from_secs(3600);
/// Links that one user may have alive.
pub const CAPABILITIES_PER_USER: usize = 1000;
/// A use of a link may be resumed for so long after it was last asked for: a walk through a tunnel, a laptop's lid.
pub const CAPABILITY_GRACE_MS: u64 = 15 * 60 * 1000;
/// How often one use may be resumed: a bad line, and not a second way to fetch the file.
pub const CAPABILITY_RESUMES: u32 = 64;
/// A link's row is kept so long after it ran out, for lists, and as many of a user's as may be alive; its records stay.
pub const CAPABILITY_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

/// A running upload's rate is that of so long.
pub const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Temporary things are expected to be gone after this.
pub const CLEANUP_GRACE_MS: u64 = 2 * 3_600_000;
/// What a deletion keeps of its reason.
pub const DELETION_REASON_BYTES: usize = 500;
/// How often deletions are made final, unless somebody asks: a shred copies all keys.
pub const SHRED_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Deletions that are gone on with in one round.
pub const DELETION_BATCH: usize = 10_000;
/// Files read, written and listed by one user of one cohort in an hour before that is unusual, unless configured: far
/// above a person, below a copy of everything.
pub const MAX_HOURLY_ACCESS: u32 = 5000;
/// How often the room on the ledger's disk is looked at: one call on a local file system. A reserve has to hold what
/// uploads can write in between.
pub const LEDGER_DISK_CHECK: Duration = Duration::from_millis(250);
/// Records that the walk over the log reads at one moment of the ledger: some 100 ms, for which what is replaced
/// meanwhile is kept.
pub const VERIFY_STRETCH: u64 = 16 * 1024;
/// Findings of one walk that are told one by one; of the others the number.
pub const VERIFY_FINDINGS: u64 = 10_000;
/// Receipts and checkpoints that one walk is compared with: their line on the admin socket is bounded.
pub const VERIFY_CLAIMS: usize = 64;
/// Every byte of every object is read once in so many days, unless configured.
pub const SCRUB_CYCLE_DAYS: u64 = 30;
/// What a look reads at once: some 10 ms of a disk, and a tenth of that to hash.
pub const SCRUB_CHUNK_BYTES: u64 = 1024 * 1024;
/// A volume that needs longer for one chunk does not answer.
pub const SCRUB_PATIENCE: Duration = Duration::from_secs(20);
/// The scrub reads at least so fast, so that a small store is done in hours …
pub const SCRUB_LEAST_RATE: u64 = 1024 * 1024;
/// … and at most so fast, however late it is: 500 TiB in 30 days.
pub const SCRUB_MOST_RATE: u64 = 200 * 1024 * 1024;
/// What opening an object costs in bytes: a seek or two. Of small files it is most of the work.
pub const SCRUB_OBJECT_BYTES: u64 = 64 * 1024;
/// Files that are read from the ledger at once.
pub const SCRUB_BATCH: usize = 64;
/// How often the place of the scrub is kept: so much is read again after a crash.
pub const SCRUB_KEEP_EVERY: Duration = Duration::from_secs(60);
/// How often a scrub that has nothing to do, or waits for its volume, looks again.
pub const SCRUB_CHECK: Duration = Duration::from_secs(30);
/// The existence pass is over what came in the last seven days …
pub const EXISTENCE_AGE_MS: u64 = 7 * 24 * 3600 * 1000;
/// … once a day …
pub const EXISTENCE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// … and first when a start is over, for a daemon that is restarted each night has to look too.
pub const EXISTENCE_FIRST: Duration = Duration::from_secs(300);
/// A caller who waits for a look at the objects hears something at least so often: the admin socket's callers take a
/// minute of silence for a daemon that hangs.
pub const INTEGRITY_WORD: Duration = Duration::from_secs(5);

/// An edge's report of a lock-out: three short fields.
pub const LOCKOUT_BYTES: usize = 512;
/// edge's own durations end at a day.
pub const LOCKOUT_LONGEST_MS: u64 = 24 * 3600 * 1000;
/// How far back is looked for those that hold when an edge starts again: each record since then is read.
pub const LOCKOUTS_SINCE_MS: u64 = 3600 * 1000;
/// How many of them an edge is told; one takes 120 bytes, and edge collects 64 KiB.
pub const LOCKOUTS_TOLD: usize = 256;
/// Rows that one page of a listing looks at: a type that nothing has must not make a request read a cohort of millions.
pub const LISTED_ROWS: usize = 10_000;
