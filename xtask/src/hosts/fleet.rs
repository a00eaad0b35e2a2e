//! The four hosts that Ansible installs, and the inventory of them.
//!
//! Invariant: the controller reaches a host by SSH with a key, as it would anywhere, and by nothing else.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use culvert_netns::world::World;

use super::client::Client;
use super::host::{Host, run};
use super::pair::{SERVICES, WEB, bridge};
use super::{ansible, base, packages_of};
use crate::steps;

/// Their names; the container manager and the bridge use them.
pub(super) const NAMES: [&str; 4] = ["web1", "svc1", "mon1", "spare1"];
const WATCH: &str = "192.0.2.12";
const SPARE: &str = "192.0.2.13";

/// All of them, who uses them, and what Ansible said.
pub(super) struct Fleet {
    pub(super) web: Host,
    pub(super) services: Host,
    pub(super) watch: Host,
    pub(super) spare: Host,
    pub(super) client: Client,
    /// The output of every playbook.
    pub(super) said: Vec<String>,
}

impl Fleet {
    /// Boots all, and writes the inventory: that of the collection, with this place's paths.
    pub(super) fn boot(world: &World) -> Result<Fleet> {
        bridge()?;
        let data = world.data().to_path_buf();
        let client = Client { data: data.clone() };
        client.certificate()?;
        run(&format!(
            "cd {} && ssh-keygen -q -t ed25519 -N '' -f ssh.key && age-keygen -o identity 2>/dev/null
             head -c 32 /dev/urandom | base64 > vault.psk",
            data.display()
        ))?;
        let web = Host::boot("web1", WEB, &base::bare(), &data)?;
        let services = Host::boot("svc1", SERVICES, &base::bare(), &data)?;
        let watch = Host::boot("mon1", WATCH, &base::watching(), &data)?;
        let spare = Host::boot("spare1", SPARE, &base::bare(), &data)?;
        let fleet = Fleet { web, services, watch, spare, client, said: Vec::new() };
        let key = fs::read_to_string(data.join("ssh.key.pub"))?;
        for host in fleet.hosts() {
            host.run("mkdir -p -m 700 /root/.ssh")?;
            host.write("/root/.ssh/authorized_keys", 0o600, &key)?;
        }
        fleet.inventory()?;
        Ok(fleet)
    }

    pub(super) fn hosts(&self) -> [&Host; 4] {
        [&self.web, &self.services, &self.watch, &self.spare]
    }

    /// What the daemons had to say, for a step that failed.
    pub(super) fn journals(&self) -> String {
        let tail = "journalctl --no-pager --output=cat -n 25 -u 'wgd@*' -u edge -u storaged -u 'culvert-*' -u 'prometheus*'";
        self.hosts()
            .iter()
            .map(|host| format!("--- {}\n{}\n", host.path("").display(), host.run(tail).unwrap_or_default()))
            .collect()
    }

    fn inventory(&self) -> Result<()> {
        let data = &self.client.data;
        let from = ansible::collection().join("inventories/one-and-one");
        run(&format!("cp -r {} {}", from.display(), self.inventory_directory().display()))?;
        run(&format!(
            "cd {}/group_vars
             recipient=$(age-keygen -y {}/identity)
             sed -i \"s|^storaged_recovery_recipient: .*|storaged_recovery_recipient: $recipient|\" all.yml",
            self.inventory_directory().display(),
            data.display()
        ))?;
        let here = |file: &str| data.join(file).display().to_string();
        let more = format!(
            "ansible_ssh_private_key_file: {}\nansible_ssh_common_args: -o StrictHostKeyChecking=no -o \
             UserKnownHostsFile=/dev/null\nansible_python_interpreter: /usr/bin/python3\ncommon_deb_path: {}\n\
             agent_syslogs: [\"udp://192.0.2.1:5514\"]\n\
             edge_tls_cert_file: {}\nedge_tls_key_file: {}\nwgd_preshared_key: \"{{{{ lookup('file', '{}') }}}}\"\n",
            here("ssh.key"),
            packages_of(1).display(),
            here("chain.pem"),
            here("tls.key"),
            here("vault.psk"),
        );
        let file = self.inventory_directory().join("group_vars/all.yml");
        let text = fs::read_to_string(&file)?;
        let kept: Vec<&str> = text
            .lines()
            .filter(|line| !["common_deb_path", "edge_tls_"].iter().any(|key| line.starts_with(key)))
            .collect();
        fs::write(&file, format!("{}\n{more}", kept.join("\n")))?;
        Ok(())
    }

    pub(super) fn inventory_directory(&self) -> PathBuf {
        self.client.data.join("inventory")
    }

    /// Runs a playbook of the collection, which has to end well; what it printed.
    pub(super) fn play(&mut self, playbook: &str, arguments: &[&str]) -> Result<String> {
        let (succeeded, said) = ansible::play(self, playbook, arguments)?;
        self.said.push(said.clone());
        ensure!(succeeded, "{playbook} failed:\n{}", tail(&said));
        Ok(said)
    }

    /// One that has to refuse what it is asked.
    pub(super) fn refused(&mut self, playbook: &str, arguments: &[&str], because: &str) -> Result<()> {
        let (succeeded, said) = ansible::play(self, playbook, arguments)?;
        self.said.push(said.clone());
        ensure!(!succeeded && said.contains(because), "{playbook} was not refused:\n{}", tail(&said));
        Ok(())
    }

    /// The culvert of this tree, as a controller has it.
    pub(super) fn culvert() -> PathBuf {
        steps::target_directory().join("debug/culvert")
    }
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
