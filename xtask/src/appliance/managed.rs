//! The image for administrators: who has the key gets in, sees what an administrator sees, and changes nothing of the system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use daemon::Clock;

use super::disk::Disk;
use super::machine::{Machine, SOON, Setup};
use super::pair::{Pair, TAP_WEB, WEB, network};
use super::{MANAGED, shell};
use crate::image;

/// Who has the key.
pub(super) struct Administrator {
    key: PathBuf,
    known: PathBuf,
}

impl Administrator {
    pub(super) fn make(place: &Path) -> Result<Administrator> {
        let key = place.join("administrator");
        shell(&format!("ssh-keygen -q -t ed25519 -N '' -f {}", key.display()))?;
        Ok(Administrator { key, known: place.join("known_hosts") })
    }

    /// Puts the public half where sshd looks.
    pub(super) fn let_in(&self, data: &Disk) -> Result<()> {
        let public = fs::read_to_string(self.key.with_extension("pub")).context("read the public key")?;
        data.write("/etc/culvert/ssh/authorized_keys", 0o600, &public)?;
        shell(&format!("chmod 700 {}", data.path("/etc/culvert/ssh").display())).map(drop)
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-i").arg(&self.key);
        command.args(["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"]);
        // A machine whose power was cut says nothing any more.
        command.args([
            "-o",
            "ConnectTimeout=5",
            "-o",
            "ServerAliveInterval=20",
            "-o",
            "ServerAliveCountMax=6",
        ]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", self.known.display()));
        command.args([&format!("root@{WEB}"), script]);
        command
    }

    /// Whether it went well, and what it said.
    pub(super) fn ssh(&self, script: &str) -> Result<(bool, String)> {
        let output = self.command(script).stdin(Stdio::null()).output().context("start ssh")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).trim().to_owned()))
    }

    pub(super) fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let file = File::open(from).with_context(|| format!("open {}", from.display()))?;
        let output =
            self.command(&format!("cat > {to} && sync")).stdin(file).output().context("start ssh")?;
        ensure!(
            output.status.success(),
            "copy {} to {to}: {}",
            from.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    pub(super) fn wait(&self, machine: &mut Machine) -> Result<()> {
        let began = Clock.now();
        while !self.ssh("true")?.0 {
            ensure!(
                began.elapsed() < SOON,
                "sshd does not let us in: {}\n{}",
                self.ssh("true")?.1,
                machine.tail()
            );
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// The fingerprint of the machine.
    fn known(&self) -> Result<String> {
        shell(&format!("ssh-keygen -lf {}", self.known.display()))
    }
}

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    let place = pair.place().to_path_buf();
    let administrator = Administrator::make(&place)?;
    let disk = Disk::new("managed", &place)?;
    disk.write("/etc/culvert/network/10-wired.network", 0o644, &network(WEB))?;
    administrator.let_in(&disk)?;
    disk.make()?;
    let image = image::place(MANAGED);
    let setup = Setup {
        image: &image,
        root: None,
        data: Some(disk.file()),
        tap: Some(TAP_WEB),
        replace: None,
        append: "",
    };
    let mut machine = Machine::boot("managed", &setup, &place)?;
    let shown = machine.until("its fingerprint is on the console", |text| {
        let line = text.lines().find(|line| line.contains("SHA256:") && line.contains("ED25519"))?;
        Some(line.split_whitespace().find(|word| word.starts_with("SHA256:"))?.to_owned())
    })?;

    administrator.wait(&mut machine)?;
    let ssh = |script: &str| administrator.ssh(script);
    let known = administrator.known()?;
    ensure!(known.contains(&shown), "the console says {shown}, the machine is {known}");
    let (_, status) = ssh("culvert image status --json")?;
    let status: serde_json::Value =
        serde_json::from_str(status.lines().next().unwrap_or_default()).context("read the status")?;
    ensure!(status["verified"] == true && status["image"]["flavour"] == "managed", "{status}");
    for refused in [
        "touch /usr/bin/x",
        "touch /etc/x",
        "mount -o remount,rw /",
        "install -m 4755 /usr/bin/id /var/x && /var/x",
        "cp /usr/bin/id /etc/culvert/x && /etc/culvert/x",
        "modprobe dummy",
    ] {
        let (done, said) = ssh(refused)?;
        ensure!(!done, "{refused}: was possible: {said}");
    }
    let (_, set) = ssh("find / -xdev -type f -perm /6000")?;
    ensure!(set.is_empty(), "programs that lend rights: {set}");
    let (done, python) = ssh("python3 -c 'import json, ssl, subprocess; print(6 * 7)'")?;
    ensure!(done && python == "42", "python for Ansible: {python}");
    let (_, swap) = ssh("cat /proc/swaps | wc -l")?;
    ensure!(swap == "1", "there is swap");
    Ok(())
}
