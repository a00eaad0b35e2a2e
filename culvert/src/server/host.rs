//! What of the host concerns every daemon: swap, and where the kernel puts dumps.

use std::fs;

use super::finding::{Finding, State};
use super::process::Process;

/// The findings of this host.
pub(super) fn all(processes: &[Process]) -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).ok();
    vec![
        swap(read("/proc/swaps").as_deref(), processes),
        core_pattern(read("/proc/sys/kernel/core_pattern").as_deref()),
    ]
}

fn swap(swaps: Option<&str>, processes: &[Process]) -> Finding {
    const ADVICE: &str = "Files and keys in memory can end on the swap device. Put MemorySwapMax=0 into the daemons' units, \
                          or switch swap off.";
    let Some(swaps) = swaps else {
        return Finding::bad(State::CannotTell, "swap", "host", "/proc/swaps cannot be read", ADVICE);
    };
    if swaps.lines().count() < 2 {
        return Finding::pass("swap", "host", "there is none");
    }
    let open = processes.iter().find(|process| process.swap_limit.as_deref() != Some("0"));
    match open {
        None => Finding::pass("swap", "host", "there is some, and no daemon may use it"),
        Some(process) => {
            let detail = format!("{} may be swapped out", process.subject());
            Finding::bad(State::Fail, "swap", "host", detail, ADVICE)
        }
    }
}

fn core_pattern(pattern: Option<&str>) -> Finding {
    const ADVICE: &str = "A program that is handed dumps gets them whatever LimitCORE= says; the daemons are kept out of it \
                          by being undumpable alone. Set kernel.core_pattern = core, or see that the program keeps \
                          nothing (Storage=none in coredump.conf).";
    match pattern.map(str::trim) {
        None => Finding::bad(State::CannotTell, "core_pattern", "host", "it cannot be read", ADVICE),
        Some(piped) if piped.starts_with('|') => Finding::bad(
            State::Warn,
            "core_pattern",
            "host",
            format!("dumps go to a program: {piped}"),
            ADVICE,
        ),
        Some(file) => Finding::pass("core_pattern", "host", format!("a file: {file}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::process::Role;
    use super::super::sample;
    use super::*;

    #[test]
    fn swap_is_fine_where_the_daemons_may_not_use_it() {
        let header = "Filename\tType\tSize\tUsed\tPriority\n";
        let on = format!("{header}/dev/sda2 partition 1000 0 -2\n");
        let mut processes = vec![sample::process(Role::Edge)];
        assert_eq!(swap(Some(header), &processes).state, State::Pass);
        assert_eq!(swap(Some(&on), &processes).state, State::Pass);
        processes[0].swap_limit = Some("max".into());
        assert_eq!(swap(Some(&on), &processes).state, State::Fail);
        processes[0].swap_limit = None;
        assert_eq!(swap(Some(&on), &processes).state, State::Fail);
        assert_eq!(swap(None, &processes).state, State::CannotTell);
    }

    #[test]
    fn a_program_that_gets_dumps_is_told() {
        assert_eq!(core_pattern(Some("core\n")).state, State::Pass);
        assert_eq!(core_pattern(Some("|/usr/lib/systemd/systemd-coredump %P\n")).state, State::Warn);
        assert_eq!(core_pattern(None).state, State::CannotTell);
    }
}
