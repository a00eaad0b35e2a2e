//! What one process may still do.

use std::path::{Path, PathBuf};

use super::finding::{Finding, State};
use super::process::{Process, Role};
use super::status_file::{SETS, Thread};

/// CAP_NET_BIND_SERVICE and CAP_NET_ADMIN, linux/capability.h.
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

/// A thread is under two programs: one that answers `clone3`, and the list.
const PROGRAMS: u32 = 2;

/// Every check of a process by itself.
pub(super) fn all(process: &Process) -> Vec<Finding> {
    let checks = [
        executable,
        capabilities,
        new_privileges,
        seccomp,
        user,
        groups,
        dumps,
        file_size,
        descriptors,
        sockets,
        memory,
        environment,
        mounts,
    ];
    checks.iter().filter_map(|check| check(process)).collect()
}

fn executable(process: &Process) -> Option<Finding> {
    let subject = process.subject();
    Some(if process.replaced {
        Finding::bad(
            State::Warn,
            "executable",
            &subject,
            "its file was replaced since it was started",
            "A newer version is installed and the old one runs: restart the daemon.",
        )
    } else {
        Finding::pass("executable", &subject, "runs what is installed")
    })
}

/// Fails with the first thread that `wrong` has something to say of.
fn each_thread(
    process: &Process,
    check: &'static str,
    good: String,
    advice: &'static str,
    wrong: impl Fn(&Thread) -> Option<String>,
) -> Finding {
    let subject = process.subject();
    match process.threads.iter().find_map(|thread| Some((thread, wrong(thread)?))) {
        None => Finding::pass(check, &subject, good),
        Some((thread, what)) => {
            let detail = format!("thread {} ({}): {what}", thread.id, thread.name);
            Finding::bad(State::Fail, check, &subject, detail, advice)
        }
    }
}

fn capabilities(process: &Process) -> Option<Finding> {
    let allowed = match process.role {
        Role::Netcfg => NET_ADMIN | NET_BIND_SERVICE,
        Role::Wgd | Role::Resolver | Role::Edge | Role::Storaged | Role::Agent => 0,
    };
    let good = match process.role {
        Role::Netcfg => "nothing but NET_ADMIN (and NET_BIND_SERVICE in stock use)".to_owned(),
        Role::Wgd | Role::Resolver | Role::Edge | Role::Storaged | Role::Agent => {
            format!("none in all five sets of {} threads", process.threads.len())
        }
    };
    let advice = "Start the daemon by its unit, with CAP_SETPCAP at its start so that it can empty the bounding set \
                  (the unit's CapabilityBoundingSet= has it); it gives up the rest by itself. A running process that \
                  holds one has not been confined: stop it.";
    Some(each_thread(process, "capabilities", good, advice, |thread| {
        let too_many = |(set, held): (&&str, &u64)| {
            let extra = held & !allowed;
            (extra != 0).then(|| format!("{set} has {extra:#x}"))
        };
        SETS.iter().zip(&thread.capabilities).find_map(too_many)
    }))
}

fn new_privileges(process: &Process) -> Option<Finding> {
    let advice = "Without it a program with the set-uid bit would give rights back. The daemon sets it before it \
                  serves: this one is not what it is called, or was stopped half-way; stop it and look at its log.";
    Some(each_thread(process, "no_new_privs", "set on every thread".to_owned(), advice, |thread| {
        (!thread.no_new_privileges).then(|| "not set".to_owned())
    }))
}

fn seccomp(process: &Process) -> Option<Finding> {
    let advice = "Every thread must be under the daemon's list of system calls. One that is not was never sealed: stop \
                  the daemon, look at its log for `seccomp`, and check that the kernel has CONFIG_SECCOMP_FILTER.";
    let good = format!("a filter on each of {} threads", process.threads.len());
    let most = process.threads.iter().map(|thread| thread.filters).max().unwrap_or(0);
    Some(each_thread(process, "seccomp", good, advice, |thread| {
        if thread.seccomp != 2 {
            return Some(format!("no filter (mode {})", thread.seccomp));
        }
        // 0: a kernel that does not tell.
        let counted = thread.filters;
        (counted != 0 && (counted < PROGRAMS || counted != most))
            .then(|| format!("{counted} programs, where there are {}", most.max(PROGRAMS)))
    }))
}

fn user(process: &Process) -> Option<Finding> {
    // The helper that configures the network needs root's files.
    if process.role == Role::Netcfg {
        return None;
    }
    let own = process.threads.first()?.users[0];
    let advice = "Set `run_as` in the daemon's configuration (or User= in the unit) to the user that belongs to it \
                  alone.";
    Some(each_thread(process, "user", format!("user {own}"), advice, |thread| {
        if thread.users.contains(&0) {
            return Some("runs as root".to_owned());
        }
        thread
            .users
            .iter()
            .any(|user| *user != own)
            .then(|| format!("changes between users {:?}", thread.users))
    }))
}

fn groups(process: &Process) -> Option<Finding> {
    if process.role == Role::Netcfg {
        return None;
    }
    let advice = "Supplementary groups open files of others. Leave them to the daemon, which gives them up when it \
                  changes to `run_as`, and remove SupplementaryGroups= from its unit.";
    Some(each_thread(process, "groups", "no supplementary group".to_owned(), advice, |thread| {
        // The primary group may stand there too, by way of the service manager.
        let more: Vec<u32> = thread.groups.iter().copied().filter(|group| *group != thread.group).collect();
        (!more.is_empty()).then(|| format!("groups {more:?}"))
    }))
}

fn dumps(process: &Process) -> Option<Finding> {
    let subject = process.subject();
    let advice = "A dump holds keys and files. Put LimitCORE=0 into the unit; the daemon makes itself undumpable when \
                  it confines itself, and one that is not has not done so: stop it.";
    let runs_as_root = process.threads.first().is_none_or(|thread| thread.users[1] == 0);
    if process.core_limit.iter().any(|limit| limit != "0") {
        let detail = format!("core files up to {}", process.core_limit.join("/"));
        return Some(Finding::bad(State::Fail, "core_dumps", &subject, detail, advice));
    }
    // The kernel gives the files in /proc/PID of what cannot be dumped to root.
    if !runs_as_root && process.owner != 0 {
        let detail = "dumpable: other processes of its user can read its memory";
        return Some(Finding::bad(State::Fail, "core_dumps", &subject, detail, advice));
    }
    Some(Finding::pass("core_dumps", &subject, "none: limit 0, and not dumpable"))
}

fn file_size(process: &Process) -> Option<Finding> {
    if process.role != Role::Edge {
        return None;
    }
    let subject = process.subject();
    if process.file_size_limit.iter().all(|limit| limit == "0") {
        return Some(Finding::pass("file_size", &subject, "no byte can go into a file"));
    }
    let detail = format!("files up to {}", process.file_size_limit.join("/"));
    let advice = "edge sets RLIMIT_FSIZE to 0 when it confines itself: this process did not. Stop it, and start edge by \
                  its unit.";
    Some(Finding::bad(State::Fail, "file_size", &subject, detail, advice))
}

fn descriptors(process: &Process) -> Option<Finding> {
    Some(held_files(
        process,
        &match process.role {
            Role::Storaged => super::configuration::storage_places(process),
            // The time of the last handshake.
            Role::Wgd => vec![super::configuration::state_directory(process)],
            Role::Netcfg | Role::Resolver | Role::Edge | Role::Agent => Vec::new(),
        },
    ))
}

fn held_files(process: &Process, places: &[PathBuf]) -> Finding {
    let subject = process.subject();
    let is_harmless = |target: &str| {
        !target.starts_with('/')
            || ["/dev/null", "/dev/net/tun"].contains(&target)
            || target.starts_with("/dev/pts/")
            || target.starts_with("/dev/tty")
            || target.starts_with("/proc/")
            || target == "/dev/console"
            // A network namespace by its name.
            || target.starts_with("/run/netns/")
            // Secrets in memory that nobody else reads.
            || target.starts_with("/secretmem")
    };
    let below = |target: &str| places.iter().any(|place| Path::new(target).starts_with(place));
    let wrong = process.descriptors.iter().find(|one| !is_harmless(&one.target) && !below(&one.target));
    match wrong {
        None => {
            let held = process.descriptors.len();
            Finding::pass("descriptors", &subject, format!("{held}, and no file that is not its own"))
        }
        Some(one) => {
            let how = if one.writable { "to write" } else { "to read" };
            let detail = format!("descriptor {} is open {how}: {}", one.number, one.target);
            let advice = "A daemon keeps no file open but those of its own directories, whatever it was started with. \
                          Look where this one came from (the unit's StandardError=, a shell that started it), and \
                          restart the daemon without.";
            Finding::bad(State::Fail, "descriptors", &subject, detail, advice)
        }
    }
}

fn sockets(process: &Process) -> Option<Finding> {
    let subject = process.subject();
    Some(match process.raw_sockets {
        0 => Finding::pass("sockets", &subject, "no packet or raw socket"),
        count => Finding::bad(
            State::Fail,
            "sockets",
            &subject,
            format!("holds {count} packet or raw sockets"),
            "No daemon of Culvert has a use for one: with it, it reads what others send. Stop it and keep its log.",
        ),
    })
}

fn memory(process: &Process) -> Option<Finding> {
    let subject = process.subject();
    Some(match process.code_that_can_be_written.first() {
        None => Finding::pass("memory", &subject, "nothing is writable and executable at once"),
        Some(map) => Finding::bad(
            State::Fail,
            "memory",
            &subject,
            format!("writable and executable: {map}"),
            "Code can be put there and run. The daemons forbid themselves to make such memory: something else is loaded \
             into this one (LD_PRELOAD, a debugger). Stop it and start it by its unit.",
        ),
    })
}

fn environment(process: &Process) -> Option<Finding> {
    let subject = process.subject();
    let is_secret = |name: &str, value: &str| {
        let name = name.to_ascii_uppercase();
        let is_reference = name.ends_with("_FILE") || name.ends_with("_DIRECTORY") || value.is_empty();
        !is_reference && ["KEY", "TOKEN", "SECRET", "PASSWORD"].iter().any(|word| name.contains(word))
    };
    let found = process.environment.iter().find(|(name, value)| is_secret(name, value));
    Some(match found {
        None => Finding::pass("environment", &subject, "no secret in it"),
        Some((name, _)) => Finding::bad(
            State::Fail,
            "environment",
            &subject,
            format!("{name} is set"),
            "A process's environment can be read by every process of its user and by root, for as long as it runs. Put \
             the secret into a file or a credential and name that in the configuration.",
        ),
    })
}

/// Where the kernel's own file systems are mounted, which Landlock and the user's rights close.
const VIRTUAL: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

fn mounts(process: &Process) -> Option<Finding> {
    if !matches!(process.role, Role::Edge | Role::Storaged) {
        return None;
    }
    let subject = process.subject();
    // The last one on a place is the one that is seen.
    let root = process.mounts.iter().rfind(|mount| mount.target == "/");
    let advice = "The process sees a file system that it could write to if its other layers failed: start it by its \
                  unit, whose ProtectSystem=strict makes all read-only but its own directories.";
    let Some(root) = root else {
        return Some(Finding::bad(State::CannotTell, "mounts", &subject, "no mount at /", advice));
    };
    if !root.read_only {
        return Some(Finding::bad(State::Warn, "mounts", &subject, "/ is mounted writable", advice));
    }
    if process.role == Role::Edge {
        let is_virtual = |target: &str| VIRTUAL.iter().any(|place| Path::new(target).starts_with(place));
        let open = process.mounts.iter().find(|mount| !mount.read_only && !is_virtual(&mount.target));
        if let Some(mount) = open {
            let detail = format!("{} is mounted writable", mount.target);
            return Some(Finding::bad(State::Warn, "mounts", &subject, detail, advice));
        }
    }
    Some(Finding::pass("mounts", &subject, "read-only"))
}

#[cfg(test)]
mod tests {
    use super::super::process::{Descriptor, Mount};
    use super::super::sample;
    use super::*;

    /// The states of the checks that are not passed.
    fn wrong(process: &Process) -> Vec<(&'static str, State)> {
        let found = all(process).into_iter().filter(|finding| finding.state != State::Pass);
        found.map(|finding| (finding.check, finding.state)).collect()
    }

    #[test]
    fn a_confined_process_passes_every_check() {
        for role in [Role::Wgd, Role::Netcfg, Role::Resolver, Role::Edge, Role::Storaged, Role::Agent] {
            assert_eq!(wrong(&sample::process(role)), [], "{role:?}");
        }
        assert_eq!(all(&sample::process(Role::Edge)).len(), 13);
    }

    #[test]
    fn each_missing_layer_is_one_finding() {
        type Spoil = fn(&mut Process);
        let cases: [(&str, State, Spoil); 17] = [
            ("executable", State::Warn, |p| p.replaced = true),
            ("capabilities", State::Fail, |p| p.threads[1].capabilities[3] = 1),
            ("capabilities", State::Fail, |p| p.threads[0].capabilities[2] = NET_ADMIN),
            ("no_new_privs", State::Fail, |p| p.threads[1].no_new_privileges = false),
            ("seccomp", State::Fail, |p| p.threads[1].seccomp = 0),
            ("seccomp", State::Fail, |p| p.threads[1].filters = 1),
            ("user", State::Fail, |p| p.threads[0].users[2] = 0),
            ("groups", State::Fail, |p| p.threads[0].groups = vec![27]),
            ("core_dumps", State::Fail, |p| p.core_limit[1] = "unlimited".into()),
            ("core_dumps", State::Fail, |p| p.owner = 64_011),
            ("file_size", State::Fail, |p| p.file_size_limit[0] = "unlimited".into()),
            ("descriptors", State::Fail, |p| {
                p.descriptors.push(Descriptor { number: 9, target: "/var/log/x".into(), writable: true });
            }),
            ("sockets", State::Fail, |p| p.raw_sockets = 1),
            ("memory", State::Fail, |p| p.code_that_can_be_written.push("7f02-7f03 rwxp".into())),
            ("environment", State::Fail, |p| {
                p.environment.push(("INTERNAL_API_KEY".into(), "x".into()));
            }),
            ("mounts", State::Warn, |p| p.mounts[0].read_only = false),
            ("mounts", State::Warn, |p| {
                p.mounts.push(Mount { target: "/var".into(), read_only: false });
            }),
        ];
        for (check, state, spoil) in cases {
            let mut process = sample::process(Role::Edge);
            spoil(&mut process);
            assert_eq!(wrong(&process), [(check, state)]);
        }
    }

    #[test]
    fn netcfg_may_be_root_and_hold_what_it_needs_and_no_more() {
        let mut process = sample::process(Role::Netcfg);
        process.threads[0].capabilities[2] |= 1 << 21;
        assert_eq!(wrong(&process), [("capabilities", State::Fail)], "CAP_SYS_ADMIN");
    }

    #[test]
    fn storaged_may_hold_files_of_its_own_directories_alone() {
        let mut process = sample::process(Role::Storaged);
        let places = ["/srv/state", "/srv/volume"].map(PathBuf::from);
        let open = |target: &str| Descriptor { number: 9, target: target.into(), writable: true };
        process.descriptors.push(open("/srv/state/ledger.redb"));
        process.descriptors.push(open("/srv/volume/objects/ab/cd"));
        assert_eq!(held_files(&process, &places).state, State::Pass);
        process.descriptors.push(open("/srv/statement"));
        let found = held_files(&process, &places);
        assert!(found.state == State::Fail && found.detail.contains("/srv/statement"), "{found:?}");
    }

    #[test]
    fn every_finding_says_what_to_do() {
        let mut process = sample::process(Role::Edge);
        process.threads[0].seccomp = 0;
        process.raw_sockets = 1;
        let found = all(&process);
        let bad: Vec<_> = found.iter().filter(|finding| finding.state != State::Pass).collect();
        assert_eq!(bad.len(), 2);
        assert!(bad.iter().all(|finding| finding.advice.is_some_and(|advice| advice.len() > 40)));
    }
}
