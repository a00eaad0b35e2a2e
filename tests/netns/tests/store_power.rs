//! The power of a machine fails while storaged takes uploads; what it had acknowledged is there when it is back.
//!
//! ```text
//!  scenario ── serial line: acknowledgements ── guest: writers ──HTTP── storaged ── ext4
//!                                                                                     ⇣ every write and flush
//!                                    disks as they may be after a cut ⇠ replay ⇠ log of qemu's blklogwrites
//! ```
//!
//! A cut is more than the end of qemu: what the guest's disk had not flushed by then is lost, kept or torn, write by
//! write. Each disk made so is given to a new guest, whose storaged is held to all that came over the serial line
//! before that moment.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::kernel_vm::{KernelVm, Machine};
use culvert_netns::lab;
use culvert_netns::power_cut::WriteLog;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::load::{Load, Numbers, Sent, Told, Uploads};
use culvert_netns::store::{Layout, Store};
use serde_json::Value;

/// Set to repeat the choice of what was lost.
const SEED_VARIABLE: &str = "CULVERT_SEED";

const WRITERS: u64 = 4;
const LABEL: &str = "power";
/// Acknowledgements before the power fails.
const ACKNOWLEDGED: usize = 40;
/// Disks that are tried, each cut at another moment.
const CUTS: u64 = 4;
const DISK_BYTES: u64 = 1 << 30;
/// On the guest's disk.
const FOLDER: &str = "/disk/store";
/// This program in the guest, as one of these:
const GUEST: &str = "guest";
const LOAD: &str = "load";
const CHECK: &str = "check";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [guest, what, seed] = &arguments[..]
        && guest == GUEST
    {
        return match in_guest(what, seed) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                runner::say(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        };
    }
    runner::main(&[Scenario::new("after_a_power_cut_everything_acknowledged_is_there", power_cut)
        .needs(&["storaged", "culvert"])
        .slow()])
}

fn power_cut(scene: &Scene) -> Result<()> {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(given) => given.parse().with_context(|| format!("{SEED_VARIABLE}={given}"))?,
        Err(_) => u64::from(std::process::id()) ^ u64::from(scene.world.outer_pid()),
    };
    runner::say(&format!("{SEED_VARIABLE}={seed}"));
    let services = &scene.lab.services;
    let disk = |name: &str| (services.path("/srv").join(name), format!("/srv/{name}"));
    let (base, _) = disk("base");
    let (first, inside) = disk("first");
    make_disk(&base)?;
    fs::copy(&base, &first).context("copy the disk")?;
    let (log, log_inside) = disk("log");
    fs::write(&log, "").context("make the log")?;
    let drive = [
        "-blockdev".to_owned(),
        format!("driver=file,node-name=disk,filename={inside}"),
        "-blockdev".to_owned(),
        format!("driver=file,node-name=log,filename={log_inside}"),
        "-blockdev".to_owned(),
        "driver=blklogwrites,node-name=logged,file=disk,log=log".to_owned(),
        "-device".to_owned(),
        "virtio-blk-pci,drive=logged".to_owned(),
    ];
    let mut guest = KernelVm::boot_machine(services, &machine(&drive, Vec::new())?)?;
    guest.run("mkdir /disk && mount -t ext4 /dev/vda /disk")?;
    guest.begin(&format!("CULVERT_BIN_DIR=/bin /bin/store_power {GUEST} {LOAD} {seed}"))?;
    let mut known = String::new();
    let mut told: Vec<(u64, String, String)> = Vec::new();
    while told.len() < ACKNOWLEDGED {
        let line =
            guest.next_line()?.with_context(|| format!("the load ended after {} uploads", told.len()))?;
        let length = fs::metadata(&log).context("look at the log")?.len();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["known", value] => known = value.to_owned(),
            ["acknowledged", path, id] => told.push((length, path.to_owned(), id.to_owned())),
            _ => anyhow::bail!("the guest said: {line}"),
        }
    }
    let end = fs::metadata(&log).context("look at the log")?.len();
    guest.cut_power()?;

    let log = WriteLog::read(&log)?;
    let mut numbers = Numbers::new(seed);
    let begin = told.first().context("nothing was acknowledged")?.0;
    for cut in 0..CUTS {
        // The last is the end itself; the others lie anywhere after the first acknowledgement.
        let at = if cut + 1 == CUTS { end } else { begin + numbers.below(end - begin + 1) };
        let (made, inside) = disk("made");
        let replayed = log.replay(&base, &made, at, &mut numbers)?;
        let before = told.iter().filter(|(length, ..)| *length <= at);
        let before: BTreeMap<&str, &str> = before.map(|(_, path, id)| (path.as_str(), id.as_str())).collect();
        runner::say(&format!(
            "a cut after {} of {} acknowledgements: {replayed:?}",
            before.len(),
            told.len()
        ));
        let drive = [
            "-blockdev".to_owned(),
            format!("driver=file,node-name=disk,filename={inside}"),
            "-device".to_owned(),
            "virtio-blk-pci,drive=disk".to_owned(),
        ];
        let files = vec![
            ("etc/known", known.clone().into_bytes()),
            ("etc/told", serde_json::to_vec(&before).context("write what was told")?),
        ];
        let mut guest = KernelVm::boot_machine(services, &machine(&drive, files)?)?;
        guest.run("mkdir /disk && mount -t ext4 /dev/vda /disk")?;
        guest.bound(Duration::from_secs(240))?;
        let said = guest.run(&format!("CULVERT_BIN_DIR=/bin /bin/store_power {GUEST} {CHECK} {seed}"));
        let said = said.with_context(|| format!("cut {cut}; repeat with {SEED_VARIABLE}={seed}"))?;
        runner::say(said.trim());
        guest.cut_power()?;
    }
    Ok(())
}

fn make_disk(path: &Path) -> Result<()> {
    fs::File::create(path)?.set_len(DISK_BYTES).context("make a disk")?;
    let mut make = Command::new("mkfs.ext4");
    let made = make.args(["-q", "-F"]).arg(path).output().context("run mkfs.ext4")?;
    ensure!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

fn machine(drive: &[String], files: Vec<(&'static str, Vec<u8>)>) -> Result<Machine> {
    let programs = lab::programs()?;
    let own: PathBuf = fs::read_link("/proc/self/exe").context("find the own executable")?;
    Ok(Machine {
        mebibytes: 384,
        modules: vec!["virtio_pci", "virtio_blk"],
        programs: vec![
            ("storaged", programs.join("storaged")),
            ("culvert", programs.join("culvert")),
            ("store_power", own),
        ],
        files,
        arguments: drive.to_vec(),
    })
}

/// What this program does in the guest.
fn in_guest(what: &str, seed: &str) -> Result<()> {
    let seed = seed.parse().context("read the seed")?;
    if what == LOAD { load(seed) } else { check(seed) }
}

fn load(seed: u64) -> Result<()> {
    let store = Arc::new(Store::init(Layout::below(Path::new(FOLDER))?)?);
    // What was made by hand, and not by storaged, is not its promise.
    nix::unistd::sync();
    let daemon = store.start()?;
    say(&format!("known {}", store.remember()))?;
    let load = Load::start(&store, WRITERS, LABEL, seed);
    let mut said = std::collections::BTreeSet::new();
    while said.len() < 100_000 {
        let told = load.so_far();
        ensure!(told.refused.is_empty(), "refused: {:?}; {}", told.refused, daemon.log());
        for (path, (id, _)) in told.acknowledged {
            if said.insert(path.clone()) {
                say(&format!("acknowledged {path} {id}"))?;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn check(seed: u64) -> Result<()> {
    let known: Value = serde_json::from_slice(&fs::read("/etc/known")?).context("read what is known")?;
    let before: BTreeMap<String, String> =
        serde_json::from_slice(&fs::read("/etc/told")?).context("read what was told")?;
    let store = Store::recall(Layout::below(Path::new(FOLDER))?, &known)?;
    let daemon = store.start()?;
    let mut told = Told::default();
    for writer in 0..WRITERS {
        // A few more than were ever told: those under way, and those whose answers came after the cut.
        let mut left = 10 + ACKNOWLEDGED;
        for (path, sent, _) in Uploads::new(LABEL, seed, writer) {
            let _: &Sent = &sent;
            match before.get(&path) {
                Some(id) => {
                    told.acknowledged.insert(path, (id.clone(), sent));
                }
                None => {
                    told.unanswered.insert(path, sent);
                    left -= 1;
                }
            }
            if left == 0 {
                break;
            }
        }
    }
    ensure!(told.acknowledged.len() == before.len(), "another seed than the load's");
    store.keep_acknowledged(&mut told).with_context(|| format!("storaged said:\n{}", daemon.log()))?;
    let listed = told.looked_at.len();
    daemon.stop()?;
    say(&format!("{} acknowledged and {} more are whole", before.len(), listed - before.len()))
}

/// A line at once.
fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("write a line")
}
