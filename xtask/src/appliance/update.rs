//! A disk that a machine with UEFI starts from, and its updates: one that comes up, one that does not, one of somebody else, and
//! one in whose middle the power is cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use daemon::Clock;
use serde_json::Value;

use super::disk::Disk;
use super::machine::{Machine, SOON};
use super::managed::Administrator;
use super::pair::{Pair, TAP_WEB, WEB, network};
use super::{MANAGED, MANAGED_NEXT, shell};
use crate::image::{self, disk};

/// What the machine is told to do with the file that was sent to it.
const UPDATE: &str = "culvert --json image update /srv/bundle";

/// Waits until the update has written 8 MiB of the other slot.
const UNDER_WAY: &str = "until [ \"$(head -c 8388608 /dev/vda3 | tail -c 4096 | tr -d '\\0' | wc -c)\" != 0 ]; do sleep 0.1; done";

/// Another one after each start.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A machine with a disk of its own.
struct Host {
    place: PathBuf,
    disk: PathBuf,
    administrator: Administrator,
}

impl Host {
    fn prepare(pair: &Pair) -> Result<Host> {
        let place = pair.place().join("uefi");
        fs::create_dir_all(&place).context("make a directory")?;
        let administrator = Administrator::make(&place)?;
        let data = Disk::new("uefi", &place)?;
        data.write("/etc/culvert/network/10-wired.network", 0o644, &network(WEB))?;
        administrator.let_in(&data)?;
        data.make()?;
        let disk = place.join("disk.img");
        let (at, size) = disk::DATA_MEBIBYTES;
        shell(&format!(
            "cp --sparse=always {} {disk}
             dd if={} of={disk} bs=1M seek={at} count={size} conv=notrunc status=none",
            image::place(MANAGED).join("disk.img").display(),
            data.file().display(),
            disk = disk.display(),
        ))?;
        Ok(Host { place, disk, administrator })
    }

    fn boot(&self) -> Result<Machine> {
        let mut machine = Machine::boot_disk("uefi", &self.disk, TAP_WEB, &self.place)?;
        self.administrator.wait(&mut machine)?;
        println!("let in {:.1} s after power on", machine.age().as_secs_f32());
        Ok(machine)
    }

    fn send(&self, bundle: &Path) -> Result<()> {
        self.administrator.copy(bundle, "/srv/bundle")
    }

    fn status(&self) -> Result<Value> {
        let (_, said) = self.administrator.ssh("culvert --json image status")?;
        serde_json::from_str(said.lines().next().unwrap_or_default())
            .with_context(|| format!("the status: {said}"))
    }

    /// Waits until the slot that runs is this one, confirmed, and was started after `before`.
    fn runs(&self, machine: &mut Machine, before: &str, slot: &str, version: &str) -> Result<Value> {
        let began = Clock.now();
        let mut last = String::new();
        loop {
            let started = self.administrator.ssh(&format!("cat {BOOT_ID}"))?;
            if let (true, Ok(status)) = (started.0 && started.1 != before, self.status()) {
                let runs = |it: &&Value| it["runs"] == true && it["slot"] == slot && it["version"] == version;
                let slots = status["slots"].as_array().cloned().unwrap_or_default();
                if slots.iter().find(runs).is_some_and(|it| it["state"] == "runs, confirmed") {
                    ensure!(status["verified"] == true, "{status}");
                    return Ok(status);
                }
                last = status["slots"].to_string();
            }
            ensure!(
                began.elapsed() < 3 * SOON,
                "{version} does not run in {slot}, confirmed: {last}\n{}",
                machine.tail()
            );
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    /// Updates and restarts; which start it was that ended.
    fn update(&self, bundle: &Path) -> Result<String> {
        self.send(bundle)?;
        let (_, started) = self.administrator.ssh(&format!("cat {BOOT_ID}"))?;
        let (done, said) = self.administrator.ssh(UPDATE)?;
        ensure!(done, "the update: {said}");
        // It ends the connection.
        self.administrator.ssh("systemctl reboot")?;
        Ok(started)
    }
}

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    let host = Host::prepare(pair)?;
    let next = image::place(MANAGED_NEXT).join("update.bundle");
    let [one, two] = [1, 2].map(image::version);
    let (one, two) = (one?.to_string(), two?.to_string());
    let mut machine = host.boot()?;
    host.runs(&mut machine, "", "a", &one)?;

    // Of somebody else, and damaged: nothing is changed.
    for (bundle, why) in [(of_somebody_else(pair)?, "not signed"), (damaged(pair, &next)?, "damaged")] {
        host.send(&bundle)?;
        let (done, said) = host.administrator.ssh(UPDATE)?;
        ensure!(!done && said.contains(why), "it was not refused for `{why}`: {said}");
    }
    let before = host.status()?;
    ensure!(before["slots"][1]["state"] == "empty", "a refused bundle left something: {before}");

    // The power goes while the slot is written; what ran comes up, and the same update goes through.
    host.send(&next)?;
    let began = format!("{UPDATE} >/dev/null 2>&1 & {UNDER_WAY}; echo under way");
    let (_, said) = host.administrator.ssh(&began)?;
    ensure!(said.contains("under way"), "the update did not begin: {said}");
    drop(machine);
    let mut machine = host.boot()?;
    let status = host.runs(&mut machine, "", "a", &one)?;
    ensure!(status["slots"][1]["state"] == "empty", "half an update can be started: {status}");
    let began = Clock.now();
    let before = host.update(&next)?;
    host.runs(&mut machine, &before, "b", &two)?;
    println!("updated, restarted and confirmed in {:.1} s", began.elapsed().as_secs_f32());

    // One that never comes up, and the way back by itself: three starts are refused by the first process.
    let began = Clock.now();
    let before = host.update(&never_up(pair)?)?;
    let status = host.runs(&mut machine, &before, "b", &two)?;
    ensure!(status["slots"][0]["state"] == "given up", "{status}");
    ensure!(machine.text().matches("REFUSED").count() >= 3, "not three tries:\n{}", machine.tail());
    println!(
        "a system that does not come up was left for the old one after {:.1} s",
        began.elapsed().as_secs_f32()
    );
    Ok(())
}

/// The first image again, as version 3, with a command line that no image fits, signed.
fn never_up(pair: &Pair) -> Result<PathBuf> {
    let image = image::place(MANAGED);
    let place = pair.place().join("never-up");
    fs::create_dir_all(&place).context("make a directory")?;
    let read = |name: &str| fs::read_to_string(image.join(name)).with_context(|| format!("read {name}"));
    let line = read("cmdline")?.replace(read("roothash")?.trim(), &"0".repeat(64));
    let boot = place.join("boot.efi");
    image::boot_file(&image, "never up", &format!("{} {}", line.trim(), super::UNDER_EMULATION), &boot)?;
    image::signing::bundle(&image, "managed", image::version(3)?, &boot, &super::update_key())
}

fn of_somebody_else(pair: &Pair) -> Result<PathBuf> {
    let place = pair.place().join("somebody-else");
    fs::create_dir_all(&place).context("make a directory")?;
    let key = place.join("key");
    image::signing::make_key(&image::signing::KeyOptions::new("example.org/culvert", &key))?;
    let boot = place.join("boot.efi");
    fs::copy(image::place(MANAGED_NEXT).join("boot.efi"), &boot).context("copy the boot file")?;
    image::signing::bundle(&image::place(MANAGED_NEXT), "managed", image::version(2)?, &boot, &key)
}

fn damaged(pair: &Pair, bundle: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::FileExt as _;
    let to = pair.place().join("damaged");
    fs::copy(bundle, &to).context("copy the bundle")?;
    let file = fs::File::options().read(true).write(true).open(&to).context("open the copy")?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 50 << 20).context("read a byte")?;
    file.write_all_at(&[byte[0] ^ 1], 50 << 20).context("flip a bit")?;
    Ok(to)
}
