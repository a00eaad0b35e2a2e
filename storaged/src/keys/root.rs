//! The root key: where it comes from, and where it stays.
//!
//! **Invariant:** it lies in a file that the world cannot read, and in memory that is kept out of swap and
//! dumps; it is copied out of there for the moment of one wrapping.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use linux::secret_memory::{Protection, SecretMemory};
use vault::Key256;
use zeroize::Zeroizing;

const KEY: usize = vault::key::KEY_BYTES;
/// 32 bytes in base64.
const TEXT_BYTES: usize = 44;
/// Room for white space around the text.
const MAX_FILE_BYTES: usize = 128;

/// The key above all others.
#[derive(Debug)]
pub struct RootKey(Secrets);

/// Why there is no root key.
#[derive(Debug, thiserror::Error)]
pub enum RootKeyError {
    /// `credential:NAME` without credentials.
    #[error("root_key_file: {0}")]
    Reference(#[from] daemon::secret::SecretError),
    /// It cannot be read.
    #[error("root_key_file: {path}: {error}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The world may read it.
    #[error("root_key_file: {path} has mode {mode:04o}, so everybody may use it (chmod 0400)", path = .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("root_key_file: {path} does not hold 32 bytes as base64 on one line", path = .0.display())]
    Content(PathBuf),
    /// No memory for it.
    #[error("memory for the root key: {0}")]
    Memory(std::io::Error),
    /// No random bytes for a new one.
    #[error(transparent)]
    Random(#[from] vault::RandomError),
}

impl RootKey {
    /// Reads what `root_key_file` names: a path, or `credential:NAME`.
    pub fn read(reference: &str) -> Result<RootKey, RootKeyError> {
        let path = daemon::secret::reference_path(reference)?;
        let file = File::open(&path).map_err(|error| RootKeyError::Read { path: path.clone(), error })?;
        RootKey::of(&read_key(&path, file)?)
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    pub fn from_text(text: &[u8]) -> Result<RootKey, RootKeyError> {
        let key = parse_key(text).ok_or_else(|| RootKeyError::Content(PathBuf::from("root-key.age")))?;
        RootKey::of(&key)
    }

    /// Draws a new one.
    pub fn generate() -> Result<RootKey, RootKeyError> {
        RootKey::of(&Key256::generate()?)
    }

    fn of(key: &Key256) -> Result<RootKey, RootKeyError> {
        let mut secrets = Secrets::new().map_err(RootKeyError::Memory)?;
        secrets.set_root(key);
        Ok(RootKey(secrets))
    }

    /// What its file holds.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES + 1));
        STANDARD.encode_string(self.0.root().as_bytes(), &mut text);
        text.push('\n');
        text
    }

    /// What keeps it from others.
    pub fn protection(&self) -> &Protection {
        self.0.0.protection()
    }

    pub(super) fn key(&self) -> Key256 {
        self.0.root()
    }

    pub(super) fn into_secrets(self) -> Secrets {
        self.0
    }
}

/// Reads an open file, as it is handed over to a sealed daemon: no memory is mapped for it. `path` stands in
/// messages.
pub fn read_key(path: &Path, file: File) -> Result<Key256, RootKeyError> {
    let failed = |error| RootKeyError::Read { path: path.to_owned(), error };
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(RootKeyError::Mode { path: path.to_owned(), mode });
    }
    // At its full size at once: growing would leave copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES + 1));
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    parse_key(&text).ok_or_else(|| RootKeyError::Content(path.to_owned()))
}

fn parse_key(text: &[u8]) -> Option<Key256> {
    let mut bytes = Zeroizing::new([0; 48]);
    let text = text.trim_ascii();
    if text.len() != TEXT_BYTES {
        return None;
    }
    let length = STANDARD.decode_slice(text, &mut *bytes).ok()?;
    let key: Zeroizing<[u8; KEY]> = bytes[..length].try_into().map(Zeroizing::new).ok()?;
    Some(Key256::from_bytes(*key))
}

/// The root key and the epoch key, in one page of their own.
#[derive(Debug)]
pub(super) struct Secrets(SecretMemory);

impl Secrets {
    fn new() -> std::io::Result<Secrets> {
        SecretMemory::new(2 * KEY).map(Secrets)
    }

    pub(super) fn root(&self) -> Key256 {
        self.at(0)
    }

    pub(super) fn epoch(&self) -> Key256 {
        self.at(KEY)
    }

    pub(super) fn set_root(&mut self, key: &Key256) {
        self.0.as_mut_slice()[..KEY].copy_from_slice(key.as_bytes());
    }

    pub(super) fn set_epoch(&mut self, key: &Key256) {
        self.0.as_mut_slice()[KEY..].copy_from_slice(key.as_bytes());
    }

    pub(super) fn protection(&self) -> &Protection {
        self.0.protection()
    }

    fn at(&self, start: usize) -> Key256 {
        let mut bytes = Zeroizing::new([0; KEY]);
        bytes.copy_from_slice(&self.0.as_slice()[start..start + KEY]);
        Key256::take(&mut bytes)
    }
}
