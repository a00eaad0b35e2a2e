//! The two hosts, and the way from a bare Debian to the first file, as `docs/install.md` has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_netns::world::World;

use super::host::{Host, run};
use super::packages_of;
use crate::steps;

/// Their names; the container manager and the bridge use them.
pub(super) const NAMES: [&str; 2] = ["web", "svc"];
const WEB: &str = "192.0.2.10";
const SERVICES: &str = "192.0.2.11";
/// A daemon is up, or a tunnel. The machine may be busy with other things.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// Both, and what was learned on the way.
pub(super) struct Pair {
    pub(super) web: Host,
    pub(super) services: Host,
    /// Ours.
    pub(super) data: PathBuf,
}

impl Pair {
    /// Boots both.
    pub(super) fn boot(world: &World) -> Result<Pair> {
        run("ip link add br0 type bridge
             ip link set br0 up
             ip addr add 192.0.2.1/24 dev br0")?;
        let data = world.data().to_path_buf();
        Ok(Pair { web: Host::boot("web", WEB, &data)?, services: Host::boot("svc", SERVICES, &data)?, data })
    }

    fn both(&self) -> [&Host; 2] {
        [&self.web, &self.services]
    }

    /// What the daemons had to say, for a step that failed.
    pub(super) fn journals(&self) -> String {
        let tail =
            "journalctl --no-pager --output=cat -n 25 -u 'wgd@*' -u edge -u storaged -u 'culvert-netns@*'";
        self.both()
            .iter()
            .map(|host| format!("--- {}\n{}\n", host.path("").display(), host.run(tail).unwrap_or_default()))
            .collect()
    }

    fn program() -> PathBuf {
        steps::target_directory().join("debug/culvert")
    }

    /// `culvert`, from outside of both hosts, with ada's token.
    pub(super) fn culvert(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(Self::program());
        command.args(arguments).env("CULVERT_SERVER", format!("https://{WEB}:8000"));
        command
            .env("CULVERT_TOKEN_FILE", self.data.join("token"))
            .env("CULVERT_CA_FILE", self.data.join("ca.pem"));
        let output = command.env("XDG_STATE_HOME", &self.data).stdin(Stdio::null()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "culvert {}: {error}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A PUT in one piece, which nothing tries again, at a bounded rate so that there is time to disturb it.
    pub(super) fn begin_put(&self, file: &Path, name: &str, rate: &str) -> Result<Child> {
        let token = fs::read_to_string(self.data.join("token"))?;
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--limit-rate",
            rate,
            "--output",
            "/dev/null",
        ]);
        curl.args(["--write-out", "%{http_code}", "--max-time", "120"])
            .arg("--cacert")
            .arg(self.data.join("ca.pem"));
        curl.arg("--header")
            .arg(format!("Authorization: Bearer {}", token.trim()))
            .arg("--upload-file")
            .arg(file);
        curl.arg(format!("https://{WEB}:8000/v1/cohorts/c5/files/{name}"));
        curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start curl")
    }

    /// A file of that many MiB, which does not repeat.
    pub(super) fn file(&self, name: &str, mebibytes: u32) -> Result<PathBuf> {
        let path = self.data.join(name);
        run(&format!("head -c {} /dev/urandom > {}", u64::from(mebibytes) << 20, path.display()))?;
        Ok(path)
    }

    /// Fetches it and compares.
    pub(super) fn fetch_and_compare(&self, name: &str, file: &Path) -> Result<()> {
        let back = self.data.join("back");
        let _ = fs::remove_file(&back);
        self.culvert(&["get", name, &back.display().to_string()])?;
        run(&format!("cmp {} {}", file.display(), back.display())).map(drop)
    }
}

/// The end of [`Pair::begin_put`]: stored.
pub(super) fn stored(curl: Child) -> Result<()> {
    let output = curl.wait_with_output()?;
    let (code, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && code == "201", "the upload ended with {code:?}: {error}");
    Ok(())
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
    let Pair { web, services, data } = &*pair;
    let said = services.run(
        "culvert init storaged --bind-address 10.100.0.11:8001 --tunnel-prefix 10.100.0.0/24 --edge web1 --cohort c5 \
         --volume main=/srv/culvert --user ada:user=c5 --run-as storaged --wgd-user wgd --no-recovery \
         && systemctl enable --now storaged",
    )?;
    let token = said
        .lines()
        .find_map(|line| line.strip_prefix("ada"))
        .and_then(|line| line.split_whitespace().last());
    fs::write(data.join("token"), token.context("init printed no token for ada")?)?;
    run(&format!("chmod 600 {}", data.join("token").display()))?;
    certificate(data)?;
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
    let file = pair.file("first", 20)?;
    pair.culvert(&["put", &file.display().to_string(), "c5/first"])?;
    pair.fetch_and_compare("c5/first", &file)
}

/// An authority, and a certificate of it for the web host.
fn certificate(data: &Path) -> Result<()> {
    run(&format!(
        "cd {}
         new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
         openssl req -x509 $new -days 30 -subj /CN=authority -keyout ca.key -out ca.pem 2>/dev/null
         openssl req $new -subj /CN=web1 -keyout tls.key -out tls.csr 2>/dev/null
         printf 'subjectAltName=DNS:web1,IP:{WEB}\\nbasicConstraints=CA:FALSE\\n' > extensions
         openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions \
         -out chain.pem 2>/dev/null",
        data.display()
    ))
    .map(drop)
}
