//! One file that the firmware can start: kernel, initial file system and command line behind systemd's stub.
//!
//! Invariant: the same parts make the same file; whoever signs it for Secure Boot signs all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{packages, steps};

/// Debian's package with stub and boot loader, which is unpacked beside the build.
const PACKAGE: &str = "systemd-boot-efi";

/// Where the sections are put in memory, as systemd-stub(7) lays them out; the initial file system comes behind the kernel.
const OS_RELEASE: u64 = 0x2_0000;
const COMMAND_LINE: u64 = 0x3_0000;
const LINUX: u64 = 0x200_0000;
const ALIGNMENT: u64 = 0x10_0000;

/// A file of systemd's for the firmware.
pub(super) fn of_systemd(name: &str) -> Result<PathBuf> {
    let tree = packages::tools_directory().join(PACKAGE);
    let path = tree.join("usr/lib/systemd/boot/efi").join(name);
    if !path.is_file() {
        println!("Unpacking Debian's package {PACKAGE} into {} (not installed)", tree.display());
        packages::unpack(PACKAGE, &tree)?;
    }
    ensure!(path.is_file(), "{PACKAGE} has no {name}");
    Ok(path)
}

/// Makes `to` of `vmlinuz` and `initrd.img` in `image`.
pub(super) fn write(image: &Path, title: &str, command_line: &str, to: &Path) -> Result<()> {
    let kernel = image.join("vmlinuz");
    let size = fs::metadata(&kernel).with_context(|| format!("look at {}", kernel.display()))?.len();
    let initrd = (LINUX + size).next_multiple_of(ALIGNMENT);
    let (name, line) = (to.with_extension("osrel"), to.with_extension("cmdline"));
    // No ID and no VERSION_ID: the boot loader then orders by the file's name, which counts installations.
    fs::write(&name, format!("PRETTY_NAME=\"{title}\"\n")).context("write the title")?;
    fs::write(&line, command_line).context("write the command line")?;
    let mut objcopy = Command::new("objcopy");
    for (section, file, at) in [
        (".osrel", name.as_path(), OS_RELEASE),
        (".cmdline", &line, COMMAND_LINE),
        (".linux", &kernel, LINUX),
        (".initrd", &image.join("initrd.img"), initrd),
    ] {
        objcopy.arg("--add-section").arg(format!("{section}={}", file.display()));
        objcopy.arg("--change-section-vma").arg(format!("{section}={at:#x}"));
    }
    objcopy.arg(of_systemd("linuxx64.efi.stub")?).arg(to);
    ensure!(steps::run(&mut objcopy)?, "objcopy");
    for file in [name, line] {
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    let mut bytes = fs::read(to).with_context(|| format!("read {}", to.display()))?;
    without_date(&mut bytes)?;
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}

/// objcopy writes the time of day into the header of the format.
fn without_date(file: &mut [u8]) -> Result<()> {
    let short = "the boot file has no header";
    let at = file.get(0x3c..0x40).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
    let at = usize::try_from(at.context(short)?).context(short)?;
    ensure!(file.get(at..at + 4) == Some(b"PE\0\0"), short);
    file.get_mut(at + 8..at + 12).context(short)?.fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_taken_out_and_nothing_else() {
        let mut file = vec![7; 0x100];
        file[0x3c..0x40].copy_from_slice(&0x80u32.to_le_bytes());
        file[0x80..0x84].copy_from_slice(b"PE\0\0");
        let mut wanted = file.clone();
        wanted[0x88..0x8c].fill(0);
        without_date(&mut file).unwrap();
        assert_eq!(file, wanted);
        file[0x80] = b'X';
        assert!(without_date(&mut file).is_err());
        assert!(without_date(&mut [0; 0x3d]).is_err());
        file[0x3c..0x40].fill(0xff);
        assert!(without_date(&mut file).is_err());
    }
}
