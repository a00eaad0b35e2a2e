//! A world: the namespaces everything else lives in, and the two processes that guard its end.
//!
//! ```text
//! user's process ──pipe──▶ janitor ──pipe──▶ pid 1 of the world ──▶ holders, daemons, tools
//! ```
//!
//! Invariant: a world ends with the process that asked for it. The pipe closes when that process dies in any way,
//! kill -9 included; the janitor then kills pid 1, and with it the kernel kills every process of the PID namespace
//! and drops all its network and mount namespaces. The janitor stands outside, in a process group of its own (Ctrl-C
//! does not reach it), and removes the data directory last. Should the janitor be killed as well, pid 1 notices by
//! the second pipe, and the next world sweeps the data directory away.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, getegid, geteuid, getpid, sethostname};

use crate::link;
use crate::mounts::{mount_private, mount_tmpfs};
use crate::reexec::{self, Role};

/// Where pid 1 finds its data directory.
const DATA_VARIABLE: &str = "CULVERT_NETNS_DATA";

/// Set when the world has a user namespace of its own.
const USER_VARIABLE: &str = "CULVERT_NETNS_OWN_USERS";

/// Data directories begin with this.
const DATA_PREFIX: &str = "culvert-lab-";

/// A world seen from outside.
#[derive(Debug)]
pub struct Launched {
    /// The janitor. Its standard input is the life line.
    pub child: Child,
}

impl Launched {
    /// Starts a world whose pid 1 runs this executable again and finds `arguments` in [`World::arguments`].
    /// `output` receives its standard output and error.
    pub fn start(arguments: &[OsString], stdout: Stdio, stderr: Stdio) -> Result<Launched> {
        Self::start_with(arguments, &[], stdout, stderr)
    }

    /// The same with more variables in the world's environment.
    fn start_with(
        arguments: &[OsString],
        variables: &[(&str, OsString)],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Launched> {
        let mut command = reexec::command(Role::Janitor)?;
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.args(arguments).stdin(Stdio::piped()).stdout(stdout).stderr(stderr).process_group(0);
        Ok(Launched { child: command.spawn().context("start the janitor")? })
    }

    /// Waits for the world's end.
    pub fn wait(mut self) -> Result<ExitStatus> {
        // `Child::wait` closes standard input, which is the life line.
        let line = self.child.stdin.take();
        let status = self.child.wait().context("wait for the world")?;
        drop(line);
        Ok(status)
    }
}

/// Runs this executable again inside a new world and gives back its exit code: what a program calls that wants to be
/// in a world itself.
pub fn run_inside(arguments: &[OsString]) -> Result<ExitCode> {
    run_inside_with(arguments, &[])
}

/// The same with more variables in the world's environment.
pub fn run_inside_with(arguments: &[OsString], variables: &[(&str, OsString)]) -> Result<ExitCode> {
    let status = Launched::start_with(arguments, variables, Stdio::inherit(), Stdio::inherit())?.wait()?;
    Ok(exit_code(status))
}

/// The world seen from its pid 1.
#[derive(Debug)]
pub struct World {
    arguments: Vec<OsString>,
    data: PathBuf,
    outer_pid: u32,
    own_users: bool,
}

impl World {
    /// The arguments given to [`Launched::start`].
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// A directory on the disk for this world; gone when the world is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The number of this process as processes outside of the world see it.
    pub fn outer_pid(&self) -> u32 {
        self.outer_pid
    }

    /// Whether it has a user namespace of its own, because it was not root who asked for it.
    pub fn has_own_users(&self) -> bool {
        self.own_users
    }
}

/// Role `janitor`.
pub(crate) fn janitor(arguments: &[OsString]) -> Result<ExitCode> {
    sweep(&env::temp_dir());
    let (data, lock) = make_data_directory(&env::temp_dir())?;
    let outcome = run_world(arguments, &data);
    let removed = fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()));
    drop(lock);
    let code = outcome?;
    removed?;
    Ok(code)
}

fn run_world(arguments: &[OsString], data: &Path) -> Result<ExitCode> {
    // The current directory may be a place that only the real root can read.
    let mut flags = CloneFlags::CLONE_NEWPID;
    if !geteuid().is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(flags).context("unshare the PID namespace (no root, and no user namespaces allowed?)")?;
    if flags.contains(CloneFlags::CLONE_NEWUSER) {
        fs::write("/proc/self/setgroups", "deny").context("deny setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("map the user")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("map the group")?;
    }
    let mut command: Command = reexec::command(Role::World)?;
    let mut child = command
        .args(arguments)
        .env(DATA_VARIABLE, data)
        .stdin(Stdio::piped())
        .spawn()
        .context("start pid 1")?;
    let pid = child.id();
    let mut inner_line = child.stdin.take().context("pid 1 has no life line")?;
    writeln!(inner_line, "{pid}").context("tell pid 1 its number")?;
    wait_for_either_end(&inner_line)?;
    // Without effect when pid 1 ended by itself: it is not reaped yet, so the number is still its own.
    child.kill().context("kill pid 1")?;
    let status = child.wait().context("wait for pid 1")?;
    drop(inner_line);
    Ok(exit_code(status))
}

/// Role `world`.
pub(crate) fn become_pid_one(arguments: Vec<OsString>) -> Result<World> {
    if getpid().as_raw() != 1 {
        bail!("this is not pid 1 of a PID namespace");
    }
    let mut first = String::new();
    BufReader::with_capacity(1, std::io::stdin()).read_line(&mut first).context("read the own number")?;
    let outer_pid = first.trim().parse().context("read the own number")?;
    let data = PathBuf::from(env::var_os(DATA_VARIABLE).context("no data directory given")?);

    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .context("unshare")?;
    sethostname("culvert-lab").context("name the world")?;
    mount_private()?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).context("mount /proc")?;
    mount_tmpfs(Path::new("/run"), "mode=755")?;
    fs::create_dir("/run/netns").context("create /run/netns")?;
    link::loopback_up_here().context("raise lo")?;
    // After the unshares, which want one thread.
    thread::spawn(|| {
        wait_for_end_of_input();
        std::process::exit(i32::from(reexec::HELPER_FAILED));
    });
    let own_users = env::var_os(USER_VARIABLE).is_some_and(|value| value == "1");
    Ok(World { arguments, data, outer_pid, own_users })
}

/// Waits until standard input has been closed by the asking process, or pid 1 (the reader of `inner_line`) is gone.
/// No thread may do this: a process that has unshared its PID namespace can start none.
fn wait_for_either_end(inner_line: &ChildStdin) -> Result<()> {
    let outer_line = std::io::stdin();
    loop {
        let mut both = [
            PollFd::new(outer_line.as_fd(), PollFlags::POLLIN),
            // A pipe without readers answers POLLERR to its writer.
            PollFd::new(inner_line.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut both, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno).context("wait for the world's end"),
        }
        let [outer, inner] = &both;
        let closed = |fd: &PollFd<'_>, flag| fd.revents().is_some_and(|seen| seen.intersects(flag));
        if closed(inner, PollFlags::POLLERR) || closed(outer, PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Ok(());
        }
        if closed(outer, PollFlags::POLLIN) {
            let mut scrap = [0_u8; 64];
            if outer_line.lock().read(&mut scrap).context("read the life line")? == 0 {
                return Ok(());
            }
        }
    }
}

/// Reads standard input until the other end is closed.
fn wait_for_end_of_input() {
    let mut byte = [0_u8; 64];
    let mut input = std::io::stdin();
    while input.read(&mut byte).is_ok_and(|length| length > 0) {}
}

/// Makes a directory and locks it before it has the name that [`sweep`] looks for.
fn make_data_directory(temporary: &Path) -> Result<(PathBuf, Flock<File>)> {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").context("draw a name")?;
    let data = temporary.join(format!("{DATA_PREFIX}{}", id.trim()));
    let unlocked = temporary.join(format!("culvert-new-{}", id.trim()));
    fs::create_dir(&unlocked).with_context(|| format!("create {}", unlocked.display()))?;
    let lock = lock(&unlocked)?;
    fs::rename(&unlocked, &data).with_context(|| format!("name {}", data.display()))?;
    Ok((data, lock))
}

/// Takes the lock that says "a janitor looks after this directory".
fn lock(data: &Path) -> Result<Flock<File>> {
    let directory = File::open(data).with_context(|| format!("open {}", data.display()))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("lock {}", data.display()))
}

/// Removes data directories whose janitor was killed.
fn sweep(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(DATA_PREFIX.as_bytes());
        if ours && entry.metadata().is_ok_and(|metadata| is_mine(&metadata)) {
            // Only an unlocked directory is an orphan.
            if let Ok(_held) = lock(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn is_mine(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.is_dir() && Uid::from_raw(metadata.uid()) == geteuid()
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Opens a file for writing inside a namespace's `/proc/sys` and writes one value.
pub(crate) fn write_sysctl(path: &str, value: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).open(path).with_context(|| format!("open {path}"))?;
    file.write_all(value.as_bytes()).with_context(|| format!("write {value} to {path}"))
}
