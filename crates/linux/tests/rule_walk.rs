//! Every line of every daemon's table, carried out: the same tables that the daemons compile in, the same two programs,
//! and a forked child for each call, so that the kernel and not a model of it says what is allowed.
//!
//! - Each group of conditions: a call that fulfils it lives. What it then answers (EBADF, EFAULT) is of no interest: every
//!   argument that no condition names is all ones, which no call can do anything with.
//! - Each bit of each condition, turned: unless another group allows that, the process dies of SIGSYS.
//! - Every number that is in no table, up to beyond the newest: SIGSYS; `clone3`: ENOSYS.
//! - The numbers of the table under the processor's other ways in (x32, `int 0x80`): SIGSYS.
#![allow(unsafe_code, reason = "system calls that no wrapper makes, in children that end with them")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test program talks on stdout")]

use std::process::ExitCode;

use linux::seccomp::{Condition, Filters, SyscallRule};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

type Tables = &'static [&'static [SyscallRule]];

/// Every process that is ever sealed.
const PROCESSES: &[(&str, Tables)] = &[
    ("wgd", wgd::sandbox::WGD),
    ("wgd_netcfg", wgd::sandbox::NETCFG),
    ("wgd_resolve", wgd::sandbox::RESOLVER),
    ("edge", edge::sandbox::SYSCALLS),
    ("storaged", storaged::sandbox::SYSCALLS),
    ("agent", culvert::agent::sandbox::SYSCALLS),
];

/// Beyond the newest call that any kernel has (471 in Linux 6.18).
const NUMBERS: i64 = 600;
/// `__X32_SYSCALL_BIT`, arch/x86/include/uapi/asm/unistd.h.
const X32: i64 = 0x4000_0000;
/// Bits of an argument that a filter looks at.
const BITS: u32 = 32;
/// `uretprobe` and `uprobe`: the way back from the kernel's own break points. Since Linux 6.14 no filter is asked about them,
/// because the kernel itself puts them into programs (kernel/seccomp.c, `seccomp_uprobe_exception`); anywhere else they give
/// SIGILL and ENXIO (arch/x86/kernel/uprobes.c).
const NEVER_ASKED: [i64; 2] = [335, 336];
/// A call that waits for so long was not meant to.
const PATIENCE_SECONDS: libc::c_uint = 5;
/// Prints the tables and calls nothing.
const TABLES: &str = "--tables";
/// The child could not put the filter on.
const NO_FILTER: i32 = 99;

type Case = (&'static str, fn(&str, Tables) -> Result<usize, String>);

const CASES: &[Case] = &[
    ("each_rule_lets_through_what_it_names", allowed),
    ("each_condition_stops_what_it_does_not_name", violated),
    ("every_other_number_is_the_end", sweep),
    ("no_other_way_in_is_open", other_ways_in),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == TABLES) {
        print_tables();
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let chosen: Vec<_> = CASES
        .iter()
        .flat_map(|(case, run)| {
            PROCESSES.iter().map(move |(name, tables)| (format!("{case}_{name}"), run, *name, *tables))
        })
        .filter(|(full, ..)| full.contains(&filter))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(full, ..)| println!("{full}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (full, run, name, tables) in &chosen {
        match run(name, tables) {
            // A walk over nothing would otherwise look like a success.
            Ok(0) => {
                failed += 1;
                println!("test {full} ... FAILED\nno call was made");
            }
            Ok(calls) => println!("test {full} ... ok ({calls} calls)"),
            Err(wrong) => {
                failed += 1;
                println!("test {full} ... FAILED\n{wrong}");
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let passed = chosen.len() - failed;
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// For `cargo xtask lockdown`, which compares them with what the daemons are seen to call: process, call, reason, and why it
/// is not seen (empty where it has to be), parted by tabs.
fn print_tables() {
    for (process, tables) in PROCESSES {
        for rule in rules(tables) {
            println!("rule\t{process}\t{}\t{}\t{}", rule.name, rule.reason, rule.unseen.unwrap_or_default());
        }
    }
}

/// How a call under the filter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// SIGSYS.
    Killed,
    /// It was made; its error, or 0.
    Made(i32),
    /// Another signal: it was made, and what it did was no good.
    Broke(Signal),
}

/// Makes the call in a child that is under `filters`.
fn call(filters: &Filters, number: i64, arguments: &[u64; 6]) -> Verdict {
    in_child(filters, || {
        let [a, b, c, d, e, f] = *arguments;
        // SAFETY: the arguments are numbers that are no valid address, descriptor or length, in a process that ends
        // with the next statement whatever the call has done to it.
        let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        if answer == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
    })
}

fn in_child(filters: &Filters, work: impl FnOnce() -> i32) -> Verdict {
    // SAFETY: this process has one thread, so the child may do what it likes.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: takes a number and arms a timer whose signal ends this process.
            unsafe { libc::alarm(PATIENCE_SECONDS) };
            let is_ready = nix::sys::prctl::set_no_new_privs().is_ok() && filters.install().is_ok();
            let code = if is_ready { work() } else { NO_FILTER };
            // SAFETY: ends the process at once; `exit_group` is in every table.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Signaled(_, Signal::SIGSYS, _) => Verdict::Killed,
            WaitStatus::Signaled(_, signal, _) => Verdict::Broke(signal),
            WaitStatus::Exited(_, NO_FILTER) => panic!("the filter could not be put on"),
            WaitStatus::Exited(_, code) => Verdict::Made(code),
            odd @ (WaitStatus::Stopped(..)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive) => panic!("{odd:?}"),
        },
    }
}

/// Arguments that fulfil a group, and are all ones elsewhere.
fn fulfilling(group: &[Condition]) -> [u64; 6] {
    let mut arguments = [u64::MAX; 6];
    for condition in group {
        match *condition {
            Condition::Equals(at, value) => arguments[usize::from(at)] = value,
            Condition::Masked { argument, mask, value } => {
                let slot = &mut arguments[usize::from(argument)];
                *slot = (*slot & !mask) | value;
            }
        }
    }
    arguments
}

fn rules(tables: Tables) -> impl Iterator<Item = &'static SyscallRule> + Clone {
    tables.iter().copied().flatten()
}

fn permits(tables: Tables, number: i64, arguments: &[u64; 6]) -> bool {
    rules(tables).any(|rule| rule.number == number && rule.permits(arguments))
}

fn allowed(_: &str, tables: Tables) -> Result<usize, String> {
    let filters = Filters::compile(tables).unwrap();
    let mut calls = 0;
    for rule in rules(tables) {
        let groups: Vec<[u64; 6]> = match rule.when {
            [] => vec![[u64::MAX; 6]],
            groups => groups.iter().map(|group| fulfilling(group)).collect(),
        };
        for arguments in groups {
            calls += 1;
            match call(&filters, rule.number, &arguments) {
                Verdict::Killed => return Err(format!("{} {arguments:x?} is allowed and killed", rule.name)),
                Verdict::Broke(Signal::SIGALRM) => {
                    return Err(format!("{} {arguments:x?} waits, and tells nothing", rule.name));
                }
                Verdict::Made(_) | Verdict::Broke(_) => {}
            }
        }
    }
    Ok(calls)
}

fn violated(_: &str, tables: Tables) -> Result<usize, String> {
    let filters = Filters::compile(tables).unwrap();
    let mut calls = 0;
    for rule in rules(tables).filter(|rule| !rule.when.is_empty()) {
        let before = calls;
        for group in rule.when {
            for condition in *group {
                let (at, mask) = match *condition {
                    Condition::Equals(at, _) => (at, u64::from(u32::MAX)),
                    Condition::Masked { argument, mask, .. } => (argument, mask),
                };
                for bit in (0..BITS).map(|bit| 1_u64 << bit).filter(|bit| mask & bit != 0) {
                    let mut arguments = fulfilling(group);
                    arguments[usize::from(at)] ^= bit;
                    if permits(tables, rule.number, &arguments) {
                        continue;
                    }
                    calls += 1;
                    let verdict = call(&filters, rule.number, &arguments);
                    if verdict != Verdict::Killed {
                        return Err(format!("{} {arguments:x?} is not allowed: {verdict:?}", rule.name));
                    }
                }
            }
        }
        let is_free = rules(tables).any(|other| other.number == rule.number && other.when.is_empty());
        if calls == before && !is_free {
            return Err(format!("{}: its conditions exclude nothing", rule.name));
        }
    }
    Ok(calls)
}

fn sweep(_: &str, tables: Tables) -> Result<usize, String> {
    let filters = Filters::compile(tables).unwrap();
    let mut calls = 0;
    for number in 0..NUMBERS {
        if rules(tables).any(|rule| rule.number == number) {
            continue;
        }
        calls += 1;
        let verdict = call(&filters, number, &[u64::MAX; 6]);
        let expected = if number == libc::SYS_clone3 { Verdict::Made(libc::ENOSYS) } else { Verdict::Killed };
        let is_refused = matches!(verdict, Verdict::Broke(Signal::SIGILL) | Verdict::Made(libc::ENXIO));
        let is_never_asked = cfg!(target_arch = "x86_64") && NEVER_ASKED.contains(&number);
        if verdict != expected && !(is_never_asked && is_refused) {
            return Err(format!("system call {number}: {verdict:?}, and should be {expected:?}"));
        }
    }
    Ok(calls)
}

fn other_ways_in(_: &str, tables: Tables) -> Result<usize, String> {
    let filters = Filters::compile(tables).unwrap();
    let mut calls = 0;
    if cfg!(target_arch = "x86_64") {
        for rule in rules(tables) {
            calls += 1;
            let verdict = call(&filters, rule.number | X32, &[u64::MAX; 6]);
            if verdict != Verdict::Killed {
                return Err(format!("{} as a call of x32: {verdict:?}", rule.name));
            }
        }
    }
    calls += 1;
    match in_child(&filters, old_gate) {
        // SIGSEGV: a kernel without the 32-bit way in.
        Verdict::Killed | Verdict::Broke(Signal::SIGSEGV) => Ok(calls),
        open @ (Verdict::Made(_) | Verdict::Broke(_)) => Err(format!("by the 32-bit gate: {open:?}")),
    }
}

/// `getpid` (20 there) by the gate of 32-bit programs: another table of numbers, where 5 is `open`.
#[cfg(target_arch = "x86_64")]
fn old_gate() -> i32 {
    let mut number = 20_u64;
    // SAFETY: the gate takes its number from rax and gives its answer there; it touches no memory of ours.
    unsafe { std::arch::asm!("int 0x80", inout("rax") number, options(nostack)) };
    i32::from(number == 0)
}

#[cfg(not(target_arch = "x86_64"))]
fn old_gate() -> i32 {
    // Other processors have no second gate: dies of an ordinary call that is in no table.
    // SAFETY: a call without arguments.
    unsafe { libc::syscall(libc::SYS_ptrace, -1, 0, 0, 0) };
    0
}
