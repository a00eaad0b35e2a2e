//! The daemons' lock-down as the kernel tells it, thread by thread.

use anyhow::Result;
use culvert_netns::culvert::Culvert;
use culvert_netns::process_status::ProcessStatus;

use super::evidence::Evidence;

/// `CAP_NET_ADMIN`, include/uapi/linux/capability.h.
const NET_ADMIN: u64 = 1 << 12;

/// Prints a line a process and judges every thread.
pub(crate) fn show(culvert: &Culvert<'_>, evidence: &mut Evidence) -> Result<()> {
    println!("\n## Lock-down, from /proc/PID/task/*/status\n");
    println!(
        "  {:<24} {:>7}  {:>6}  {:<16}  no_new_privs  seccomp",
        "process", "threads", "user", "capabilities"
    );
    for daemon in culvert.daemons() {
        judge(daemon.label(), &daemon.threads()?, 0, evidence);
        for (pid, name) in daemon.children()? {
            let host = daemon.label().split_once('@').map_or("", |(_, host)| host);
            judge(&format!("{name}@{host}"), &ProcessStatus::of_threads(pid)?, NET_ADMIN, evidence);
        }
    }
    Ok(())
}

/// All capability sets of all threads must be `kept` or empty, every thread under a filter.
fn judge(label: &str, threads: &[ProcessStatus], kept: u64, evidence: &mut Evidence) {
    let all =
        threads.iter().fold(0, |all, thread| thread.capability_sets().iter().fold(all, |all, set| all | set));
    let sealed = threads.iter().all(|thread| thread.seccomp == 2 && thread.no_new_privileges);
    let user = threads.first().map_or(0, |thread| thread.uid);
    println!(
        "  {label:<24} {:>7}  {user:>6}  {all:016x}  {:<12}  {}",
        threads.len(),
        if threads.iter().all(|thread| thread.no_new_privileges) { "1" } else { "missing" },
        if threads.iter().all(|thread| thread.seccomp == 2) { "2 (filter)" } else { "missing" },
    );
    let claim = if kept == 0 {
        format!("{label}: no capability, every thread filtered")
    } else {
        format!("{label}: CAP_NET_ADMIN only, every thread filtered")
    };
    evidence.add(&claim, sealed && all == kept, format!("{} threads", threads.len()));
}
