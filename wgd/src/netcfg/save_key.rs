//! Writes a rotated key where the configuration has the old one.
//!
//! Invariant: what comes from wgd is 32 bytes of a key and which key it is, never text: whoever takes over the
//! process that sees packets cannot write a line of his own. The file is replaced whole (written aside, synced,
//! renamed, directory synced), so a crash finds the old one or the new one.
use crate::conf;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use wg_proto::conf::{KeyPlace, KeySource};
use wg_proto::{KeptKey, PresharedKey, PublicKey, SecretKey};
use zeroize::Zeroizing;

/// A key on its way to the file, in base64.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SavedKey {
    /// The interface's own.
    Own(KeyText),
    /// A peer's public key.
    Peer {
        /// Under which it stands there.
        old: String,
        /// What is to stand there.
        new: String,
        /// Never to be let in again.
        deny: bool,
    },
    /// The key that is shared with a peer.
    Preshared {
        /// Whose.
        peer: String,
        /// The key.
        key: KeyText,
    },
}

/// A secret in base64, wiped when it is dropped.
#[derive(Serialize, Deserialize, Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
#[serde(transparent)]
pub struct KeyText(String);

impl From<Zeroizing<String>> for KeyText {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text.to_string())
    }
}

impl std::ops::Deref for KeyText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SavedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "Own",
            Self::Peer { .. } => "Peer",
            Self::Preshared { .. } => "Preshared",
        })
    }
}

impl From<&KeptKey> for SavedKey {
    fn from(key: &KeptKey) -> Self {
        match key {
            KeptKey::Own(secret) => Self::Own(secret.reveal_base64().into()),
            KeptKey::Peer { old, new, deny } => {
                Self::Peer { old: old.to_base64(), new: new.to_base64(), deny: *deny }
            }
            KeptKey::Preshared { peer, key } => {
                Self::Preshared { peer: peer.to_base64(), key: key.reveal_base64().into() }
            }
        }
    }
}

/// Writes the key, or finds out whether that would be possible. `false`: no file says anything about it.
pub(super) fn save(path: &Path, key: &SavedKey, rehearsal: bool) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let text = conf::read_text(&file)?;
    let Some((target, text)) = plan(path, &text, key).map_err(io::Error::other)? else { return Ok(false) };
    replace(&target, &text, rehearsal)?;
    Ok(true)
}

/// Which file is to hold which text.
fn plan(path: &Path, text: &str, key: &SavedKey) -> Result<Option<(PathBuf, Zeroizing<String>)>, String> {
    let parsed =
        wg_proto::conf::parse(&path.display().to_string(), text).map_err(|error| error.to_string())?;
    let public = |text: &str| PublicKey::from_base64(text).map_err(|error| error.to_string());
    match key {
        SavedKey::Own(secret) => {
            SecretKey::from_base64(secret).map_err(|error| error.to_string())?;
            if let KeySource::Elsewhere { place, .. } = &parsed.private_key {
                return in_own_file(place, secret).map(Some);
            }
            let edit = Edit { of_peer: None, name: "PrivateKey", value: secret, insert: false };
            Ok(Some((path.to_owned(), edit.apply(text)?)))
        }
        SavedKey::Preshared { peer, key } => {
            PresharedKey::from_base64(key).map_err(|error| error.to_string())?;
            let peer = public(peer)?;
            let Some(section) = parsed.peers.iter().find(|section| section.public_key == peer) else {
                return Ok(None);
            };
            if let Some(KeySource::Elsewhere { place, .. }) = &section.preshared_key {
                return in_own_file(place, key).map(Some);
            }
            let edit = Edit { of_peer: Some(peer), name: "PresharedKey", value: key, insert: true };
            Ok(Some((path.to_owned(), edit.apply(text)?)))
        }
        SavedKey::Peer { old, new, deny } => {
            let (old, new) = (public(old)?, public(new)?);
            if parsed.peers.iter().all(|section| section.public_key != old) {
                let known = parsed.peers.iter().any(|section| section.public_key == new);
                return Ok(known.then(|| (path.to_owned(), Zeroizing::new(text.to_owned()))));
            }
            let value = new.to_base64();
            let edit = Edit { of_peer: Some(old), name: "PublicKey", value: &value, insert: false };
            let mut text = edit.apply(text)?;
            if *deny {
                text.push_str(&format!("{DENIED} {}\n", old.to_base64()));
            }
            Ok(Some((path.to_owned(), text)))
        }
    }
}

/// A comment that keeps a compromised key out.
pub(crate) const DENIED: &str = "# denied_key =";

/// The keys that the file's comments keep out.
pub(crate) fn denied(text: &str) -> Vec<PublicKey> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix(DENIED));
    lines.filter_map(|key| PublicKey::from_base64(key.trim()).ok()).collect()
}

fn in_own_file(place: &KeyPlace, key: &str) -> Result<(PathBuf, Zeroizing<String>), String> {
    match place {
        KeyPlace::File(path) => Ok((PathBuf::from(path), Zeroizing::new(format!("{key}\n")))),
        KeyPlace::Credential(name) => {
            Err(format!("the key is the credential {name}, which only the service manager can replace"))
        }
    }
}

/// One value in one section, everything else as it is.
struct Edit<'a> {
    /// `None`: the interface's section.
    of_peer: Option<PublicKey>,
    name: &'static str,
    value: &'a str,
    /// Where there is none yet, it goes below the section's header.
    insert: bool,
}

impl Edit<'_> {
    fn apply(&self, text: &str) -> Result<Zeroizing<String>, String> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let (from, to) = self.section(&lines).ok_or_else(|| format!("{}: no such section", self.name))?;
        let mut edited = Zeroizing::new(String::with_capacity(text.len() + 128));
        let at = (from..to).find(|at| assignment(lines[*at]).is_some_and(|(name, _)| self.is(name)));
        for (number, line) in lines.iter().enumerate() {
            match at {
                Some(at) if at == number => edited.push_str(&self.replaced(line)),
                _ => edited.push_str(line),
            }
            if at.is_none() && self.insert && number == from {
                edited.push_str(&format!("{} = {}\n", self.name, self.value));
            }
        }
        if at.is_none() && !self.insert {
            return Err(format!("{}: not in the file", self.name));
        }
        Ok(edited)
    }

    fn is(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.name)
    }

    /// The line up to its equals sign, the new value, and the comment that followed the old one.
    fn replaced(&self, line: &str) -> Zeroizing<String> {
        let (before, after) = line.split_once('=').unwrap_or((line, ""));
        let end = if line.ends_with("\r\n") {
            "\r\n"
        } else if line.ends_with('\n') {
            "\n"
        } else {
            ""
        };
        let comment = after.find('#').map(|at| format!(" {}", after[at..].trim_end())).unwrap_or_default();
        Zeroizing::new(format!("{before}= {}{comment}{end}", self.value))
    }

    /// The header's line and the one behind the section.
    fn section(&self, lines: &[&str]) -> Option<(usize, usize)> {
        let headers: Vec<usize> =
            (0..lines.len()).filter(|at| lines[*at].trim_start().starts_with('[')).collect();
        headers.iter().enumerate().find_map(|(number, from)| {
            let to = headers.get(number + 1).copied().unwrap_or(lines.len());
            let header = lines[*from].split('#').next().unwrap_or_default().trim().to_ascii_lowercase();
            let is_it = match self.of_peer {
                None => header == "[interface]",
                Some(peer) => {
                    let is_its_key = |line: &&str| {
                        assignment(line).is_some_and(|(name, value)| {
                            name.eq_ignore_ascii_case("PublicKey") && value == peer.to_base64()
                        })
                    };
                    header == "[peer]" && lines[*from..to].iter().any(is_its_key)
                }
            };
            is_it.then_some((*from, to))
        })
    }
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split('#').next()?.split_once('=')?;
    Some((name.trim(), value.trim()))
}

/// Aside, synced, renamed, directory synced. A rehearsal stops before it renames.
fn replace(path: &Path, text: &str, rehearsal: bool) -> io::Result<()> {
    let before = File::open(path)?.metadata()?;
    if before.uid() != nix::unistd::geteuid().as_raw() {
        let what = format!("{} belongs to another user, and would be taken from him", path.display());
        return Err(io::Error::other(what));
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let aside = path.with_file_name(format!(".{}.rotating", name.to_string_lossy()));
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(before.mode() & 0o7777)))
        .and_then(|()| file.sync_all());
    if rehearsal || written.is_err() {
        std::fs::remove_file(&aside)?;
        return written;
    }
    std::fs::rename(&aside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

    fn text() -> String {
        format!(
            "# the tunnel\n[Interface]\nprivatekey={OWN} # ours\nListenPort = 1\n\n\
             [Peer]\n# friendly_name = a\nPublicKey = {OTHER}\nAllowedIPs = 10.0.0.3/32\n\
             [Peer]\n# friendly_name = b\nPublicKey = {PEER}\nPresharedKey = {OWN}\nAllowedIPs = 10.0.0.2/32\n"
        )
    }

    fn written(path: &Path, key: &SavedKey) -> String {
        assert!(save(path, key, false).expect("saved"));
        std::fs::read_to_string(path).expect("text")
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("wg0.conf");
        std::fs::write(&path, text()).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        (directory, path)
    }

    #[test]
    fn one_value_changes_and_everything_else_stays() {
        let (_directory, path) = file();
        let new = SecretKey::generate().expect("key").reveal_base64();
        let expected =
            text().replace(&format!("privatekey={OWN} # ours"), &format!("privatekey= {} # ours", *new));
        assert_eq!(written(&path, &SavedKey::Own(new.into())), expected);
        let mode = std::fs::metadata(&path).expect("metadata").mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn the_key_of_the_right_peer_is_replaced() {
        let (_directory, path) = file();
        let key = PresharedKey::generate().expect("key").reveal_base64();
        let expected = text().replace(&format!("PresharedKey = {OWN}"), &format!("PresharedKey = {}", *key));
        assert_eq!(
            written(&path, &SavedKey::Preshared { peer: PEER.into(), key: key.clone().into() }),
            expected
        );
        let key = PresharedKey::generate().expect("key").reveal_base64();
        let now = written(&path, &SavedKey::Preshared { peer: OTHER.into(), key: key.clone().into() });
        assert!(now.contains(&format!("[Peer]\nPresharedKey = {}\n# friendly_name = a", *key)), "{now}");
    }

    #[test]
    fn a_compromised_key_is_denied_by_the_file() {
        let (_directory, path) = file();
        let new = SecretKey::generate().expect("key").public_key().to_base64();
        let now = written(&path, &SavedKey::Peer { old: PEER.into(), new: new.clone(), deny: true });
        assert!(now.contains(&format!("PublicKey = {new}\nPresharedKey")), "{now}");
        assert_eq!(denied(&now), [PublicKey::from_base64(PEER).expect("key")]);
        // Said once more after an answer was lost.
        let again = written(&path, &SavedKey::Peer { old: PEER.into(), new, deny: true });
        assert_eq!(again, now);
    }

    #[test]
    fn a_key_file_is_replaced_and_a_credential_is_not() {
        let (directory, path) = file();
        let key_file = directory.path().join("own.key");
        std::fs::write(&key_file, OWN).expect("write");
        let in_file =
            text().replace(&format!("privatekey={OWN}"), &format!("PrivateKeyFile={}", key_file.display()));
        std::fs::write(&path, &in_file).expect("write");
        let new = SecretKey::generate().expect("key").reveal_base64();
        assert_eq!(written(&path, &SavedKey::Own(new.clone().into())), in_file);
        assert_eq!(std::fs::read_to_string(&key_file).expect("key"), format!("{}\n", *new));
        std::fs::write(&path, text().replace(&format!("privatekey={OWN}"), "PrivateKeyFile=@own"))
            .expect("write");
        assert!(save(&path, &SavedKey::Own(new.into()), true).is_err());
    }

    #[test]
    fn a_rehearsal_changes_nothing_and_what_no_file_holds_is_not_kept() {
        let (directory, path) = file();
        let new = SecretKey::generate().expect("key");
        assert!(save(&path, &SavedKey::Own(new.reveal_base64().into()), true).expect("rehearsed"));
        assert_eq!(std::fs::read_to_string(&path).expect("text"), text());
        assert_eq!(std::fs::read_dir(directory.path()).expect("directory").count(), 1);
        let stranger = new.public_key().to_base64();
        let key = PresharedKey::generate().expect("key").reveal_base64();
        assert!(
            !save(&path, &SavedKey::Preshared { peer: stranger, key: key.into() }, false).expect("saved")
        );
        let nowhere = Path::new("/nonexistent/wg0.conf");
        assert!(!save(nowhere, &SavedKey::Own(new.reveal_base64().into()), false).expect("saved"));
    }
}
