//! What the kernel says of a process, read from `/proc/<pid>/task/<tid>/status`: not what the process says of itself.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};

/// The state of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStatus {
    /// The thread's number.
    pub thread: u32,
    /// The thread's name.
    pub name: String,
    /// Real user.
    pub uid: u32,
    /// Effective capabilities.
    pub effective: u64,
    /// Permitted capabilities.
    pub permitted: u64,
    /// Inheritable capabilities.
    pub inheritable: u64,
    /// Bounding set.
    pub bounding: u64,
    /// Ambient capabilities.
    pub ambient: u64,
    /// Whether it can gain nothing by `exec`.
    pub no_new_privileges: bool,
    /// 0 none, 1 strict, 2 a filter.
    pub seccomp: u32,
    /// Most memory the process ever had resident, in KiB.
    pub peak_resident_kib: u64,
}

impl ProcessStatus {
    /// Every thread of a process.
    pub fn of_threads(pid: u32) -> Result<Vec<ProcessStatus>> {
        let mut threads = Vec::new();
        let listed =
            fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("list threads of {pid}"))?;
        for entry in listed {
            let path = entry.context("list threads")?.path().join("status");
            // A thread may end between the two calls; the main thread never does.
            if let Ok(text) = fs::read_to_string(&path) {
                threads.push(parse(&text).with_context(|| format!("read {}", path.display()))?);
            }
        }
        ensure!(!threads.is_empty(), "the process {pid} is gone");
        threads.sort_by_key(|thread| thread.thread);
        Ok(threads)
    }

    /// The main thread of a process.
    pub fn read(pid: u32) -> Result<ProcessStatus> {
        let path = format!("/proc/{pid}/status");
        parse(&fs::read_to_string(&path).with_context(|| format!("read {path}"))?)
    }

    /// Its capability sets, in the kernel's order: inheritable, permitted, effective, bounding, ambient.
    pub fn capability_sets(&self) -> [u64; 5] {
        [self.inheritable, self.permitted, self.effective, self.bounding, self.ambient]
    }
}

fn parse(text: &str) -> Result<ProcessStatus> {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key, value.trim()))
        .collect();
    let field = |key: &str| fields.get(key).copied().with_context(|| format!("no line {key}"));
    let first = |key: &str| field(key).map(|value| value.split_whitespace().next().unwrap_or_default());
    let bits = |key: &str| u64::from_str_radix(field(key)?, 16).with_context(|| format!("read {key}"));
    let number = |key: &str| first(key)?.parse::<u32>().with_context(|| format!("read {key}"));
    Ok(ProcessStatus {
        thread: number("Pid")?,
        name: field("Name")?.to_owned(),
        uid: number("Uid")?,
        effective: bits("CapEff")?,
        permitted: bits("CapPrm")?,
        inheritable: bits("CapInh")?,
        bounding: bits("CapBnd")?,
        ambient: bits("CapAmb")?,
        no_new_privileges: number("NoNewPrivs")? == 1,
        seccomp: number("Seccomp")?,
        // Absent for a process that is about to end.
        peak_resident_kib: first("VmHWM").ok().and_then(|value| value.parse().ok()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_status_is_read() {
        let own = ProcessStatus::read(std::process::id()).unwrap();
        assert_eq!(own.thread, std::process::id());
        assert!(own.peak_resident_kib > 0);
        let threads = ProcessStatus::of_threads(std::process::id()).unwrap();
        assert!(threads.iter().any(|thread| thread.thread == own.thread));
    }
}
