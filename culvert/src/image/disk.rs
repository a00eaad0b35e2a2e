//! The disk that this system was started from, by what the kernel says of it.
//!
//! Invariant: slots and the boot loader's partition are taken from the one disk that the verified root is on: another with the
//! same names, such as a copy, is never written to.

use std::fs;
use std::path::{Path, PathBuf};

use appliance::{ESP_LABEL, Slot};

use crate::failure::Failure;

/// Device files, and which slot runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) running: Slot,
    pub(super) esp: PathBuf,
    /// The other slot.
    pub(super) spare: PathBuf,
}

/// Words of the kernel's command line with which the first process looks for the image in slots.
const FROM_SLOTS: &str = "culvert.root=slots";

impl Disk {
    /// Below `sys`, for the root on the device `root` (MAJOR:MINOR).
    pub(super) fn find(sys: &Path, command_line: &str, root: &str) -> Result<Disk, Failure> {
        if !command_line.split_ascii_whitespace().any(|word| word == FROM_SLOTS) {
            return Err(Failure::cannot_tell(format!(
                "this system was not started from one of two slots: the kernel's command line has no {FROM_SLOTS}"
            )));
        }
        let below = sys.join("dev/block").join(root).join("slaves");
        let listed = |path: &Path| {
            let entries = fs::read_dir(path)
                .map_err(|error| Failure::cannot_tell(format!("list {}: {error}", path.display())))?;
            Ok(entries.flatten().map(|entry| entry.path()).collect::<Vec<PathBuf>>())
        };
        let [partition] = &listed(&below)?[..] else {
            return Err(Failure::cannot_tell(format!(
                "{}: the root is not on one partition",
                below.display()
            )));
        };
        let partition = fs::canonicalize(partition)
            .map_err(|error| Failure::cannot_tell(format!("{}: {error}", partition.display())))?;
        let running = label(&partition).as_deref().and_then(Slot::of_label).ok_or_else(|| {
            Failure::cannot_tell(format!("the root is on {}, which is no slot", partition.display()))
        })?;
        let partitions: Vec<(String, PathBuf)> = listed(partition.parent().unwrap_or(&partition))?
            .into_iter()
            .filter_map(|path| Some((label(&path)?, Path::new("/dev").join(path.file_name()?))))
            .collect();
        let one = |wanted: &str| {
            let mut found = partitions.iter().filter(|(label, _)| label == wanted);
            match (found.next(), found.next()) {
                (Some((_, path)), None) => Ok(path.clone()),
                (None, _) => Err(Failure::cannot_tell(format!("the disk has no partition {wanted}"))),
                (Some(_), Some(_)) => {
                    Err(Failure::cannot_tell(format!("the disk has two partitions {wanted}")))
                }
            }
        };
        Ok(Disk { running, esp: one(ESP_LABEL)?, spare: one(running.other().label())? })
    }
}

/// What the partition table calls it.
fn label(partition: &Path) -> Option<String> {
    let events = fs::read_to_string(partition.join("uevent")).ok()?;
    events.lines().find_map(|line| line.strip_prefix("PARTNAME=").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const LINE: &str = "quiet culvert.root=slots";

    /// As the kernel shows a disk with these partitions, of which the root is on the second.
    fn sys(labels: &[&str]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/vda");
        for (number, label) in (1..).zip(labels) {
            let partition = disk.join(format!("vda{number}"));
            fs::create_dir_all(&partition).unwrap();
            fs::write(partition.join("uevent"), format!("DEVNAME=vda{number}\nPARTNAME={label}\n")).unwrap();
        }
        fs::create_dir_all(disk.join("queue")).unwrap();
        let slaves = sys.path().join("dev/block/253:0/slaves");
        fs::create_dir_all(&slaves).unwrap();
        symlink(disk.join("vda2"), slaves.join("vda2")).unwrap();
        sys
    }

    #[test]
    fn the_slot_that_runs_is_below_the_root_and_the_other_is_beside_it() {
        let sys = sys(&["culvert-esp", "culvert-b", "culvert-a", "culvert-data"]);
        let disk = Disk::find(sys.path(), LINE, "253:0").unwrap();
        assert_eq!(disk, Disk { running: Slot::B, esp: "/dev/vda1".into(), spare: "/dev/vda3".into() });
    }

    #[test]
    fn a_disk_that_is_not_ours_is_told() {
        for (labels, wanted) in [
            (&["culvert-esp", "other", "culvert-a"][..], "no slot"),
            (&["culvert-esp", "culvert-a"], "no partition culvert-b"),
            (&["other", "culvert-a", "culvert-b"], "no partition culvert-esp"),
            (&["culvert-esp", "culvert-a", "culvert-b", "culvert-b"], "two partitions culvert-b"),
        ] {
            let error = Disk::find(sys(labels).path(), LINE, "253:0").unwrap_err();
            assert!(error.message().contains(wanted), "{}", error.message());
        }
        let sys = sys(&["culvert-esp", "culvert-a", "culvert-b"]);
        assert!(Disk::find(sys.path(), "culvert.root=/dev/vda", "253:0").is_err());
        assert!(Disk::find(sys.path(), LINE, "253:1").is_err());
    }
}
