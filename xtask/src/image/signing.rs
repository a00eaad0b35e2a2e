//! Updates: who signs them, and the one file that holds one.
//!
//! Invariant: a secret key is written to a new file of mode 0600, and nothing but that file ever shows it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use appliance::bundle::unhex;
use appliance::{Manifest, Part, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use receipt::{LogKey, LogSigner};
use sha2::{Digest as _, Sha256};

/// What is asked for.
#[derive(Debug, Args)]
pub(crate) struct KeyOptions {
    /// Who signs, such as example.org/culvert: part of the key
    name: String,
    /// A new file for the secret half; the public half goes to FILE.vkey
    file: PathBuf,
}

impl KeyOptions {
    pub(crate) fn new(name: &str, file: &Path) -> KeyOptions {
        KeyOptions { name: name.to_owned(), file: file.to_path_buf() }
    }
}

/// As Go's `note` writes a secret key: `PRIVATE+KEY+NAME+ID+BASE64`, the last of kind and seed.
const SECRET: &str = "PRIVATE+KEY+";
const ED25519: u8 = 1;

/// Makes a pair of keys.
pub(crate) fn make_key(options: &KeyOptions) -> Result<()> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut from| from.read_exact(&mut seed))
        .context("read /dev/urandom")?;
    let signer = LogSigner::from_seed(&options.name, &seed)?;
    let public = signer.log_key();
    let secret = STANDARD.encode([&[ED25519][..], &seed].concat());
    let mut file = OpenOptions::new();
    let mut file = file
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&options.file)
        .with_context(|| format!("make {}: a key is never overwritten", options.file.display()))?;
    writeln!(file, "{SECRET}{}+{}+{secret}", options.name, public.id())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write {}", options.file.display()))?;
    let verifier = PathBuf::from(format!("{}.vkey", options.file.display()));
    fs::write(&verifier, format!("{public}\n")).with_context(|| format!("write {}", verifier.display()))?;
    println!(
        "{public}\n\n{}: secret, away from the build; {}: for `cargo xtask image --update-key`",
        options.file.display(),
        verifier.display()
    );
    Ok(())
}

/// A secret key's file.
pub(super) fn signer(path: &Path) -> Result<LogSigner> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(text.trim())
        .with_context(|| format!("{}: no secret key as `cargo xtask update-key` makes it", path.display()))
}

fn parse(text: &str) -> Result<LogSigner> {
    let mut fields = text.strip_prefix(SECRET).context("it begins with something else")?.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
        bail!("it has too few fields");
    };
    let key = STANDARD.decode(key).context("its last field")?;
    let Some((&ED25519, seed)) = key.split_first() else { bail!("it is of another kind") };
    let seed: [u8; 32] = seed.try_into().context("its length")?;
    let signer = LogSigner::from_seed(name, &seed)?;
    ensure!(signer.log_key().id().to_string() == id, "its id belongs to another name or key");
    Ok(signer)
}

/// A public key's file, for an image.
pub(super) fn verifier(path: &Path) -> Result<LogKey> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    LogKey::parse(text.trim()).with_context(|| path.display().to_string())
}

/// Makes `update.bundle` of `root.img` and `boot` in `into`.
pub(crate) fn bundle(
    into: &Path,
    flavour: &str,
    version: Version,
    boot: &Path,
    key: &Path,
) -> Result<PathBuf> {
    let root = into.join("root.img");
    let hash = fs::read_to_string(into.join("roothash")).context("read the root hash")?;
    let manifest = Manifest {
        flavour: flavour.to_owned(),
        version,
        root_hash: unhex(hash.trim()).context("the root hash")?,
        root: part(&root)?,
        boot: part(boot)?,
    };
    let to = boot.with_file_name("update.bundle");
    let mut file = File::create(&to).with_context(|| format!("make {}", to.display()))?;
    file.write_all(manifest.sign(&signer(key)?)?.as_bytes()).context("write the bundle")?;
    for from in [root.as_path(), boot] {
        let mut from = File::open(from).with_context(|| format!("open {}", from.display()))?;
        io::copy(&mut from, &mut file).context("write the bundle")?;
    }
    file.sync_all().context("write the bundle")?;
    Ok(to)
}

fn part(path: &Path) -> Result<Part> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).with_context(|| format!("read {}", path.display()))?;
        if read == 0 {
            return Ok(Part { bytes, sha256: hash.finalize().into() });
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_signs_what_its_public_half_verifies() {
        let place = tempfile::tempdir().unwrap();
        let options = KeyOptions::new("example.org/culvert", &place.path().join("key"));
        make_key(&options).unwrap();
        assert!(make_key(&options).is_err());
        let mode = fs::metadata(&options.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for (name, content) in [("root.img", vec![1; 8192]), ("boot.efi", vec![2; 5])] {
            fs::write(place.path().join(name), content).unwrap();
        }
        fs::write(place.path().join("roothash"), "ab".repeat(32) + "\n").unwrap();
        let version = "0.1.0-2".parse().unwrap();
        let made =
            bundle(place.path(), "sealed", version, &place.path().join("boot.efi"), &options.file).unwrap();
        let bytes = fs::read(made).unwrap();
        let mut from = bytes.as_slice();
        let key = verifier(&place.path().join("key.vkey")).unwrap();
        let manifest = Manifest::read(&mut from, &key).unwrap();
        assert_eq!((manifest.version, manifest.root.bytes, manifest.boot.bytes), (version, 8192, 5));
        assert_eq!(from, [vec![1; 8192], vec![2; 5]].concat());
        assert_eq!(manifest.boot.sha256, <[u8; 32]>::from(Sha256::digest([2; 5])));
    }

    #[test]
    fn a_secret_key_is_that_of_another_implementation() {
        // From the documentation of Go's `golang.org/x/mod/sumdb/note`.
        let text = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
        let signer = parse(text).unwrap();
        assert_eq!(
            signer.log_key().to_string(),
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
        );
        assert!(parse(&text.replace("c74f20a3", "c74f20a4")).is_err());
        assert!(parse(&text.replace("PRIVATE", "")).is_err());
    }
}
