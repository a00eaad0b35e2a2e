//! `cargo xtask image`: the appliance as one file that the kernel verifies, with the kernel and the first process beside it.
//!
//! Invariant: what is in an image comes from Debian's packages, our packages and `rootfs/`; its executables are those of the
//! committed list; its bytes follow from these and nothing else, so two builds are equal.

pub(crate) mod disk;
mod initrd;
mod kernel;
mod listing;
mod materials;
pub(crate) mod signing;
mod uki;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use appliance::Version;
use clap::{Args, ValueEnum};
use sha2::{Digest as _, Sha256};

use crate::packages::{self, Program};
use crate::{deb, hosts, steps};
use kernel::Kernel;

pub(crate) use kernel::Series;

const PROGRAMS: [Program; 12] = [
    Program { name: "mmdebstrap", package: "mmdebstrap" },
    Program { name: "mkfs.erofs", package: "erofs-utils" },
    Program { name: "veritysetup", package: "cryptsetup-bin" },
    Program { name: "depmod", package: "kmod" },
    Program { name: "xz", package: "xz-utils" },
    Program { name: "gzip", package: "gzip" },
    Program { name: "objcopy", package: "binutils" },
    Program { name: "sfdisk", package: "fdisk" },
    Program { name: "mkfs.vfat", package: "dosfstools" },
    Program { name: "mcopy", package: "mtools" },
    Program { name: "mkfs.ext4", package: "e2fsprogs" },
    Program { name: "sha256sum", package: "coreutils" },
];

/// What is asked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Who looks after it: nobody (no shell, no sshd, no interpreter), or an administrator with Ansible
    #[arg(long, default_value = "sealed")]
    pub(crate) flavour: Flavour,
    /// Debian's kernel
    #[arg(long, default_value = "6.12")]
    pub(crate) kernel: Series,
    /// From debug builds: quicker, for tests; not to be given to anybody
    #[arg(long)]
    pub(crate) dev: bool,
    /// Fetch Debian's packages anew instead of those of the last build
    #[arg(long)]
    pub(crate) refresh: bool,
    /// Take the executables that are found for those that are wanted: rewrites rootfs/lists/executables.FLAVOUR
    #[arg(long)]
    pub(crate) accept: bool,
    /// Build twice, everything fetched anew, and compare
    #[arg(long)]
    pub(crate) reproducible: bool,
    /// Which image of this version it is: a second one has another kernel, or newer packages of Debian
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    pub(crate) revision: u32,
    /// Whose updates it will take: a public key (FILE.vkey of `cargo xtask update-key`); without one it takes none
    #[arg(long, value_name = "FILE")]
    pub(crate) update_key: Option<PathBuf>,
    /// Make the update bundle, too, signed by this secret key
    #[arg(long, value_name = "FILE")]
    pub(crate) sign: Option<PathBuf>,
    /// More words for the kernel, in the boot file
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub(crate) append: String,
    /// Where it is put [default: target/image/FLAVOUR]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) into: Option<PathBuf>,
}

/// Who looks after an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flavour {
    /// Nobody can log in; there is nothing to log in to
    Sealed,
    /// sshd with keys, python for Ansible, and a shell
    Managed,
}

impl Flavour {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Flavour::Sealed => "sealed",
            Flavour::Managed => "managed",
        }
    }
}

/// Debian's part is of no commit of ours: it can be used again for the next one.
const DEBIANS_DATE: &str = "1767225600";

/// What is handed to somebody.
pub(crate) const FILES: [&str; 10] = [
    "root.img",
    "roothash",
    "blocks",
    "vmlinuz",
    "initrd.img",
    "cmdline",
    "boot.efi",
    "disk.img",
    "packages.txt",
    "sbom.cdx.json",
];

/// What the programs of this commit make.
pub(crate) fn version(revision: u32) -> Result<Version> {
    format!("{}-{revision}", env!("CARGO_PKG_VERSION")).parse().context("the version of the image")
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let into = options.into.clone().unwrap_or_else(|| place(options.flavour.name()));
    if !options.reproducible {
        build(options, &into)?;
        explain(&into);
        return Ok(ExitCode::SUCCESS);
    }
    let mut sums = Vec::new();
    for name in ["one", "two"] {
        let once = Options { refresh: true, ..options.clone() };
        let into = into.join(name);
        build(&once, &into)?;
        sums.push(self::sums(&into)?);
    }
    let [one, two] = &sums[..] else { bail!("two builds were made") };
    let mut differ = 0;
    for ((name, first), (_, second)) in one.iter().zip(two) {
        let equal = first == second;
        differ += usize::from(!equal);
        println!("{name}: {}\n  {first}\n  {second}", if equal { "equal" } else { "DIFFERENT" });
    }
    println!("\n{} passed, {differ} failed", one.len() - differ);
    Ok(if differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where an image of this name is put.
pub(crate) fn place(name: &str) -> PathBuf {
    steps::root().join("target/image").join(name)
}

/// Builds it.
pub(crate) fn build(options: &Options, into: &Path) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "a tree with the users of a system needs root");
    packages::require(&PROGRAMS)?;
    let flavour = options.flavour;
    let version = version(options.revision)?;
    // Before anything takes minutes.
    let update_key = options.update_key.as_deref().map(signing::verifier).transpose()?;
    options.sign.as_deref().map(signing::signer).transpose()?;
    println!(
        "\nImage {} {version} with Linux {}, into {}",
        flavour.name(),
        options.kernel.name(),
        into.display()
    );
    fs::create_dir_all(into).with_context(|| format!("make {}", into.display()))?;
    let epoch = deb::date()?;
    let base = debian(flavour, options.refresh)?;
    let ours = place("packages");
    deb::run(&deb::Options { dev: options.dev, revision: 1, into: Some(ours.clone()) })?;
    let kernel = Kernel::provide(options.kernel)?;

    let work = into.join("work");
    let _ = fs::remove_dir_all(&work);
    let modules = kernel.select_modules(&list("modules.root")?, &work.join("modules"))?;
    let tree = work.join("tree");
    let arguments =
        [flavour.name().as_ref(), base.as_os_str(), ours.as_ref(), modules.as_ref(), tree.as_ref()];
    stage("20-tree.sh", &arguments, &epoch)?;
    if flavour == Flavour::Sealed {
        stage("30-seal.sh", &[tree.as_ref()], &epoch)?;
    }
    materials::write(&tree, into, flavour, version, &kernel)?;
    if let Some(key) = update_key {
        fs::write(tree.join("usr/share/culvert/update.vkey"), format!("{key}\n"))
            .context("write the key of updates into the image")?;
    }
    listing::check(&tree, flavour, options.accept)?;
    stage("40-root.sh", &[tree.as_ref(), into.as_os_str()], &epoch)?;
    // Who reads the files of a data partition by the image's own numbers needs them.
    fs::copy(tree.join("etc/group"), into.join("group")).context("keep the groups")?;
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;

    fs::copy(kernel.image(), into.join("vmlinuz")).context("copy the kernel")?;
    initrd::write(&kernel, &list("modules.initrd")?, &into.join("initrd.img"))?;
    fs::write(into.join("cmdline"), command_line(into)? + "\n").context("write the command line")?;
    let boot = into.join("boot.efi");
    let title = format!("Culvert {version} ({})", flavour.name());
    boot_file(into, &title, &format!("{} {}", command_line(into)?, options.append), &boot)?;
    disk::write(into, version, &epoch)?;
    if let Some(key) = &options.sign {
        println!("{}", signing::bundle(into, flavour.name(), version, &boot, key)?.display());
    }
    let sums: String = sums(into)?.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
    fs::write(into.join("SHA256SUMS"), sums).context("write the sums")
}

/// Makes `to`, of the kernel of `image`, for a disk with two slots.
pub(crate) fn boot_file(image: &Path, title: &str, command_line: &str, to: &Path) -> Result<()> {
    uki::write(image, title, &disk::command_line(command_line), to)
}

/// Debian's packages, from the last build if the same were wanted then.
fn debian(flavour: Flavour, refresh: bool) -> Result<PathBuf> {
    let mut names = list("packages.common")?;
    if flavour == Flavour::Managed {
        names.extend(list("packages.managed")?);
    }
    let script = fs::read(steps::root().join("rootfs/10-debian.sh")).context("read rootfs/10-debian.sh")?;
    let wanted = digest(&[names.join(",").as_bytes(), &script].concat());
    let base = place(&format!("debian-{}.tar", flavour.name()));
    let mark = base.with_extension("made-from");
    if !refresh && base.is_file() && fs::read_to_string(&mark).is_ok_and(|made| made == wanted) {
        println!(
            "Debian's packages are those of the last build ({}); --refresh fetches them anew",
            base.display()
        );
        return Ok(base);
    }
    let _ = fs::remove_file(&mark);
    let (suite, sources) = hosts::release()?;
    let names = names.join(",");
    stage(
        "10-debian.sh",
        &[suite.as_ref(), sources.as_os_str(), names.as_ref(), base.as_os_str()],
        DEBIANS_DATE,
    )?;
    fs::write(&mark, wanted).context("remember what the packages were made from")?;
    Ok(base)
}

/// A script of `rootfs/`.
fn stage(script: &str, arguments: &[&std::ffi::OsStr], epoch: &str) -> Result<()> {
    let mut command = Command::new(steps::root().join("rootfs").join(script));
    command.args(arguments).env("SOURCE_DATE_EPOCH", epoch).env("LC_ALL", "C.UTF-8");
    ensure!(steps::run(&mut command)?, "rootfs/{script} failed");
    Ok(())
}

/// The lines of `rootfs/lists/NAME` that say something.
fn list(name: &str) -> Result<Vec<String>> {
    let path = steps::root().join("rootfs/lists").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(words(&text))
}

fn words(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// All that does not depend on which disk is which.
fn command_line(into: &Path) -> Result<String> {
    let mut words = list("arguments")?;
    for (name, file) in [("culvert.roothash", "roothash"), ("culvert.blocks", "blocks")] {
        let value = fs::read_to_string(into.join(file)).with_context(|| format!("read {file}"))?;
        words.push(format!("{name}={}", value.trim()));
    }
    Ok(words.join(" "))
}

/// By a program, for a disk is long.
fn sums(into: &Path) -> Result<Vec<(String, String)>> {
    let said = steps::shell(&format!("cd {}; sha256sum {}", into.display(), FILES.join(" ")))?;
    let line = |line: &str| {
        let (sum, name) = line.split_once("  ").with_context(|| format!("sha256sum said: {line}"))?;
        Ok((name.to_owned(), sum.to_owned()))
    };
    said.lines().map(line).collect()
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn explain(into: &Path) {
    let size = |name: &str| fs::metadata(into.join(name)).map_or(0, |file| file.len() >> 20);
    println!(
        "\n{0}: root.img {1} MiB, vmlinuz {2} MiB, initrd.img {3} MiB; disk.img starts a machine with UEFI\n\nTo try it, with data that end with it:\n\n  \
         cd {0} && qemu-system-x86_64 -M q35 -cpu max -m 1024 -smp 2 -nodefaults -nographic -serial mon:stdio \\\n    \
         -kernel vmlinuz -initrd initrd.img -append \"$(cat cmdline) culvert.root=/dev/vda culvert.data=memory\" \\\n    \
         -drive file=root.img,format=raw,if=virtio,readonly=on",
        into.display(),
        size("root.img"),
        size("vmlinuz"),
        size("initrd.img"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_the_image_say_what_they_are_for() {
        for name in [
            "packages.common",
            "packages.managed",
            "modules.root",
            "modules.initrd",
            "programs.sealed",
            "arguments",
        ] {
            let words = list(name).unwrap();
            assert!(!words.is_empty(), "{name}");
            assert!(words.iter().all(|word| !word.contains(char::is_whitespace)), "{name}: one word a line");
        }
    }

    #[test]
    fn a_sealed_image_keeps_no_interpreter() {
        let kept = list("programs.sealed").unwrap();
        for name in
            ["sh", "bash", "dash", "busybox", "python3", "perl", "sshd", "ssh", "nsenter", "login", "su"]
        {
            assert!(!kept.iter().any(|program| program == name), "{name}");
        }
    }

    #[test]
    fn nothing_of_the_verification_is_in_the_committed_arguments() {
        let arguments = list("arguments").unwrap();
        assert!(!arguments.iter().any(|word| word.starts_with("culvert.") || word.starts_with("roothash=")));
        assert_eq!(
            arguments.iter().rfind(|word| word.starts_with("console=")).unwrap(),
            "console=ttyS0,115200"
        );
    }
}
