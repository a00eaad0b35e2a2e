//! Role `holder`: makes a host's namespaces and its file tree, and holds them until it is killed.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getpid, sethostname};

use crate::host::{DISK, PROGRAMS, TOOLS, TUNNEL_NAMESPACE};
use crate::link;
use crate::mounts::{bind, is_virtual, mount_private, mount_tmpfs, mounts};
use crate::world::write_sysctl;

/// Role `holder`: makes the host's namespaces, says "ready" and stays until it is killed.
pub(crate) fn hold(arguments: &[OsString]) -> Result<ExitCode> {
    let [name, disk, programs, tools] = arguments else { bail!("needs NAME DISK PROGRAMS TOOLS") };
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET)
        .context("unshare")?;
    sethostname(name).context("name the host")?;
    furnish(Path::new(disk), Path::new(programs), Path::new(tools))?;

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
fn furnish(disk: &Path, programs: &Path, tools: &Path) -> Result<()> {
    mount_private()?;
    // First, for a bind of a read-only mount is read-only too.
    bind(disk, Path::new(DISK))?;
    let traces = crate::trace::directory();
    if let Some(traces) = &traces {
        bind(traces, traces)?;
    }
    make_read_only(traces.as_deref())?;
    mount_tmpfs(Path::new("/run"), "mode=755")?;
    if let Some(traces) = &traces {
        fs::create_dir_all(crate::trace::OF_HOST).context("create the directory of traces")?;
        bind(traces, Path::new(crate::trace::OF_HOST))?;
    }
    for directory in
        ["/run/netns", "/run/bin", "/run/culvert", "/run/wireguard", "/run/.etc/upper", "/run/.etc/work"]
    {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
    }
    bind(programs, Path::new(PROGRAMS))?;
    // There are none before a slow scenario was asked for.
    if tools.is_dir() {
        fs::create_dir_all(TOOLS).with_context(|| format!("create {TOOLS}"))?;
        bind(tools, Path::new(TOOLS))?;
    }
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
        mount_tmpfs(Path::new(directory), "mode=755")?;
    }
    // Last, for the two directories above may lie in /tmp.
    for directory in ["/tmp", "/var/tmp", "/dev/shm"] {
        mount_tmpfs(Path::new(directory), "mode=1777")?;
    }
    Ok(())
}

/// Remounts every real file system read-only, but the host's disk and where traces go.
fn make_read_only(traces: Option<&Path>) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let stays = |target: &str| target == DISK || traces == Some(Path::new(target));
    for mounted in
        mounts(&table).filter(|mount| !stays(mount.target) && !mount.read_only && !is_virtual(mount.kind))
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
