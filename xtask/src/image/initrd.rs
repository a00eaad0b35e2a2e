//! The initial file system: our first process, the modules that reach the disk, and nothing else.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use culvert_netns::cpio::Archive;

use super::kernel::Kernel;
use super::place;
use crate::steps;

/// The one that the compiler is for: named, so that the flags are not those of build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(super) fn write(kernel: &Kernel, modules: &[String], to: &Path) -> Result<()> {
    let init = first_process()?;
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "sysroot", "data"] {
        archive.directory(directory)?;
    }
    // The kernel opens it for its first process before that one can mount anything.
    archive.device("dev/console", 5, 1)?;
    archive.file("init", &init)?;
    for (index, module) in kernel.in_order(modules)?.iter().enumerate() {
        archive.file(&format!("modules/{index:02}-{}.ko", module.name), &module.content)?;
    }
    let plain = to.with_extension("cpio");
    fs::write(&plain, archive.finish()?).with_context(|| format!("write {}", plain.display()))?;
    let mut gzip = Command::new("gzip");
    gzip.args(["-9nc"])
        .arg(&plain)
        .stdout(Stdio::from(File::create(to).context("make the initial file system")?));
    ensure!(steps::run(&mut gzip)?, "gzip");
    fs::remove_file(&plain).with_context(|| format!("remove {}", plain.display()))
}

/// Static, for there is no library beside it.
fn first_process() -> Result<Vec<u8>> {
    let target = place("init");
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"))?;
    let root = steps::root();
    let mut build = steps::cargo();
    build.args(["build", "--release", "--locked", "--package", "appliance-init", "--target", TARGET]);
    build.arg("--target-dir").arg(&target).env_remove("CARGO_TARGET_DIR");
    // Nor a path of the machine that it was built on.
    build.env(
        "RUSTFLAGS",
        format!(
            "-Ctarget-feature=+crt-static -Cstrip=symbols --remap-path-prefix={home}=/cargo --remap-path-prefix={}=/culvert",
            root.display()
        ),
    );
    ensure!(steps::run(&mut build)?, "the first process does not build");
    let path = target.join(TARGET).join("release/appliance-init");
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}
