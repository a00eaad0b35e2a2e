//! What is mounted before systemd starts: the root read-only, data, and memory where something has to be written.
//!
//! Invariant: what can be written can neither be executed nor hold a device or a set-uid program.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::arguments::Data;
use crate::block;

/// The kernel's own, and where they go.
const KERNEL: [(&str, &str); 3] = [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")];

/// In memory: the place, the mode, and how much of the memory it may take.
const MEMORY: [(&str, &str); 2] = [("var", "mode=0755,size=25%"), ("tmp", "mode=1777,size=25%")];

/// Below `/var`, before systemd-tmpfiles makes the rest.
const VARIABLE: [(&str, u32); 4] = [("lib", 0o755), ("log", 0o755), ("cache", 0o755), ("tmp", 0o1777)];

/// In the initial file system.
const DATA: &str = "/data";

/// Directories of the data partition, their modes if they have to be made, and where they appear.
const KEPT: [(&str, u32); 5] = [
    ("etc/culvert", 0o755),
    ("etc/wireguard", 0o700),
    ("etc/credstore.encrypted", 0o700),
    ("var/lib", 0o755),
    ("srv", 0o755),
];

/// Which host it is, for DHCP and the journal: made once, kept with the data.
const MACHINE_ID: &str = "etc/machine-id";

fn confined() -> MsFlags {
    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC
}

/// Before anything else can be known.
pub(crate) fn kernel_file_systems() -> Result<()> {
    for (kind, place) in KERNEL {
        fs::create_dir_all(place).with_context(|| format!("make {place}"))?;
        let flags = if kind == "devtmpfs" { MsFlags::MS_NOSUID } else { confined() };
        mount(Some(kind), place, Some(kind), flags, None::<&str>)
            .with_context(|| format!("mount {place}"))?;
    }
    Ok(())
}

/// The verified image at `root`, and memory over what has to be written there.
pub(crate) fn root(verified: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    mount(Some(verified), root, Some("erofs"), MsFlags::MS_RDONLY | MsFlags::MS_NODEV, None::<&str>)
        .context("mount the verified image")?;
    for (name, options) in MEMORY {
        let place = root.join(name);
        mount(Some("tmpfs"), &place, Some("tmpfs"), confined(), Some(options))
            .with_context(|| format!("mount /{name}"))?;
    }
    for (name, mode) in VARIABLE {
        directory(&root.join("var").join(name), mode)?;
    }
    Ok(())
}

/// The parts of the data at their places; as a whole they are mounted nowhere when the system runs.
pub(crate) fn data(data: &Data, root: &Path) -> Result<()> {
    let place = Path::new(DATA);
    match data {
        Data::On(device) => {
            let device = block::wait_for(device).context("culvert.data")?;
            // A store whose disk fails must not go on.
            mount(Some(&device), place, Some("ext4"), confined(), Some("errors=remount-ro"))
                .with_context(|| format!("mount {} as ext4", device.display()))?;
        }
        Data::InMemory => {
            crate::say("the data are in memory: nothing of them is left after a restart");
            mount(Some("tmpfs"), place, Some("tmpfs"), confined(), Some("mode=0755,size=50%"))
                .context("mount memory for the data")?;
        }
    }
    for (name, mode) in KEPT {
        let from = place.join(name);
        directory(&from, mode)?;
        bind(&from, &root.join(name))?;
    }
    let id = place.join(MACHINE_ID);
    machine_id(&id)?;
    bind(&id, &root.join(MACHINE_ID))?;
    umount2(place, MntFlags::MNT_DETACH).context("take the data's own mount away")
}

/// The kernel's file systems go along.
pub(crate) fn hand_over(root: &Path) -> Result<()> {
    for (_, place) in KERNEL {
        let to = root.join(place.trim_start_matches('/'));
        mount(Some(place), &to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .with_context(|| format!("move {place}"))?;
    }
    Ok(())
}

/// The flags of the place where it lies hold at the other, too.
fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mount {} at {}", from.display(), to.display()))
}

/// What is there stays as it is.
fn directory(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

/// Thirty-two digits, as machine-id(5) has it. Half a file, from a power cut, is made anew.
fn machine_id(path: &Path) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(text) if text.len() == 33 => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    }
    let mut random = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .context("read /dev/urandom")?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o444)
        .open(path)
        .with_context(|| format!("make {}", path.display()))?;
    file.write_all(format!("{text}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .context("write the machine's id")?;
    ensure!(text.len() == 32, "a machine id of {} digits", text.len());
    Ok(())
}
