//! What this machine allows: the same bytes hashed, and written and synced, with nothing else.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use daemon::Clock;
use sha2::{Digest, Sha256};

use crate::bench::figures::{Figures, Row};

const HASH: Row = Row { name: "limit: SHA-256 alone, MB/s", digits: 0 };
const DISK: Row = Row { name: "limit: write and fdatasync alone, MB/s", digits: 0 };

pub(super) fn measure(file: &Path, contender: &str, figures: &mut Figures) -> Result<()> {
    let size = megabytes(fs::metadata(file)?.len());
    figures.add(HASH, contender, size / hash_seconds(file)?);
    let copy = file.with_extension("limit");
    figures.add(DISK, contender, size / disk_seconds(file, &copy)?);
    fs::remove_file(&copy)?;
    Ok(())
}

fn hash_seconds(file: &Path) -> Result<f64> {
    let began = Clock.now();
    let mut hash = Sha256::new();
    each_buffer(file, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    std::hint::black_box(hash.finalize());
    Ok(elapsed(began))
}

fn disk_seconds(file: &Path, copy: &Path) -> Result<f64> {
    let began = Clock.now();
    let mut out = File::create(copy)?;
    each_buffer(file, |bytes| Ok(out.write_all(bytes)?))?;
    out.sync_data()?;
    Ok(elapsed(began))
}

fn each_buffer(file: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        take(&buffer[..length])?;
    }
}

pub(super) fn elapsed(began: Instant) -> f64 {
    began.elapsed().as_secs_f64().max(1e-9)
}

#[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
