//! `culvert image`: the system that this appliance runs.
//!
//! Invariant: what is verified, what can be written and what listens is the kernel's word; the image's own file says only what
//! it was built as.

use std::fs;
use std::net::SocketAddr;

use clap::Subcommand;
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
inside the tunnel is its daemon's (`culvert verify server`).\n\n\
Exit codes: 0 the root is verified and read-only; 1 it is not; 4 this is no appliance.\n\n\
Examples:\n  \
culvert image status\n  \
culvert image status --json | jq -r .root_hash")]
    Status,
}

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
    let ImageCommand::Status = command;
    let built_as = fs::read_to_string(BUILT_AS)
        .map_err(|error| Failure::cannot_tell(format!("this is no appliance: {BUILT_AS}: {error}")))?;
    let built_as: Value =
        serde_json::from_str(&built_as).map_err(|error| Failure::failed(format!("{BUILT_AS}: {error}")))?;
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| Failure::cannot_tell(format!("{path}: {error}")))
    };
    let mounts = mounts(&read("/proc/self/mountinfo")?);
    let root = Root::of(&mounts, &read("/proc/cmdline")?, |device| {
        fs::read_to_string(format!("/sys/dev/block/{device}/dm/name")).ok()
    });
    let kernel = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let listening = server::listening()?;
    show(&built_as, &root, &kernel, &writable(&mounts), &listening, console)?;
    match root {
        Root::Verified { .. } => Ok(()),
        Root::Not(why) => Err(Failure::failed(format!("the root is not verified: {why}"))),
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
    built_as: &Value,
    root: &Root,
    kernel: &str,
    writable: &[Writable],
    listening: &[(&'static str, SocketAddr)],
    console: Console,
) -> Result<(), Failure> {
    let (verified, root_hash) = match root {
        Root::Verified { root_hash } => (true, Some(root_hash)),
        Root::Not(_) => (false, None),
    };
    if console.is_json() {
        let ports: Vec<Value> = listening
            .iter()
            .map(|(protocol, address)| json!({ "protocol": protocol, "address": address }))
            .collect();
        return console.json_line(&json!({
            "image": built_as, "kernel": kernel, "verified": verified, "root_hash": root_hash,
            "writable": writable, "listens": ports,
        }));
    }
    let word = |key: &str| printable(built_as[key].as_str().unwrap_or("unknown"));
    let hash = root_hash.map_or("NOT VERIFIED".to_owned(), |hash| printable(hash));
    let mut rows = vec![
        vec!["image".to_owned(), format!("{} {}", word("version"), word("flavour"))],
        vec!["kernel".to_owned(), printable(kernel)],
        vec!["root".to_owned(), hash],
    ];
    let place = |it: &Writable| vec!["writable".to_owned(), format!("{} {}", printable(&it.place), it.kind)];
    rows.extend(writable.iter().map(place));
    rows.extend(
        listening
            .iter()
            .map(|(protocol, address)| vec!["listens".to_owned(), format!("{protocol} {address}")]),
    );
    console.line(&table(&["WHAT", "FOUND"], &rows))
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
