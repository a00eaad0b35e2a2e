//! An update in one file: what it is, signed; then the image, then its boot file.
//!
//! ```text
//! culvert-update-1 345                      the length of the signed note
//! culvert appliance update                  the note (C2SP `signed-note`)
//! flavour sealed
//! version 0.1.0-2
//! roothash 3b…
//! root 72265728 5f…                         bytes, SHA-256
//! boot 15204352 a1…
//!
//! — example.org/culvert q0…
//! ⟨root.img⟩⟨boot.efi⟩
//! ```
//!
//! **Invariant:** a [`Manifest`] that came out of a file was signed by the key that was asked for.

use std::fmt::Write as _;
use std::io::{self, Read};

use receipt::{LogKey, LogSigner, Note, NoteError};

use crate::Version;
use crate::limits::{BLOCK_BYTES, BOOT_BYTES_AT_MOST, HEAD_BYTES, MANIFEST_BYTES, ROOT_BYTES_AT_MOST};

/// What the first line begins with.
const MARK: &str = "culvert-update-1 ";
/// The first line of the note: such a note is nothing else.
const TITLE: &str = "culvert appliance update";

/// What a bundle says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Who looks after it: `sealed` or `managed`.
    pub flavour: String,
    /// Which build.
    pub version: Version,
    /// Of the image's hash tree.
    pub root_hash: [u8; 32],
    /// The image.
    pub root: Part,
    /// Kernel, initial file system and command line.
    pub boot: Part,
}

/// A file within a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// Why a file is no update for us.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file could not be read, or ends too early.
    #[error("the bundle cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It begins with something else.
    #[error("this is no update bundle: its first line is not `{MARK}LENGTH`")]
    Head,
    /// No note.
    #[error("the bundle's note: {0}")]
    Note(#[from] NoteError),
    /// Not text.
    #[error("the bundle's note is not UTF-8")]
    Text,
    /// Signed by nobody whom we know.
    #[error("the bundle is not signed by the key of this system: {0}")]
    Signature(#[from] receipt::note::SignatureError),
    /// Signed, and not understood.
    #[error("the bundle's note: `{0}` is missing, or is not as it has to be")]
    Field(&'static str),
}

impl Manifest {
    /// Reads the head of a bundle; what follows in `from` is [`Manifest::root`], then [`Manifest::boot`].
    pub fn read(from: &mut impl Read, key: &LogKey) -> Result<Manifest, BundleError> {
        let mut note = vec![0; note_length(from)?];
        from.read_exact(&mut note)?;
        let note = String::from_utf8(note).map_err(|_| BundleError::Text)?;
        let note = Note::parse(&note)?;
        Manifest::parse(note.verify(key)?)
    }

    /// The head of a bundle.
    pub fn sign(&self, signer: &LogSigner) -> Result<String, BundleError> {
        let note = signer.sign(&self.to_text())?;
        Ok(format!("{MARK}{}\n{note}", note.as_str().len()))
    }

    fn to_text(&self) -> String {
        format!(
            "{TITLE}\nflavour {}\nversion {}\nroothash {}\nroot {} {}\nboot {} {}\n",
            self.flavour,
            self.version,
            hex(&self.root_hash),
            self.root.bytes,
            hex(&self.root.sha256),
            self.boot.bytes,
            hex(&self.boot.sha256)
        )
    }

    /// Takes the text of a note.
    fn parse(text: &str) -> Result<Manifest, BundleError> {
        let mut lines = text.split_terminator('\n');
        if text.len() > MANIFEST_BYTES || lines.next() != Some(TITLE) {
            return Err(BundleError::Field(TITLE));
        }
        let mut field = |name: &'static str| {
            let value = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.ok_or(BundleError::Field(name))
        };
        let flavour = field("flavour")?;
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
        if !is_word(flavour) {
            return Err(BundleError::Field("flavour"));
        }
        let version = field("version")?.parse().map_err(|_| BundleError::Field("version"))?;
        let root_hash = unhex(field("roothash")?).ok_or(BundleError::Field("roothash"))?;
        let root = part(field("root")?, ROOT_BYTES_AT_MOST)
            .filter(|part| part.bytes.is_multiple_of(BLOCK_BYTES))
            .ok_or(BundleError::Field("root"))?;
        let boot = part(field("boot")?, BOOT_BYTES_AT_MOST).ok_or(BundleError::Field("boot"))?;
        if lines.next().is_some() {
            return Err(BundleError::Field("nothing behind `boot`"));
        }
        Ok(Manifest { flavour: flavour.to_owned(), version, root_hash, root, boot })
    }
}

/// The first line.
fn note_length(from: &mut impl Read) -> Result<usize, BundleError> {
    let mut line = Vec::with_capacity(HEAD_BYTES);
    loop {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        if byte == *b"\n" {
            break;
        }
        line.extend(byte);
        if line.len() == HEAD_BYTES {
            return Err(BundleError::Head);
        }
    }
    let length = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix(MARK));
    let length = length.and_then(crate::version::number).and_then(|length| usize::try_from(length).ok());
    length.filter(|length| (1..=receipt::limits::MAX_NOTE_BYTES).contains(length)).ok_or(BundleError::Head)
}

/// `BYTES SHA256`.
fn part(text: &str, at_most: u64) -> Option<Part> {
    let (bytes, sha256) = text.split_once(' ')?;
    let is_number =
        bytes.len() <= 12 && !bytes.starts_with('0') && bytes.bytes().all(|digit| digit.is_ascii_digit());
    let bytes =
        is_number.then(|| bytes.parse().ok()).flatten().filter(|bytes| (1..=at_most).contains(bytes))?;
    Some(Part { bytes, sha256: unhex(sha256)? })
}

/// Small digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 64 small digits.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 64 || !text.bytes().all(is_digit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        let value = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
        *byte = value(digits[0]) << 4 | value(digits[1]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer() -> LogSigner {
        LogSigner::from_seed("example.org/culvert", &[7; 32]).unwrap()
    }

    fn manifest() -> Manifest {
        Manifest {
            flavour: "sealed".into(),
            version: "0.1.0-2".parse().unwrap(),
            root_hash: [0xa5; 32],
            root: Part { bytes: 8192, sha256: [1; 32] },
            boot: Part { bytes: 77, sha256: [2; 32] },
        }
    }

    #[test]
    fn what_was_signed_is_read_and_what_follows_is_left() {
        let bundle = manifest().sign(&signer()).unwrap() + "image";
        let mut from = bundle.as_bytes();
        assert_eq!(Manifest::read(&mut from, &signer().log_key()).unwrap(), manifest());
        assert_eq!(from, b"image");
    }

    #[test]
    fn nobody_elses_signature_is_taken() {
        let bundle = manifest().sign(&signer()).unwrap();
        for other in [
            LogSigner::from_seed("example.org/culvert", &[8; 32]).unwrap(),
            LogSigner::from_seed("example.org/other", &[7; 32]).unwrap(),
        ] {
            let error = Manifest::read(&mut bundle.as_bytes(), &other.log_key()).unwrap_err();
            assert!(matches!(error, BundleError::Signature(_)), "{error}");
        }
        // The same key signs other notes: they are no updates.
        let note = signer().sign("culvert/1\n17\n").unwrap();
        let other = format!("{MARK}{}\n{note}", note.as_str().len());
        let error = Manifest::read(&mut other.as_bytes(), &signer().log_key()).unwrap_err();
        assert!(matches!(error, BundleError::Field(_)), "{error}");
    }

    #[test]
    fn every_flipped_bit_of_the_head_is_refused() {
        let bundle = manifest().sign(&signer()).unwrap();
        for at in 0..bundle.len() * 8 {
            let mut bytes = bundle.as_bytes().to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(Manifest::read(&mut bytes.as_slice(), &signer().log_key()).is_err(), "bit {at}");
        }
        for end in 0..bundle.len() {
            assert!(
                Manifest::read(&mut &bundle.as_bytes()[..end], &signer().log_key()).is_err(),
                "{end} bytes"
            );
        }
    }

    #[test]
    fn a_signed_text_has_its_limits_and_one_spelling() {
        let text = manifest().to_text();
        assert_eq!(Manifest::parse(&text).unwrap(), manifest());
        for (from, to) in [
            ("flavour sealed", "flavour "),
            ("flavour sealed", "flavour Sealed"),
            ("version 0.1.0-2", "version 0.1.0"),
            ("roothash a5", "roothash A5"),
            ("root 8192", "root 8193"),
            ("root 8192", "root 08192"),
            ("root 8192", "root 0"),
            ("root 8192", "root 18253615104"),
            ("boot 77", "boot 268435457"),
            ("boot 77", "boot +77"),
            ("\nversion", "\n\nversion"),
        ] {
            assert!(text.contains(from));
            assert!(Manifest::parse(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
        assert!(Manifest::parse(&(text + "more\n")).is_err());
    }

    #[test]
    fn a_first_line_without_end_is_not_read_on() {
        let mut endless = io::repeat(b'c');
        assert!(matches!(Manifest::read(&mut endless, &signer().log_key()), Err(BundleError::Head)));
        let long = format!("{MARK}99999999\n");
        assert!(matches!(Manifest::read(&mut long.as_bytes(), &signer().log_key()), Err(BundleError::Head)));
    }

    proptest! {
        #[test]
        fn a_text_that_is_taken_is_written_the_same(bytes in "(0|[1-9])[0-9]{0,11}", revision in "[0-9]{1,3}", flavour in "[a-zA-Z]{0,8}") {
            let text = manifest().to_text();
            let text = text.replace("8192", &bytes).replace("0-2", &format!("0-{revision}")).replace("sealed", &flavour);
            if let Ok(manifest) = Manifest::parse(&text) {
                prop_assert_eq!(manifest.to_text(), text);
            }
        }

        #[test]
        fn any_bytes_are_no_bundle_of_ours(bytes: Vec<u8>, marked: bool) {
            let bytes = if marked { [MARK.as_bytes(), b"20\n", &bytes].concat() } else { bytes };
            prop_assert!(Manifest::read(&mut bytes.as_slice(), &signer().log_key()).is_err());
        }
    }
}
