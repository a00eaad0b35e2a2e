//! Rules about the source tree that no compiler checks.
//!
//! Invariant: unsafe code lives in `crates/linux`, and where the cipher enters code that not every processor can run;
//! every other crate root forbids it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Above this a file holds more than one idea; the tests at its end do not count.
const LINES_AT_MOST: usize = 650;

/// Two calls, each to a function that asks for features that were looked for.
const CIPHER: (&str, &str) = ("crates/transport-cipher/src/lib.rs", "crates/transport-cipher/src/avx512.rs");

/// Looks at every Rust file that git tracks or would track; returns one line per broken rule.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for name in rust_files(root)? {
        let text = match fs::read_to_string(root.join(&name)) {
            Ok(text) => text,
            // Deleted and not yet staged.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {name}")),
        };
        findings.extend(check_file(&name, &text));
    }
    Ok(findings)
}

fn rust_files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root)
        .output()
        .context("start git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn check_file(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if lines > LINES_AT_MOST {
        findings
            .push(format!("{name}: {lines} lines, over {LINES_AT_MOST}: look for the part that wants out"));
    }
    if name.starts_with("crates/linux/") || name == CIPHER.1 {
        return findings;
    }
    let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
    let forbids = if name == CIPHER.0 { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
    if is_root && !text.contains(forbids) {
        findings.push(format!("{name}: a crate root without {forbids}"));
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let opens = ["{", "fn ", "impl ", "trait ", "extern "].iter().any(|word| {
            // In two parts, so that this line does not find itself.
            code.contains(&format!("{} {word}", "unsafe"))
        });
        if opens && !code.starts_with("//") && !code.starts_with('"') {
            findings.push(format!("{name}:{}: unsafe code outside crates/linux", number + 1));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORBIDS: &str = "#![forbid(unsafe_code)]\n";

    #[test]
    fn unsafe_blocks_are_found_outside_the_linux_crate_only() {
        let text = format!("{FORBIDS}fn f() {{\n    let x = {} {{ g() }};\n}}\n", "unsafe");
        assert_eq!(
            check_file("edge/src/lib.rs", &text),
            ["edge/src/lib.rs:3: unsafe code outside crates/linux"]
        );
        assert!(check_file("crates/linux/src/tun.rs", &text).is_empty());
        assert!(check_file(CIPHER.1, &text).is_empty());
        assert_eq!(check_file("crates/transport-cipher/src/avx512/chacha20.rs", &text).len(), 1);
    }

    #[test]
    fn a_crate_root_must_forbid_unsafe_code() {
        assert_eq!(check_file("edge/src/main.rs", "fn main() {}\n").len(), 1);
        assert!(check_file("edge/src/main.rs", FORBIDS).is_empty());
        assert!(check_file("edge/src/plan.rs", "fn f() {}\n").is_empty());
    }

    #[test]
    fn a_very_long_file_is_named() {
        let text = "\n".repeat(LINES_AT_MOST + 1);
        assert_eq!(check_file("edge/src/plan.rs", &text).len(), 1);
    }
}
