//! Opening a backup into a directory.
//!
//! **Invariant:** the names of what is written are ours, never the backup's; what is written lies in a directory that
//! was not there or was empty, and is taken away again if the backup turns out not to be whole.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use vault::age::stream::{self, ReadError};
use vault::age::{Identity, OpenError as AgeError};
use zeroize::Zeroizing;

use super::Part;
use super::pieces::{Head, Manifest, Piece, PieceReader, PiecesError};
use crate::init::LEDGER_FILE;
use crate::keys::export::{self as keys_export, write_epoch};
use crate::keys::recovery::{self, RecoveryError};
use crate::keys::{KeysError, RootKey};
use crate::ledger::export as ledger_export;
use crate::ledger::{CorruptError, OpenError};
use crate::limits::RESTORE_BATCH_BYTES;

/// The state directory in the directory that a backup is opened into.
pub const STATE: &str = "state";

/// Why a backup was not opened.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A file or directory of ours.
    #[error("{step} {path}: {error}", path = .path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// There is something there.
    #[error("{path} is there already and is not an empty directory; nothing is overwritten", path = .0.display())]
    NotEmpty(PathBuf),
    /// It is no age file, or the identity does not open it, or it was changed or cut off.
    #[error("{path}: {error}", path = .path.display())]
    Age {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        error: AgeError,
    },
    /// What is inside is not whole.
    #[error("{path}: {error}", path = .path.display())]
    Pieces {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        error: PiecesError,
    },
    /// A part is missing.
    #[error("{path}: there is no {part} in it", path = .path.display())]
    Missing {
        /// The backup.
        path: PathBuf,
        /// What.
        part: &'static str,
    },
    /// The ledger cannot be made.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// A row cannot be written.
    #[error(transparent)]
    Row(#[from] CorruptError),
    /// The keys cannot be made.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The identities cannot be read, or do not bring the root key back.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// What was opened.
#[derive(Debug)]
pub struct Unpacked {
    /// What the backup says of itself.
    pub head: Head,
    /// What it holds.
    pub manifest: Manifest,
    /// The root key for those who can bring it back, if it holds that.
    pub recovery: Option<Zeroizing<Vec<u8>>>,
    made: bool,
}

impl Unpacked {
    /// The root key that the backup brings along, for whoever has one of these.
    pub fn root_key(&self, identities: &[Identity]) -> Result<Option<RootKey>, UnpackError> {
        let Some(recovery) = &self.recovery else { return Ok(None) };
        Ok(Some(recovery::recover(recovery, identities)?))
    }

    /// Takes away again what was written.
    pub fn discard(&self, directory: &Path) {
        discard(directory, self.made);
    }
}

/// Opens `backup` into `directory`, which is made. `progress` hears of bytes read. On an error nothing is left.
pub fn unpack(
    backup: &Path,
    identities: &[Identity],
    directory: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Unpacked, UnpackError> {
    let file = File::open(backup).map_err(failed("open", backup))?;
    let made = make_directory(directory)?;
    let done = fill(file, backup, identities, directory, progress);
    match done {
        Ok(unpacked) => Ok(Unpacked { made, ..unpacked }),
        Err(error) => {
            discard(directory, made);
            Err(error)
        }
    }
}

/// Best effort: the error that is told is the one that led here.
fn discard(directory: &Path, made: bool) {
    let _ = std::fs::remove_dir_all(directory.join(STATE));
    for part in FILES {
        let _ = std::fs::remove_file(directory.join(part.name()));
    }
    if made {
        let _ = std::fs::remove_dir(directory);
    }
}

/// The parts that become files of their own.
const FILES: [Part; 4] = [Part::Config, Part::InternalKey, Part::NextInternalKey, Part::RecoveryFile];

fn make_directory(path: &Path) -> Result<bool, UnpackError> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(false),
            Some(_) => Err(UnpackError::NotEmpty(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new().mode(0o700).create(path).map_err(failed("make", path))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(UnpackError::NotEmpty(path.to_owned()))
        }
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Counts what goes through it.
struct Counted<'a> {
    file: File,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(to)?;
        self.bytes += length as u64;
        (self.progress)(self.bytes);
        Ok(length)
    }
}

fn fill(
    file: File,
    backup: &Path,
    identities: &[Identity],
    directory: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Unpacked, UnpackError> {
    let counted = Counted { file, bytes: 0, progress };
    let opened = stream::Reader::new(identities, BufReader::with_capacity(128 * 1024, counted));
    let opened = opened.map_err(|error| match error {
        ReadError::Io(error) => failed("read", backup)(error),
        ReadError::Age(error) => UnpackError::Age { path: backup.to_owned(), error },
    })?;
    let wrong = |error: PiecesError| pieces_error(backup, error);
    let (head, mut pieces) = PieceReader::new(opened).map_err(wrong)?;
    let state = directory.join(STATE);
    std::fs::DirBuilder::new().mode(0o700).create(&state).map_err(failed("make", &state))?;
    let mut restoring = Restoring {
        directory,
        ledger: ledger_export::Import::create(&state.join(LEDGER_FILE))?,
        keys: keys_export::Import::create(&state)?,
        part: None,
        rows: Vec::new(),
        row_bytes: 0,
        files: Vec::new(),
    };
    loop {
        match pieces.next_piece().map_err(wrong)? {
            Some(Piece::Begin(part)) => restoring.begin(part)?,
            Some(Piece::Rows(rows)) => restoring.take(rows)?,
            Some(Piece::Bytes(bytes)) => restoring.bytes(&bytes),
            Some(Piece::End(manifest)) => {
                restoring.flush()?;
                let recovery = restoring.finish(&head, &state, backup)?;
                return Ok(Unpacked { head, manifest, recovery, made: false });
            }
            None => unreachable!("an end comes before nothing comes"),
        }
    }
}

/// A backup that is cut off or changed shows as an error while it is read.
fn pieces_error(path: &Path, error: PiecesError) -> UnpackError {
    if let PiecesError::Read(error) = &error {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<AgeError>());
        if let Some(&error) = cause {
            return UnpackError::Age { path: path.to_owned(), error };
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return UnpackError::Age { path: path.to_owned(), error: AgeError::Refused };
        }
    }
    UnpackError::Pieces { path: path.to_owned(), error }
}

/// What comes out of a backup, on its way to the disk.
struct Restoring<'a> {
    directory: &'a Path,
    ledger: ledger_export::Import,
    keys: keys_export::Import,
    part: Option<Part>,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    row_bytes: usize,
    files: Vec<(Part, Zeroizing<Vec<u8>>)>,
}

impl Restoring<'_> {
    fn begin(&mut self, part: Part) -> Result<(), UnpackError> {
        self.flush()?;
        self.part = Some(part);
        if !part.is_table() {
            self.files.push((part, Zeroizing::default()));
        }
        Ok(())
    }

    fn take(&mut self, rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), UnpackError> {
        self.row_bytes += rows.iter().map(|(key, value)| key.len() + value.len() + 64).sum::<usize>();
        self.rows.extend(rows);
        if self.row_bytes >= RESTORE_BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if let Some((_, file)) = self.files.last_mut() {
            file.extend_from_slice(bytes);
        }
    }

    fn flush(&mut self) -> Result<(), UnpackError> {
        let rows = std::mem::take(&mut self.rows);
        self.row_bytes = 0;
        let Some(part) = self.part.filter(|_| !rows.is_empty()) else { return Ok(()) };
        match part {
            Part::KeysMeta | Part::StoreKeys | Part::Keks | Part::FileKeys => self.keys.rows(part, &rows)?,
            Part::Records
            | Part::Tiles
            | Part::ByFile
            | Part::State
            | Part::Unmirrored
            | Part::LedgerMeta => self.ledger.rows(part, &rows)?,
            Part::Config
            | Part::InternalKey
            | Part::NextInternalKey
            | Part::RecoveryFile
            | Part::EpochKey => {
                unreachable!("rows come for tables alone: the reader checks it")
            }
        }
        Ok(())
    }

    /// Closes the databases, and writes the files beside them.
    fn finish(
        self,
        head: &Head,
        state: &Path,
        backup: &Path,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, UnpackError> {
        let Restoring { directory, ledger, keys, files, .. } = self;
        drop((ledger, keys));
        let find = |part: Part| files.iter().find(|(of, _)| *of == part).map(|(_, bytes)| bytes);
        let epoch = find(Part::EpochKey);
        let missing = UnpackError::Missing { path: backup.to_owned(), part: Part::EpochKey.name() };
        write_epoch(state, head.keys_epoch, epoch.ok_or(missing)?).map_err(failed("write in", state))?;
        for part in FILES {
            if let Some(bytes) = find(part) {
                let path = directory.join(part.name());
                write_new(&path, bytes, 0o600)?;
            }
        }
        for directory in [state, directory] {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(failed("sync", directory))?;
        }
        Ok(find(Part::RecoveryFile).cloned())
    }
}

/// Writes a file that was not there, durably.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), UnpackError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = made.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(failed("write", path))
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnpackError + use<> {
    let path = path.to_owned();
    move |error| UnpackError::Io { step, path, error }
}
