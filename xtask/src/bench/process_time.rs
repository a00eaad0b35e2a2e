//! CPU time and memory of running processes, by the kernel's word.

use std::fs;

use anyhow::{Context, Result};
use culvert_netns::process_status::ProcessStatus;

/// CPU seconds (user and system, all threads) that the processes have used so far.
pub(crate) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let ticks_per_second =
        nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("the kernel has no clock tick")?;
    let mut ticks = 0_u32;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("look at process {pid}"))?;
        // proc_pid_stat(5): after the name in brackets, utime and stime are fields 14 and 15 counted from 1.
        let after = text.rsplit_once(')').context("a stat line without a name")?.1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        for field in [11, 12] {
            ticks += fields
                .get(field)
                .context("a short stat line")?
                .parse::<u32>()
                .context("a number of ticks")?;
        }
    }
    Ok(f64::from(ticks) / f64::from(i32::try_from(ticks_per_second)?))
}

/// CPU seconds that the whole machine has been busy so far, whoever for.
pub(crate) fn machine_seconds() -> Result<f64> {
    let ticks_per_second =
        nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("the kernel has no clock tick")?;
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let first = text.lines().next().context("an empty /proc/stat")?;
    // proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
    let mut busy = 0.0;
    for (field, ticks) in first.split_whitespace().skip(1).take(7).enumerate() {
        if !matches!(field, 3 | 4) {
            busy += ticks.parse::<f64>().context("a number of ticks")?;
        }
    }
    Ok(busy / f64::from(i32::try_from(ticks_per_second)?))
}

/// The memory that each process has resident now, in MiB, summed.
pub(crate) fn resident_mebibytes(pids: &[u32]) -> Result<f64> {
    let mut kibibytes = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let value = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let value = value.with_context(|| format!("{path} has no VmRSS"))?;
        kibibytes += value.trim().parse::<f64>().with_context(|| format!("read `{value}`"))?;
    }
    Ok(kibibytes / 1024.0)
}

/// The most memory that each process ever had resident, in MiB, summed.
pub(crate) fn peak_mebibytes(pids: &[u32]) -> Result<f64> {
    let mut kibibytes = 0;
    for pid in pids {
        kibibytes += ProcessStatus::read(*pid)?.peak_resident_kib;
    }
    Ok(f64::from(u32::try_from(kibibytes)?) / 1024.0)
}
