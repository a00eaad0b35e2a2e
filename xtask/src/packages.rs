//! The Debian packages whose programs the tests drive.
//!
//! Invariant: nothing is installed without saying so, and no service is started by it: `promtool` is
//! unpacked beside the build and not installed, because its package brings a Prometheus server along.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::steps;

/// A program that tests call, and the package that brings it.
pub(crate) struct Program {
    /// The program's name.
    pub(crate) name: &'static str,
    /// Debian's name for what brings it.
    pub(crate) package: &'static str,
}

const PROGRAMS: [Program; 12] = [
    Program { name: "wg", package: "wireguard-tools" },
    Program { name: "wireguard-go", package: "wireguard-go" },
    Program { name: "iperf3", package: "iperf3" },
    Program { name: "ip", package: "iproute2" },
    Program { name: "ping", package: "iputils-ping" },
    Program { name: "curl", package: "curl" },
    Program { name: "nft", package: "nftables" },
    Program { name: "ethtool", package: "ethtool" },
    Program { name: "strace", package: "strace" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "h2load", package: "nghttp2-client" },
    Program { name: "systemd-analyze", package: "systemd" },
];

/// Makes every program available and returns the `PATH` to run tests with.
pub(crate) fn provide() -> Result<OsString> {
    require(&PROGRAMS)?;
    let path = search_path()?;
    if !found("promtool", &path) {
        unpack_promtool()?;
    }
    Ok(path)
}

/// Makes programs available, or says what to install.
pub(crate) fn require(programs: &[Program]) -> Result<()> {
    let path = search_path()?;
    let missing: Vec<&str> = programs
        .iter()
        .filter(|program| !found(program.name, &path))
        .map(|program| program.package)
        .collect();
    if !missing.is_empty() {
        install(&missing)?;
        if let Some(program) = programs.iter().find(|program| !found(program.name, &path)) {
            bail!("package {} is installed, and {} is still not in {path:?}", program.package, program.name);
        }
    }
    Ok(())
}

/// The user's `PATH`, the administrator's directories (a user's `PATH` often lacks them), and our tools.
fn search_path() -> Result<OsString> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&own)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .chain([tools_directory().join("bin")]);
    std::env::join_paths(directories).context("put PATH together")
}

/// Where programs lie that are not installed.
pub(crate) fn tools_directory() -> PathBuf {
    steps::root().join("target/tools")
}

fn found(program: &str, path: &OsString) -> bool {
    std::env::split_paths(path).any(|directory| directory.join(program).is_file())
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the tests need programs of Debian packages that are missing here; install them with:\n\n    \
             sudo apt-get install --no-install-recommends {list}\n"
        );
    }
    println!("Installing the Debian packages that are missing: {list}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        command
    };
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    // The package lists of a fresh machine are empty or old: refresh them only when that stands in the way.
    if steps::run(&mut apt(&install))? {
        return Ok(());
    }
    ensure!(steps::run(&mut apt(&["update"]))?, "apt-get update failed; needed for: {list}");
    ensure!(steps::run(&mut apt(&install))?, "apt-get install failed for: {list}");
    Ok(())
}

/// Fetches the `prometheus` package and takes `promtool` out of it.
fn unpack_promtool() -> Result<()> {
    let tools = tools_directory();
    let unpacked = tools.join("prometheus");
    println!(
        "Unpacking promtool from Debian's package `prometheus` into {} (not installed)",
        unpacked.display()
    );
    unpack("prometheus", &unpacked)?;

    let promtool = unpacked.join("usr/bin/promtool");
    let works = Command::new(&promtool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(works.is_ok_and(|status| status.success()), "{} does not run", promtool.display());
    fs::create_dir_all(tools.join("bin"))?;
    symlink(&promtool, tools.join("bin/promtool")).context("link promtool")
}

/// Fetches a package and takes its files out of it, without installing it.
pub(crate) fn unpack(package: &str, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let download = || {
        let mut download = Command::new("apt-get");
        // Else apt warns that its own user cannot write here.
        download.args(["download", "-o", "APT::Sandbox::User=root", package]).current_dir(directory);
        steps::run(&mut download)
    };
    if !download()? {
        refresh_lists(package)?;
        ensure!(download()?, "apt-get download {package} failed");
    }
    let file = package_file(directory)?;
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&file).arg(directory);
    ensure!(steps::run(&mut unpack)?, "dpkg could not unpack {}", file.display());
    fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
}

/// Gets the package lists: those of a fresh machine are empty or old.
pub(crate) fn refresh_lists(package: &str) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "no package lists here; run: sudo apt-get update");
    let updated = steps::run(Command::new("apt-get").arg("update"))?;
    ensure!(updated, "apt-get update failed; needed for {package}");
    Ok(())
}

fn package_file(directory: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    bail!("apt-get download left no package in {}", directory.display())
}
