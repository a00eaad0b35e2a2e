//! Which upload of the server a file on this machine belongs to, so that a `put` that was killed goes on.
//!
//! Invariant: a note holds the upload's id, which is of no use without its user's token, and is called by a hash of what
//! is sent and where to: neither names nor secrets are on the disk. One process at a time has it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::Clock;
use sha2::{Digest as _, Sha256};
use store_proto::{ContentDigest, FileId};

use crate::limits::NOTE_LIFE;
use crate::target::{RemoteFile, Server};

/// A place for the id of one upload. Without one (no home, another process has it) nothing is noted: the upload then gets
/// over broken connections, and not over the end of its process.
#[derive(Debug)]
pub(super) struct Note(Option<Held>);

#[derive(Debug)]
struct Held {
    /// Locked as long as this process has it.
    file: File,
    path: PathBuf,
}

impl Note {
    /// That of a file, which is the same as long as the file, its time and its place are.
    pub(super) fn of(source: &Path, server: &Server, target: &RemoteFile) -> Note {
        Note(directory().and_then(|directory| Self::open(&directory, source, server, target)))
    }

    fn open(directory: &Path, source: &Path, server: &Server, target: &RemoteFile) -> Option<Held> {
        let source = source.canonicalize().ok()?;
        let metadata = source.metadata().ok()?;
        let mut hash = Sha256::new();
        hash.update(b"culvert upload\0");
        for part in [server.authority.as_bytes(), server.base_path.as_bytes(), target.to_string().as_bytes()]
        {
            hash.update(part);
            hash.update([0]);
        }
        hash.update(source.as_os_str().as_encoded_bytes());
        for number in [metadata.size(), metadata.dev(), metadata.ino()] {
            hash.update(number.to_be_bytes());
        }
        hash.update(metadata.mtime().to_be_bytes());
        hash.update(metadata.mtime_nsec().to_be_bytes());
        fs::create_dir_all(directory).ok()?;
        sweep(directory);
        let path = directory.join(ContentDigest::from_bytes(hash.finalize().into()).to_string());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).ok()?;
        file.try_lock().ok()?;
        Some(Held { file, path })
    }

    /// The upload that was begun, if one was.
    pub(super) fn known(&self) -> Option<FileId> {
        let mut file = &self.0.as_ref()?.file;
        let mut text = String::new();
        file.rewind().ok()?;
        // One character more than an id has: what is longer is none.
        file.take(33).read_to_string(&mut text).ok()?;
        FileId::parse(&text).ok()
    }

    /// Notes it. If that fails, the upload cannot be resumed by another process, and nothing else.
    pub(super) fn keep(&self, id: FileId) {
        let Some(Held { file, .. }) = &self.0 else { return };
        let mut file: &File = file;
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(id.to_string().as_bytes()));
    }

    /// The upload is over.
    pub(super) fn forget(&self) {
        let Some(Held { file, path }) = &self.0 else { return };
        let _ = file.set_len(0);
        let _ = fs::remove_file(path);
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // An upload that never began leaves nothing.
        if self.known().is_none() {
            self.forget();
        }
    }
}

/// `$XDG_STATE_HOME/culvert/uploads`, or below `~/.local/state`.
fn directory() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
    Some(state.join("culvert/uploads"))
}

/// Removes the notes of uploads that no server still keeps.
fn sweep(directory: &Path) {
    let now = Duration::from_millis(Clock.unix_milliseconds());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let written = entry.metadata().ok().and_then(|found| u64::try_from(found.mtime()).ok());
        if written.is_some_and(|at| now.saturating_sub(Duration::from_secs(at)) > NOTE_LIFE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(state: &Path, source: &Path, target: &str) -> Note {
        let server = "http://web1:8000".parse().unwrap();
        Note(Note::open(state, source, &server, &RemoteFile::parse(target).unwrap()))
    }

    #[test]
    fn the_next_process_finds_what_this_one_began() {
        let directory = tempfile::tempdir().unwrap();
        let (state, source) = (directory.path().join("state"), directory.path().join("patient-4711.csv"));
        fs::write(&source, "some").unwrap();
        let id = FileId::parse(&"0a".repeat(16)).unwrap();
        let first = note(&state, &source, "c5/a");
        assert_eq!(first.known(), None);
        first.keep(id);
        assert_eq!(note(&state, &source, "c5/a").known(), None, "another process has it");
        drop(first);
        assert_eq!(note(&state, &source, "c5/a").known(), Some(id));
        assert_eq!(note(&state, &source, "c5/b").known(), None, "to another place");
        for entry in fs::read_dir(&state).unwrap() {
            assert!(!entry.unwrap().path().to_string_lossy().contains("4711"));
        }
        fs::write(&source, "other").unwrap();
        assert_eq!(note(&state, &source, "c5/a").known(), None, "the file is another");
    }

    #[test]
    fn what_is_over_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (state, source) = (directory.path().join("state"), directory.path().join("f"));
        fs::write(&source, "some").unwrap();
        let held = note(&state, &source, "c5/a");
        held.keep(FileId::parse(&"0a".repeat(16)).unwrap());
        held.forget();
        drop(held);
        drop(note(&state, &source, "c5/a"));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    }
}
