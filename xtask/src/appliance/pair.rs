//! Two sealed images, from the first boot to the first file, and what they are like while they run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_netns::world::World;
use daemon::Clock;

use super::disk::Disk;
use super::machine::{Machine, SOON, Setup};
use super::{OLD_KERNEL, SEALED, culvert, shell};
use crate::{hosts, image, steps};

pub(super) const WEB: &str = "192.0.2.10";
const SERVICES: &str = "192.0.2.11";
pub(super) const TAP_WEB: &str = "tap0";
const TAP_SERVICES: &str = "tap1";

/// Both machines' data, and the machines while they run.
pub(super) struct Pair {
    place: PathBuf,
    web: Disk,
    services: Disk,
    running: Option<(Machine, Machine)>,
    /// What the first boot showed: web's key, the services' key.
    keys: Option<[String; 2]>,
}

impl Pair {
    pub(super) fn prepare(world: &World) -> Result<Pair> {
        let mut script = String::from(
            "ip link add br0 type bridge
             ip link set br0 up
             ip addr add 192.0.2.1/24 dev br0\n",
        );
        for tap in [TAP_WEB, TAP_SERVICES] {
            script.push_str(&format!("ip tuntap add {tap} mode tap; ip link set {tap} master br0 up\n"));
        }
        shell(&script)?;
        let place = world.data().to_path_buf();
        let (web, services) = (Disk::new("web", &place)?, Disk::new("services", &place)?);
        Ok(Pair { place, web, services, running: None, keys: None })
    }

    /// For files of a step.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// Pulls both plugs.
    fn stop(&mut self) {
        self.running = None;
    }

    /// Both on one image, with the data that they have.
    fn boot(&mut self, image: &str) -> Result<()> {
        self.running = None;
        let image = image::place(image);
        let boot = |name, disk: &Disk, tap| {
            let setup = Setup {
                image: &image,
                root: None,
                data: Some(disk.file()),
                tap: Some(tap),
                replace: None,
                append: "",
            };
            Machine::boot(name, &setup, &self.place)
        };
        self.running =
            Some((boot("web", &self.web, TAP_WEB)?, boot("services", &self.services, TAP_SERVICES)?));
        Ok(())
    }

    fn machines(&mut self) -> Result<(&mut Machine, &mut Machine)> {
        let (web, services) = self.running.as_mut().context("no machine runs")?;
        Ok((web, services))
    }

    /// `culvert`, from outside of both machines, with ada's token.
    fn culvert(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(culvert());
        command.args(arguments).env("CULVERT_SERVER", format!("https://{WEB}:8000"));
        command.env("CULVERT_TOKEN_FILE", self.place.join("token"));
        command.env("CULVERT_CA_FILE", self.place.join("ca.pem")).env("XDG_STATE_HOME", &self.place);
        let output = command.stdin(Stdio::null()).output().context("start culvert")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "culvert {}: {error}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Sends a file as soon as somebody takes it, fetches it and compares; prints how long that was after power on.
    fn first_upload(&mut self, label: &str) -> Result<()> {
        let file = self.place.join(label);
        shell(&format!("head -c 1048576 /dev/urandom > {}", file.display()))?;
        let (name, sent) = (format!("c5/{label}"), file.display().to_string());
        let began = Clock.now();
        loop {
            let Err(problem) = self.ready().and_then(|()| self.culvert(&["put", &sent, &name])) else {
                break;
            };
            let (web, services) = self.machines()?;
            ensure!(
                began.elapsed() < SOON,
                "no upload: {problem}\n--- web\n{}\n--- services\n{}",
                web.tail(),
                services.tail()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        let (web, _) = self.machines()?;
        println!("{label}: first verified upload {:.1} s after power on", web.age().as_secs_f32());
        let back = self.place.join("back");
        let _ = fs::remove_file(&back);
        self.culvert(&["get", &name, &back.display().to_string()])?;
        shell(&format!("cmp {sent} {}", back.display())).map(drop)
    }

    fn ready(&self) -> Result<()> {
        let ca = self.place.join("ca.pem");
        shell(&format!("curl -s -o /dev/null --max-time 5 --cacert {} https://{WEB}:8000/", ca.display()))
            .map(drop)
    }
}

pub(super) fn network(address: &str) -> String {
    format!(
        "[Match]\nType=ether\n\n[Network]\nAddress={address}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )
}

pub(super) fn first_boot(pair: &mut Pair) -> Result<()> {
    for (disk, address, name) in [(&pair.web, WEB, "web1"), (&pair.services, SERVICES, "svc1")] {
        disk.write("/etc/culvert/network/10-wired.network", 0o644, &network(address))?;
        disk.write("/etc/culvert/hostname", 0o644, &format!("{name}\n"))?;
    }
    pair.services.write(
        "/etc/culvert/init-storaged.env",
        0o600,
        "ARGUMENTS=--bind-address 10.100.0.11:8001 --tunnel-prefix 10.100.0.0/24 --edge web1 --cohort c5 \
         --volume main=/srv/culvert --user ada:user=c5 --no-recovery\n",
    )?;
    pair.web.make()?;
    pair.services.make()?;
    pair.boot(SEALED)?;
    let (web, services) = pair.machines()?;
    let keys = [web.until("its key", key_on_console)?, services.until("its key", key_on_console)?];
    let token = services.until("ada's token", |text| {
        let line = text.lines().find(|line| line.starts_with("ada "))?;
        Some(line.split_whitespace().last()?.to_owned())
    })?;
    for machine in [web, services] {
        machine.until("it is up", |text| text.contains("WHAT      FOUND").then_some(()))?;
        println!("{} s to the report on the console", machine.age().as_secs());
    }
    pair.stop();
    fs::write(pair.place.join("token"), token).context("keep the token")?;
    shell(&format!("chmod 600 {}", pair.place.join("token").display()))?;
    for disk in [&pair.web, &pair.services] {
        disk.take_back()?;
    }
    ensure!(keys[0] != keys[1], "both machines have one key");
    for (disk, shown) in [(&pair.web, &keys[0]), (&pair.services, &keys[1])] {
        let private = disk.path("/etc/wireguard/wg0.key");
        let public = shell(&format!("{} key pub {}", culvert().display(), private.display()))?;
        ensure!(public == *shown, "the console showed {shown}, the key is {public}");
    }
    pair.keys = Some(keys);
    Ok(())
}

/// A line that is a key and nothing else.
fn key_on_console(text: &str) -> Option<String> {
    let is_key = |line: &&str| {
        line.len() == 44
            && line.ends_with('=')
            && line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
    };
    text.lines().find(is_key).map(str::to_owned)
}

pub(super) fn upload(pair: &mut Pair) -> Result<()> {
    configure(pair)?;
    pair.boot(SEALED)?;
    pair.first_upload("linux-6.12")
}

/// What an administrator puts on the two data partitions, as the installation's page has it.
fn configure(pair: &Pair) -> Result<()> {
    let [web_key, services_key] = pair.keys.as_ref().context("there was no first boot")?;
    let psk = shell(&format!("{} key psk", culvert().display()))?;
    let tunnel = |address: &str, more: &str, name: &str, key: &str, allowed: &str, rest: &str| {
        format!(
            "[Interface]\nPrivateKeyFile = /etc/wireguard/wg0.key\nAddress = {address}/24\n{more}\n[Peer]\n# friendly_name = \
             {name}\nPublicKey = {key}\nPresharedKeyFile = /etc/wireguard/wg0.psk\nAllowedIPs = {allowed}/32\n{rest}"
        )
    };
    for disk in [&pair.web, &pair.services] {
        disk.write("/etc/wireguard/wg0.psk", 0o600, &format!("{psk}\n"))?;
    }
    pair.services.write(
        "/etc/wireguard/wg0.conf",
        0o600,
        &tunnel("10.100.0.11", "ListenPort = 51820\n", "web1", web_key, "10.100.0.10", ""),
    )?;
    let endpoint = format!("Endpoint = {SERVICES}:51820\nPersistentKeepalive = 25\n");
    pair.web.write(
        "/etc/wireguard/wg0.conf",
        0o600,
        &tunnel("10.100.0.10", "ListenPort = 51820\n", "svc1", services_key, "10.100.0.11", &endpoint),
    )?;
    hosts::certificate(&pair.place)?;
    let example =
        fs::read_to_string(steps::root().join("deploy/examples/edge.toml")).context("read the example")?;
    pair.web.write("/etc/culvert/edge.toml", 0o644, &example)?;
    let groups = fs::read_to_string(image::place(SEALED).join("group")).context("read the image's groups")?;
    let edge = groups
        .lines()
        .find_map(|line| line.strip_prefix("edge:")?.split(':').nth(1)?.parse::<u32>().ok())
        .context("the image has no group edge")?;
    for (name, mode, text) in [
        ("internal.key", 0o640, pair.services.read("/etc/culvert/internal.key")?),
        ("tls.key", 0o640, fs::read_to_string(pair.place.join("tls.key"))?),
        ("chain.pem", 0o644, fs::read_to_string(pair.place.join("chain.pem"))?),
    ] {
        let path = format!("/etc/culvert/{name}");
        pair.web.write(&path, mode, &text)?;
        std::os::unix::fs::chown(pair.web.path(&path), None, Some(edge)).context("give a file to edge")?;
    }
    pair.web.make()?;
    pair.services.make()
}

/// Of the report on the console, sorted: what can be written, what listens.
fn report(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("writable ") || line.starts_with("listens "));
    let mut lines: Vec<String> =
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    lines.dedup();
    lines
}

pub(super) fn running(pair: &mut Pair) -> Result<()> {
    let (web, services) = pair.machines()?;
    for (machine, name) in [(web, "web"), (services, "services")] {
        let text = machine.until("the report is complete", |text| sealed(text).then(|| text.to_owned()))?;
        let found = report(&text);
        let path = steps::root().join(format!("rootfs/lists/running.{name}"));
        let agreed = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let agreed: Vec<&str> = agreed.lines().filter(|line| !line.starts_with('#')).collect();
        ensure!(found == agreed, "{name}: not as in {}:\n{}", path.display(), found.join("\n"));
    }
    Ok(())
}

/// Whether the last part of the report is there: `culvert health` ends with a table of its own.
fn sealed(text: &str) -> bool {
    text.matches("STATE  ").count() >= 2
}

/// What `culvert verify server` says of the seal, by daemon.
fn seals(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.split_whitespace().nth(1) == Some("seal")).collect()
}

pub(super) fn lockdown_of_current(pair: &mut Pair) -> Result<()> {
    lockdown(pair, &["pass", "Landlock ABI 6"])
}

/// Debian 12's first kernel: Landlock has no rules for ports, and memory is kept from becoming code by the list of system calls
/// alone. The files are those of before, production's.
pub(super) fn on_the_old_kernel(pair: &mut Pair) -> Result<()> {
    pair.stop();
    pair.boot(OLD_KERNEL)?;
    pair.first_upload("linux-6.1")?;
    lockdown(pair, &["WARN", "Landlock ABI 2", "mdwe partial"])
}

/// What each daemon's line of the seal says, and that no check of any failed.
fn lockdown(pair: &mut Pair, said: &[&str]) -> Result<()> {
    let (web, services) = pair.machines()?;
    for (machine, daemons) in [(web, ["wgd", "edge"]), (services, ["wgd", "storaged"])] {
        let text = machine.until("the report is complete", |text| sealed(text).then(|| text.to_owned()))?;
        for name in daemons {
            let found = seals(&text).into_iter().find(|line| line.split_whitespace().nth(2) == Some(name));
            let line = found.with_context(|| format!("nothing is said of {name}'s seal:\n{text}"))?;
            println!("{line}");
            ensure!(said.iter().all(|word| line.contains(word)), "{name}: {line}");
        }
        let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL ")).collect();
        ensure!(failed.is_empty(), "checks failed: {failed:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_between_other_lines() {
        let key = "mHJ0jT1Q3Vb0m4gk0i8nYFzXg5X0yS8oM0xq3y0aYmE=";
        let text = format!("culvert: /dev/vda is verified and mounted\n[   12.1] x\n{key}\n");
        assert_eq!(key_on_console(&text).as_deref(), Some(key));
        assert_eq!(key_on_console("no key here"), None);
    }

    #[test]
    fn a_report_is_read_as_it_is_agreed_on() {
        let text =
            "WHAT      FOUND\nimage     0.1.0 sealed\nwritable  /var tmpfs\nlistens   udp 0.0.0.0:51820\n";
        assert_eq!(report(text), ["listens udp 0.0.0.0:51820", "writable /var tmpfs"]);
    }
}
