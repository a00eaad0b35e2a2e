//! `culvert image`: the system that this appliance runs, and the next one.
//!
//! Invariant: what is verified, what can be written and what listens is the kernel's word; the image's own file says only what
//! it was built as.

mod confirm;
mod disk;
mod esp;
mod update;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use appliance::bundle::unhex;
use appliance::{Entry, Slot};
use clap::{Args, Subcommand};
use receipt::LogKey;
use serde::Serialize;
use serde_json::{Value, json};

use crate::console::{Console, printable, table};
use crate::failure::Failure;
use crate::server;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// What runs, whether the kernel verifies it, what can be written, what listens
    #[command(after_help = "\
The root hash is that of the kernel's command line, with which the first process opened the image. Each place that can be \
written is named with its file system; all else is read-only. The ports are those of the host's own network: what listens \
inside the tunnel is its daemon's (`culvert verify server`). Where the system was started from one of two slots, root is told \
of both: what runs, and what a restart would fall back to.\n\n\
Exit codes: 0 the root is verified and read-only; 1 it is not; 4 this is no appliance.\n\n\
Examples:\n  \
culvert image status\n  \
culvert image status --json | jq -r .root_hash")]
    Status,
    /// Write another system into the slot that does not run; a restart starts it
    #[command(after_help = "\
The bundle is one file, made by `cargo xtask image --sign`: what it is, signed, then the image and its boot file. It is read \
once before anything is changed, and has to be signed by the key that is in the running image (/usr/share/culvert/update.vkey), \
of the same flavour, and not older than what runs.\n\n\
What runs is not touched. The other slot loses its boot file, is written, read back and compared, and gets the new boot file \
last: a power cut at any moment leaves a machine that starts as before, and the update can be repeated.\n\n\
After the restart the new system has ten minutes to be well (`culvert image confirm` looks at each boot), and three tries to \
come that far; if it is not, the old one is started again. Configuration and files are on another partition and stay as they are.\n\n\
Exit codes: 0 it is written; 1 the bundle is not signed by the right key, damaged, of another flavour or too large, or the disk \
failed; 2 there is no such file; 3 it is older, it is what runs, or what runs is not confirmed yet; 4 this system was not \
started from slots, or takes no updates.\n\n\
Examples:\n  \
culvert image update update.bundle && systemctl reboot\n  \
culvert image update --allow-downgrade old.bundle --json")]
    Update(UpdateArguments),
    /// Give up what runs: the next restart starts the other slot
    #[command(after_help = "\
The boot file of what runs is marked as one that failed; it stays there, as the last that would be started, until the next \
update.\n\n\
Exit codes: 0 marked, restart now; 3 there is no other system to go back to; 4 this system was not started from slots.\n\n\
Example:\n  \
culvert image rollback && systemctl reboot")]
    Rollback,
    /// Wait until this machine is well, and stay with what runs
    #[command(after_help = "\
A unit does this at each boot (culvert-image-confirm.service), and restarts the machine when it fails; what is not well in \
time is given up, if there is another system to go back to. Well is: all that starts \
by itself is up, each daemon that is configured answers, its lock-down holds, and it says of itself that it works. Whether \
another host can be reached, and what a certificate says, does not count.\n\n\
Exit codes: 0 confirmed, or nothing was to be confirmed; 1 it is not well, and a restart leads somewhere; 3 it is not well, and \
there is nothing else to start; 4 this system was not started from slots.\n\n\
Example:\n  \
culvert image confirm --within 600")]
    Confirm(ConfirmArguments),
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArguments {
    /// The bundle's file
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Take one that is older than what runs, too
    #[arg(long)]
    allow_downgrade: bool,
    /// Remove the bundle when it is written, and add `.refused` to its name when it is not for this system: for a unit that
    /// looks at each boot
    #[arg(long)]
    consume: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfirmArguments {
    /// How long it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=3600))]
    within: u64,
}

/// Whose updates are taken.
const UPDATE_KEY: &str = "/usr/share/culvert/update.vkey";

/// What the build wrote down.
const BUILT_AS: &str = "/usr/share/culvert/image.json";

/// File systems without files of ours: the kernel's own.
const KERNELS: [&str; 16] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
];

pub(crate) fn run(command: &ImageCommand, console: Console) -> Result<(), Failure> {
    let system = System::look()?;
    match command {
        ImageCommand::Status => status(&system, console),
        ImageCommand::Update(arguments) => update(&system, arguments, console),
        ImageCommand::Rollback => rollback(&system, console),
        ImageCommand::Confirm(arguments) => confirm(&system, arguments, console),
    }
}

/// What runs, as the kernel and the image's own file say it.
struct System {
    built_as: Value,
    mounts: Vec<Mount>,
    command_line: String,
    root: Root,
}

impl System {
    fn look() -> Result<System, Failure> {
        let built_as = fs::read_to_string(BUILT_AS)
            .map_err(|error| Failure::cannot_tell(format!("this is no appliance: {BUILT_AS}: {error}")))?;
        let built_as: Value = serde_json::from_str(&built_as)
            .map_err(|error| Failure::failed(format!("{BUILT_AS}: {error}")))?;
        let mounts = mounts(&read("/proc/self/mountinfo")?);
        let command_line = read("/proc/cmdline")?;
        let root = Root::of(&mounts, &command_line, |device| {
            fs::read_to_string(format!("/sys/dev/block/{device}/dm/name")).ok()
        });
        Ok(System { built_as, mounts, command_line, root })
    }

    fn disk(&self) -> Result<disk::Disk, Failure> {
        let root = self.mounts.iter().rfind(|mount| mount.place == "/");
        let root = root.ok_or_else(|| Failure::cannot_tell("nothing is mounted at /"))?;
        disk::Disk::find(Path::new("/sys"), &self.command_line, &root.device)
    }

    fn word(&self, key: &str) -> &str {
        self.built_as[key].as_str().unwrap_or("unknown")
    }
}

fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::cannot_tell(format!("{path}: {error}")))
}

/// What is in the slot that runs.
fn entry_of(slot: Slot, entries: &[Entry]) -> Result<Entry, Failure> {
    entries.iter().find(|entry| entry.slot == slot).copied().ok_or_else(|| {
        Failure::cannot_tell(format!("the boot loader's partition has no boot file for {}", slot.label()))
    })
}

fn status(system: &System, console: Console) -> Result<(), Failure> {
    let kernel = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let listening = server::listening()?;
    // Where it was not started from slots, and for who may not look, there is nothing to be told of them.
    let slots = system.disk().ok().and_then(|disk| {
        let entries = esp::Esp::mount(&disk.esp, false).and_then(|esp| esp.entries());
        Some((disk.running, entries.ok()?))
    });
    show(system, slots.as_ref(), &kernel, &listening, console)?;
    match &system.root {
        Root::Verified { .. } => Ok(()),
        Root::Not(why) => Err(Failure::failed(format!("the root is not verified: {why}"))),
    }
}

fn update(system: &System, arguments: &UpdateArguments, console: Console) -> Result<(), Failure> {
    let disk = system.disk()?;
    let key = fs::read_to_string(UPDATE_KEY).map_err(|error| {
        Failure::cannot_tell(format!("this image takes no updates: {UPDATE_KEY}: {error}"))
    })?;
    let key = LogKey::parse(key.trim()).map_err(|error| Failure::failed(format!("{UPDATE_KEY}: {error}")))?;
    let Root::Verified { root_hash } = &system.root else {
        return Err(Failure::failed("what runs is not verified"));
    };
    let running = update::Running {
        slot: disk.running,
        flavour: system.word("flavour").to_owned(),
        version: system
            .word("version")
            .parse()
            .map_err(|error| Failure::failed(format!("{BUILT_AS}: {error}")))?,
        root_hash: unhex(root_hash).ok_or_else(|| Failure::failed("the root hash of what runs is none"))?,
    };
    let esp = esp::Esp::mount(&disk.esp, true)?;
    let style = console.progress_style();
    let wanted = update::Bundle::open(&arguments.bundle, &key, style).and_then(|bundle| {
        bundle.check(&running, &esp.entries()?, arguments.allow_downgrade)?;
        Ok(bundle)
    });
    let bundle = match wanted {
        Ok(bundle) => bundle,
        Err(why) if arguments.consume => return Err(set_aside(&arguments.bundle, why)),
        Err(why) => return Err(why),
    };
    let from = running.version;
    let entry = bundle.install(disk.running.other(), &disk.spare, &esp, style)?;
    if arguments.consume {
        fs::remove_file(&arguments.bundle)
            .map_err(|error| Failure::failed(format!("remove {}: {error}", arguments.bundle.display())))?;
    }
    console.report(
        &json!({ "slot": entry.slot.letter(), "version": entry.version.to_string(), "boot_file": entry.to_string(),
            "runs": from.to_string(), "restart": true }),
        |_| format!("{} is in {}; {from} runs on until a restart", entry.version, entry.slot.label()),
    )
}

/// Out of the way of the unit that looks for it at each boot, and there for who asks why.
fn set_aside(bundle: &Path, why: Failure) -> Failure {
    let mut refused = bundle.to_path_buf().into_os_string();
    refused.push(".refused");
    match fs::rename(bundle, &refused) {
        Ok(()) => why,
        Err(error) => Failure::failed(format!("{}; and it cannot be set aside: {error}", why.message())),
    }
}

fn rollback(system: &System, console: Console) -> Result<(), Failure> {
    let disk = system.disk()?;
    let esp = esp::Esp::mount(&disk.esp, true)?;
    let entries = esp.entries()?;
    let running = entry_of(disk.running, &entries)?;
    let given_up = confirm::given_up(&running, &entries)?;
    let other = entry_of(disk.running.other(), &entries)?;
    esp.rename(&running, &given_up)?;
    console.report(
        &json!({ "gave_up": running.version.to_string(), "next": other.version.to_string(), "restart": true }),
        |_| format!("{} is given up; restart to start {} of {}", running.version, other.version, other.slot.label()),
    )
}

fn confirm(system: &System, arguments: &ConfirmArguments, console: Console) -> Result<(), Failure> {
    let disk = system.disk()?;
    let entries = esp::Esp::mount(&disk.esp, false)?.entries()?;
    let running = entry_of(disk.running, &entries)?;
    let done = |confirmed: bool| {
        console.report(
            &json!({ "slot": running.slot.letter(), "version": running.version.to_string(), "confirmed": confirmed }),
            |_| {
                let how = if confirmed { "is confirmed" } else { "was confirmed before" };
                format!("{} in {} {how}", running.version, running.slot.label())
            },
        )
    };
    if running.tries.is_none() {
        return done(false);
    }
    let looks = arguments.within.div_ceil(confirm::PAUSE.as_secs());
    let well = confirm::wait(looks, confirm::troubles, || std::thread::sleep(confirm::PAUSE));
    let esp = esp::Esp::mount(&disk.esp, true)?;
    match well {
        Ok(()) => {
            esp.rename(&running, &Entry { tries: None, ..running })?;
            done(true)
        }
        Err(troubles) => {
            if let Ok(given_up) = confirm::given_up(&running, &entries) {
                esp.rename(&running, &given_up)?;
            }
            Err(confirm::verdict(&running, &entries, &troubles))
        }
    }
}

/// How it stands with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Root {
    /// Read-only, behind the device that the first process opened with this hash.
    Verified { root_hash: String },
    /// Why not.
    Not(&'static str),
}

impl Root {
    fn of(mounts: &[Mount], command_line: &str, name_of: impl Fn(&str) -> Option<String>) -> Root {
        let Some(root) = mounts.iter().rfind(|mount| mount.place == "/") else {
            return Root::Not("nothing is mounted at /");
        };
        if !root.read_only {
            return Root::Not("it can be written");
        }
        if name_of(&root.device).as_deref().map(str::trim) != Some("culvert-root") {
            return Root::Not("it is not the device that the first process opened");
        }
        let mut words = command_line.split_ascii_whitespace();
        match words.find_map(|word| word.strip_prefix("culvert.roothash=")) {
            Some(hash) => Root::Verified { root_hash: hash.to_owned() },
            None => Root::Not("the kernel's command line has no culvert.roothash"),
        }
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// Major and minor number.
    device: String,
    place: String,
    kind: String,
    read_only: bool,
}

/// Of proc_pid_mountinfo(5): number, parent, device, root, place, options, …, `-`, kind, source, options of the file system.
fn mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let file_system: Vec<&str> = file_system.split(' ').collect();
        let is_ro = |options: &str| options.split(',').any(|option| option == "ro");
        Some(Mount {
            device: (*mount.get(2)?).to_owned(),
            place: (*mount.get(4)?).to_owned(),
            kind: (*file_system.first()?).to_owned(),
            read_only: is_ro(mount.get(5)?) || is_ro(file_system.get(2)?),
        })
    };
    text.lines().filter_map(line).collect()
}

/// A place that can be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Writable {
    place: String,
    kind: String,
}

fn writable(mounts: &[Mount]) -> Vec<Writable> {
    let mut places: Vec<Writable> = mounts
        .iter()
        .filter(|mount| !mount.read_only && !KERNELS.contains(&mount.kind.as_str()))
        .map(|mount| Writable { place: mount.place.clone(), kind: mount.kind.clone() })
        .collect();
    places.sort_by(|one, other| one.place.cmp(&other.place));
    places.dedup();
    places
}

fn show(
    system: &System,
    slots: Option<&(Slot, Vec<Entry>)>,
    kernel: &str,
    listening: &[(&'static str, SocketAddr)],
    console: Console,
) -> Result<(), Failure> {
    let writable = writable(&system.mounts);
    let (verified, root_hash) = match &system.root {
        Root::Verified { root_hash } => (true, Some(root_hash)),
        Root::Not(_) => (false, None),
    };
    let slots: Option<Vec<SlotState>> = slots.map(|(running, entries)| {
        Slot::BOTH.into_iter().map(|slot| SlotState::of(slot, *running, entries)).collect()
    });
    if console.is_json() {
        let ports: Vec<Value> = listening
            .iter()
            .map(|(protocol, address)| json!({ "protocol": protocol, "address": address }))
            .collect();
        return console.json_line(&json!({
            "image": system.built_as, "kernel": kernel, "verified": verified, "root_hash": root_hash,
            "slots": slots, "writable": writable, "listens": ports,
        }));
    }
    let hash = root_hash.map_or("NOT VERIFIED".to_owned(), |hash| printable(hash));
    let mut rows = vec![
        vec![
            "image".to_owned(),
            format!("{} {}", printable(system.word("version")), printable(system.word("flavour"))),
        ],
        vec!["kernel".to_owned(), printable(kernel)],
        vec!["root".to_owned(), hash],
    ];
    let of_slot = |it: &SlotState| {
        let version = it.version.as_ref().map_or(String::new(), |version| format!("{version} "));
        vec![format!("slot {}", it.slot), format!("{version}{}", it.state)]
    };
    rows.extend(slots.iter().flatten().map(of_slot));
    let place = |it: &Writable| vec!["writable".to_owned(), format!("{} {}", printable(&it.place), it.kind)];
    rows.extend(writable.iter().map(place));
    rows.extend(
        listening
            .iter()
            .map(|(protocol, address)| vec!["listens".to_owned(), format!("{protocol} {address}")]),
    );
    console.line(&table(&["WHAT", "FOUND"], &rows))
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SlotState {
    slot: &'static str,
    runs: bool,
    version: Option<String>,
    state: String,
    /// How often the boot loader may yet start it; none where it was confirmed.
    tries_left: Option<u8>,
}

impl SlotState {
    fn of(slot: Slot, running: Slot, entries: &[Entry]) -> SlotState {
        let entry = entries.iter().find(|entry| entry.slot == slot);
        SlotState {
            slot: slot.letter(),
            runs: slot == running,
            version: entry.map(|entry| entry.version.to_string()),
            state: confirm::state(slot, running, entry),
            tries_left: entry.and_then(|entry| entry.tries).map(|tries| tries.left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "1 1 0:2 / / rw - rootfs rootfs rw\n\
        21 1 253:0 / / ro,nodev shared:1 - erofs /dev/dm-0 ro\n\
        22 21 0:21 / /proc rw,nosuid - proc proc rw\n\
        23 21 0:22 / /var rw,nosuid,nodev,noexec shared:2 - tmpfs tmpfs rw,mode=755\n\
        24 21 254:16 /etc/culvert /etc/culvert rw,nosuid - ext4 /dev/vdb rw\n\
        25 21 0:23 / /ro ro,nosuid - tmpfs tmpfs rw\n";

    #[test]
    fn what_can_be_written_is_named() {
        let found = writable(&mounts(&MOUNTS.replace("1 1 0:2 / / rw - rootfs rootfs rw\n", "")));
        let places: Vec<(&str, &str)> =
            found.iter().map(|it| (it.place.as_str(), it.kind.as_str())).collect();
        assert_eq!(places, [("/etc/culvert", "ext4"), ("/var", "tmpfs")]);
    }

    #[test]
    fn a_refused_bundle_is_not_looked_at_again_and_keeps_its_reason() {
        let place = tempfile::tempdir().unwrap();
        let bundle = place.path().join("bundle");
        fs::write(&bundle, "old").unwrap();
        let why = set_aside(&bundle, Failure::refused("older"));
        assert_eq!((why.exit(), why.message()), (crate::failure::Exit::Refused, "older"));
        assert_eq!(fs::read(place.path().join("bundle.refused")).unwrap(), b"old");
        let why = set_aside(&bundle, Failure::refused("older"));
        assert!(why.message().starts_with("older; and"), "{}", why.message());
    }

    #[test]
    fn slots_are_told_as_they_are() {
        let entries: Vec<Entry> = ["culvert-2-b-0.1.0-2+2-1.efi", "culvert-1-a-0.1.0-1.efi"]
            .map(|name| name.parse().unwrap())
            .into();
        let [a, b] = Slot::BOTH.map(|slot| SlotState::of(slot, Slot::B, &entries));
        assert_eq!((a.runs, a.state.as_str(), a.tries_left), (false, "confirmed", None));
        assert_eq!(
            (b.version.as_deref(), b.state.as_str()),
            (Some("0.1.0-2"), "runs, not confirmed, tries left: 2")
        );
        assert_eq!((b.runs, b.tries_left), (true, Some(2)));
    }

    #[test]
    fn a_root_is_verified_by_the_device_below_it() {
        let mounts = mounts(MOUNTS);
        let line = "quiet culvert.roothash=ab culvert.blocks=1";
        let named = |name: &'static str| move |device: &str| (device == "253:0").then(|| format!("{name}\n"));
        assert_eq!(Root::of(&mounts, line, named("culvert-root")), Root::Verified { root_hash: "ab".into() });
        assert!(matches!(Root::of(&mounts, line, named("other")), Root::Not(_)));
        assert!(matches!(Root::of(&mounts, line, |_| None), Root::Not(_)));
        assert!(matches!(Root::of(&mounts, "quiet", named("culvert-root")), Root::Not(_)));
        let mut open = mounts;
        open.iter_mut().for_each(|mount| mount.read_only = false);
        assert!(matches!(Root::of(&open, line, named("culvert-root")), Root::Not(_)));
    }
}
