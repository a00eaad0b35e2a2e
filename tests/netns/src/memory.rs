//! What a process's memory holds, read as root through `/proc/PID/mem`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use memchr::memmem;

/// Whether `needle` lies anywhere in what can be read. Memory that the kernel gives to nobody (`memfd_secret`) is passed over;
/// it fails if next to nothing could be read.
pub fn memory_holds(pid: u32, needle: &[u8]) -> Result<bool> {
    Ok(found_in_memory(pid, needle)?.is_some())
}

/// The same, and the line of the map that it lies in.
pub fn found_in_memory(pid: u32, needle: &[u8]) -> Result<Option<String>> {
    let memory = File::open(format!("/proc/{pid}/mem")).context("open the memory")?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut read = 0;
    for line in maps.lines() {
        let Some((range, rest)) = line.split_once(' ') else { continue };
        if !rest.starts_with('r') || rest.contains("[v") {
            continue;
        }
        let (from, to) = range.split_once('-').context("a range")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            read += bytes.len();
            if let Some(at) = memmem::find(&bytes, needle) {
                return Ok(Some(format!("{line} + {at:#x}")));
            }
        }
    }
    ensure!(read > 1 << 20, "its memory could not be read");
    Ok(None)
}
