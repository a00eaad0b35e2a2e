//! Signed notes (C2SP `signed-note`): a text, and below it who signed it.
//!
//! ```text
//! culvert/0123456789abcdef0123456789abcdef
//! 17
//! KxQ…=
//! epoch 0
//!
//! — culvert/0123456789abcdef0123456789abcdef 8a7Fz…=
//! ```
//!
//! **Invariant:** a text is handed out as signed only where the signature of the very key that was asked for is
//! there and right; other signatures neither help nor harm.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::limits::{
    ED25519_KEY_BYTES, ED25519_SIGNATURE_BYTES, MAX_KEY_NAME_BYTES, MAX_NOTE_BYTES, MAX_NOTE_SIGNATURES,
};

/// The kind of key and of signature: Ed25519 (C2SP `signed-note`, *Signature types*).
const ED25519: u8 = 1;
/// What a line of a signature begins with.
const SIGNATURE_MARK: &str = "\u{2014} ";

/// Why a key's text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not three fields.
    #[error("a log key must be NAME+KEYID+BASE64")]
    Fields,
    /// The name cannot stand in a note.
    #[error("the name of a log key must be 1 to {MAX_KEY_NAME_BYTES} bytes without white space and `+`")]
    Name,
    /// Not eight hexadecimal digits.
    #[error("the id of a log key must be 8 lower-case hexadecimal digits")]
    Id,
    /// Not base64 of a kind and a key.
    #[error("the last field of a log key must be base64 of 33 bytes")]
    Base64,
    /// Another kind of key.
    #[error("the log key is of kind {0:#04x}; only Ed25519 (0x01) is known")]
    Kind(u8),
    /// No point of the curve, or one that verifies anything.
    #[error("the log key is not a usable Ed25519 public key")]
    Point,
    /// The id belongs to another name or key.
    #[error("the log key's id is {found}, and its name and key make {computed}: it was changed or mistyped")]
    OtherId {
        /// What the text says.
        found: KeyId,
        /// What it had to say.
        computed: KeyId,
    },
}

/// What tells keys of one name apart: the first four bytes of `SHA-256(name ‖ "\n" ‖ kind ‖ public key)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// The public key of a log, with the log's name. As text it is a *vkey*: `NAME+KEYID+BASE64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKey {
    name: String,
    /// With its point worked out, which makes it large.
    key: Box<VerifyingKey>,
}

impl LogKey {
    /// Takes a vkey.
    pub fn parse(text: &str) -> Result<LogKey, KeyError> {
        // The name holds no `+`, the base64 may.
        let mut fields = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(KeyError::Fields);
        };
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if id.len() != 8 || !id.bytes().all(is_digit) {
            return Err(KeyError::Id);
        }
        let found = u32::from_str_radix(id, 16).map_err(|_| KeyError::Id)?;
        let found = KeyId(found.to_be_bytes());
        let key = decode::<{ ED25519_KEY_BYTES + 1 }>(key).ok_or(KeyError::Base64)?;
        let [kind, key @ ..] = key;
        if kind != ED25519 {
            return Err(KeyError::Kind(kind));
        }
        let key: [u8; ED25519_KEY_BYTES] = key;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| KeyError::Point)?;
        if key.is_weak() {
            return Err(KeyError::Point);
        }
        let key = LogKey { name: name.to_owned(), key: Box::new(key) };
        let computed = key.id();
        if computed != found {
            return Err(KeyError::OtherId { found, computed });
        }
        Ok(key)
    }

    /// The log's name, which is the origin of its checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        KeyId([hash[0], hash[1], hash[2], hash[3]])
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[ED25519][..], self.key.as_bytes()].concat();
        write!(f, "{}+{}+{}", self.name, self.id(), STANDARD.encode(key))
    }
}

impl FromStr for LogKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// The secret half of a log's key. It is wiped when dropped.
pub struct LogSigner {
    name: String,
    key: SigningKey,
}

impl fmt::Debug for LogSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSigner").field("name", &self.name).finish_non_exhaustive()
    }
}

impl LogSigner {
    /// The key of the log `name` that grows from 32 random bytes.
    pub fn from_seed(name: &str, seed: &[u8; ED25519_KEY_BYTES]) -> Result<LogSigner, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        Ok(LogSigner { name: name.to_owned(), key: SigningKey::from_bytes(seed) })
    }

    /// The log's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public half.
    pub fn log_key(&self) -> LogKey {
        LogKey { name: self.name.clone(), key: Box::new(self.key.verifying_key()) }
    }

    /// Signs a text, which must end with a line break and be such as [`Note::parse`] takes.
    pub fn sign(&self, text: &str) -> Result<Note, NoteError> {
        check_text(text)?;
        let signature = self.key.sign(text.as_bytes());
        let line = [&self.log_key().id().0[..], &signature.to_bytes()].concat();
        Note::parse(&format!("{text}\n{SIGNATURE_MARK}{} {}\n", self.name, STANDARD.encode(line)))
    }
}

/// Why a text is no signed note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Too long to be one.
    #[error("the note has {0} bytes, and at most {MAX_NOTE_BYTES} are read")]
    TooLong(usize),
    /// A control character.
    #[error("the note holds a control character")]
    Control,
    /// Nothing between text and signatures.
    #[error("the note has no empty line between its text and its signatures")]
    NoBlankLine,
    /// No text.
    #[error("the note's text is empty or does not end with a line break")]
    Text,
    /// Not one signature.
    #[error("the note's signatures are missing, or their last line has no end")]
    NoSignature,
    /// Too many.
    #[error("the note has more than {MAX_NOTE_SIGNATURES} signatures")]
    TooManySignatures,
    /// A line below the text that is no signature.
    #[error("signature {0} of the note is not `\u{2014} NAME BASE64`")]
    Malformed(usize),
}

/// Why a note is not signed by a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Others signed it.
    #[error("the note is not signed by {name} with key {id}; it names {signers}")]
    NotSigned {
        /// The key's name.
        name: String,
        /// The key's id.
        id: KeyId,
        /// Who is named, with the id of each key.
        signers: String,
    },
    /// The key is named twice.
    #[error("the note has two signatures of {0}")]
    Twice(String),
    /// The text or the signature was changed.
    #[error("the signature of {0} is wrong: the text or the signature was changed")]
    Wrong(String),
}

/// A signed note whose form was checked, and its signatures not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    whole: String,
    /// The length of the text, its last line break included.
    text: usize,
    signatures: Vec<Line>,
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    name: String,
    id: KeyId,
    signature: Vec<u8>,
}

impl Note {
    /// Takes a note apart.
    pub fn parse(whole: &str) -> Result<Note, NoteError> {
        if whole.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong(whole.len()));
        }
        let blank = whole.rfind("\n\n").ok_or(NoteError::NoBlankLine)?;
        let (text, signatures) = (&whole[..=blank], &whole[blank + 2..]);
        check_text(text)?;
        let lines = signatures.strip_suffix('\n').ok_or(NoteError::NoSignature)?;
        if lines.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Control);
        }
        let mut parsed = Vec::new();
        for (number, line) in (1..).zip(lines.split('\n')) {
            if number > MAX_NOTE_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            parsed.push(Line::parse(line).ok_or(NoteError::Malformed(number))?);
        }
        Ok(Note { whole: whole.to_owned(), text: text.len(), signatures: parsed })
    }

    /// The note as it was read.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The text, whoever signed it.
    pub fn unverified_text(&self) -> &str {
        &self.whole[..self.text]
    }

    /// The text, if `key` signed it.
    pub fn verify(&self, key: &LogKey) -> Result<&str, SignatureError> {
        let id = key.id();
        let mut ours = self.signatures.iter().filter(|line| line.name == key.name && line.id == id);
        let Some(line) = ours.next() else {
            let signers: Vec<String> =
                self.signatures.iter().map(|line| format!("{} with key {}", line.name, line.id)).collect();
            return Err(SignatureError::NotSigned {
                name: key.name.clone(),
                id,
                signers: signers.join(", "),
            });
        };
        if ours.next().is_some() {
            return Err(SignatureError::Twice(key.name.clone()));
        }
        let wrong = || SignatureError::Wrong(key.name.clone());
        let bytes: [u8; ED25519_SIGNATURE_BYTES] =
            line.signature.as_slice().try_into().map_err(|_| wrong())?;
        let text = self.unverified_text();
        key.key.verify_strict(text.as_bytes(), &Signature::from_bytes(&bytes)).map_err(|_| wrong())?;
        Ok(text)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl Line {
    fn parse(line: &str) -> Option<Line> {
        let (name, base64) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
        if !is_name(name) {
            return None;
        }
        let bytes = STANDARD.decode(base64).ok()?;
        let (id, signature) = bytes.split_first_chunk::<4>()?;
        if signature.is_empty() {
            return None;
        }
        Some(Line { name: name.to_owned(), id: KeyId(*id), signature: signature.to_vec() })
    }
}

fn check_text(text: &str) -> Result<(), NoteError> {
    if text.len() > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong(text.len()));
    }
    if text == "\n" || !text.ends_with('\n') {
        return Err(NoteError::Text);
    }
    if text.chars().any(|c| c < ' ' && c != '\n') {
        return Err(NoteError::Control);
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    (1..=MAX_KEY_NAME_BYTES).contains(&name.len())
        && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

/// Exactly `N` bytes of base64.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() > N * 2 {
        return None;
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "culvert/0123456789abcdef0123456789abcdef";

    fn signer() -> LogSigner {
        LogSigner::from_seed(NAME, &[7; 32]).unwrap()
    }

    /// From the documentation of Go's `golang.org/x/mod/sumdb/note`: not ours, so that we agree with others.
    #[test]
    fn a_note_and_a_key_of_another_implementation_are_accepted() {
        let key =
            LogKey::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\
                    \n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let note = Note::parse(note).unwrap();
        assert!(note.verify(&key).unwrap().starts_with("If you think"));
        assert_eq!(key.to_string(), "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
    }

    #[test]
    fn what_is_signed_is_verified_by_the_public_half() {
        let note = signer().sign("one\ntwo\n").unwrap();
        let key = LogKey::parse(&signer().log_key().to_string()).unwrap();
        assert_eq!(Note::parse(note.as_str()).unwrap().verify(&key), Ok("one\ntwo\n"));
    }

    #[test]
    fn every_flipped_bit_of_a_note_is_refused() {
        let note = signer().sign("one\ntwo\n").unwrap();
        let key = signer().log_key();
        for at in 0..note.as_str().len() * 8 {
            let mut bytes = note.as_str().as_bytes().to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let verified = Note::parse(&text).map(|note| note.verify(&key).map(str::to_owned));
            assert!(!matches!(verified, Ok(Ok(_))), "bit {at}");
        }
    }

    #[test]
    fn other_signatures_neither_help_nor_harm() {
        let ours = signer().sign("t\n").unwrap();
        let witness = LogSigner::from_seed("witness.example/1", &[8; 32]).unwrap();
        let theirs = witness.sign("t\n").unwrap();
        let theirs = theirs.as_str().split_once("\n\n").unwrap().1;
        let both = Note::parse(&format!("{ours}{theirs}")).unwrap();
        assert_eq!(both.verify(&signer().log_key()), Ok("t\n"));
        assert_eq!(both.verify(&witness.log_key()), Ok("t\n"));
        let spoiled = Note::parse(&format!("{ours}\u{2014} witness.example/1 AAAAAAAA\n")).unwrap();
        assert_eq!(spoiled.verify(&signer().log_key()), Ok("t\n"));
    }

    #[test]
    fn a_key_that_did_not_sign_is_told_who_did() {
        let note = signer().sign("t\n").unwrap();
        let other = LogSigner::from_seed(NAME, &[8; 32]).unwrap().log_key();
        let error = note.verify(&other).unwrap_err();
        assert!(error.to_string().contains(&signer().log_key().id().to_string()), "{error}");
        let twice = format!("{note}{}", note.as_str().split_once("\n\n").unwrap().1);
        let twice = Note::parse(&twice).unwrap();
        assert_eq!(twice.verify(&signer().log_key()), Err(SignatureError::Twice(NAME.into())));
    }

    #[test]
    fn malformed_notes_are_refused_with_the_reason() {
        let good = signer().sign("t\n").unwrap().to_string();
        let line = good.split_once("\n\n").unwrap().1.to_owned();
        for (bad, error) in [
            (String::new(), NoteError::NoBlankLine),
            ("t\n".into(), NoteError::NoBlankLine),
            ("t\n\n".into(), NoteError::NoSignature),
            (format!("\n\n{line}"), NoteError::Text),
            (good.trim_end().into(), NoteError::NoSignature),
            (format!("{good}x\n"), NoteError::Malformed(2)),
            (good.replace('\u{2014}', "-"), NoteError::Malformed(1)),
            (format!("t\tt\n\n{line}"), NoteError::Control),
            (format!("t\n\n{line}\u{2014} n \0\n"), NoteError::Control),
            (format!("t\n\n{}", line.repeat(17)), NoteError::TooManySignatures),
            ("x".repeat(MAX_NOTE_BYTES + 1), NoteError::TooLong(MAX_NOTE_BYTES + 1)),
        ] {
            assert_eq!(Note::parse(&bad), Err(error), "{bad:?}");
        }
        for text in ["", "\n", "no line break", "a\rb\n"] {
            assert!(signer().sign(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn malformed_keys_are_refused_with_the_reason() {
        let good = signer().log_key().to_string();
        let (id, key) = good.strip_prefix(NAME).unwrap()[1..].split_once('+').unwrap();
        let weak = format!("n+00000000+{}", STANDARD.encode([&[1_u8, 1][..], &[0; 31]].concat()));
        let kind = format!("n+00000000+{}", STANDARD.encode([2; 33]));
        for (bad, error) in [
            ("", KeyError::Fields),
            ("a+b", KeyError::Fields),
            (&format!("+{id}+{key}"), KeyError::Name),
            (&format!("a b+{id}+{key}"), KeyError::Name),
            (&format!("{NAME}+{}+{key}", id.to_uppercase()), KeyError::Id),
            (&format!("{NAME}++{key}"), KeyError::Id),
            (&format!("{NAME}+{id}+{key}A"), KeyError::Base64),
            (&format!("{NAME}+{id}+AAAA"), KeyError::Base64),
            (&kind, KeyError::Kind(2)),
            (&weak, KeyError::Point),
        ] {
            assert_eq!(LogKey::parse(bad), Err(error), "{bad}");
        }
        let other = LogKey::parse(&good.replacen("culvert", "culverd", 1)).unwrap_err();
        assert!(matches!(other, KeyError::OtherId { .. }), "{other}");
        assert!(LogSigner::from_seed("with space", &[1; 32]).is_err());
    }
}
