//! A disk that a machine with UEFI starts from: boot loader, two places for a system, data.
//!
//! ```text
//! | GPT | culvert-esp 128 MiB, FAT | culvert-a 512 MiB | culvert-b 512 MiB | culvert-data 256 MiB, ext4 | GPT |
//! ```
//!
//! Invariant: the same image makes the same disk; all ids follow from the root hash.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use appliance::{DATA_LABEL, ENTRIES, ESP_LABEL, Entry, Slot, Version};

use super::uki;
use crate::steps::{self, shell};

/// A partition: its name, where it begins and how long it is in MiB, and what it is called in the table.
struct Partition {
    label: &'static str,
    at: u64,
    size: u64,
    kind: &'static str,
}

const EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
const ESP: Partition = Partition { label: ESP_LABEL, at: 1, size: 128, kind: EFI_SYSTEM };
const A: Partition = Partition { label: Slot::A.label(), at: 129, size: 512, kind: LINUX };
const B: Partition = Partition { label: Slot::B.label(), at: 641, size: 512, kind: LINUX };
const DATA: Partition = Partition { label: DATA_LABEL, at: 1153, size: 256, kind: LINUX };
/// With the second table behind all.
const WHOLE: u64 = 1410;

/// Where the data partition begins on a disk that was made here, and how long it is, in MiB.
pub(crate) const DATA_MEBIBYTES: (u64, u64) = (DATA.at, DATA.size);

/// No menu, and no line to be typed; systems are those of the file names alone.
const LOADER: &str = "timeout 0\neditor no\nauto-entries no\nauto-firmware no\n";

/// The command line of a system that is started from such a disk.
pub(super) fn command_line(line: &str) -> String {
    format!("{} culvert.root=slots culvert.data=PARTLABEL={DATA_LABEL}", line.trim())
}

/// Makes `disk.img` of the image in `into` with the boot file there.
pub(crate) fn write(into: &Path, version: Version, epoch: &str) -> Result<()> {
    let root = into.join("root.img");
    let disk = into.join("disk.img");
    ensure!(
        fs::metadata(&root).context("look at the image")?.len() <= A.size << 20,
        "the image is larger than its partition of {} MiB",
        A.size
    );
    let seed = fs::read_to_string(into.join("roothash")).context("read the root hash")?;
    let id = |name: &str| id(seed.trim(), name);
    let (esp, data) = (into.join("esp.part"), into.join("data.part"));
    let first = Entry { generation: 1, slot: Slot::A, version, tries: None };
    fs::write(into.join("loader.conf"), LOADER).context("write the loader's configuration")?;
    steps::announce(Command::new("sfdisk").arg(&disk));
    shell(&format!(
        "export SOURCE_DATE_EPOCH={epoch} E2FSPROGS_FAKE_TIME={epoch} TZ=UTC MTOOLS_SKIP_CHECK=1
         cd {into}; rm -f esp.part data.part disk.img
         truncate -s {esp_size}M esp.part
         mkfs.vfat --invariant -F 32 -n CULVERT-ESP -i {serial} esp.part >/dev/null
         mmd -i esp.part ::EFI ::EFI/BOOT ::{ENTRIES} ::loader
         mcopy -i esp.part {loader} ::EFI/BOOT/BOOTX64.EFI
         mcopy -i esp.part loader.conf ::loader/loader.conf
         mcopy -i esp.part boot.efi ::{ENTRIES}/{first}
         truncate -s {data_size}M data.part
         mkfs.ext4 -q -F -m 0 -L {DATA_LABEL} -U {data_id} -E hash_seed={data_id} data.part
         truncate -s {WHOLE}M disk.img",
        into = into.display(),
        esp_size = ESP.size,
        serial = &id("esp-serial")[..8],
        loader = uki::of_systemd("systemd-bootx64.efi")?.display(),
        data_size = DATA.size,
        data_id = id("data-files"),
    ))?;
    partition(&disk, id)?;
    for (from, to) in [(&esp, ESP), (&root, A), (&data, DATA)] {
        let (from, to, disk) = (from.display(), to.at, disk.display());
        shell(&format!("dd if={from} of={disk} bs=1M seek={to} conv=notrunc,sparse status=none"))?;
    }
    shell(&format!("cd {}; rm esp.part data.part loader.conf", into.display())).map(drop)
}

fn partition(disk: &Path, id: impl Fn(&str) -> String) -> Result<()> {
    let mut table = format!("label: gpt\nlabel-id: {}\n", id("disk"));
    for Partition { label, at, size, kind } in [ESP, A, B, DATA] {
        let own = id(label);
        table.push_str(&format!("start={at}MiB, size={size}MiB, type={kind}, name={label}, uuid={own}\n"));
    }
    let mut sfdisk = Command::new("sfdisk");
    let mut sfdisk = sfdisk.arg("--quiet").arg(disk).stdin(Stdio::piped()).spawn().context("start sfdisk")?;
    sfdisk.stdin.take().context("sfdisk's input")?.write_all(table.as_bytes()).context("tell sfdisk")?;
    ensure!(sfdisk.wait()?.success(), "sfdisk");
    Ok(())
}

/// An id that follows from the image, in the form of a UUID of version 8.
fn id(root_hash: &str, name: &str) -> String {
    let digest = super::digest(format!("{root_hash} {name}").as_bytes());
    format!(
        "{}-{}-8{}-8{}-{}",
        &digest[..8],
        &digest[8..12],
        &digest[13..16],
        &digest[17..20],
        &digest[20..32]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_one_another_and_leave_room_for_both_tables() {
        let mut end = 1;
        for partition in [ESP, A, B, DATA] {
            assert_eq!(partition.at, end, "{}", partition.label);
            end += partition.size;
        }
        assert_eq!(end + 1, WHOLE);
    }

    #[test]
    fn ids_follow_from_the_image_and_are_those_of_version_8() {
        let one = id("ab", "disk");
        assert_eq!(one, id("ab", "disk"));
        assert!(one != id("ab", "data") && one != id("ac", "disk"));
        assert_eq!((one.len(), &one[14..15], &one[19..20]), (36, "8", "8"));
    }

    #[test]
    fn a_disk_says_which_partition_is_which() {
        assert_eq!(command_line("quiet\n"), "quiet culvert.root=slots culvert.data=PARTLABEL=culvert-data");
    }
}
