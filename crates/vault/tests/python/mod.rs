//! Starts a Python script with a library that `cargo xtask test` provides below `target/tools`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the script says to `input`; otherwise its error.
pub(crate) fn run(library: &str, script: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|path| path.join("Cargo.lock").is_file());
    let root = root.unwrap();
    let tools = std::env::var_os("CULVERT_TOOLS").map_or(root.join("target/tools"), PathBuf::from);
    let python = tools.join(library).join("bin/python");
    assert!(python.exists(), "{} is missing: `cargo xtask test` provides it", python.display());
    let mut child = Command::new(python)
        .arg("-B")
        .arg(root.join("crates/vault/tests").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
