//! A disk as it may be after its machine lost power, made from a log of what was written to it.
//!
//! qemu's `blklogwrites` driver appends every write and every flush to a log, in the format of the kernel's
//! Documentation/admin-guide/device-mapper/log-writes.rst. A disk promises only what was written before the last flush
//! that it answered; of what came later it may hold all, nothing, or any part in any order. Killing qemu shows less: its
//! host keeps what the guest never flushed.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::store::load::Numbers;

/// One entry's flags.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// A disk's log.
#[derive(Debug)]
pub struct WriteLog {
    bytes: Vec<u8>,
    sector: usize,
}

/// One thing that the disk was told.
struct Entry {
    /// Where it ends in the log.
    end: u64,
    flags: u64,
    place: u64,
    data: std::ops::Range<usize>,
}

/// What a made disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Writes before the last flush, all there.
    pub kept: usize,
    /// Writes after it …
    pub unsure: usize,
    /// … of which so many were lost or torn.
    pub lost: usize,
}

impl WriteLog {
    /// Reads a log.
    pub fn read(path: &Path) -> Result<WriteLog> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        ensure!(bytes.len() > 512, "the log of the disk is empty");
        let sector = u32::from_le_bytes(bytes[24..28].try_into().context("a short log")?) as usize;
        ensure!(number(&bytes, 0) != 0 && sector.is_power_of_two() && sector >= 512, "not a log of writes");
        Ok(WriteLog { bytes, sector })
    }

    /// The disk when the log was `cut` bytes long, from the disk that it began with. Of what was not flushed by then,
    /// `numbers` decides what is there.
    pub fn replay(&self, base: &Path, to: &Path, cut: u64, numbers: &mut Numbers) -> Result<Made> {
        fs::copy(base, to).context("copy the disk")?;
        let mut disk = File::options().write(true).open(to).context("open the disk")?;
        let entries: Vec<Entry> = self.entries().take_while(|entry| entry.end <= cut).collect();
        let flushed = entries.iter().rposition(|entry| entry.flags & (FLUSH | FUA) != 0);
        let mut made = Made { kept: 0, unsure: 0, lost: 0 };
        for (index, entry) in entries.iter().enumerate() {
            let data = &self.bytes[entry.data.clone()];
            if data.is_empty() {
                continue;
            }
            // FUA makes its own bytes sure, and is taken here for no more than that.
            let sure = flushed.is_some_and(|flush| index < flush) || entry.flags & FUA != 0;
            let sectors = data.len() / self.sector;
            let there = if sure {
                made.kept += 1;
                sectors
            } else {
                made.unsure += 1;
                match numbers.below(3) {
                    0 => sectors,
                    1 => 0,
                    _ => usize::try_from(numbers.below(sectors as u64 + 1))?,
                }
            };
            made.lost += usize::from(there < sectors);
            disk.seek(SeekFrom::Start(entry.place)).context("seek")?;
            disk.write_all(&data[..there * self.sector]).context("write to the disk")?;
        }
        Ok(made)
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let mut at = self.sector;
        std::iter::from_fn(move || {
            // Each entry takes a sector, its data the sectors after it.
            let head = self.bytes.get(at..at + 32)?;
            let (place, sectors, flags) = (number(head, 0), number(head, 8), number(head, 16));
            // What was under way at the end has not been written.
            if sectors == 0 && flags == 0 {
                return None;
            }
            let length = if flags & DISCARD != 0 { 0 } else { usize::try_from(sectors).ok()? * self.sector };
            let data = at + self.sector..at + self.sector + length;
            if data.end > self.bytes.len() {
                return None;
            }
            at = data.end;
            Some(Entry { end: at as u64, flags, place: place * self.sector as u64, data })
        })
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}
