//! Other people's programs for the slow scenarios: Debian's kernel, gotatun, a Noise library for Python, and a file
//! system that can be stopped.
//!
//! Invariant: all of it lies in `target/tools` and none is installed, save Debian's packages of programs
//! (`packages.rs`). None is linked with anything of ours: scenarios start it and talk to it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Program};
use crate::{python, steps};

const PROGRAMS: [Program; 2] = [
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86" },
    Program { name: "busybox", package: "busybox-static" },
];

/// Depends on the newest kernel for small machines.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The program, and the library that it loads.
const BINDFS: [&str; 2] = ["bindfs", "libfuse2"];

/// From crates.io.
const GOTATUN: [&str; 2] = ["gotatun-cli", "0.10.2"];

/// Provides what is missing.
pub(crate) fn provide() -> Result<()> {
    packages::require(&PROGRAMS)?;
    let tools = packages::tools_directory();
    if !tools.join("linux/boot").is_dir() {
        unpack_kernel(KERNEL, &tools.join("linux"))?;
    }
    if !tools.join("bin/gotatun").is_file() {
        build_gotatun(&tools)?;
    }
    if !tools.join("bindfs/complete").is_file() {
        unpack_bindfs(&tools.join("bindfs"))?;
    }
    python::provide(&python::NOISE)
}

/// Unpacks the newest kernel that the package `meta` depends on.
pub(crate) fn unpack_kernel(meta: &str, directory: &Path) -> Result<()> {
    println!("Unpacking Debian's kernel into {} (not installed)", directory.display());
    let package = match newest_kernel(meta)? {
        Some(package) => package,
        None => {
            packages::refresh_lists(meta)?;
            newest_kernel(meta)?.with_context(|| format!("{meta} depends on no kernel"))?
        }
    };
    // Complete or not there: a run that was interrupted leaves nothing that looks finished.
    let partial = directory.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    packages::unpack(&package, &partial)?;
    fs::rename(&partial, directory).context("name the unpacked kernel")
}

fn unpack_bindfs(directory: &Path) -> Result<()> {
    println!("Unpacking Debian's bindfs into {} (not installed)", directory.display());
    for package in BINDFS {
        packages::unpack(package, directory)?;
    }
    fs::write(directory.join("complete"), "").context("mark bindfs as complete")
}

/// The package that holds the newest kernel, if the package lists know one.
fn newest_kernel(meta: &str) -> Result<Option<String>> {
    let output = Command::new("apt-cache").args(["depends", meta]).output().context("run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(depends.find(|name| name.starts_with("linux-image-")).map(str::to_owned))
}

fn build_gotatun(tools: &Path) -> Result<()> {
    let [name, version] = GOTATUN;
    let mut install = steps::cargo();
    install.args(["install", name, "--version", version, "--locked"]);
    // Its default wants a C compiler and cmake for another library of the same ciphers.
    install.args(["--no-default-features", "--features", "ring"]);
    install.arg("--root").arg(tools).arg("--target-dir").arg(tools.join("gotatun-build"));
    install.env("CARGO_PROFILE_RELEASE_LTO", "off");
    ensure!(steps::run(&mut install)?, "gotatun does not build");
    fs::remove_dir_all(tools.join("gotatun-build")).context("remove gotatun's intermediate files")
}
