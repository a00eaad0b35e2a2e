//! The epoch key in its file beside `keys.redb`, which is never copied with it.
//!
//! **Invariant:** an epoch's file is durable before `keys.redb` names the epoch, and it is overwritten and
//! removed only when `keys.redb` durably names another: whoever holds an older copy of `keys.redb`, and even
//! the root key, then opens nothing with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use vault::Key256;
use vault::wrap::{self, WRAPPED_BYTES, WrappedKey};

use super::tables::epoch_key_aad;
use super::{KeysError, OpenKeysError};
use crate::ledger::StoreId;

const MAGIC: &[u8; 8] = b"CULVEPO1";
const BYTES: usize = 16 + WRAPPED_BYTES;
const PREFIX: &str = "keys.epoch-";

/// The file of an epoch in the state directory.
pub fn path(directory: &Path, epoch: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{epoch}"))
}

/// Writes an epoch's file, durable with its name. What a crash left of the same epoch is replaced.
pub(super) fn write(
    directory: &Path,
    store: StoreId,
    epoch: u64,
    root: &Key256,
    key: &Key256,
) -> Result<(), KeysError> {
    let wrapped = wrap::wrap(root, &epoch_key_aad(store, epoch), key)?;
    let bytes = [MAGIC.as_slice(), &epoch.to_be_bytes(), wrapped.as_bytes()].concat();
    let path = path(directory, epoch);
    erase(&path)?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = made.and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    written.map_err(failed("write", &path))?;
    sync(directory)
}

/// Reads an epoch's key.
pub(super) fn read(
    directory: &Path,
    store: StoreId,
    epoch: u64,
    root: &Key256,
) -> Result<Key256, OpenKeysError> {
    let path = path(directory, epoch);
    let keys = |error| OpenKeysError::Keys { path: path.clone(), error };
    let damaged = |what: &str| keys(KeysError::Corrupt(what.to_owned()));
    let mut bytes = Vec::with_capacity(BYTES + 1);
    let read = File::open(&path).and_then(|file| file.take(BYTES as u64 + 1).read_to_end(&mut bytes));
    read.map_err(failed("read", &path)).map_err(keys)?;
    let Some((head, wrapped)) = bytes.split_first_chunk::<16>().filter(|_| bytes.len() == BYTES) else {
        return Err(damaged("not the length of an epoch's file"));
    };
    if head[..8] != *MAGIC || head[8..] != epoch.to_be_bytes() {
        return Err(damaged("not the file of this epoch"));
    }
    let wrapped = WrappedKey::try_from(wrapped).map_err(|error| damaged(&error.to_string()))?;
    wrap::unwrap(root, &epoch_key_aad(store, epoch), &wrapped)
        .map_err(|_| OpenKeysError::RootKey(path.clone()))
}

/// Erases the files of all epochs but this one: what a crash left behind.
pub(super) fn erase_others(directory: &Path, epoch: u64) -> Result<(), KeysError> {
    let keep = path(directory, epoch);
    let entries = std::fs::read_dir(directory).map_err(failed("list", directory))?;
    for entry in entries {
        let entry = entry.map_err(failed("list", directory))?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) && entry.path() != keep {
            erase(&entry.path())?;
        }
    }
    sync(directory)
}

/// Overwrites a file with zeroes, durably, and removes it. Nothing to do if it is not there.
pub(super) fn erase(path: &Path) -> Result<(), KeysError> {
    match OpenOptions::new().write(true).open(path) {
        Ok(mut file) => overwrite(&mut file).map_err(failed("erase", path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("erase", path)(error)),
    }
    // By the calls that the seal allows.
    unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir).map_err(|error| failed("remove", path)(error.into()))
}

/// Gives a file another's name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), KeysError> {
    renameat(AT_FDCWD, from, AT_FDCWD, to).map_err(|error| failed("rename", from)(error.into()))
}

/// Opens a file that will lose its name, to overwrite it then.
pub(super) fn open_to_erase(path: &Path) -> Result<File, KeysError> {
    OpenOptions::new().write(true).open(path).map_err(failed("open", path))
}

/// Writes zeroes over all of a file, durably.
pub(super) fn overwrite(file: &mut File) -> io::Result<()> {
    static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut left = file.metadata()?.len();
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROES.len());
        file.write_all(&ZEROES[..now])?;
        left -= now as u64;
    }
    file.sync_all()
}

/// Makes the names in a directory durable.
pub(super) fn sync(directory: &Path) -> Result<(), KeysError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", directory))
}

pub(super) fn failed<'a>(
    step: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> KeysError + use<'a> {
    move |error| KeysError::File { step, path: path.to_owned(), error }
}
