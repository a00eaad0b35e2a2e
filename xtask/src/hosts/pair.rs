//! The two hosts, and the way from a bare Debian to the first file, as `docs/install.md` has it.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_netns::world::World;

use super::client::Client;
use super::host::{Host, run};
use super::{base, packages_of};

/// Their names; the container manager and the bridge use them.
pub(super) const NAMES: [&str; 2] = ["web", "svc"];
pub(super) const WEB: &str = "192.0.2.10";
pub(super) const SERVICES: &str = "192.0.2.11";
/// A daemon is up, or a tunnel. The machine may be busy with other things.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// Both, and what was learned on the way.
pub(super) struct Pair {
    pub(super) web: Host,
    pub(super) services: Host,
    pub(super) client: Client,
}

impl Pair {
    /// Boots both.
    pub(super) fn boot(world: &World) -> Result<Pair> {
        bridge()?;
        let data = world.data().to_path_buf();
        let (tree, client) = (base::bare(), Client { data: data.clone() });
        let web = Host::boot("web", WEB, &tree, &data)?;
        Ok(Pair { web, services: Host::boot("svc", SERVICES, &tree, &data)?, client })
    }

    fn both(&self) -> [&Host; 2] {
        [&self.web, &self.services]
    }

    /// What the daemons had to say, for a step that failed.
    pub(super) fn journals(&self) -> String {
        let tail = "journalctl --no-pager --output=cat -n 25 -u 'wgd*@*' -u edge -u storaged -u 'culvert-netns@*' -u run-netns-culvert.mount";
        self.both()
            .iter()
            .map(|host| format!("--- {}\n{}\n", host.path("").display(), host.run(tail).unwrap_or_default()))
            .collect()
    }
}

/// What connects the hosts.
pub(super) fn bridge() -> Result<()> {
    run("ip link add br0 type bridge
         ip link set br0 up
         ip addr add 192.0.2.1/24 dev br0")
    .map(drop)
}

/// Copies the packages of a revision to a host and installs those of its role.
pub(super) fn install_revision(host: &Host, daemon: &str, revision: u32) -> Result<String> {
    let folder = format!("/root/packages-{revision}");
    fs::create_dir_all(host.path(&folder))?;
    for entry in fs::read_dir(packages_of(revision))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            fs::copy(&path, host.path(&folder).join(path.file_name().unwrap_or_default()))?;
        }
    }
    let install =
        format!("cd {folder} && dpkg --force-confold --install culvert_*.deb wgd_*.deb {daemon}_*.deb 2>&1");
    host.run(&install)
}

pub(super) fn lint(_pair: &mut Pair) -> Result<()> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(packages_of(1))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    ensure!(packages.len() > 3, "only {packages:?}");
    let said = crate::deb::lint(&packages)?;
    ensure!(said.is_empty(), "{said}");
    Ok(())
}

pub(super) fn install(pair: &mut Pair) -> Result<()> {
    for (host, daemon) in [(&pair.web, "edge"), (&pair.services, "storaged")] {
        install_revision(host, daemon, 1)?;
        host.run(&format!("id wgd && id {daemon} && getent group culvert"))?;
        ensure!(
            !host.succeeds(&format!(
                "systemctl is-active wgd@wg0 {daemon} {daemon}.socket | grep -qx active"
            ))?,
            "{daemon} was started"
        );
        ensure!(
            host.run("ss -Hltn | grep -c ':8000\\|:958' || :")? == "0",
            "something listens after the installation"
        );
        let failed = host.run("systemctl list-units --failed --no-legend")?;
        ensure!(failed.is_empty(), "failed units: {failed}");
        host.run(&format!("zcat /usr/share/man/man8/{daemon}.8.gz | grep -q check && {daemon} --version"))?;
        let verified = host.run(&format!("dpkg --verify culvert wgd {daemon}"))?;
        ensure!(verified.is_empty(), "files are not as they were packed: {verified}");
    }
    Ok(())
}

pub(super) fn tunnel(pair: &mut Pair) -> Result<()> {
    let Pair { web, services, .. } = pair;
    let web_key = web.run("culvert key gen --out /etc/wireguard/wg0.key")?;
    let services_key = services.run("culvert key gen --out /etc/wireguard/wg0.key")?;
    services.run("culvert key psk --out /etc/wireguard/wg0.psk")?;
    web.write("/etc/wireguard/wg0.psk", 0o600, &services.read("/etc/wireguard/wg0.psk")?)?;
    let interface = |address: &str, more: &str| {
        format!("[Interface]\nPrivateKeyFile = /etc/wireguard/wg0.key\nAddress = {address}/24\n{more}\n")
    };
    let peer = |name: &str, key: &str, allowed: &str, more: &str| {
        format!(
            "[Peer]\n# friendly_name = {name}\nPublicKey = {key}\nPresharedKeyFile = /etc/wireguard/wg0.psk\nAllowedIPs = \
             {allowed}/32\n{more}"
        )
    };
    services.write(
        "/etc/wireguard/wg0.conf",
        0o600,
        &(interface("10.100.0.11", "ListenPort = 51820") + &peer("web1", &web_key, "10.100.0.10", "")),
    )?;
    let more = format!("Endpoint = {SERVICES}:51820\nPersistentKeepalive = 25\n");
    web.write(
        "/etc/wireguard/wg0.conf",
        0o600,
        &(interface("10.100.0.10", "") + &peer("svc1", &services_key, "10.100.0.11", &more)),
    )?;
    services.run("sed -i 's/^# whois_users/whois_users/' /etc/culvert/wgd.toml")?;
    for host in [&*services, &*web] {
        host.run("systemctl enable --now wgd@wg0")?;
    }
    web.until("the tunnel is up", SOON, "culvert tunnel check")
}

pub(super) fn first_file(pair: &mut Pair) -> Result<()> {
    let Pair { web, services, client } = &*pair;
    let said = services.run(
        "culvert init storaged --bind-address 10.100.0.11:8001 --tunnel-prefix 10.100.0.0/24 --edge web1 --cohort c5 \
         --volume main=/srv/culvert --user ada:user=c5 --run-as storaged --wgd-user wgd --no-recovery \
         && systemctl enable --now storaged",
    )?;
    client.keep_token(&said)?;
    client.certificate()?;
    let data = &client.data;
    for (file, mode, text) in [
        ("internal.key", 0o640, services.read("/etc/culvert/internal.key")?),
        ("tls.key", 0o640, fs::read_to_string(data.join("tls.key"))?),
        ("chain.pem", 0o644, fs::read_to_string(data.join("chain.pem"))?),
    ] {
        web.write(&format!("/etc/culvert/{file}"), mode, &text)?;
    }
    web.run(
        "cp /usr/share/doc/edge/examples/edge.toml /etc/culvert/edge.toml
         chgrp edge /etc/culvert/internal.key /etc/culvert/tls.key
         systemctl enable --now edge",
    )?;
    web.until("edge is ready", SOON, "curl -fs http://127.0.0.1:9587/readyz")?;
    services.run("curl -fs http://127.0.0.1:9588/readyz")?;
    let file = client.file("first", 20)?;
    client.culvert(&["put", &file.display().to_string(), "c5/first"])?;
    client.fetch_and_compare("c5/first", &file)
}
