//! A host: a network and a mount namespace of its own, and inside it the namespace that holds only `lo` and the
//! tunnel.
//!
//! Invariant: what a host's programs can write to is a closed set ([`Host::writable_places`]): `/run`, `/tmp`,
//! `/var/tmp`, `/dev/shm` and `/etc` live in memory, `/srv` on the disk of the test machine, and the rest of the file
//! tree is read-only. So "nothing was left on this host" can be checked by looking at all of it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getpid, sethostname};

use crate::link;
use crate::namespace::Namespace;
use crate::program::{Finished, Program, Started};
use crate::reexec::{self, Role};
use crate::world::{self, write_sysctl};

/// Where a host finds the programs under test.
pub const PROGRAMS: &str = "/run/bin";

/// Where a host's directory on the real disk is.
pub const DISK: &str = "/srv";

/// The tunnel's namespace, as a path inside of the host.
const TUNNEL_NAMESPACE: &str = "/run/netns/tunnel";

/// Longest that one command of a scenario may take.
const COMMAND_BOUND: Duration = Duration::from_secs(60);

/// Longest that a connection may take.
const CONNECT_BOUND: Duration = Duration::from_secs(5);

/// Where in a host something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host's own network.
    Outer,
    /// The namespace that holds only `lo` and the tunnel.
    Tunnel,
}

/// A host of the lab.
#[derive(Debug)]
pub struct Host {
    name: String,
    holder: Child,
    outer: Namespace,
    tunnel: Namespace,
    started: Arc<Mutex<Vec<Started>>>,
}

impl Host {
    /// Makes the host `name`. `programs` is the directory of the daemons under test, `disk` becomes its `/srv`.
    pub(crate) fn boot(
        name: &str,
        disk: &Path,
        programs: &Path,
        started: Arc<Mutex<Vec<Started>>>,
    ) -> Result<Host> {
        fs::create_dir_all(disk).with_context(|| format!("create {}", disk.display()))?;
        let mut holder = reexec::command(Role::Holder)?
            .arg(name)
            .arg(disk)
            .arg(programs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start the holder of {name}"))?;
        let mut ready = String::new();
        let stdout = holder.stdout.take().context("the holder has no output")?;
        BufReader::new(stdout).read_line(&mut ready).context("wait for the holder")?;
        ensure!(ready == "ready\n", "the host {name} could not be made; its reason is above");
        let root = PathBuf::from(format!("/proc/{}", holder.id()));
        let outer = Namespace::open(&root.join("ns/net"))?;
        let tunnel = Namespace::open(&root.join("root").join(TUNNEL_NAMESPACE.trim_start_matches('/')))?;
        // For people who enter the world: `ip netns exec web …` works.
        let named = Path::new("/run/netns").join(name);
        fs::write(&named, "").with_context(|| format!("create {}", named.display()))?;
        bind(&root.join("ns/net"), &named)?;
        Ok(Host { name: name.to_owned(), holder, outer, tunnel, started })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process that holds the host's namespaces, as numbered inside the world.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// The host's own network.
    pub fn outer(&self) -> &Namespace {
        &self.outer
    }

    /// The namespace that holds only `lo` and the tunnel.
    pub fn tunnel(&self) -> &Namespace {
        &self.tunnel
    }

    /// The network of `place`.
    pub fn network(&self, place: Place) -> &Namespace {
        match place {
            Place::Outer => &self.outer,
            Place::Tunnel => &self.tunnel,
        }
    }

    /// How the harness reaches a path of this host.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(path.trim_start_matches('/'))
    }

    /// Writes a file of the host, its directories included.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let real = self.path(path);
        if let Some(parent) = real.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create the directory of {path}"))?;
        }
        fs::write(&real, content).with_context(|| format!("write {}:{path}", self.name))
    }

    /// Writes a file that only root may read.
    pub fn write_secret(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        // Empty first, so that it is never open to others with its content.
        self.write(path, "")?;
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o600))
            .with_context(|| format!("close {path} to others"))?;
        self.write(path, content)
    }

    /// Reads a file of the host.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.path(path)).with_context(|| format!("read {}:{path}", self.name))
    }

    /// A program of the system, or by an absolute path, that will run on this host.
    pub fn program(&self, name: &str) -> Program<'_> {
        Program::new(self, name)
    }

    /// A daemon under test: its log lines at WARN and above fail the scenario.
    pub fn daemon(&self, name: &str) -> Program<'_> {
        Program::new(self, &format!("{PROGRAMS}/{name}")).judged()
    }

    /// Runs a command in the host's own network to its end.
    pub fn run(&self, command: &[&str]) -> Result<Finished> {
        self.run_at(Place::Outer, command)
    }

    /// Runs a command at `place` to its end.
    pub fn run_at(&self, place: Place, command: &[&str]) -> Result<Finished> {
        let (name, arguments) = command.split_first().context("an empty command")?;
        self.program(name).arguments(arguments).at(place).run(COMMAND_BOUND)
    }

    /// Opens a TCP connection from `place`.
    pub fn connect(&self, place: Place, to: SocketAddr) -> Result<TcpStream> {
        self.network(place).within(|| {
            TcpStream::connect_timeout(&to, CONNECT_BOUND)
                .with_context(|| format!("connect from {} to {to}", self.name))
        })
    }

    /// Runs `work` on a thread that sees this host's files and outer network as its programs do.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let mounts =
            fs::File::open(format!("/proc/{}/ns/mnt", self.holder.id())).context("open the mounts")?;
        self.outer.within(|| {
            // A thread that shares its root directory with others cannot change its mounts.
            unshare(CloneFlags::CLONE_FS).context("part from the other threads' root directory")?;
            setns(mounts, CloneFlags::CLONE_NEWNS).context("enter the host's mounts")?;
            work()
        })
    }

    /// Gives the outer network a route.
    pub fn route(&self, destination: [u8; 4], prefix: u8, gateway: [u8; 4]) -> Result<()> {
        link::add_route(&self.outer, destination.into(), prefix, gateway.into())
    }

    /// Sets a value below `/proc/sys/net` for the outer network.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.outer.within(|| write_sysctl(&format!("/proc/sys/net/{name}"), value))
    }

    /// Every place of the host that can be written to, by the kernel's own table of its mounts.
    pub fn writable_places(&self) -> Result<Vec<PathBuf>> {
        let table =
            fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).context("read the mounts")?;
        Ok(visible(mounts(&table).collect())
            .into_iter()
            .filter(|mount| !mount.read_only && !is_virtual(mount.kind))
            .map(|mount| PathBuf::from(mount.target))
            .collect())
    }

    /// Every regular file in a writable place, with its size on the disk.
    pub fn writable_files(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        for place in self.writable_places()? {
            if place == Path::new("/etc") {
                // An overlay: what differs from the machine's own lies in /run/.etc/upper.
                continue;
            }
            let directory = self.path(&place.to_string_lossy());
            let device =
                fs::metadata(&directory).with_context(|| format!("look at {}", place.display()))?.dev();
            collect(&directory, device, &mut files)?;
        }
        files.sort();
        Ok(files)
    }

    /// The writable files that contain `marker`.
    pub fn files_with(&self, marker: &[u8]) -> Result<Vec<PathBuf>> {
        let finder = memmem::Finder::new(marker);
        let mut found = Vec::new();
        for (path, _) in self.writable_files()? {
            let content = match fs::read(&path) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
            };
            if finder.find(&content).is_some() {
                found.push(path);
            }
        }
        Ok(found)
    }

    pub(crate) fn remember(&self, started: Started) {
        self.started.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(started);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its programs were ended by their own drops; the namespaces go with their last process and descriptor.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Lists what lies below `directory` on its own `device`: not what is mounted there.
fn collect(directory: &Path, device: u64, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?.flatten() {
        let path = entry.path();
        // Daemons go on working meanwhile: a file may be gone.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            collect(&path, device, files)?;
        } else if metadata.is_file() {
            files.push((path, metadata.blocks() * 512));
        }
    }
    Ok(())
}

/// Role `holder`: makes the host's namespaces, says "ready" and stays until it is killed.
pub(crate) fn hold(arguments: &[OsString]) -> Result<ExitCode> {
    let [name, disk, programs] = arguments else { bail!("needs NAME DISK PROGRAMS") };
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET)
        .context("unshare")?;
    sethostname(name).context("name the host")?;
    furnish(Path::new(disk), Path::new(programs))?;

    // The first network becomes the tunnel's, the second the host's own.
    link::loopback_up_here()?;
    fs::write(TUNNEL_NAMESPACE, "").context("create the name of the tunnel's namespace")?;
    bind(Path::new(&format!("/proc/{}/ns/net", getpid())), Path::new(TUNNEL_NAMESPACE))?;
    unshare(CloneFlags::CLONE_NEWNET).context("unshare the network again")?;
    link::loopback_up_here()?;
    // No IPv6 outside: the captures then hold nothing that the kernel says by itself, save ARP.
    for which in ["all", "default"] {
        write_sysctl(&format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1")?;
    }
    crate::runner::say("ready");
    let mut line = [0_u8; 1];
    while std::io::stdin().read(&mut line).is_ok_and(|length| length > 0) {}
    Ok(ExitCode::SUCCESS)
}

/// Makes the file tree of the host.
fn furnish(disk: &Path, programs: &Path) -> Result<()> {
    world::mount_private()?;
    // First, for a bind of a read-only mount is read-only too.
    bind(disk, Path::new(DISK))?;
    make_read_only()?;
    world::mount_tmpfs(Path::new("/run"), "mode=755")?;
    for directory in
        ["/run/netns", "/run/bin", "/run/culvert", "/run/wireguard", "/run/.etc/upper", "/run/.etc/work"]
    {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
    }
    bind(programs, Path::new(PROGRAMS))?;
    mount(
        Some("overlay"),
        "/etc",
        Some("overlay"),
        MsFlags::empty(),
        Some("lowerdir=/etc,upperdir=/run/.etc/upper,workdir=/run/.etc/work"),
    )
    .context("mount an overlay on /etc")?;
    for directory in ["/etc/wireguard", "/etc/culvert"] {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
        // The machine's own, if there are any, stay out of sight; and without root they could not be read.
        world::mount_tmpfs(Path::new(directory), "mode=755")?;
    }
    // Last, for the two directories above may lie in /tmp.
    for directory in ["/tmp", "/var/tmp", "/dev/shm"] {
        world::mount_tmpfs(Path::new(directory), "mode=1777")?;
    }
    Ok(())
}

/// Remounts every real file system read-only.
fn make_read_only() -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    for mounted in
        mounts(&table).filter(|mount| mount.target != DISK && !mount.read_only && !is_virtual(mount.kind))
    {
        // A mount hidden below another one cannot be reached, by nobody.
        let Ok(now) = statvfs(mounted.target) else { continue };
        let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        for (kept, flag) in [
            (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
            (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
            (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
            (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
            (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
            (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
        ] {
            if now.flags().contains(kept) {
                flags |= flag;
            }
        }
        match mount(None::<&str>, mounted.target, None::<&str>, flags, None::<&str>) {
            // EINVAL: nothing is mounted here, for what was is hidden below a later mount.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(errno).with_context(|| format!("make {} read-only", mounted.target)),
        }
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mount {} on {}", source.display(), target.display()))
}

/// A line of `/proc/<pid>/mountinfo` (proc(5)).
struct Mounted<'a> {
    target: &'a str,
    kind: &'a str,
    read_only: bool,
}

fn mounts(table: &str) -> impl Iterator<Item = Mounted<'_>> {
    table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(4);
        let target = fields.next()?;
        let read_only = fields.next()?.split(',').any(|option| option == "ro");
        Some(Mounted { target, kind: right.split(' ').next()?, read_only })
    })
}

/// Leaves out what is hidden: a mount is, when one that comes later in the table stands at its place or above.
fn visible(all: Vec<Mounted<'_>>) -> Vec<Mounted<'_>> {
    let hidden = |(index, mount): (usize, &Mounted<'_>)| {
        all[index + 1..].iter().any(|later| Path::new(mount.target).starts_with(later.target))
    };
    let keep: Vec<bool> = all.iter().enumerate().map(|entry| !hidden(entry)).collect();
    let mut keep = keep.into_iter();
    all.into_iter().filter(|_| keep.next().unwrap_or(true)).collect()
}

/// File systems that hold the kernel's own things and no data of a program. `devtmpfs` and `/dev` stay writable:
/// `/dev/null` must be.
fn is_virtual(kind: &str) -> bool {
    matches!(
        kind,
        "proc"
            | "sysfs"
            | "cgroup"
            | "cgroup2"
            | "devtmpfs"
            | "devpts"
            | "mqueue"
            | "nsfs"
            | "securityfs"
            | "debugfs"
            | "tracefs"
            | "bpf"
            | "pstore"
            | "configfs"
            | "binfmt_misc"
            | "hugetlbfs"
            | "efivarfs"
            | "fusectl"
            | "autofs"
            | "rpc_pipefs"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_below_a_later_one_is_hidden() {
        let line = |target: &str| format!("28 1 254:0 / {target} rw - ext4 /dev/vda rw\n");
        let table: String = ["/", "/run", "/run/netns", "/tmp", "/run", "/tmp/x"].map(line).concat();
        let seen: Vec<_> = visible(mounts(&table).collect()).into_iter().map(|mount| mount.target).collect();
        assert_eq!(seen, ["/", "/tmp", "/run", "/tmp/x"]);
    }

    #[test]
    fn mountinfo_is_read() {
        let table = "28 1 254:0 / / ro,relatime shared:1 - ext4 /dev/vda rw\n\
                     30 28 0:25 / /run rw,nosuid - tmpfs tmpfs rw,mode=755\n";
        let all: Vec<_> = mounts(table).map(|m| (m.target, m.kind, m.read_only)).collect();
        assert_eq!(all, [("/", "ext4", true), ("/run", "tmpfs", false)]);
    }
}
