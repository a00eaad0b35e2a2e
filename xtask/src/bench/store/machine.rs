//! What the machine allows: hash, cipher, disk, and the least that makes a small file durable.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use daemon::Clock;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};

use super::super::figures::{Figures, Row};
use super::{LIMIT, Options, float, megabytes, row};

pub(super) const HASH: Row = row("SHA-256 alone, MB/s", 0);
const CIPHER: Row = row("AES-256-GCM alone, 64 KiB at a time, MB/s", 0);
const DISK: Row = row("write and fdatasync alone, MB/s", 0);
const SERIAL: Row = row("64 KiB files: write, fsync, rename, fsync of the directory; 1 thread, files/s", 0);
const EIGHT: Row = row("the same; 8 threads, files/s", 0);

/// What one small file holds.
pub(super) const SMALL_BYTES: usize = 64 << 10;

pub(super) fn measure(folder: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mebibytes = options.file_mebibytes();
    let size = megabytes(mebibytes);
    let mut block = noise(1 << 20);

    let began = Clock.now();
    let mut hash = Sha256::new();
    for _ in 0..mebibytes {
        hash.update(&block);
    }
    std::hint::black_box(hash.finalize());
    figures.add(HASH, LIMIT, size / elapsed(began));

    let began = Clock.now();
    seal(&mut block, mebibytes)?;
    figures.add(CIPHER, LIMIT, size / elapsed(began));

    let path = folder.join("written");
    let began = Clock.now();
    let mut file = File::create(&path).context("make a file")?;
    for _ in 0..mebibytes {
        file.write_all(&block).context("write")?;
    }
    file.sync_data().context("sync")?;
    figures.add(DISK, LIMIT, size / elapsed(began));
    fs::remove_file(&path).context("remove the file")?;

    for (row, threads) in [(SERIAL, 1), (EIGHT, 8)] {
        figures.add(row, LIMIT, small_files(&folder.join("files"), threads, options.seconds())?);
    }
    Ok(())
}

/// Files per second, each durable under its name, by `threads` that share two directories.
pub(super) fn small_files(folder: &Path, threads: u32, seconds: u64) -> Result<f64> {
    for directory in ["tmp", "done"] {
        fs::create_dir_all(folder.join(directory)).context("make a directory")?;
    }
    let bytes = noise(SMALL_BYTES);
    let rate = rate(threads, seconds, |thread| {
        let (bytes, mut number) = (&bytes, 0_u64);
        Ok(move || {
            number += 1;
            let name = format!("{thread}-{number}");
            let temporary = folder.join("tmp").join(&name);
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, folder.join("done").join(&name))?;
            Ok(File::open(folder.join("done"))?.sync_all()?)
        })
    })?;
    set_aside(folder)?;
    Ok(rate)
}

/// Empties what lies below a directory and gives it another name, until the end of the run. Not deleted: ext4 without a
/// journal does not give a deleted file's inode to another for five minutes, and whoever makes files meanwhile looks
/// at each of them first, which took up to a third of a core.
pub(super) fn set_aside(folder: &Path) -> Result<()> {
    fn empty(directory: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                empty(&entry.path())?;
            } else if kind.is_file() {
                File::options().write(true).open(entry.path())?.set_len(0)?;
            }
        }
        Ok(())
    }
    empty(folder).with_context(|| format!("empty {}", folder.display()))?;
    for number in 0.. {
        let aside = folder.with_extension(format!("done-{number}"));
        if !aside.exists() {
            return fs::rename(folder, &aside).with_context(|| format!("rename {}", folder.display()));
        }
    }
    Ok(())
}

/// How often a second `threads` can do what `worker` makes for each, measured for some seconds.
pub(super) fn rate<W>(threads: u32, seconds: u64, worker: impl Fn(u32) -> Result<W> + Sync) -> Result<f64>
where
    W: FnMut() -> Result<()>,
{
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = std::thread::scope(|scope| -> Result<Instant> {
        let (done, stop, worker) = (&done, &stop, &worker);
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || -> Result<()> {
                    let mut work = worker(thread)?;
                    while !stop.load(Ordering::Relaxed) {
                        work()?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let began = Clock.now();
        std::thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        for thread in running {
            thread.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        Ok(began)
    })?;
    // What was under way at the end is counted, and so is its time.
    Ok(float(done.into_inner()) / elapsed(began))
}

fn seal(block: &mut [u8], times: u64) -> Result<()> {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| anyhow!("32 bytes are a key"))?;
    let key = LessSafeKey::new(key);
    let mut number = 0_u64;
    for _ in 0..times {
        for segment in block.chunks_mut(SMALL_BYTES) {
            number += 1;
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&number.to_be_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), segment);
            let tag = tag.map_err(|_| anyhow!("a segment is not too long"))?;
            std::hint::black_box(tag.as_ref());
        }
    }
    Ok(())
}

/// Seconds for a million records of a kilobyte: AES-256-GCM over each, and SHA-256 over what it holds and over the two
/// nodes of the tree that a record adds, in one thread and out of the cache.
pub(super) fn rows_alone() -> Result<f64> {
    const ROWS: u32 = 200_000;
    let mut row = noise(1 << 10);
    let began = Clock.now();
    for number in 0..ROWS {
        row[..4].copy_from_slice(&number.to_be_bytes());
        seal(&mut row, 1)?;
        let leaf = Sha256::digest(&row);
        std::hint::black_box(Sha256::digest([leaf, Sha256::digest(leaf)].concat()));
    }
    Ok(elapsed(began) * 1e6 / f64::from(ROWS))
}

/// Bytes that neither a disk nor a file system can make smaller.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(super) fn elapsed(began: Instant) -> f64 {
    began.elapsed().as_secs_f64().max(1e-9)
}
