//! Many files with one command: several at once, one progress for all, and a failure of one that stops no other.
//!
//! Invariant: the command succeeds only if every file did, and each that did not is named.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;

use super::progress::Progress;
use crate::console::{Console, printable};
use crate::failure::{Exit, Failure};
use crate::http_client::Moved;
use crate::limits::{FOLDER_FILES, WATCH_EVERY};

/// A piece of work: what it is called, and how many bytes it will move.
pub(super) struct Job<T> {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) what: T,
}

/// Does all of them, `parallel` at a time, and tells of each when it is done.
pub(super) async fn each<T, R, F: Future<Output = Result<R, Failure>>>(
    label: String,
    jobs: Vec<Job<T>>,
    parallel: usize,
    console: Console,
    work: impl Fn(T, Moved) -> F,
    mut tell: impl FnMut(R) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (files, total) = (jobs.len(), jobs.iter().map(|job| job.bytes).sum());
    let mut progress = Progress::start(label, Some(total), console.progress_style());
    let ended = AtomicU64::new(0);
    // What is under way is counted as it moves; what has ended, as long as it was announced.
    let moving: std::cell::RefCell<Vec<Moved>> = std::cell::RefCell::default();
    let done = || {
        let moving: u64 = moving.borrow().iter().map(|moved| moved.load(Ordering::Relaxed)).sum();
        ended.load(Ordering::Relaxed) + moving
    };
    let running = jobs.into_iter().map(|job| {
        let (work, moving, ended) = (&work, &moving, &ended);
        async move {
            let moved = Moved::default();
            moving.borrow_mut().push(moved.clone());
            let outcome = work(job.what, moved.clone()).await;
            moving.borrow_mut().retain(|other| !std::sync::Arc::ptr_eq(other, &moved));
            ended.fetch_add(job.bytes, Ordering::Relaxed);
            (job.name, outcome)
        }
    });
    let mut running = futures_util::stream::iter(running).buffer_unordered(parallel);
    let mut interval = tokio::time::interval(WATCH_EVERY);
    let mut failed: Vec<(Exit, String)> = Vec::new();
    loop {
        tokio::select! {
            next = running.next() => match next {
                None => break,
                Some((_, Ok(result))) => tell(result)?,
                Some((name, Err(failure))) => {
                    let line = format!("{}: {}", printable(&name), failure.message());
                    console.complain(&line);
                    failed.push((failure.exit(), line));
                }
            },
            _ = interval.tick() => progress.set(done()),
        }
    }
    progress.finish(done());
    conclude(files, failed)
}

/// One failure for all: what has to be done about the gravest counts.
fn conclude(files: usize, failed: Vec<(Exit, String)>) -> Result<(), Failure> {
    let Some((_, first)) = failed.first() else { return Ok(()) };
    let has = |exit| failed.iter().any(|(one, _)| *one == exit);
    let text = format!("{} of {files} files failed, the first: {first}", failed.len());
    Err(if has(Exit::Failed) || has(Exit::Usage) {
        Failure::failed(text)
    } else if has(Exit::Refused) {
        Failure::refused(text)
    } else {
        Failure::cannot_tell(text)
    })
}

/// A regular file below a directory, with its path below it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// Parted by slashes.
    pub(super) below: String,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// Every regular file below `directory`, sorted. Links are not followed: what lies elsewhere was not named.
pub(super) fn files_below(directory: &Path, console: Console) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    let mut folders = vec![(directory.to_owned(), String::new())];
    while let Some((folder, below)) = folders.pop() {
        let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", folder.display()));
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let name = entry.file_name().into_string().map_err(|_| {
                Failure::usage(format!("{}: its name is not UTF-8; a store's names are", path.display()))
            })?;
            let below = if below.is_empty() { name } else { format!("{below}/{name}") };
            let metadata = entry.metadata().map_err(failed)?;
            if metadata.is_dir() {
                folders.push((path, below));
            } else if metadata.is_file() {
                found.push(Found { below, path, bytes: metadata.len() });
            } else {
                console.warn(&format!(
                    "{}: passed over, it is no regular file",
                    printable(&path.to_string_lossy())
                ));
            }
            if found.len() + folders.len() > FOLDER_FILES {
                return Err(Failure::usage(format!(
                    "{}: has more than {FOLDER_FILES} entries; send it in parts",
                    directory.display()
                )));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_listed_without_what_links_lead_to() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("b/c")).unwrap();
        fs::write(at("b/c/x"), "1").unwrap();
        fs::write(at("a"), "22").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        std::os::unix::fs::symlink("/etc", at("b/folder")).unwrap();
        let found = files_below(directory.path(), Console::new(false, true)).unwrap();
        let seen: Vec<_> = found.iter().map(|one| (one.below.as_str(), one.bytes)).collect();
        assert_eq!(seen, [("a", 2), ("b/c/x", 1)]);
    }

    #[test]
    fn the_gravest_failure_decides_the_exit_code() {
        let of = |exits: &[Exit]| {
            let failed = exits.iter().map(|exit| (*exit, "f: x".to_owned())).collect();
            conclude(9, failed).unwrap_err().exit()
        };
        assert_eq!(of(&[Exit::CannotTell, Exit::Failed]), Exit::Failed);
        assert_eq!(of(&[Exit::CannotTell, Exit::Refused]), Exit::Refused);
        assert_eq!(of(&[Exit::CannotTell]), Exit::CannotTell);
        assert!(conclude(9, Vec::new()).is_ok());
    }
}
