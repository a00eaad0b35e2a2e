//! The journal: a second place that holds what each group of commands changed, in files of sealed frames.
//!
//! **Invariant:** a frame opens only behind the frames before it: its place and the hash of all before are
//! its associated data. What is torn at the very end was never acknowledged and is cut off; what is damaged
//! anywhere else is an error.
//!
//! The bytes are described in `docs/formats/journal.md`.

pub mod mirror;
pub mod replay;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use receipt::merkle::Hash;
use sha2::{Digest as _, Sha256};
use vault::row;
use zeroize::Zeroizing;

use crate::keys::{KeyStore, StorePurpose};
use crate::ledger::redo::{Decoder, Encoder, Redo};
use crate::ledger::tables::{CorruptError, StoreId};
use crate::limits::{JOURNAL_FILE_BYTES, JOURNAL_STEP_BYTES};

/// What stands at the beginning of each file.
const MAGIC: &[u8] = b"culvert journal 1\n";
const HEADER_BYTES: usize = MAGIC.len() + 16 + 8 + 32;
/// A frame longer than this is damage: groups are at most some hundred rows, and long ones are cut.
const MAX_FRAME_BYTES: u32 = 64 * 1024 * 1024;
const SUFFIX: &str = ".journal";
/// Tests use short files, so that each of them goes through several.
const FILE_BYTES: u64 = if cfg!(test) { 16 * 1024 } else { JOURNAL_FILE_BYTES };

/// What one frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The groups of commands that it covers: after it, the ledger has seen `last`.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The frames up to the next one without this flag are one change.
    pub(crate) more: bool,
    /// The tree after it.
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) redo: Redo,
}

/// A frame as its bytes: made once for the log ahead and for the mirror.
#[derive(Debug)]
pub(crate) struct Coded {
    pub(crate) first: u64,
    pub(crate) last: u64,
    size: u64,
    root: Hash,
    pub(crate) plain: Zeroizing<Vec<u8>>,
}

impl Coded {
    /// What it changed.
    pub(crate) fn redo(&self) -> Result<Redo, CorruptError> {
        Ok(Frame::decode(&self.plain)?.redo)
    }
}

impl Frame {
    pub(crate) fn coded(&self) -> Coded {
        let Frame { first, last, size, root, .. } = *self;
        Coded { first, last, size, root, plain: self.encode() }
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut to = Encoder(Vec::with_capacity(128 + self.redo.bytes()));
        to.number(self.first);
        to.number(self.last);
        to.0.push(u8::from(self.more));
        to.number(self.size);
        to.0.extend_from_slice(self.root.as_bytes());
        to.keys(&self.redo.keys);
        for write in &self.redo.writes {
            to.write(write);
        }
        Zeroizing::new(to.0)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Frame, CorruptError> {
        let mut from = Decoder(bytes);
        let (first, last) = (from.number()?, from.number()?);
        let more = from.byte()? != 0;
        let size = from.number()?;
        let (root, rest) =
            from.0.split_first_chunk().ok_or_else(|| CorruptError::Row("a frame without a root".into()))?;
        from = Decoder(rest);
        let mut redo = Redo { writes: Vec::new(), keys: from.keys()? };
        while !from.is_empty() {
            redo.writes.push(from.write()?);
        }
        Ok(Frame { first, last, more, size, root: Hash::from_bytes(*root), redo })
    }
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk.
    #[error("{step} {path}: {error}", path = .path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is not a journal, not this store's, or damaged.
    #[error("{path}: {why}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The ledger's own part.
    #[error(transparent)]
    Ledger(#[from] CorruptError),
    /// The mirror has seen what the ledger has not.
    #[error(
        "the ledger has {ledger} groups of commands and its journal mirror {mirror}: the ledger was restored or \
         rolled back. `culvert restore --replay` brings it forward; nothing was changed"
    )]
    Ahead {
        /// The ledger's last group.
        ledger: u64,
        /// The mirror's.
        mirror: u64,
    },
    /// They are of two histories.
    #[error(
        "the ledger and its journal mirror differ at group {group}, though both have it: one of them is a copy \
         that went its own way. Move the journal away to begin a new one; nothing was changed"
    )]
    Fork {
        /// Where.
        group: u64,
    },
    /// The ledger ends where the journal stops being readable.
    #[error(
        "{0}, and the ledger ends there too, though it is written first: it was set back, and what was acknowledged since \
         cannot be read. If the machine lost power while these bytes were written, `culvert restore --replay \
         --accept-torn-end` goes on without them; nothing was changed"
    )]
    Unreadable(LeftBehind),
    /// A change brings a key that only a destroyed epoch's keys or newer ones open.
    #[error(
        "group {group} brings keys of an epoch that these keys do not have: keys were destroyed for good (`culvert kek \
         shred`, or a deleted file's shred) after this copy was made, and the journal does not lead over that. A backup \
         that was made after it is needed; without one, `culvert restore --new-epoch` goes on with what was brought \
         forward until here"
    )]
    Shredded {
        /// The first group behind it.
        group: u64,
    },
    /// There is a hole between them.
    #[error(
        "the journal mirror ends at group {mirror} and the ledger no longer holds what follows: move the journal \
         away to begin a new one, and make a backup"
    )]
    Hole {
        /// The mirror's last group.
        mirror: u64,
    },
    /// The replay would leave a hole.
    #[error(
        "the journal begins at group {journal} and the ledger ends at {ledger}: a newer backup is needed"
    )]
    TooNew {
        /// The journal's first group.
        journal: u64,
        /// The ledger's last.
        ledger: u64,
    },
}

/// Bytes behind the last whole change of a journal's newest file that are no room made ahead. A write that a power cut
/// stopped leaves such, and was never acknowledged; damage leaves such, too, and was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {bytes} bytes behind byte {offset} cannot be read", path = .path.display())]
pub struct LeftBehind {
    /// The file.
    pub path: PathBuf,
    /// Where the last whole change ends.
    pub offset: u64,
    /// From there to the last byte that is not zero.
    pub bytes: u64,
}

impl LeftBehind {
    fn look(path: &Path, offset: u64) -> Result<Option<LeftBehind>, JournalError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let mut block = vec![0; JOURNAL_STEP_BYTES];
        let (mut at, mut end) = (offset, offset);
        loop {
            let read = file.read_at(&mut block, at).map_err(io_error("read", path))?;
            if read == 0 {
                break;
            }
            if let Some(last) = block[..read].iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += read as u64;
        }
        let left = LeftBehind { path: path.to_owned(), offset, bytes: end - offset };
        Ok((left.bytes > 0).then_some(left))
    }

    /// Cuts them off, for whoever knows that they were never acknowledged.
    pub(crate) fn cut_off(&self) -> Result<(), JournalError> {
        cut(&self.path, self.offset).map(drop)
    }
}

/// What seals the frames of one store.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    store: StoreId,
    keys: Arc<dyn KeyStore>,
}

/// How far a journal has come: the next frame's place, and the hash over all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chain {
    sequence: u64,
    hash: [u8; 32],
}

impl Chain {
    const START: Chain = Chain { sequence: 0, hash: [0; 32] };

    fn after(self, sealed: &[u8]) -> Chain {
        let hash = Sha256::new().chain_update(self.hash).chain_update(sealed).finalize().into();
        Chain { sequence: self.sequence + 1, hash }
    }
}

impl Envelope {
    pub(crate) fn new(store: StoreId, keys: Arc<dyn KeyStore>) -> Envelope {
        Envelope { store, keys }
    }

    fn seal(&self, chain: Chain, plain: &[u8]) -> Result<Vec<u8>, CorruptError> {
        Ok(row::seal(self.keys.store_key(StorePurpose::Journal), &self.aad(chain), plain)?)
    }

    fn open(&self, chain: Chain, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, row::OpenError> {
        row::open(self.keys.store_key(StorePurpose::Journal), &self.aad(chain), sealed)
    }

    fn aad(&self, chain: Chain) -> Vec<u8> {
        [b"journal\0", self.store.0.as_bytes().as_slice(), &chain.sequence.to_be_bytes(), &chain.hash]
            .concat()
    }

    fn header(&self, chain: Chain) -> Vec<u8> {
        [MAGIC, self.store.0.as_bytes().as_slice(), &chain.sequence.to_be_bytes(), &chain.hash].concat()
    }
}

/// Which of the frames that can be read are on the disk, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDisk {
    /// All of them, once the file was synced: no sync of it has failed that we know of.
    OnceSynced,
    /// Those before this place. A sync failed, and what it was to bring to the disk may be read from memory and
    /// take no part in the next sync: it is written again.
    Before(u64),
}

/// The end of a journal, for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    envelope: Envelope,
    file: Option<Tail>,
    /// The newest file and how much of it is whole. It is cut there when the journal grows, not before: whoever
    /// refuses to start has changed nothing.
    whole: Option<(PathBuf, u64)>,
    chain: Chain,
    /// The last whole change that it holds.
    end: Option<End>,
    /// What the newest file holds behind it, as it was opened.
    left_behind: Option<LeftBehind>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    path: PathBuf,
    /// Header and frames.
    bytes: u64,
    /// The same, and the zeros behind them.
    room: u64,
}

impl Tail {
    /// Writes behind what is there. Zeros are written ahead: a sync that finds the file's blocks on the disk does
    /// not wait for the file system's journal.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.bytes + bytes.len() as u64;
        if end > self.room {
            let ahead = vec![0; JOURNAL_STEP_BYTES];
            // What there is no room for is done without.
            let made = self.file.write_all_at(&ahead, end).is_ok();
            self.room = if made { end + ahead.len() as u64 } else { end };
        }
        self.file.write_all_at(bytes, self.bytes)?;
        self.file.sync_data()?;
        self.bytes = end;
        Ok(())
    }
}

/// The zeros go. Where they cannot, readers know them.
impl Drop for Tail {
    fn drop(&mut self) {
        if self.room > self.bytes {
            let _ = self.file.set_len(self.bytes);
        }
    }
}

/// What a journal has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) group: u64,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

impl Journal {
    /// Opens the journal in this directory, and makes it if there is none. Its end is durable.
    pub(crate) fn open(
        directory: &Path,
        envelope: Envelope,
        on_disk: OnDisk,
    ) -> Result<Journal, JournalError> {
        make(directory)?;
        let files = files(directory)?;
        let mut journal = Journal {
            directory: directory.to_owned(),
            envelope,
            file: None,
            whole: None,
            chain: Chain::START,
            end: None,
            left_behind: None,
        };
        // Only the newest file is read: the older ones are looked at when they are replayed.
        for path in files.iter().rev() {
            let Some(mut reading) = FileReader::open_newest(path, &journal.envelope)? else {
                remove(path)?;
                continue;
            };
            let (mut whole, mut chain) = (reading.offset, reading.chain);
            let mut end = None;
            let before = match on_disk {
                OnDisk::OnceSynced => {
                    // A process that died between its write and its sync left frames in memory alone.
                    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("sync", path))?;
                    u64::MAX
                }
                OnDisk::Before(sequence) => sequence,
            };
            while reading.chain.sequence < before
                && let Some(frame) = reading.next(true)?
            {
                if !frame.more {
                    end = Some(End { group: frame.last, size: frame.size, root: frame.root });
                    (whole, chain) = (reading.offset, reading.chain);
                }
            }
            if end.is_none() && path != &files[0] {
                // It was begun and holds nothing whole: the one before it tells how far the journal is.
                remove(path)?;
                continue;
            }
            journal.chain = chain;
            journal.end = end;
            journal.left_behind = LeftBehind::look(path, whole)?;
            journal.whole = Some((path.clone(), whole));
            break;
        }
        Ok(journal)
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// What the newest file held behind that when it was opened.
    pub(crate) fn left_behind(&self) -> Option<&LeftBehind> {
        self.left_behind.as_ref()
    }

    /// The place of the next frame: all before it are durable.
    pub(crate) fn next_place(&self) -> u64 {
        self.chain.sequence
    }

    /// Appends frames and makes them durable.
    pub(crate) fn append(&mut self, frames: &[&Coded]) -> Result<(), JournalError> {
        let Some(last) = frames.last() else { return Ok(()) };
        if let Some((path, bytes)) = self.whole.take() {
            let file = cut(&path, bytes)?;
            self.file = Some(Tail { file, path, bytes, room: bytes });
        }
        if self.file.as_ref().is_none_or(|tail| tail.bytes >= FILE_BYTES) {
            self.file = Some(self.begin_file()?);
        }
        let mut chain = self.chain;
        let mut bytes = Vec::new();
        for frame in frames {
            let sealed = self.envelope.seal(chain, &frame.plain)?;
            let length = u32::try_from(sealed.len()).expect("frames are far below 4 GiB");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&sealed);
            chain = chain.after(&sealed);
        }
        let tail = self.file.as_mut().expect("a file was begun above");
        tail.append(&bytes).map_err(io_error("write", &tail.path))?;
        // What was removed can still be written and synced, and is nowhere.
        let links = tail.file.metadata().map_err(io_error("look at", &tail.path))?.nlink();
        if links == 0 {
            return Err(damaged(&tail.path, "was removed while it was written"));
        }
        self.chain = chain;
        self.end = Some(End { group: last.last, size: last.size, root: last.root });
        Ok(())
    }

    fn begin_file(&self) -> Result<Tail, JournalError> {
        let path = self.directory.join(format!("{:020}{SUFFIX}", self.chain.sequence));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("make", &path))?;
        let header = self.envelope.header(self.chain);
        file.write_all(&header).map_err(io_error("write", &path))?;
        file.sync_all().map_err(io_error("sync", &path))?;
        sync_directory(&self.directory)?;
        let bytes = header.len() as u64;
        Ok(Tail { file, path, bytes, room: bytes })
    }
}

/// How far the journal in this directory has come; none where there is nothing.
pub(crate) fn end(
    directory: &Path,
    store: StoreId,
    keys: &Arc<dyn KeyStore>,
) -> Result<Option<End>, JournalError> {
    if !directory.is_dir() {
        return Ok(None);
    }
    Ok(Journal::open(directory, Envelope::new(store, Arc::clone(keys)), OnDisk::OnceSynced)?.end())
}

/// Removes the files of which a backup holds every group; the newest file stays. Returns how many went.
pub fn prune(
    directory: &Path,
    store: StoreId,
    keys: Arc<dyn KeyStore>,
    covered: u64,
) -> Result<usize, JournalError> {
    let envelope = Envelope::new(store, keys);
    let files = files(directory)?;
    let mut removed = 0;
    for (path, next) in files.iter().zip(files.iter().skip(1)) {
        // A file holds what comes before the first frame of the next one. The newest may be growing.
        let newest = Some(next) == files.last();
        let reading = match newest {
            true => FileReader::open_newest(next, &envelope)?,
            false => Some(FileReader::open(next, &envelope)?),
        };
        let Some(mut reading) = reading else { break };
        let Some(frame) = reading.next(newest)? else { break };
        if frame.first > covered.saturating_add(1) {
            break;
        }
        remove(path)?;
        removed += 1;
    }
    sync_directory(directory)?;
    Ok(removed)
}

/// Reads the frames of one file.
#[derive(Debug)]
struct FileReader<'a> {
    path: PathBuf,
    file: io::BufReader<File>,
    length: u64,
    offset: u64,
    envelope: &'a Envelope,
    chain: Chain,
}

impl<'a> FileReader<'a> {
    /// The newest file may have been begun and not made durable.
    fn open_newest(path: &Path, envelope: &'a Envelope) -> Result<Option<FileReader<'a>>, JournalError> {
        let length = path.metadata().map_err(io_error("look at", path))?.len();
        match Self::open(path, envelope) {
            Err(JournalError::Damaged { .. }) if length <= HEADER_BYTES as u64 => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn open(path: &Path, envelope: &'a Envelope) -> Result<FileReader<'a>, JournalError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let length = file.metadata().map_err(io_error("look at", path))?.len();
        let mut file = io::BufReader::new(file);
        let mut header = [0; HEADER_BYTES];
        if length < HEADER_BYTES as u64 {
            // Its name was made durable after its header: this was cut by somebody else.
            return Err(damaged(path, "shorter than its header"));
        }
        file.read_exact(&mut header).map_err(io_error("read", path))?;
        let (magic, rest) = header.split_at(MAGIC.len());
        let (store, rest) = rest.split_at(16);
        if magic != MAGIC {
            return Err(damaged(path, "not a journal"));
        }
        if store != envelope.store.0.as_bytes() {
            return Err(damaged(path, "the journal of another store"));
        }
        let (sequence, hash) = rest.split_at(8);
        let chain = Chain {
            sequence: u64::from_be_bytes(sequence.try_into().expect("split at 8")),
            hash: hash.try_into().expect("32 are left"),
        };
        Ok(FileReader { path: path.to_owned(), file, length, offset: HEADER_BYTES as u64, envelope, chain })
    }

    /// The next frame. At the end of the newest file what is torn is the end; anywhere else it is damage.
    fn next(&mut self, newest: bool) -> Result<Option<Frame>, JournalError> {
        let left = self.length - self.offset;
        if left == 0 {
            return Ok(None);
        }
        let torn = |reader: &Self, why: &str| {
            if newest { Ok(None) } else { Err(damaged(&reader.path, why)) }
        };
        if left < 4 {
            return torn(self, "ends within a frame");
        }
        let mut length = [0; 4];
        self.file.read_exact(&mut length).map_err(io_error("read", &self.path))?;
        let length = u32::from_be_bytes(length);
        if length == 0 {
            // Room that was made ahead. If frames stood here, the next file does not follow.
            return Ok(None);
        }
        if u64::from(length) > left - 4 {
            return torn(self, "ends within a frame");
        }
        if length > MAX_FRAME_BYTES {
            return torn(self, "a frame that is too long");
        }
        let mut sealed = vec![0; usize::try_from(length).expect("bounded above")];
        self.file.read_exact(&mut sealed).map_err(io_error("read", &self.path))?;
        let plain = match self.envelope.open(self.chain, &sealed) {
            Ok(plain) => plain,
            // Frames that were written together can be torn together: whatever follows was not synced either.
            Err(error) => return torn(self, &format!("frame {}: {error}", self.chain.sequence)),
        };
        self.offset += 4 + u64::from(length);
        self.chain = self.chain.after(&sealed);
        Ok(Some(Frame::decode(&plain)?))
    }
}

/// The journal's files, oldest first.
fn files(directory: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_error("read", directory))? {
        let path = entry.map_err(io_error("read", directory))?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(SUFFIX.as_bytes()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn make(directory: &Path) -> Result<(), JournalError> {
    if directory.is_dir() {
        return Ok(());
    }
    // Only the last part: what should hold it is there, or a mount is missing. By the calls that the seal allows, here
    // and where files are removed: a running storaged comes here after its mirror failed.
    mkdirat(AT_FDCWD, directory, Mode::from_bits_truncate(0o700))
        .map_err(|error| io_error("make", directory)(error.into()))?;
    sync_directory(directory.parent().unwrap_or(Path::new("/")))
}

fn cut(path: &Path, length: u64) -> Result<File, JournalError> {
    let file = OpenOptions::new().write(true).open(path).map_err(io_error("open", path))?;
    if file.metadata().map_err(io_error("look at", path))?.len() != length {
        file.set_len(length).map_err(io_error("cut", path))?;
        file.sync_all().map_err(io_error("sync", path))?;
    }
    Ok(file)
}

fn remove(path: &Path) -> Result<(), JournalError> {
    unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir)
        .map_err(|error| io_error("remove", path)(error.into()))
}

fn sync_directory(directory: &Path) -> Result<(), JournalError> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(io_error("sync", directory))
}

fn damaged(path: &Path, why: &str) -> JournalError {
    JournalError::Damaged { path: path.to_owned(), why: why.to_owned() }
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |error| JournalError::Io { step, path, error }
}
