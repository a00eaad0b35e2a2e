//! A host: a network and a mount namespace of its own, and inside it the namespace that holds only `lo` and the
//! tunnel.
//!
//! Invariant: what a host's programs can write to is a closed set ([`Host::writable_places`]): `/run`, `/tmp`,
//! `/var/tmp`, `/dev/shm` and `/etc` live in memory, `/srv` on the disk of the test machine, and the rest of the file
//! tree is read-only. So "nothing was left on this host" can be checked by looking at all of it.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use memchr::memmem;
use nix::sched::{CloneFlags, setns, unshare};

use crate::lab::tools;
use crate::link;
use crate::mounts::{bind, is_virtual, mounts, visible};
use crate::namespace::Namespace;
use crate::program::{Finished, Program, Started};
use crate::reexec::{self, Role};
use crate::world::write_sysctl;

/// Set where every wgd of this world does without the kernel's offloads.
static PLAIN_DEVICES: OnceLock<()> = OnceLock::new();

/// From now on every wgd that is started is told to do without offloads.
pub(crate) fn use_plain_devices() {
    let _ = PLAIN_DEVICES.set(());
}

/// Where a host finds the programs under test.
pub const PROGRAMS: &str = "/run/bin";

/// Where a host finds what [`lab::tools`](crate::lab::tools) names, for that may lie where a host has a directory of its own.
pub const TOOLS: &str = "/run/tools";

/// Where a host's directory on the real disk is.
pub const DISK: &str = "/srv";

/// The tunnel's namespace, as a path inside of the host.
pub(crate) const TUNNEL_NAMESPACE: &str = "/run/netns/tunnel";

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
            .arg(tools()?)
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
        let program = Program::new(self, &format!("{PROGRAMS}/{name}")).judged();
        if name == "wgd" && PLAIN_DEVICES.get().is_some() {
            return program.arguments(&["--device", "plain"]);
        }
        program
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

    /// Runs a command line, whose words are parted by spaces alone, and gives its output; it has to end well.
    pub fn execute(&self, line: &str) -> Result<String> {
        self.run(&line.split_whitespace().collect::<Vec<_>>())?.success()
    }

    /// Gives the outer network IPv6, with addresses that can be used at once.
    pub fn allow_ipv6(&self) -> Result<()> {
        for which in ["all", "default"] {
            self.sysctl(&format!("ipv6/conf/{which}/accept_dad"), "0")?;
            self.sysctl(&format!("ipv6/conf/{which}/disable_ipv6"), "0")?;
        }
        Ok(())
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
