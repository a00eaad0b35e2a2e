//! One emulated machine, and what its console says.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use daemon::Clock;

use super::UNDER_EMULATION;
use crate::packages;

/// Booted under emulation on a machine that has other things to do; an idle one needs a tenth of it.
pub(super) const SOON: Duration = Duration::from_secs(420);

/// What it is made of.
pub(super) struct Setup<'a> {
    /// The directory of the image: kernel, initial file system, command line.
    pub(super) image: &'a Path,
    /// The image itself, if it is another file than that directory's.
    pub(super) root: Option<&'a Path>,
    /// Its data partition; memory if there is none.
    pub(super) data: Option<&'a Path>,
    /// Its network: a tap device of this world.
    pub(super) tap: Option<&'a str>,
    /// Takes the place of the first in the kernel's command line by the second.
    pub(super) replace: Option<(&'a str, &'a str)>,
    /// More words for the kernel.
    pub(super) append: &'a str,
}

/// It runs until it is dropped, or ends by itself.
pub(super) struct Machine {
    name: &'static str,
    qemu: Child,
    console: PathBuf,
    began: Instant,
}

impl Machine {
    pub(super) fn boot(name: &'static str, setup: &Setup<'_>, at: &Path) -> Result<Machine> {
        let console = at.join(format!("{name}.console"));
        File::create(&console).context("make the console's file")?;
        let line = fs::read_to_string(setup.image.join("cmdline")).context("read the command line")?;
        let mut line = line.trim().to_owned();
        if let Some((from, to)) = setup.replace {
            ensure!(line.contains(from), "the command line does not say {from}");
            line = line.replace(from, to);
        }
        let data = if setup.data.is_some() { "/dev/vdb" } else { "memory" };
        // A panic ends the machine, for qemu does not restart it.
        let line = format!(
            "{line} culvert.root=/dev/vda culvert.data={data} panic=-1 {UNDER_EMULATION} {}",
            setup.append
        );
        let drive = |file: &Path, more: &str| format!("file={},format=raw,if=virtio{more}", file.display());
        let own = setup.image.join("root.img");
        let mut qemu = qemu();
        qemu.arg("-no-reboot");
        qemu.arg("-kernel")
            .arg(setup.image.join("vmlinuz"))
            .arg("-initrd")
            .arg(setup.image.join("initrd.img"));
        qemu.args(["-append", &line, "-device", "virtio-rng-pci"]);
        qemu.args(["-drive", &drive(setup.root.unwrap_or(&own), ",readonly=on")]);
        if let Some(data) = setup.data {
            qemu.args(["-drive", &drive(data, "")]);
        }
        if let Some(tap) = setup.tap {
            network(&mut qemu, tap);
        }
        Machine::start(name, qemu, &console, at)
    }

    /// One with UEFI, that starts what its disk holds, and starts it again when it restarts.
    pub(super) fn boot_disk(name: &'static str, disk: &Path, tap: &str, at: &Path) -> Result<Machine> {
        let console = at.join(format!("{name}.console"));
        File::create(&console).context("make the console's file")?;
        let firmware = firmware()?;
        let code = firmware.join("OVMF_CODE_4M.fd");
        // What the firmware remembers.
        let variables = at.join(format!("{name}.variables"));
        if !variables.is_file() {
            fs::copy(firmware.join("OVMF_VARS_4M.fd"), &variables).context("copy the variables")?;
        }
        let mut qemu = qemu();
        for (unit, file, more) in [(0, &code, ",readonly=on"), (1, &variables, "")] {
            qemu.args(["-drive", &format!("if=pflash,format=raw,unit={unit},file={}{more}", file.display())]);
        }
        qemu.args(["-drive", &format!("if=none,id=d,format=raw,file={}", disk.display())]);
        qemu.args(["-device", "virtio-blk-pci,drive=d,bootindex=1", "-device", "virtio-rng-pci"]);
        network(&mut qemu, tap);
        Machine::start(name, qemu, &console, at)
    }

    fn start(name: &'static str, mut qemu: Command, console: &Path, at: &Path) -> Result<Machine> {
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        let errors = File::create(at.join(format!("{name}.qemu"))).context("make qemu's log")?;
        let began = Clock.now();
        let qemu = qemu
            .stdin(Stdio::null())
            .stdout(errors.try_clone().context("qemu's log")?)
            .stderr(errors)
            .spawn()
            .context("start qemu")?;
        Ok(Machine { name, qemu, console: console.to_path_buf(), began })
    }

    /// What the console has said so far.
    pub(super) fn text(&self) -> String {
        fs::read(&self.console)
            .map(|bytes| String::from_utf8_lossy(&bytes).replace('\r', ""))
            .unwrap_or_default()
    }

    /// Waits until the console says what `look` looks for.
    pub(super) fn until<T>(&mut self, what: &str, mut look: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let began = Clock.now();
        loop {
            // Before the look: what it said last is seen.
            let ended = self.qemu.try_wait()?;
            if let Some(found) = look(&self.text()) {
                return Ok(found);
            }
            if ended.is_some() || began.elapsed() > SOON {
                let how = if ended.is_some() { "the machine has ended" } else { "not in time" };
                bail!("{}: {what}: {how}\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until it ends by itself; what its console said.
    pub(super) fn ended(mut self) -> Result<String> {
        let began = Clock.now();
        while self.qemu.try_wait()?.is_none() {
            ensure!(began.elapsed() < SOON, "{} goes on\n{}", self.name, self.tail());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(self.text())
    }

    /// Since its power came on.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Its last lines.
    pub(super) fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// The directory of Debian's firmware for emulated machines, unpacked beside the build while there is a network.
pub(super) fn firmware() -> Result<PathBuf> {
    let tree = packages::tools_directory().join("ovmf");
    let place = tree.join("usr/share/OVMF");
    if !place.is_dir() {
        println!("Unpacking Debian's package ovmf into {} (not installed)", tree.display());
        packages::unpack("ovmf", &tree)?;
    }
    Ok(place)
}

fn qemu() -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "768", "-smp", "1"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    qemu
}

/// A card on a tap device of this world.
fn network(qemu: &mut Command, tap: &str) {
    let last = tap.bytes().last().unwrap_or(0);
    qemu.args(["-netdev", &format!("tap,id=n,ifname={tap},script=no,downscript=no")]);
    qemu.args(["-device", &format!("virtio-net-pci,netdev=n,romfile=,mac=52:54:00:00:00:{last:02x}")]);
}

impl Drop for Machine {
    /// As if its plug were pulled.
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
