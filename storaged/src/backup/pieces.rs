//! What is inside a backup: a head, then parts in pieces, then a manifest of all of them.
//!
//! **Invariant:** a reader gives out an end only if every part that the manifest names came, in order, with the length,
//! the number of rows and the hash that it says, and nothing behind it.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId};
use zeroize::Zeroizing;

use crate::limits::{BACKUP_FILE_BYTES, BACKUP_JSON_BYTES, BACKUP_PIECE_BYTES};

/// What stands at the beginning.
const MAGIC: &[u8] = b"culvert backup 1\n";
/// A piece of rows is written when it is as long as this.
const ROWS_BYTES: usize = 64 * 1024;

const HEAD: u8 = 1;
const BEGIN: u8 = 2;
const ROWS: u8 = 3;
const BYTES: u8 = 4;
const MANIFEST: u8 = 5;

macro_rules! parts {
    ($($(#[$doc:meta])* $part:ident = $name:literal, $table:literal;)*) => {
        /// What a backup holds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Part {
            $($(#[$doc])* $part,)*
        }

        impl Part {
            /// All, in the order in which they come.
            pub const ALL: &'static [Part] = &[$(Part::$part,)*];

            /// Its name in the backup.
            pub fn name(self) -> &'static str {
                match self {
                    $(Part::$part => $name,)*
                }
            }

            /// Whether it comes as rows of a table, and not as the bytes of a file.
            pub fn is_table(self) -> bool {
                match self {
                    $(Part::$part => $table,)*
                }
            }
        }
    };
}

parts! {
    /// storaged's configuration.
    Config = "storaged.toml", false;
    /// The internal key.
    InternalKey = "internal.key", false;
    /// The internal key that is to come.
    NextInternalKey = "internal-next.key", false;
    /// The root key, for those who can bring it back.
    RecoveryFile = "root-key.age", false;
    /// The file of the keys' epoch.
    EpochKey = "keys.epoch", false;
    /// Facts about the keys.
    KeysMeta = "keys/meta", true;
    /// The store keys.
    StoreKeys = "keys/store_keys", true;
    /// The cohorts' keys.
    Keks = "keys/keks", true;
    /// The file keys.
    FileKeys = "keys/file_keys", true;
    /// The records.
    Records = "ledger/records", true;
    /// The Merkle tree.
    Tiles = "ledger/tiles", true;
    /// Which records are about which file.
    ByFile = "ledger/by_file", true;
    /// The state.
    State = "ledger/state", true;
    /// What the journal mirror did not have yet.
    Unmirrored = "ledger/unmirrored", true;
    /// Facts about the ledger.
    LedgerMeta = "ledger/meta", true;
}

impl Part {
    fn parse(name: &str) -> Option<Part> {
        Part::ALL.iter().copied().find(|part| part.name() == name)
    }
}

/// What a backup says about itself first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Its own id.
    pub backup_id: FileId,
    /// The log's word about its records, signed.
    pub checkpoint: String,
    /// Groups of commands that it holds.
    pub group: u64,
    /// The epoch of the keys.
    pub keys_epoch: u64,
    /// The key that the checkpoint is signed with.
    pub log_key: String,
    /// When it was begun.
    pub made_ms: u64,
    /// The program that made it.
    pub made_by: String,
    /// Records that it holds.
    pub records: u64,
    /// Whose it is.
    pub store_id: FileId,
}

/// One part, as the manifest counts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// The part.
    pub name: String,
    /// Rows of a table; 0 for a file.
    pub rows: u64,
    /// Bytes of its pieces.
    pub bytes: u64,
    /// SHA-256 over them.
    pub sha256: ContentDigest,
}

/// What a backup says about itself last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The parts, in their order.
    pub parts: Vec<Section>,
}

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PiecesError {
    /// It ends too early, or cannot be decrypted further.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It holds what no backup holds.
    #[error("not what a backup holds: {0}")]
    Malformed(String),
}

fn malformed(what: impl Into<String>) -> PiecesError {
    PiecesError::Malformed(what.into())
}

struct Open {
    part: Part,
    rows: u64,
    bytes: u64,
    hash: Sha256,
}

impl Open {
    fn new(part: Part) -> Open {
        Open { part, rows: 0, bytes: 0, hash: Sha256::new() }
    }

    fn take(&mut self, body: &[u8]) {
        self.bytes += body.len() as u64;
        self.hash.update(body);
    }

    fn close(self) -> Section {
        let sha256 = ContentDigest::from_bytes(self.hash.finalize().into());
        Section { name: self.part.name().to_owned(), rows: self.rows, bytes: self.bytes, sha256 }
    }
}

/// Writes a backup.
pub struct PieceWriter<W> {
    to: W,
    open: Option<Open>,
    rows: Vec<u8>,
    manifest: Manifest,
}

impl<W: Write> PieceWriter<W> {
    /// Begins one.
    pub fn new(mut to: W, head: &Head) -> io::Result<PieceWriter<W>> {
        to.write_all(MAGIC)?;
        let mut writer = PieceWriter { to, open: None, rows: Vec::new(), manifest: Manifest::default() };
        writer.piece(HEAD, &json(head))?;
        Ok(writer)
    }

    /// A whole part that is a file.
    pub fn file(&mut self, part: Part, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > BACKUP_FILE_BYTES {
            return Err(io::Error::other(format!(
                "{} is longer than {BACKUP_FILE_BYTES} bytes",
                part.name()
            )));
        }
        self.begin(part)?;
        self.data(BYTES, bytes)
    }

    /// A part from here on.
    pub fn begin(&mut self, part: Part) -> io::Result<()> {
        self.end()?;
        self.piece(BEGIN, part.name().as_bytes())?;
        self.open = Some(Open::new(part));
        Ok(())
    }

    /// A row of the part.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        for bytes in [key, value] {
            let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a row of 4 GiB"))?;
            self.rows.extend_from_slice(&length.to_be_bytes());
            self.rows.extend_from_slice(bytes);
        }
        if let Some(open) = &mut self.open {
            open.rows += 1;
        }
        if self.rows.len() >= ROWS_BYTES { self.flush_rows() } else { Ok(()) }
    }

    /// Writes the manifest; what is behind it is whole.
    pub fn finish(mut self) -> io::Result<(W, Manifest)> {
        self.end()?;
        let manifest = std::mem::take(&mut self.manifest);
        self.piece(MANIFEST, &json(&manifest))?;
        Ok((self.to, manifest))
    }

    fn flush_rows(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() { Ok(()) } else { self.data(ROWS, &rows) }
    }

    fn data(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            open.take(body);
        }
        self.piece(kind, body)
    }

    fn end(&mut self) -> io::Result<()> {
        self.flush_rows()?;
        self.manifest.parts.extend(self.open.take().map(Open::close));
        Ok(())
    }

    fn piece(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        if body.len() > BACKUP_PIECE_BYTES {
            return Err(io::Error::other(format!("a row of {} bytes", body.len())));
        }
        let length = u32::try_from(body.len()).map_err(|_| io::Error::other("a piece of 4 GiB"))?;
        self.to.write_all(&[kind])?;
        self.to.write_all(&length.to_be_bytes())?;
        self.to.write_all(body)
    }
}

impl<W> std::fmt::Debug for PieceWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PieceWriter").finish_non_exhaustive()
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a struct of numbers and texts")
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// The next thing in a backup.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A part from here on.
    Begin(Part),
    /// Rows of it.
    Rows(Vec<Row>),
    /// Bytes of it.
    Bytes(Zeroizing<Vec<u8>>),
    /// The end, and all before it is what it says.
    End(Manifest),
}

/// Reads a backup.
pub struct PieceReader<R> {
    from: R,
    open: Option<Open>,
    read: Vec<Section>,
    ended: bool,
}

impl<R: Read> PieceReader<R> {
    /// Reads the head.
    pub fn new(mut from: R) -> Result<(Head, PieceReader<R>), PiecesError> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(malformed("it does not begin as one of this version"));
        }
        let mut reader = PieceReader { from, open: None, read: Vec::new(), ended: false };
        match reader.piece()? {
            (HEAD, body) => Ok((parse("head", &body)?, reader)),
            (kind, _) => Err(malformed(format!("a piece of kind {kind} where the head stands"))),
        }
    }

    /// The next piece; none behind the end.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, PiecesError> {
        if self.ended {
            return Ok(None);
        }
        let (kind, body) = self.piece()?;
        match kind {
            BEGIN => self.begin(&body).map(Some),
            ROWS | BYTES => self.data(kind, body).map(Some),
            MANIFEST => self.end(&body).map(Some),
            other => Err(malformed(format!("a piece of kind {other}"))),
        }
    }

    fn begin(&mut self, name: &[u8]) -> Result<Piece, PiecesError> {
        let name = std::str::from_utf8(name).map_err(|_| malformed("the name of a part"))?;
        let part = Part::parse(name).ok_or_else(|| malformed(format!("a part {:?}", printable(name))))?;
        let before = self.open.replace(Open::new(part));
        if before.as_ref().is_some_and(|before| before.part >= part) {
            return Err(malformed(format!("part {} in the wrong place", part.name())));
        }
        self.read.extend(before.map(Open::close));
        Ok(Piece::Begin(part))
    }

    fn data(&mut self, kind: u8, body: Zeroizing<Vec<u8>>) -> Result<Piece, PiecesError> {
        let Some(open) = &mut self.open else { return Err(malformed("data before its part")) };
        if open.part.is_table() != (kind == ROWS) {
            return Err(malformed(format!("the wrong data for {}", open.part.name())));
        }
        open.take(&body);
        if kind == BYTES {
            if open.bytes > BACKUP_FILE_BYTES {
                return Err(malformed(format!("{} is too long", open.part.name())));
            }
            return Ok(Piece::Bytes(body));
        }
        let rows = rows(&body)?;
        open.rows += rows.len() as u64;
        Ok(Piece::Rows(rows))
    }

    fn end(&mut self, body: &[u8]) -> Result<Piece, PiecesError> {
        let manifest: Manifest = parse("manifest", body)?;
        self.read.extend(self.open.take().map(Open::close));
        for (said, read) in manifest.parts.iter().zip(&self.read) {
            if said != read {
                return Err(malformed(format!("{} is not what the manifest says", read.name)));
            }
        }
        if manifest.parts.len() != self.read.len() {
            return Err(malformed("the manifest names other parts than there are"));
        }
        if self.from.read(&mut [0])? != 0 {
            return Err(malformed("bytes behind the end"));
        }
        self.ended = true;
        Ok(Piece::End(manifest))
    }

    fn piece(&mut self) -> Result<(u8, Zeroizing<Vec<u8>>), PiecesError> {
        let mut head = [0; 5];
        self.from.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let most = if kind == ROWS { BACKUP_PIECE_BYTES } else { BACKUP_JSON_BYTES };
        if length > most {
            return Err(malformed(format!("a piece of {length} bytes")));
        }
        // Grows with what comes, not with what is said.
        let mut body = Zeroizing::new(Vec::new());
        self.from.by_ref().take(length as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok((kind, body))
    }
}

impl<R> std::fmt::Debug for PieceReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PieceReader").finish_non_exhaustive()
    }
}

fn parse<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, PiecesError> {
    serde_json::from_slice(body).map_err(|error| malformed(format!("the {what}: {error}")))
}

fn rows(mut body: &[u8]) -> Result<Vec<Row>, PiecesError> {
    let mut rows = Vec::new();
    while !body.is_empty() {
        let (key, rest) = field(body)?;
        let (value, rest) = field(rest)?;
        rows.push((key.to_vec(), value.to_vec()));
        body = rest;
    }
    Ok(rows)
}

fn field(bytes: &[u8]) -> Result<(&[u8], &[u8]), PiecesError> {
    let torn = || malformed("a row that is cut off");
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(torn)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    rest.split_at_checked(length).ok_or_else(torn)
}

fn printable(text: &str) -> String {
    text.chars().take(40).collect::<String>().escape_debug().to_string()
}

/// Reads all of it and throws it away: what a fuzzer does.
pub fn read_through(from: impl Read) -> Result<(Head, Manifest), PiecesError> {
    let (head, mut reader) = PieceReader::new(from)?;
    loop {
        match reader.next_piece()? {
            Some(Piece::End(manifest)) => return Ok((head, manifest)),
            Some(Piece::Begin(_) | Piece::Rows(_) | Piece::Bytes(_)) => {}
            None => unreachable!("an end comes before nothing comes"),
        }
    }
}
