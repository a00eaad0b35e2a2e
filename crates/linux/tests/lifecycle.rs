//! What a confined and sealed process can still do: each case is this program again, in a process of its own,
//! that locks itself down and then tries something.
//!
//! The layers are read back from `/proc`, as an operator would.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test program talks on stdout")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Output};

use linux::seccomp::{SyscallRule, allow};
use linux::{Capability, Confinement, FileRule, Layer, LayerState, Privileged, User};

type Case = (&'static str, fn(), fn(&Output));

const CASES: &[Case] = &[
    ("every_thread_ends_without_capabilities_under_the_filter", threads_after_seal, expect_success),
    ("a_call_that_is_not_in_the_table_kills_the_process", forbidden_call, expect_sigsys),
    ("a_thread_started_after_the_seal_is_under_the_filter_too", forbidden_call_on_late_thread, expect_sigsys),
    ("paths_outside_the_rules_are_out_of_reach", landlock_paths, expect_success),
    ("not_one_byte_goes_into_a_file_that_was_open_before", no_file_writes, expect_success),
    ("kept_capabilities_survive_the_change_of_user", kept_capability, expect_success),
    ("a_second_thread_makes_confinement_fail", second_thread, expect_success),
    ("a_production_profile_refuses_a_missing_layer", missing_layer, expect_success),
    ("a_helper_dies_with_its_parent", helper_dies, expect_success),
    ("a_helper_holds_nothing_that_it_was_not_given", helper_descriptors, expect_success),
    ("a_helper_that_panics_ends_there", helper_panics, expect_success),
];

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if let Some(name) = argument.as_deref().and_then(|argument| argument.strip_prefix("case=")) {
        let case = CASES.iter().find(|case| case.0 == name).expect("the parent passes known names");
        (case.1)();
        return ExitCode::SUCCESS;
    }
    let filter = argument.filter(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut failed = 0;
    let chosen: Vec<&Case> = CASES.iter().filter(|case| case.0.contains(&filter)).collect();
    println!("\nrunning {} tests", chosen.len());
    for (name, _, check) in &chosen {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).arg(format!("case={name}")).output().unwrap();
        let passed = std::panic::catch_unwind(|| check(&output)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed += 1;
            println!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n",
        chosen.len() - failed
    );
    ExitCode::from(u8::from(failed > 0))
}

fn expect_success(output: &Output) {
    assert!(output.status.success(), "{}", output.status);
}

fn expect_sigsys(output: &Output) {
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{}", output.status);
}

/// What these cases need to run, print and end.
const TABLE: &[SyscallRule] = &[
    allow(libc::SYS_read, "read", "test"),
    allow(libc::SYS_write, "write", "test"),
    allow(libc::SYS_openat, "openat", "test"),
    allow(libc::SYS_close, "close", "test"),
    allow(libc::SYS_statx, "statx", "test"),
    allow(libc::SYS_fstat, "fstat", "test"),
    allow(libc::SYS_newfstatat, "newfstatat", "test"),
    allow(libc::SYS_fcntl, "fcntl", "test"),
    allow(libc::SYS_getdents64, "getdents64", "test"),
    allow(libc::SYS_lseek, "lseek", "test"),
    allow(libc::SYS_mmap, "mmap", "test"),
    allow(libc::SYS_munmap, "munmap", "test"),
    allow(libc::SYS_mprotect, "mprotect", "test"),
    allow(libc::SYS_madvise, "madvise", "test"),
    allow(libc::SYS_brk, "brk", "test"),
    allow(libc::SYS_futex, "futex", "test"),
    allow(libc::SYS_clone, "clone", "test"),
    allow(libc::SYS_rseq, "rseq", "test"),
    allow(libc::SYS_set_robust_list, "set_robust_list", "test"),
    allow(libc::SYS_prctl, "prctl", "test"),
    allow(libc::SYS_sigaltstack, "sigaltstack", "test"),
    allow(libc::SYS_rt_sigprocmask, "rt_sigprocmask", "test"),
    allow(libc::SYS_sched_getaffinity, "sched_getaffinity", "test"),
    allow(libc::SYS_gettid, "gettid", "test"),
    allow(libc::SYS_clock_nanosleep, "clock_nanosleep", "test"),
    allow(libc::SYS_exit, "exit", "test"),
    allow(libc::SYS_exit_group, "exit_group", "test"),
];

fn confinement() -> Confinement {
    let root = User::current().uid == 0;
    let user = root.then_some(User { uid: 64011, gid: 64011 }).filter(User::is_mapped);
    // `/proc` stays readable for looking at ourselves.
    Confinement { user, files: vec![FileRule::read("/proc")], ..Confinement::default() }
}

fn threads_after_seal() {
    let confined = Privileged::at_startup().unwrap().confine(&confinement()).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let early = std::thread::spawn(move || stopped.recv());
    let sealed = confined.seal(&[TABLE]).unwrap();
    assert_eq!(sealed.lockdown().state(Layer::Seccomp), &LayerState::On);
    assert_eq!(sealed.lockdown().filter_sha256.as_ref().map(String::len), Some(64));
    let mut threads = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().next().unwrap().to_owned()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
        threads += 1;
    }
    assert_eq!(threads, 2);
    drop(stop);
    let _ = early.join();
}

fn forbidden_call() {
    let _sealed = Privileged::at_startup().unwrap().confine(&confinement()).unwrap().seal(&[TABLE]).unwrap();
    let _ = std::net::UdpSocket::bind("127.0.0.1:0");
    println!("still alive");
}

fn forbidden_call_on_late_thread() {
    let _sealed = Privileged::at_startup().unwrap().confine(&confinement()).unwrap().seal(&[TABLE]).unwrap();
    let _ = std::thread::spawn(|| std::net::UdpSocket::bind("127.0.0.1:0")).join();
    println!("still alive");
}

fn landlock_paths() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(&outside).unwrap();
    let mut rules = confinement();
    rules.user = None;
    rules.files.push(FileRule::read_write(&inside));
    let confined = Privileged::at_startup().unwrap().confine(&rules).unwrap();
    assert!(confined.lockdown().landlock_abi.is_some(), "this kernel has no Landlock");
    std::fs::write(inside.join("file"), b"x").unwrap();
    assert!(std::fs::write(outside.join("file"), b"x").is_err());
    assert!(std::fs::read("/etc/passwd").is_err());
    std::fs::remove_file(inside.join("file")).unwrap();
    std::mem::forget(folder); // it may not be removed from in here
}

fn no_file_writes() {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before").unwrap();
    let rules = Confinement { forbid_file_writes: true, ..confinement() };
    let _confined = Privileged::at_startup().unwrap().confine(&rules).unwrap();
    let error = file.write_all(b"after").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
    println!("a pipe still takes this line");
}

fn kept_capability() {
    if User::current().uid != 0 {
        println!("not root: there is no capability to keep");
        return;
    }
    let rules = Confinement { keep: vec![Capability::CAP_NET_ADMIN], ..confinement() };
    let confined = Privileged::at_startup().unwrap().confine(&rules).unwrap();
    assert_eq!(confined.lockdown().state(Layer::Capabilities), &LayerState::On);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for set in ["CapPrm:\t0000000000001000", "CapEff:\t0000000000001000", "CapInh:\t0000000000000000"] {
        assert!(status.contains(set), "{set} not in\n{status}");
    }
}

fn second_thread() {
    let privileged = Privileged::at_startup().unwrap();
    let (_stop, stopped) = std::sync::mpsc::channel::<()>();
    let _thread = std::thread::spawn(move || stopped.recv());
    let error = privileged.confine(&confinement()).unwrap_err().to_string();
    assert!(error.contains("2 threads"), "{error}");
}

fn missing_layer() {
    if User::current().uid != 0 {
        println!("not root: staying the same user is no missing layer");
        return;
    }
    let rules = Confinement { user: None, require_all: true, ..confinement() };
    let error = Privileged::at_startup().unwrap().confine(&rules).unwrap_err().to_string();
    assert!(error.contains("user is missing"), "{error}");
}

/// The parent is killed; its helper, confined as another user, must not survive it.
fn helper_dies() {
    let (read, write) = std::io::pipe().unwrap();
    let rules = confinement();
    // The parent in question is a helper itself, so that this process lives to see the end.
    use std::os::fd::AsFd;
    let keep = [write.as_fd()];
    let (_privileged, parent) =
        linux::fork_helper(Privileged::at_startup().unwrap(), "parent", &keep, |privileged, _| {
            let (_privileged, _helper) = linux::fork_helper(privileged, "helper", &keep, |privileged, _| {
                let _confined = privileged.confine(&rules).unwrap();
                use std::io::Write;
                (&write).write_all(b"up").unwrap();
                std::thread::sleep(std::time::Duration::from_secs(60));
                0
            })
            .unwrap();
            std::thread::sleep(std::time::Duration::from_secs(60));
            0
        })
        .unwrap();
    use std::io::Read;
    let mut up = [0; 2];
    (&read).read_exact(&mut up).unwrap();
    drop(write);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent.pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    // The pipe's last writer is the helper: end-of-file says that it is gone.
    let mut rest = Vec::new();
    (&read).read_to_end(&mut rest).unwrap();
}

/// The helper says which descriptors it has; a file that its parent has open is not among them.
fn helper_descriptors() {
    use std::os::fd::{AsFd, AsRawFd};
    let (leaked, given) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let privileged = Privileged::at_startup().unwrap();
    let (_privileged, helper) = linux::fork_helper(privileged, "helper", &[given.as_fd()], |_, socket| {
        let open: Vec<i32> = (0..256).filter(|fd| nix::sys::stat::fstat(borrow(*fd)).is_ok()).collect();
        let expected = [0, 1, 2, given.as_raw_fd(), socket.as_raw_fd()];
        u8::from(open.len() != expected.len() || !expected.iter().all(|fd| open.contains(fd)))
    })
    .unwrap();
    let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(helper.pid), None).unwrap();
    assert!(matches!(ended, nix::sys::wait::WaitStatus::Exited(_, 0)), "{ended:?}");
    drop(leaked);
}

#[allow(unsafe_code, reason = "the question is whether this number is an open descriptor")]
fn borrow(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only looked at; nothing is closed or taken over.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

/// It must not come back into this function, where the copy of its parent's work would go on.
fn helper_panics() {
    let privileged = Privileged::at_startup().unwrap();
    let first = std::process::id();
    let forked = std::panic::catch_unwind(|| {
        linux::fork_helper(privileged, "helper", &[], |_, _| panic!("on purpose"))
            .map(|(_, helper)| helper.pid)
    });
    assert_eq!(std::process::id(), first, "the helper came back");
    let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(forked.unwrap().unwrap()), None).unwrap();
    assert!(matches!(ended, nix::sys::wait::WaitStatus::Exited(_, 70)), "{ended:?}");
}
