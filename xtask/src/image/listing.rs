//! What of an image can be executed, compared with the list that was agreed on.
//!
//! Invariant: the list is made by looking at every file of the tree, not from what was meant to be kept.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::Flavour;
use crate::steps;

/// Compares, or with `accept` writes the list anew.
pub(super) fn check(tree: &Path, flavour: Flavour, accept: bool) -> Result<()> {
    let found = of(tree)?;
    ensure!(
        found.iter().all(|line| !line.starts_with("setuid ")),
        "the image has programs that lend their owner's rights: {found:?}"
    );
    let path = steps::root().join(format!("rootfs/lists/executables.{}", flavour.name()));
    if accept {
        let text: String = found.iter().map(|line| format!("{line}\n")).collect();
        let head = "# What can be executed in the image; `cargo xtask image --accept` writes it, a person reads the difference.\n";
        return fs::write(&path, head.to_owned() + &text)
            .with_context(|| format!("write {}", path.display()));
    }
    let agreed = super::list(&format!("executables.{}", flavour.name()))?;
    let difference = difference(&agreed, &found);
    if difference.is_empty() {
        println!("\n{} executables, as agreed in {}", found.len(), path.display());
        return Ok(());
    }
    bail!(
        "the executables are not those of {}:\n{}\n`--accept` takes them for the right ones",
        path.display(),
        difference.join("\n")
    )
}

fn difference(agreed: &[String], found: &[String]) -> Vec<String> {
    let lacks = agreed.iter().filter(|line| !found.contains(line)).map(|line| format!("- {line}"));
    let more = found.iter().filter(|line| !agreed.contains(line)).map(|line| format!("+ {line}"));
    lacks.chain(more).collect()
}

/// One line for each file that can be executed: programs, scripts, and what lends rights.
fn of(tree: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    walk(tree, tree, &mut lines)?;
    lines.sort();
    Ok(lines)
}

fn walk(tree: &Path, directory: &Path, lines: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        let name = path.strip_prefix(tree).unwrap_or(&path).display().to_string();
        if metadata.is_dir() {
            walk(tree, &path, lines)?;
        } else if metadata.is_file() {
            let mode = metadata.permissions().mode();
            if mode & 0o6000 != 0 {
                lines.push(format!("setuid {name}"));
            }
            // Libraries are mapped by programs; a loader can start what it is given, and libraries cannot.
            if mode & 0o111 != 0 && !name.contains(".so") {
                lines.push(format!("{} {name}", if begins_as_script(&path)? { "script" } else { "program" }));
            }
        } else if metadata.is_symlink() && (name.starts_with("usr/bin/") || name.starts_with("usr/sbin/")) {
            lines.push(format!("link {name} {}", fs::read_link(&path)?.display()));
        }
    }
    Ok(())
}

fn begins_as_script(path: &Path) -> Result<bool> {
    let mut start = [0; 2];
    let mut file = fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(file.read(&mut start)? == 2 && &start == b"#!")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_scripts_and_lent_rights_are_found_wherever_they_are() {
        let tree = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str, mode: u32| {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("usr/bin/tool", "\x7fELF", 0o755);
        put("usr/share/x/hook", "#!/bin/sh", 0o755);
        put("usr/lib/su", "\x7fELF", 0o4755);
        put("usr/lib/libc.so.6", "\x7fELF", 0o755);
        put("etc/text", "#!/bin/sh", 0o644);
        std::os::unix::fs::symlink("tool", tree.path().join("usr/bin/name")).unwrap();
        let found = of(tree.path()).unwrap();
        assert_eq!(
            found,
            [
                "link usr/bin/name tool",
                "program usr/bin/tool",
                "program usr/lib/su",
                "script usr/share/x/hook",
                "setuid usr/lib/su"
            ]
        );
        let agreed = ["link usr/bin/name tool".to_owned(), "program usr/bin/gone".to_owned()];
        assert_eq!(difference(&agreed, &found).len(), 5);
        assert!(difference(&found, &found).is_empty());
    }

    /// The committed lists themselves.
    #[test]
    fn a_sealed_image_has_no_script_and_no_shell() {
        let sealed = super::super::list("executables.sealed").unwrap();
        assert!(sealed.iter().any(|line| line == "program usr/sbin/edge"));
        for line in &sealed {
            let name = line.split_whitespace().nth(1).and_then(|path| path.rsplit('/').next()).unwrap();
            assert!(!line.starts_with("script "), "{line}");
            assert!(
                !["sh", "bash", "dash", "sshd", "login", "su", "sudo"].contains(&name)
                    && !name.starts_with("python")
                    && !name.starts_with("perl"),
                "{line}"
            );
        }
        let managed = super::super::list("executables.managed").unwrap();
        assert!(managed.iter().any(|line| line == "program usr/sbin/sshd"));
    }
}
