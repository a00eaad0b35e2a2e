//! One thread's `/proc/PID/task/TID/status`.

use std::collections::BTreeMap;

/// What the kernel says of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// Real, effective, saved and file-system user.
    pub(crate) users: [u32; 4],
    /// The primary group.
    pub(crate) group: u32,
    pub(crate) groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding and ambient.
    pub(crate) capabilities: [u64; 5],
    pub(crate) no_new_privileges: bool,
    /// 0 none, 1 strict, 2 a filter.
    pub(crate) seccomp: u32,
    pub(crate) filters: u32,
}

/// The names of the capability sets, in the order of [`Thread::capabilities`].
pub(crate) const SETS: [&str; 5] = ["inheritable", "permitted", "effective", "bounding", "ambient"];

impl Thread {
    /// Reads the file's text; `None` if it is not what the kernel writes.
    pub(crate) fn parse(text: &str) -> Option<Thread> {
        let fields: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key, value.trim()))
            .collect();
        let number = |key: &str| fields.get(key)?.split_whitespace().next()?.parse::<u32>().ok();
        let list = |key: &str| -> Option<Vec<u32>> {
            fields.get(key)?.split_whitespace().map(|word| word.parse().ok()).collect()
        };
        let bits = |key: &str| u64::from_str_radix(fields.get(key)?, 16).ok();
        Some(Thread {
            id: number("Pid")?,
            name: (*fields.get("Name")?).to_owned(),
            users: list("Uid")?.try_into().ok()?,
            group: number("Gid")?,
            groups: list("Groups")?,
            capabilities: [
                bits("CapInh")?,
                bits("CapPrm")?,
                bits("CapEff")?,
                bits("CapBnd")?,
                bits("CapAmb")?,
            ],
            no_new_privileges: number("NoNewPrivs")? == 1,
            seccomp: number("Seccomp")?,
            // Linux 5.9 has it.
            filters: number("Seccomp_filters").unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_status_is_read() {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let thread = Thread::parse(&text).unwrap();
        assert_eq!(thread.id, std::process::id());
        assert!(Thread::parse("Name:\tx\n").is_none());
    }
}
