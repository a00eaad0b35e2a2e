//! The daemons that run here, as `/proc` shows them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::proc_net::{self, Listener, Route};
use super::status_file::Thread;
use crate::failure::Failure;

/// What a process is, by its executable and, for wgd's helpers, its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Wgd,
    Netcfg,
    Resolver,
    Edge,
    Storaged,
    Agent,
}

impl Role {
    fn of(executable: &str, name: &str, arguments: &[String]) -> Option<Role> {
        match (executable, name) {
            ("wgd", "wgd-netcfg") => Some(Role::Netcfg),
            ("wgd", "wgd-resolve") => Some(Role::Resolver),
            ("wgd", _) => Some(Role::Wgd),
            ("edge", _) => Some(Role::Edge),
            ("storaged", _) => Some(Role::Storaged),
            ("culvert", _) if arguments.get(1).is_some_and(|word| word == "agent") => Some(Role::Agent),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Wgd => "wgd",
            Role::Netcfg => "wgd-netcfg",
            Role::Resolver => "wgd-resolve",
            Role::Edge => "edge",
            Role::Storaged => "storaged",
            Role::Agent => "agent",
        }
    }
}

/// An open descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) number: u32,
    /// What the link in `/proc/PID/fd` says.
    pub(crate) target: String,
    pub(crate) writable: bool,
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// One process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) role: Role,
    /// Its file has been replaced since the start.
    pub(crate) replaced: bool,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) threads: Vec<Thread>,
    /// Who owns the files of `/proc/PID`: root, if the process cannot be dumped.
    pub(crate) owner: u32,
    /// Soft and hard, as written: a number or `unlimited`.
    pub(crate) core_limit: [String; 2],
    pub(crate) file_size_limit: [String; 2],
    pub(crate) descriptors: Vec<Descriptor>,
    /// Maps that are writable and executable at once.
    pub(crate) code_that_can_be_written: Vec<String>,
    pub(crate) mounts: Vec<Mount>,
    /// The network namespace, such as `net:[4026531840]`.
    pub(crate) network: String,
    pub(crate) devices: Vec<String>,
    pub(crate) routes: Vec<Route>,
    /// TCP listeners of its own, in the namespace that it runs in.
    pub(crate) listeners: Vec<Listener>,
    /// Packet and raw sockets that it holds.
    pub(crate) raw_sockets: usize,
    /// `memory.swap.max` of its cgroup, where there is one.
    pub(crate) swap_limit: Option<String>,
}

impl Process {
    /// How it is called in findings.
    pub(crate) fn subject(&self) -> String {
        format!("{} ({})", self.role.name(), self.pid)
    }

    /// A path as the process sees it.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The value of an option of its command line.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let mut words = self.arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            if word == name {
                return words.next();
            }
            if let Some(value) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                return Some(value);
            }
        }
        None
    }

    /// Its configuration file.
    pub(crate) fn configuration(&self) -> Option<PathBuf> {
        let default = match self.role {
            Role::Wgd => "/etc/culvert/wgd.toml",
            Role::Edge => "/etc/culvert/edge.toml",
            Role::Storaged => "/etc/culvert/storaged.toml",
            Role::Agent => "/etc/culvert/agent.toml",
            Role::Netcfg | Role::Resolver => return None,
        };
        Some(PathBuf::from(self.option("--config").unwrap_or(default)))
    }
}

/// The network namespace that this program runs in: the host's own, as a rule.
pub(super) fn own_network() -> Result<String, Failure> {
    link(Path::new("/proc/self/ns/net")).map_err(|error| unreadable(Path::new("/proc/self/ns/net"), &error))
}

/// Every daemon, or those among `pids` with their children.
pub(super) fn find(pids: &[u32]) -> Result<Vec<Process>, Failure> {
    let mut found = Vec::new();
    let listed = fs::read_dir("/proc").map_err(|error| unreadable(Path::new("/proc"), &error))?;
    let mut numbers: Vec<u32> = listed
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
        .filter(|pid| pids.is_empty() || is_or_descends_from(*pid, pids))
        .collect();
    numbers.sort_unstable();
    for pid in numbers {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        // Kernel threads have none; of other users' processes only root sees it.
        let executable = match link(&directory.join("exe")) {
            Ok(executable) => executable,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if is_called_like_a_daemon(&directory) {
                    return Err(Failure::cannot_tell(format!(
                        "{}: {error}: only root can see what another user's process may do",
                        directory.display()
                    )));
                }
                continue;
            }
            Err(_) => continue,
        };
        let replaced = executable.ends_with(" (deleted)");
        let executable = executable.trim_end_matches(" (deleted)");
        let file = executable.rsplit('/').next().unwrap_or_default();
        let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
        let arguments = strings(&directory.join("cmdline")).unwrap_or_default();
        let Some(role) = Role::of(file, name.trim_end(), &arguments) else { continue };
        match read(pid, role, replaced, arguments) {
            Ok(process) => found.push(process),
            // It ended meanwhile.
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => {}
            Err((path, error)) => return Err(unreadable(&path, &error)),
        }
    }
    Ok(found)
}

fn is_called_like_a_daemon(directory: &Path) -> bool {
    let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
    ["wgd", "wgd-netcfg", "wgd-resolve", "edge", "storaged"].contains(&name.trim_end())
}

fn is_or_descends_from(pid: u32, pids: &[u32]) -> bool {
    let mut at = pid;
    // No chain of parents is longer than this, and it ends at 1.
    for _ in 0..64 {
        if pids.contains(&at) {
            return true;
        }
        let Ok(stat) = fs::read_to_string(format!("/proc/{at}/stat")) else { return false };
        // After the name, which may hold anything and ends with the last parenthesis.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        match parent {
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied { ": run it as root" } else { "" };
    Failure::cannot_tell(format!("{}: {error}{hint}", path.display()))
}

type Unread = (PathBuf, io::Error);

fn read(pid: u32, role: Role, replaced: bool, arguments: Vec<String>) -> Result<Process, Unread> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let text = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(|error| (path, error))
    };
    let descriptors = descriptors(&directory)?;
    let net = |name: &str| text(&format!("net/{name}")).unwrap_or_default();
    let inodes: Vec<u64> = descriptors.iter().filter_map(|one| socket_inode(&one.target)).collect();
    let holds = |inode: u64| inodes.contains(&inode);
    let limits = text("limits")?;
    // Not of the directory itself, which is its user's in any case.
    let environ = directory.join("environ");
    let owner = fs::metadata(&environ).map_err(|error| (environ, error))?.uid();
    let network = directory.join("ns/net");
    let mut listeners = proc_net::listeners(&net("tcp"));
    listeners.extend(proc_net::listeners(&net("tcp6")));
    listeners.retain(|listener| holds(listener.inode));
    let raw_sockets = ["packet", "raw", "raw6"]
        .iter()
        .map(|name| proc_net::inodes(&net(name)).into_iter().filter(|inode| holds(*inode)).count())
        .sum();
    let mut routes = proc_net::routes(&net("route"));
    routes.extend(proc_net::routes_v6(&net("ipv6_route")));
    Ok(Process {
        pid,
        role,
        replaced,
        arguments,
        environment: environment(&directory)?,
        threads: threads(&directory)?,
        owner,
        core_limit: limit(&limits, "Max core file size"),
        file_size_limit: limit(&limits, "Max file size"),
        descriptors,
        code_that_can_be_written: writable_code(&text("maps")?),
        mounts: mounts(&text("mountinfo")?),
        network: link(&network).map_err(|error| (network, error))?,
        devices: proc_net::devices(&net("dev")),
        routes,
        listeners,
        raw_sockets,
        swap_limit: swap_limit(&text("cgroup").unwrap_or_default()),
    })
}

fn threads(directory: &Path) -> Result<Vec<Thread>, Unread> {
    let tasks = directory.join("task");
    let mut threads = Vec::new();
    for entry in fs::read_dir(&tasks).map_err(|error| (tasks.clone(), error))?.flatten() {
        let path = entry.path().join("status");
        // A thread may end between the two calls; the main thread never does.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not what this program knows to read");
        threads.push(Thread::parse(&text).ok_or_else(|| (path, malformed()))?);
    }
    threads.sort_by_key(|thread| thread.id);
    Ok(threads)
}

fn descriptors(directory: &Path) -> Result<Vec<Descriptor>, Unread> {
    let open = directory.join("fd");
    let mut found = Vec::new();
    for entry in fs::read_dir(&open).map_err(|error| (open.clone(), error))?.flatten() {
        // Closed meanwhile.
        let Ok(target) = link(&entry.path()) else { continue };
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let info = fs::read_to_string(directory.join(format!("fdinfo/{number}"))).unwrap_or_default();
        // Of a device that came from another process the path is one in that process's mounts; the driver says what it is
        // (`tun_chr_show_fdinfo` in drivers/net/tun.c).
        let is_tun = info.lines().any(|line| line.starts_with("iff:"));
        let target = if is_tun { "/dev/net/tun".to_owned() } else { target };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0);
        let writable = flags & libc::O_ACCMODE.cast_unsigned() != libc::O_RDONLY.cast_unsigned();
        found.push(Descriptor { number, target, writable });
    }
    found.sort_by_key(|descriptor| descriptor.number);
    Ok(found)
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn environment(directory: &Path) -> Result<Vec<(String, String)>, Unread> {
    let path = directory.join("environ");
    let entries = strings(&path).map_err(|error| (path, error))?;
    let pair = |entry: String| entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(entries.into_iter().filter_map(pair).collect())
}

/// The file's strings, which end with a zero each.
fn strings(path: &Path) -> io::Result<Vec<String>> {
    let bytes = fs::read(path)?;
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    Ok(parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect())
}

fn link(path: &Path) -> io::Result<String> {
    Ok(fs::read_link(path)?.to_string_lossy().into_owned())
}

fn limit(limits: &str, name: &str) -> [String; 2] {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut words = line.split_whitespace().map(str::to_owned);
    [words.next().unwrap_or_default(), words.next().unwrap_or_default()]
}

fn writable_code(maps: &str) -> Vec<String> {
    let is_both = |line: &&str| {
        let rights = line.split_whitespace().nth(1).unwrap_or_default();
        rights.contains('w') && rights.contains('x')
    };
    maps.lines().filter(is_both).map(str::to_owned).collect()
}

/// proc_pid_mountinfo(5): the fifth field is where it is, the sixth its own options.
fn mounts(table: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace().skip(4);
        let target = fields.next()?.to_owned();
        Some(Mount { target, read_only: fields.next()?.split(',').any(|option| option == "ro") })
    };
    table.lines().filter_map(line).collect()
}

/// Of the unified hierarchy: `0::/system.slice/edge.service`.
fn swap_limit(cgroups: &str) -> Option<String> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let file = format!("/sys/fs/cgroup{path}/memory.swap.max");
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_file_and_its_name() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(Role::of("wgd", "wgd-netcfg", &[]), Some(Role::Netcfg));
        assert_eq!(Role::of("wgd", "wgd", &[]), Some(Role::Wgd));
        assert_eq!(Role::of("culvert", "culvert", &words("culvert agent")), Some(Role::Agent));
        assert_eq!(Role::of("culvert", "culvert", &words("culvert put a b")), None);
        assert_eq!(Role::of("bash", "edge", &[]), None, "a name is anybody's");
    }

    #[test]
    fn what_proc_writes_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max core file size        0                    unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max core file size"), ["0", "unlimited"]);
        let maps = "7f00-7f01 rw-p 0 0 0\n7f01-7f02 r-xp 0 0 0\n7f02-7f03 rwxp 0 0 0 [heap]\n";
        assert_eq!(writable_code(maps), ["7f02-7f03 rwxp 0 0 0 [heap]"]);
        let table =
            "36 35 98:0 / / ro,noatime shared:1 - ext4 /dev/sda1 rw\n37 36 0:1 / /run rw - tmpfs t rw\n";
        let [root, run] = &mounts(table)[..] else { panic!("two mounts") };
        assert!(root.read_only && root.target == "/" && !run.read_only);
    }

    #[test]
    fn children_are_found_by_their_parents() {
        let own = std::process::id();
        assert!(is_or_descends_from(own, &[own]));
        let parent = std::os::unix::process::parent_id();
        assert!(parent <= 1 || is_or_descends_from(own, &[parent]));
        assert!(!is_or_descends_from(own, &[u32::MAX]));
    }
}
