//! The first process of the appliance: it finds the system's image, has the kernel verify every block of it, mounts it
//! read-only and the data beside it, and gives way to systemd.
//!
//! Invariant: no byte of the image is used that the kernel does not verify against the root hash of its own command line,
//! and nothing on the disk says how it is verified. What is missing or wrong ends with a word on the console and a restart,
//! never with a system that runs without.
#![forbid(unsafe_code)]

mod arguments;
mod block;
mod modules;
mod mounts;
mod verity;

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execv};

use arguments::{Arguments, Root};

/// Where the system is put together before it becomes `/`.
const ROOT: &str = "/sysroot";

/// What takes over.
const SYSTEMD: &CStr = c"/usr/lib/systemd/systemd";

/// Long enough to be read on a screen.
const BEFORE_RESTART: Duration = Duration::from_secs(5);

fn main() {
    let Err(error) = start();
    say(&format!("REFUSED: {error:#}"));
    // The kernel would panic if its first process ended; a restart lets the firmware try another system.
    thread::sleep(BEFORE_RESTART);
    let error = linux::first_process::restart();
    say(&format!("cannot restart: {error}"));
}

fn start() -> Result<Infallible> {
    ensure!(
        std::process::id() == 1,
        "this is the first process of an appliance and no program to be started by hand"
    );
    mounts::kernel_file_systems()?;
    let line = fs::read_to_string("/proc/cmdline").context("read the kernel's command line")?;
    let arguments = Arguments::parse(&line)?;
    modules::load(Path::new("/modules"))?;

    let image = match &arguments.root {
        Root::On(device) => block::wait_for(device),
        Root::Slots => block::wait_for_slot(|image| verity::look(image, &arguments).map(drop)),
    };
    let image = image.context("culvert.root")?;
    let verified = verity::open(&image, &arguments).with_context(|| image.display().to_string())?;
    if arguments.verify_all {
        let bytes = verity::read_all(&verified)?;
        say(&format!("all {} MiB of the image are as they were built", bytes >> 20));
    }
    let root = Path::new(ROOT);
    mounts::root(&verified, root)?;
    mounts::data(&arguments.data, root)?;
    say(&format!("{} is verified and mounted", image.display()));
    switch(root)
}

/// Makes `root` the root, drops what the kernel had unpacked for us, and becomes systemd.
fn switch(root: &Path) -> Result<Infallible> {
    mounts::hand_over(root)?;
    let own = fs::metadata("/").context("look at the initial file system")?.dev();
    remove_below(Path::new("/"), own);
    chdir(root).context("enter the root")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("move the root to /")?;
    chroot(".").context("take the root")?;
    chdir("/").context("enter /")?;
    let arguments: Vec<CString> = std::iter::once(SYSTEMD.to_owned())
        .chain(std::env::args_os().skip(1).filter_map(|word| CString::new(word.into_vec()).ok()))
        .collect();
    execv(SYSTEMD, &arguments).with_context(|| format!("start {}", SYSTEMD.to_string_lossy()))
}

/// It lies in memory; what another file system has mounted over it is none of it. What cannot be removed costs a little
/// memory and nothing else.
fn remove_below(directory: &Path, own: u64) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != own {
            continue;
        }
        if metadata.is_dir() {
            remove_below(&path, own);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

/// A line on the console.
fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "culvert: {line}").and_then(|()| output.flush());
}
