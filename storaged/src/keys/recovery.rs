//! The root key for the day that it is lost: encrypted to people who keep their own keys off this machine.
//!
//! **Invariant:** the file is an ordinary armored `age` file whose content is the root key's file, byte by
//! byte: any `age` program brings it back, without anything of ours.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use vault::age::{self, Identity, ParseError, Recipient, armor};
use vault::blind::blind;
use zeroize::Zeroizing;

use super::RootKey;

/// The longest identity file that is read: `age-keygen` writes under 200 bytes a key.
const MAX_IDENTITY_BYTES: u64 = 64 * 1024;

/// Who can bring the root key back; at least one.
#[derive(Debug, Clone)]
pub struct Recipients(Vec<Recipient>);

/// Why the root key cannot be wrapped, or not be brought back.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Not `age1…`.
    #[error("recovery recipient {recipient:?}: {why}")]
    Recipient {
        /// What was given.
        recipient: String,
        /// What is wrong with it.
        why: ParseError,
    },
    /// No random bytes to encrypt it with.
    #[error(transparent)]
    Random(#[from] vault::RandomError),
    /// A file cannot be read.
    #[error("{path}: {error}", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// No identity in the file.
    #[error("{path} holds no AGE-SECRET-KEY-1… line", path = .0.display())]
    NoIdentity(PathBuf),
    /// Nobody at hand brings it back.
    #[error("root-key.age does not give the root key back: {0}")]
    NotRecovered(String),
    /// The identity opens something else, or nothing.
    #[error("{identity} does not bring the root key back: {why}", identity = .identity.display())]
    NotProven {
        /// The identity file.
        identity: PathBuf,
        /// What went wrong.
        why: String,
    },
}

impl Recipients {
    /// Understands `age1…` texts. None: nobody was named.
    pub fn parse(texts: &[String]) -> Result<Option<Recipients>, RecoveryError> {
        let parse = |text: &String| {
            // Somebody may have pasted a secret key: it is not repeated.
            let shown = if text.to_ascii_uppercase().contains("SECRET") { "…" } else { text };
            text.parse().map_err(|why| RecoveryError::Recipient { recipient: shown.to_owned(), why })
        };
        let recipients = texts.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        Ok((!recipients.is_empty()).then_some(Recipients(recipients)))
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The armored file that each of them can open.
    pub fn wrap(&self, root: &RootKey) -> Result<String, RecoveryError> {
        Ok(armor::wrap(&age::encrypt(&self.0, root.to_text().as_bytes())?))
    }
}

/// Decrypts the file at `wrapped` with the identities in `identity`, and compares it with the root key.
pub fn prove(root: &RootKey, wrapped: &Path, identity: &Path) -> Result<(), RecoveryError> {
    let identities = identities(identity)?;
    let file = std::fs::read_to_string(wrapped)
        .map_err(|error| RecoveryError::Read { path: wrapped.to_owned(), error })?;
    let not = |why: String| RecoveryError::NotProven { identity: identity.to_owned(), why };
    let file = armor::unwrap(&file).ok_or_else(|| not("the file has no armor".into()))?;
    let text = age::decrypt(&identities, &file).map_err(|error| not(error.to_string()))?;
    let expected = root.to_text();
    // Under a key, so that comparing them takes the same time wherever they differ.
    let digest = |text: &[u8]| blind(&root.key(), "recovery", &[text]);
    if digest(&text) == digest(expected.as_bytes()) {
        Ok(())
    } else {
        Err(not("it holds another key".into()))
    }
}

/// Decrypts what [`Recipients::wrap`] made.
pub fn recover(wrapped: &[u8], identities: &[Identity]) -> Result<RootKey, RecoveryError> {
    let not = |why: String| RecoveryError::NotRecovered(why);
    let text = std::str::from_utf8(wrapped).map_err(|_| not("it is no text".into()))?;
    let file = armor::unwrap(text).ok_or_else(|| not("it has no armor".into()))?;
    let text = age::decrypt(identities, &file).map_err(|error| not(error.to_string()))?;
    RootKey::from_text(&text).map_err(|error| not(error.to_string()))
}

/// The identities in a file: lines that begin with `AGE-SECRET-KEY-1`.
pub fn identities(path: &Path) -> Result<Vec<Identity>, RecoveryError> {
    let failed = |error| RecoveryError::Read { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_IDENTITY_BYTES).read_to_string(&mut text).map_err(failed)?;
    let found: Vec<_> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    if found.is_empty() { Err(RecoveryError::NoIdentity(path.to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_file(folder: &Path, name: &str) -> (PathBuf, String) {
        let identity = Identity::generate().unwrap();
        let path = folder.join(name);
        std::fs::write(&path, format!("# created: today\n{}\n", *identity.to_text())).unwrap();
        (path, identity.to_recipient().to_string())
    }

    #[test]
    fn each_recipient_can_bring_the_root_key_back_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let people = ["ann", "bob"].map(|name| identity_file(folder.path(), name));
        let (stranger, _) = identity_file(folder.path(), "eve");
        let root = RootKey::generate().unwrap();
        let recipients: Vec<String> = people.iter().map(|(_, recipient)| recipient.clone()).collect();
        let recipients = Recipients::parse(&recipients).unwrap().unwrap();
        assert_eq!(recipients.count(), 2);
        let wrapped = folder.path().join("root-key.age");
        let text = recipients.wrap(&root).unwrap();
        assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
        std::fs::write(&wrapped, text).unwrap();
        for (identity, _) in &people {
            prove(&root, &wrapped, identity).unwrap();
        }
        assert!(matches!(prove(&root, &wrapped, &stranger), Err(RecoveryError::NotProven { .. })));
        let other = RootKey::generate().unwrap();
        assert!(matches!(prove(&other, &wrapped, &people[0].0), Err(RecoveryError::NotProven { .. })));
    }

    #[test]
    fn a_recipient_that_is_none_is_named_and_a_secret_is_not() {
        let refused = Recipients::parse(&["age1short".into()]).unwrap_err().to_string();
        assert!(refused.contains("age1short"), "{refused}");
        let secret = Identity::generate().unwrap().to_text();
        let refused = Recipients::parse(&[secret.to_string()]).unwrap_err().to_string();
        assert!(!refused.contains(secret.as_str()) && refused.contains('…'), "{refused}");
        assert!(Recipients::parse(&[]).unwrap().is_none());
    }

    #[test]
    fn a_file_without_an_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        std::fs::write(&path, "# nothing\n").unwrap();
        let refused = prove(&RootKey::generate().unwrap(), &path, &path);
        assert!(matches!(refused, Err(RecoveryError::NoIdentity(_))));
    }
}
