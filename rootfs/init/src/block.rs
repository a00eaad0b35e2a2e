//! Block devices, as the kernel finds them: there is no udev yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::arguments::Device;

/// Disks behind a controller that takes its time show up late.
const TRIES: u32 = 600;
const BETWEEN: Duration = Duration::from_millis(50);

/// Its file, as soon as it is there.
pub(crate) fn wait_for(device: &Device) -> Result<PathBuf> {
    for _ in 0..TRIES {
        if let Some(name) = find(Path::new("/sys/class/block"), device)? {
            return Ok(Path::new("/dev").join(name));
        }
        thread::sleep(BETWEEN);
    }
    bail!("there is no block device {device:?}")
}

/// The partitions that a system can be in.
const SLOTS: [&str; 2] = ["culvert-a", "culvert-b"];

/// The one of them that `is_it`, as soon as one is there; what is wrong with both otherwise.
pub(crate) fn wait_for_slot(is_it: impl Fn(&Path) -> Result<()>) -> Result<PathBuf> {
    let mut why = String::new();
    for _ in 0..TRIES {
        why.clear();
        for label in SLOTS {
            let Some(name) = find(Path::new("/sys/class/block"), &Device::Label(label.to_owned()))? else {
                continue;
            };
            let path = Path::new("/dev").join(name);
            match is_it(&path) {
                Ok(()) => return Ok(path),
                Err(error) => why.push_str(&format!("; {label}: {error:#}")),
            }
        }
        thread::sleep(BETWEEN);
    }
    bail!("neither culvert-a nor culvert-b holds the image{why}")
}

/// Two partitions of one label are no choice that we could make.
fn find(classes: &Path, device: &Device) -> Result<Option<String>> {
    let mut found = None;
    let entries = fs::read_dir(classes).with_context(|| format!("list {}", classes.display()))?;
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_it = match device {
            Device::Name(wanted) => name == *wanted,
            Device::Label(wanted) => {
                let events = fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
                events.lines().any(|line| line.strip_prefix("PARTNAME=") == Some(wanted))
            }
        };
        if is_it && let Some(other) = found.replace(name.clone()) {
            bail!("{other} and {name} are both {device:?}");
        }
    }
    Ok(found)
}
