//! Writes a rotated key where the configuration has the old one.
//!
//! Invariant: what comes from wgd is 32 bytes of a key and which key it is, never text: whoever takes over the
//! process that sees packets cannot write a line of his own. The file is replaced whole (written aside, synced,
//! renamed, directory synced), so a crash finds the old one or the new one.
use crate::conf;
use crate::sandbox::KEPT_MODE;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use wg_proto::conf::{KeyPlace, KeySource, NEXT_IN_KEY_FILE, NEXT_PRESHARED_KEY, NEXT_PRIVATE_KEY};
use wg_proto::{KeptAs, KeptKey, PresharedKey, PublicKey, SecretKey};
use zeroize::Zeroizing;

/// A key on its way to the file, in base64.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SavedKey {
    /// The interface's own.
    Own {
        /// The key.
        key: KeyText,
        /// Beside the one in force, or in its place.
        place: Place,
        /// A public key that is never to be let in.
        deny: Option<String>,
    },
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
        /// Beside the one in force, or in its place.
        place: Place,
    },
}

/// Where a key goes.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In a comment beside the one in force: whoever starts tries both.
    Next,
    /// In place of the one in force, which is forgotten.
    Current,
}

impl From<KeptAs> for Place {
    fn from(place: KeptAs) -> Self {
        match place {
            KeptAs::Next => Self::Next,
            KeptAs::Current => Self::Current,
        }
    }
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
            Self::Own { .. } => "Own",
            Self::Peer { .. } => "Peer",
            Self::Preshared { .. } => "Preshared",
        })
    }
}

impl From<&KeptKey> for SavedKey {
    fn from(key: &KeptKey) -> Self {
        match key {
            KeptKey::Own { key, place, deny } => Self::Own {
                key: key.reveal_base64().into(),
                place: (*place).into(),
                deny: deny.map(PublicKey::to_base64),
            },
            KeptKey::Peer { old, new, deny } => {
                Self::Peer { old: old.to_base64(), new: new.to_base64(), deny: *deny }
            }
            KeptKey::Preshared { peer, key, place } => Self::Preshared {
                peer: peer.to_base64(),
                key: key.reveal_base64().into(),
                place: (*place).into(),
            },
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
    let Some(files) = plan(path, &text, key).map_err(io::Error::other)? else { return Ok(false) };
    for (target, text) in files {
        replace(&target, &text, rehearsal)?;
    }
    Ok(true)
}

/// Files and what they are to hold, in the order of writing.
type Plan = Vec<(PathBuf, Zeroizing<String>)>;

fn plan(path: &Path, text: &str, key: &SavedKey) -> Result<Option<Plan>, String> {
    let parsed =
        wg_proto::conf::parse(&path.display().to_string(), text).map_err(|error| error.to_string())?;
    let public = |text: &str| PublicKey::from_base64(text).map_err(|error| error.to_string());
    match key {
        SavedKey::Own { key, place, deny } => {
            SecretKey::from_base64(key).map_err(|error| error.to_string())?;
            let denied = deny.as_deref().map(public).transpose()?;
            let elsewhere = match &parsed.private_key {
                KeySource::Elsewhere { place, .. } => Some(place),
                KeySource::Inline(_) => None,
            };
            let edit = Edit { of_peer: None, name: "PrivateKey", value: key, insert: false };
            edit.plan(path, text, elsewhere, (*place, NEXT_PRIVATE_KEY), denied).map(Some)
        }
        SavedKey::Preshared { peer, key, place } => {
            PresharedKey::from_base64(key).map_err(|error| error.to_string())?;
            let peer = public(peer)?;
            let Some(section) = parsed.peers.iter().find(|section| section.public_key == peer) else {
                return Ok(None);
            };
            let elsewhere = match &section.preshared_key {
                Some(KeySource::Elsewhere { place, .. }) => Some(place),
                Some(KeySource::Inline(_)) | None => None,
            };
            let edit = Edit { of_peer: Some(peer), name: "PresharedKey", value: key, insert: true };
            edit.plan(path, text, elsewhere, (*place, NEXT_PRESHARED_KEY), None).map(Some)
        }
        SavedKey::Peer { old, new, deny } => {
            let (old, new) = (public(old)?, public(new)?);
            if parsed.peers.iter().all(|section| section.public_key != old) {
                let known = parsed.peers.iter().any(|section| section.public_key == new);
                return Ok(known.then(|| vec![(path.to_owned(), Zeroizing::new(text.to_owned()))]));
            }
            let value = new.to_base64();
            let edit = Edit { of_peer: Some(old), name: "PublicKey", value: &value, insert: false };
            let mut text = edit.apply(text)?;
            if *deny {
                add_denied(&mut text, old);
            }
            Ok(Some(vec![(path.to_owned(), text)]))
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

/// Behind everything else, in a line of its own, once.
fn add_denied(text: &mut String, key: PublicKey) {
    if !denied(text).contains(&key) {
        let end = if text.ends_with('\n') { "" } else { "\n" };
        text.push_str(&format!("{end}{DENIED} {}\n", key.to_base64()));
    }
}

fn in_own_file(at: &KeyPlace, key: &str, place: Place) -> Result<(PathBuf, Zeroizing<String>), String> {
    match at {
        KeyPlace::File(path) => {
            let path = PathBuf::from(path);
            let text = match place {
                Place::Current => Zeroizing::new(format!("{key}\n")),
                Place::Next => {
                    let present = File::open(&path).and_then(|file| conf::read_text(&file));
                    let present = present.map_err(|error| format!("{}: {error}", path.display()))?;
                    let present = present.lines().next().unwrap_or_default().trim();
                    Zeroizing::new(format!("{present}\n# {NEXT_IN_KEY_FILE} = {key}\n"))
                }
            };
            Ok((path, text))
        }
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
    /// What is to be written: the key in its own file or in this one, beside the present one or in its place.
    fn plan(
        &self,
        path: &Path,
        text: &str,
        elsewhere: Option<&KeyPlace>,
        (place, comment): (Place, &'static str),
        deny: Option<PublicKey>,
    ) -> Result<Plan, String> {
        let mut edited = match (elsewhere, place) {
            (Some(_), _) => Zeroizing::new(text.to_owned()),
            (None, Place::Next) => self.apply_next(text, comment)?,
            (None, Place::Current) => self.without(&self.apply(text)?, comment)?,
        };
        let mut files = Vec::new();
        if let Some(key) = deny {
            add_denied(&mut edited, key);
        }
        if elsewhere.is_none() || deny.is_some() {
            files.push((path.to_owned(), edited));
        }
        if let Some(at) = elsewhere {
            files.push(in_own_file(at, self.value, place)?);
        }
        Ok(files)
    }

    /// The present value stays, and the new one stands in a comment below it.
    fn apply_next(&self, text: &str, comment: &str) -> Result<Zeroizing<String>, String> {
        let text = self.without(text, comment)?;
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let (from, to) = self.section(&lines).ok_or_else(|| format!("{}: no such section", self.name))?;
        let at = (from..to).find(|at| assignment(lines[*at]).is_some_and(|(name, _)| self.is(name)));
        let at =
            at.or(self.insert.then_some(from)).ok_or_else(|| format!("{}: not in the file", self.name))?;
        let mut edited = Zeroizing::new(String::with_capacity(text.len() + 128));
        for (number, line) in lines.iter().enumerate() {
            edited.push_str(line);
            if number == at {
                let end = if line.ends_with('\n') { "" } else { "\n" };
                edited.push_str(&format!("{end}# {comment} = {}\n", self.value));
            }
        }
        Ok(edited)
    }

    /// The text without this comment in its section.
    fn without(&self, text: &str, comment: &str) -> Result<Zeroizing<String>, String> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let (from, to) = self.section(&lines).ok_or_else(|| format!("{}: no such section", self.name))?;
        let is_it = |line: &str| {
            let value = line.trim().strip_prefix('#').and_then(|line| line.split_once('='));
            value.is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case(comment))
        };
        let mut kept = Zeroizing::new(String::with_capacity(text.len()));
        for (number, line) in lines.iter().enumerate() {
            if !((from..to).contains(&number) && is_it(line)) {
                kept.push_str(line);
            }
        }
        Ok(kept)
    }

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
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(before.mode() & KEPT_MODE)))
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

    fn own(key: Zeroizing<String>) -> SavedKey {
        SavedKey::Own { key: key.into(), place: Place::Current, deny: None }
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
        assert_eq!(written(&path, &own(new)), expected);
        let mode = std::fs::metadata(&path).expect("metadata").mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn the_key_of_the_right_peer_is_replaced() {
        let (_directory, path) = file();
        let key = PresharedKey::generate().expect("key").reveal_base64();
        let expected = text().replace(&format!("PresharedKey = {OWN}"), &format!("PresharedKey = {}", *key));
        assert_eq!(
            written(
                &path,
                &SavedKey::Preshared { peer: PEER.into(), key: key.clone().into(), place: Place::Current }
            ),
            expected
        );
        let key = PresharedKey::generate().expect("key").reveal_base64();
        let now = written(
            &path,
            &SavedKey::Preshared { peer: OTHER.into(), key: key.clone().into(), place: Place::Current },
        );
        assert!(now.contains(&format!("[Peer]\nPresharedKey = {}\n# friendly_name = a", *key)), "{now}");
    }

    #[test]
    fn while_a_rotation_lasts_the_file_holds_both_keys() {
        let (_directory, path) = file();
        let new = SecretKey::generate().expect("key");
        let at = |place| SavedKey::Own { key: new.reveal_base64().into(), place, deny: None };
        let beside = written(&path, &at(Place::Next));
        let line = format!("privatekey={OWN} # ours\n# next_private_key = {}\n", *new.reveal_base64());
        assert!(beside.contains(&line), "{beside}");
        assert_eq!(written(&path, &at(Place::Next)), beside, "said twice");
        let parsed = wg_proto::conf::parse("wg0.conf", &beside).expect("a good file");
        assert!(parsed.next_private_key.is_some_and(|key| key.same_as(&new)));
        let over = written(&path, &at(Place::Current));
        assert_eq!(
            over,
            text().replace(OWN, &new.reveal_base64()).replacen("privatekey=", "privatekey= ", 1).replace(
                &format!("PresharedKey = {}", *new.reveal_base64()),
                &format!("PresharedKey = {OWN}")
            )
        );

        // Of peers, the right one; with and without a key before.
        for peer in [PEER, OTHER] {
            let (_directory, path) = file();
            let new = PresharedKey::generate().expect("key");
            let at =
                |place| SavedKey::Preshared { peer: peer.into(), key: new.reveal_base64().into(), place };
            let beside = written(&path, &at(Place::Next));
            let parsed = wg_proto::conf::parse("wg0.conf", &beside).expect("a good file");
            for section in &parsed.peers {
                let is_it = section.public_key.to_base64() == peer;
                assert_eq!(section.next_preshared_key.as_ref().is_some_and(|key| key.same_as(&new)), is_it);
            }
            let over = written(&path, &at(Place::Current));
            assert!(!over.contains("next_preshared_key"), "{over}");
            let parsed = wg_proto::conf::parse("wg0.conf", &over).expect("a good file");
            assert!(parsed.peers.iter().all(|section| section.next_preshared_key.is_none()));
        }
    }

    #[test]
    fn a_key_file_holds_both_keys_while_a_rotation_lasts() {
        let (directory, path) = file();
        let key_file = directory.path().join("own.key");
        std::fs::write(&key_file, format!("{OWN}\n")).expect("write");
        let in_file =
            text().replace(&format!("privatekey={OWN}"), &format!("PrivateKeyFile={}", key_file.display()));
        std::fs::write(&path, &in_file).expect("write");
        let new = SecretKey::generate().expect("key");
        let at = |place| SavedKey::Own { key: new.reveal_base64().into(), place, deny: None };
        assert_eq!(written(&path, &at(Place::Next)), in_file);
        let tunnel = crate::conf::Tunnel::load(&path, false, false).expect("loaded").first_update();
        assert!(tunnel.next_private_key.is_some_and(|key| key.same_as(&new)));
        assert!(matches!(tunnel.private_key, wg_proto::Change::Set(key) if *key.reveal_base64() == *OWN));
        assert_eq!(written(&path, &at(Place::Current)), in_file);
        assert_eq!(std::fs::read_to_string(&key_file).expect("key"), format!("{}\n", *new.reveal_base64()));
    }

    #[test]
    fn the_own_compromised_key_is_denied_by_the_file() {
        let (directory, path) = file();
        let new = SecretKey::generate().expect("key");
        let old = SecretKey::from_base64(OWN).expect("key").public_key();
        let key = SavedKey::Own {
            key: new.reveal_base64().into(),
            place: Place::Current,
            deny: Some(old.to_base64()),
        };
        let now = written(&path, &key);
        assert_eq!(denied(&now), [old]);
        assert_eq!(written(&path, &key), now, "said twice");
        // Where the key is in a file of its own, the entry stands beside what names that.
        let key_file = directory.path().join("own.key");
        std::fs::write(&key_file, OWN).expect("write");
        let named = format!("PrivateKeyFile={}", key_file.display());
        std::fs::write(&path, text().replace(&format!("privatekey={OWN}"), &named)).expect("write");
        assert_eq!(denied(&written(&path, &key)), [old]);
        assert_eq!(std::fs::read_to_string(&key_file).expect("key"), format!("{}\n", *new.reveal_base64()));
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
        assert_eq!(written(&path, &own(new.clone())), in_file);
        assert_eq!(std::fs::read_to_string(&key_file).expect("key"), format!("{}\n", *new));
        std::fs::write(&path, text().replace(&format!("privatekey={OWN}"), "PrivateKeyFile=@own"))
            .expect("write");
        assert!(save(&path, &own(new), true).is_err());
    }

    #[test]
    fn a_rehearsal_changes_nothing_and_what_no_file_holds_is_not_kept() {
        let (directory, path) = file();
        let new = SecretKey::generate().expect("key");
        assert!(save(&path, &own(new.reveal_base64()), true).expect("rehearsed"));
        assert_eq!(std::fs::read_to_string(&path).expect("text"), text());
        assert_eq!(std::fs::read_dir(directory.path()).expect("directory").count(), 1);
        let stranger = new.public_key().to_base64();
        let key = PresharedKey::generate().expect("key").reveal_base64();
        assert!(
            !save(
                &path,
                &SavedKey::Preshared { peer: stranger, key: key.into(), place: Place::Current },
                false
            )
            .expect("saved")
        );
        let nowhere = Path::new("/nonexistent/wg0.conf");
        assert!(!save(nowhere, &own(new.reveal_base64()), false).expect("saved"));
    }
}
