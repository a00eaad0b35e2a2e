//! One host: a systemd in a container, and commands on it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use daemon::Clock;

use super::base;
pub(super) use crate::steps::shell as run;

/// The container manager's own list lacks what the daemons lock themselves down with.
const MORE_SYSTEM_CALLS: &str =
    "landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret";
const BOOT_BOUND: Duration = Duration::from_secs(60);

/// A booted host.
pub(super) struct Host {
    name: &'static str,
    root: PathBuf,
    nspawn: Child,
    leader: String,
}

impl Host {
    /// Boots a tree, with its changes below `data`, at `address`.
    pub(super) fn boot(name: &'static str, address: &str, tree: &Path, data: &Path) -> Result<Host> {
        run(&format!(
            "ip netns add {name}
             ip link add p{name} type veth peer name eth0 netns {name}
             ip link set p{name} master br0 up
             ip -n {name} addr add {address}/24 dev eth0
             ip -n {name} link set eth0 up
             ip -n {name} link set lo up"
        ))?;
        let place = |what: &str| data.join(format!("{name}-{what}"));
        let (upper, work, root) = (place("changes"), place("work"), place("root"));
        for directory in [&upper, &work, &root] {
            fs::create_dir_all(directory)?;
        }
        let layers =
            format!("lowerdir={},upperdir={},workdir={}", tree.display(), upper.display(), work.display());
        let mounted =
            Command::new("mount").args(["-t", "overlay", "-o", &layers, "overlay"]).arg(&root).status()?;
        ensure!(mounted.success(), "mount the root of {name}");
        fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
        let log = fs::File::create(data.join(format!("{name}.console")))?;
        let enter: String = base::control_groups(name)
            .iter()
            .map(|group| format!("echo $$ > {}/cgroup.procs\n", group.display()))
            .collect();
        let mut nspawn = Command::new("sh");
        nspawn.args(["-ec", &format!("{enter}exec systemd-nspawn \"$@\""), "sh", "--quiet", "--boot"]);
        nspawn.args(["--register=no", "--keep-unit", "--console=pipe", "--bind=/dev/net/tun"]);
        nspawn.args(["--capability=CAP_NET_ADMIN", &format!("--system-call-filter={MORE_SYSTEM_CALLS}")]);
        nspawn.arg(format!("--machine={name}")).arg(format!("--network-namespace-path=/run/netns/{name}"));
        nspawn.arg("--directory").arg(&root);
        let nspawn = nspawn.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut host = Host { name, root, nspawn, leader: String::new() };
        host.wait_for_boot()?;
        Ok(host)
    }

    fn wait_for_boot(&mut self) -> Result<()> {
        let began = Clock.now();
        while began.elapsed() < BOOT_BOUND {
            ensure!(self.nspawn.try_wait()?.is_none(), "{}: the container has ended", self.name);
            let children = Command::new("pgrep").args(["-P", &self.nspawn.id().to_string()]).output()?;
            self.leader = String::from_utf8_lossy(&children.stdout).trim().to_owned();
            // Debian's Alertmanager does not start unconfigured on a host without a private address.
            let up = "test \"$(systemctl is-system-running)\" = running || \
                      { systemctl is-system-running | grep -qx degraded && \
                      ! systemctl list-units --failed --plain --no-legend | grep -qv '^prometheus-'; }";
            if !self.leader.is_empty() && self.succeeds(up)? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        let failed = self
            .command("systemctl list-units --failed --no-legend; systemctl is-system-running")
            .output()?;
        bail!("{} is not up after {BOOT_BOUND:?}: {}", self.name, String::from_utf8_lossy(&failed.stdout))
    }

    /// A shell's words, on this host.
    pub(super) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.leader, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]);
        command.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "TERM=dumb",
            "LANG=C.UTF-8",
        ]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "sh", "-c", script]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it; what it printed.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        let output = self.command(script).output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        ensure!(
            output.status.success(),
            "{}: {script}\n{said}\n{}",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(said)
    }

    /// Whether it succeeds.
    pub(super) fn succeeds(&self, script: &str) -> Result<bool> {
        Ok(self.command(script).output()?.status.success())
    }

    /// Waits until it succeeds.
    pub(super) fn until(&self, what: &str, bound: Duration, script: &str) -> Result<()> {
        let began = Clock.now();
        loop {
            if self.succeeds(script)? {
                return Ok(());
            }
            ensure!(began.elapsed() < bound, "{}: {what}: not within {bound:?} ({script})", self.name);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The main process of a unit, by the host's own number.
    pub(super) fn main_pid(&self, unit: &str) -> Result<String> {
        let pid = self.run(&format!("systemctl show --property=MainPID --value {unit}"))?;
        ensure!(pid != "0", "{}: {unit} does not run", self.name);
        Ok(pid)
    }

    /// Writes a file.
    pub(super) fn write(&self, path: &str, mode: u32, text: &str) -> Result<()> {
        let file = self.path(path);
        fs::write(&file, text).with_context(|| format!("write {path} on {}", self.name))?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(mode))?)
    }

    /// Reads a file.
    pub(super) fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.path(path)).with_context(|| format!("read {path} on {}", self.name))
    }

    /// Where a path of the host is for us.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}
