//! Secrets: wiped when dropped, never printed, compared in constant time.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The longest secret file that is read.
const MAX_SECRET_BYTES: u64 = 4096;
/// Shorter than this is guessable.
const MIN_SECRET_BYTES: usize = 16;

/// A text that must not be shown. It has no `Debug` or `Display` of its content.
#[derive(Clone)]
pub struct SecretString(Zeroizing<String>);

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be opened or read.
    #[error("secret file {}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// The content is no usable secret.
    #[error("secret file {}: {what}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// `credential:NAME` without a credentials directory.
    #[error("credential {0:?}: CREDENTIALS_DIRECTORY is not set (LoadCredential= in the unit sets it)")]
    NoCredentials(String),
}

impl SecretString {
    /// Wraps `text`.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Whether `candidate` is this secret. Takes the same time wherever they differ; the length is no secret.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }

    /// The text, for the one place that must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret from an open file (as handed over on reload): one line, surrounding white space dropped.
    pub fn from_reader(name: &Path, reader: impl Read) -> Result<Self, SecretError> {
        let mut text = Zeroizing::new(String::new());
        let read = reader.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text);
        read.map_err(|error| SecretError::Read { path: name.to_path_buf(), error })?;
        let wrong = |what| SecretError::Content { path: name.to_path_buf(), what };
        if text.len() as u64 > MAX_SECRET_BYTES {
            return Err(wrong("longer than 4096 bytes"));
        }
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(wrong("empty"));
        }
        if trimmed.len() < MIN_SECRET_BYTES {
            return Err(wrong("shorter than 16 characters"));
        }
        if !trimmed.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("holds something else than printable ASCII on one line"));
        }
        Ok(Self::new(trimmed.to_owned()))
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(…)")
    }
}

/// 32 secret bytes.
#[derive(Clone)]
pub struct SecretKey32(Zeroizing<[u8; 32]>);

impl SecretKey32 {
    /// Takes over `bytes` and wipes the caller's copy.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let key = Self(Zeroizing::new(*bytes));
        bytes.zeroize();
        key
    }

    /// The bytes, for the cipher.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey32(…)")
    }
}

/// Where `reference` points: a path, or `credential:NAME` in systemd's credentials directory.
pub fn reference_path(reference: &str) -> Result<PathBuf, SecretError> {
    let Some(name) = reference.strip_prefix("credential:") else { return Ok(PathBuf::from(reference)) };
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(folder) if !name.contains('/') => Ok(PathBuf::from(folder).join(name)),
        _ => Err(SecretError::NoCredentials(name.to_owned())),
    }
}

/// Reads the secret that `reference` (a path, or `credential:NAME`) points to.
pub fn read_reference(reference: &str) -> Result<SecretString, SecretError> {
    let path = reference_path(reference)?;
    let file = std::fs::File::open(&path).map_err(|error| SecretError::Read { path: path.clone(), error })?;
    SecretString::from_reader(&path, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SecretString, SecretError> {
        SecretString::from_reader(Path::new("key"), text.as_bytes())
    }

    #[test]
    fn white_space_around_a_secret_does_not_count() {
        assert!(read("  0123456789abcdef\n").unwrap().matches(b"0123456789abcdef"));
    }

    #[test]
    fn unusable_secrets_are_refused_by_name() {
        for (text, what) in [("", "empty"), ("short", "shorter"), ("0123456789abcdef\nsecond", "printable")] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("key") && error.contains(what), "{error}");
        }
        assert!(read(&"x".repeat(5000)).is_err());
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", read("0123456789abcdef").unwrap()).contains("0123"));
    }

    #[test]
    fn another_secret_does_not_match() {
        let secret = read("0123456789abcdef").unwrap();
        assert!(
            !secret.matches(b"0123456789abcdeF")
                && !secret.matches(b"0123456789abcde")
                && !secret.matches(b"")
        );
    }
}
