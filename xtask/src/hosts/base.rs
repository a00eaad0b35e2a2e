//! The bare Debians that the hosts start from, and the control groups in which their systemds live.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{packages, steps};

/// A server as it comes, with what an administrator of a tunnel has at hand; Ansible needs the last ones.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,iproute2,nftables,procps,curl,ca-certificates,init-system-helpers,\
                        wireguard-tools,openssh-server,python3,python3-apt";

/// Where the machine keeps the list of its own mirrors.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// What the host that watches has from Debian, because hosts have no way to its mirrors.
const WATCHING: &str = "prometheus,prometheus-alertmanager";

/// The tree of the hosts that are installed.
pub(super) fn bare() -> PathBuf {
    packages::tools_directory().join("hosts-base")
}

/// The tree of the host that watches them.
pub(super) fn watching() -> PathBuf {
    packages::tools_directory().join("hosts-watching")
}

/// Makes them, unless they are there.
pub(super) fn provide() -> Result<()> {
    provide_tree(&bare(), PACKAGES)?;
    provide_tree(&watching(), &format!("{PACKAGES},{WATCHING}"))
}

fn provide_tree(tree: &Path, packages: &str) -> Result<()> {
    if tree.is_dir() {
        return Ok(());
    }
    println!("Unpacking a bare Debian into {} (once, some minutes)", tree.display());
    let partial = tree.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    let mut make = Command::new("mmdebstrap");
    make.args([
        "--variant=apt",
        "--mode=root",
        "--skip=output/dev",
        "--quiet",
        &format!("--include={packages}"),
    ]);
    make.args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=path-exclude=/usr/share/locale/*"]);
    let (suite, sources) = release()?;
    make.arg(suite).arg(&partial).arg("-");
    make.stdin(File::open(sources)?);
    ensure!(steps::run(&mut make)?, "mmdebstrap failed");
    // A host names itself at its first boot.
    fs::write(partial.join("etc/machine-id"), "")?;
    fs::rename(&partial, tree).context("name the finished tree")
}

/// The same release from the same mirrors as the machine that the programs are built on: its name, and the list.
pub(crate) fn release() -> Result<(String, PathBuf)> {
    let text = fs::read_to_string("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.context("/etc/os-release names no release")?.trim_matches('"').to_owned();
    let sources = SOURCES.iter().map(PathBuf::from).find(|path| path.is_file());
    Ok((name, sources.context("no list of package sources")?))
}

/// A group of its own for each systemd, in each hierarchy that there is: two in one group would kill one another's
/// services. Made outside of the world, because the world's end does not remove them.
pub(super) struct ControlGroups;

/// The hierarchies that systemd uses: one alone, or its own beside the old controllers.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

pub(super) fn control_groups(host: &str) -> Vec<PathBuf> {
    let found: Vec<PathBuf> = HIERARCHIES
        .iter()
        .map(PathBuf::from)
        .filter(|hierarchy| hierarchy.join("cgroup.procs").is_file())
        .map(|hierarchy| hierarchy.join(format!("culvert-hosts-{host}")))
        .collect();
    found
}

impl ControlGroups {
    pub(super) fn make() -> Result<Self> {
        remove();
        for host in names() {
            let groups = control_groups(host);
            if groups.is_empty() {
                bail!("no control groups are mounted at /sys/fs/cgroup");
            }
            for group in groups {
                fs::create_dir_all(&group)
                    .with_context(|| format!("make control group {}", group.display()))?;
            }
        }
        Ok(Self)
    }
}

impl Drop for ControlGroups {
    fn drop(&mut self) {
        remove();
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    super::pair::NAMES.into_iter().chain(super::fleet::NAMES)
}

/// Their groups below, too, from the inside out. What is not empty yet stays for the next run.
fn remove() {
    for group in names().flat_map(control_groups) {
        let mut find = Command::new("find");
        find.arg(&group).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
        let _ = find.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
