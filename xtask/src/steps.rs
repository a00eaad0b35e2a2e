//! Running other programs, visibly.
//!
//! Invariant: every command is printed before it runs, so that a step can be repeated by hand; the lines of shell that
//! arrange a lab are told when they fail.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us, else the one in the path.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Fails where there is no room for what the tests and the demo write; said at once, and not by whichever of them
/// finds the disk full.
pub(crate) fn require_room() -> Result<()> {
    const LEAST_MEBIBYTES: u64 = 3 << 10;
    for place in [std::env::temp_dir(), root()] {
        let found = nix::sys::statvfs::statvfs(&place)
            .with_context(|| format!("look for room in {}", place.display()))?;
        let mebibytes = found.blocks_available().saturating_mul(found.fragment_size()) >> 20;
        ensure!(
            mebibytes >= LEAST_MEBIBYTES,
            "{} has {mebibytes} MiB free, and {LEAST_MEBIBYTES} MiB are needed: make room, or set TMPDIR and \
             CARGO_TARGET_DIR to where there is some",
            place.display()
        );
    }
    Ok(())
}

/// Prints the command line that is about to run.
pub(crate) fn announce(command: &Command) {
    let mut line = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    for (name, value) in command.get_envs() {
        if let Some(value) = value.filter(|_| name != "PATH") {
            line = format!("{}='{}' {line}", name.to_string_lossy(), value.to_string_lossy());
        }
    }
    println!("\n==> {line}");
}

/// Runs a command with our own output streams; true when it succeeded.
pub(crate) fn run(command: &mut Command) -> Result<bool> {
    announce(command);
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    Ok(status.success())
}

/// Runs lines of shell that read nothing; what they printed.
pub(crate) fn shell(script: &str) -> Result<String> {
    let output =
        Command::new("sh").args(["-ec", script]).stdin(Stdio::null()).output().context("start sh")?;
    let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    ensure!(
        output.status.success(),
        "{script}\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(said)
}

/// Runs a command, shows its standard output line by line as it comes, and hands each line to `look` too.
pub(crate) fn run_and_watch(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool> {
    announce(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let output = child.stdout.take().context("the child's output is piped")?;
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        std::io::stdout().write_all(&line)?;
        look(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(child.wait()?.success())
}
