//! Modules of an unpacked kernel, in the order in which they can be loaded.
//!
//! The packages' index is made when they are installed, which these are not; but every module says in its `.modinfo`
//! section what it depends on.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use memchr::memmem;

/// A module's file name and content.
#[derive(Debug)]
pub struct Module {
    /// With underscores.
    pub name: String,
    /// Uncompressed.
    pub content: Vec<u8>,
}

/// `wanted` and what they need below `directory`, each after what it needs.
pub fn in_order(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = HashMap::new();
    index(directory, &mut files)?;
    let mut modules = Vec::new();
    for name in wanted {
        add(name, &files, &mut modules)?;
    }
    Ok(modules)
}

fn add(name: &str, files: &HashMap<String, PathBuf>, modules: &mut Vec<Module>) -> Result<()> {
    let name = canonical(name);
    if modules.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let path = files.get(&name).with_context(|| format!("the kernel has no module {name}"))?;
    let content = read(path)?;
    for needed in dependencies(&content) {
        add(&needed, files, modules)?;
    }
    modules.push(Module { name, content });
    Ok(())
}

/// Every module below `directory` by name.
fn index(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, "ko" | "ko.xz")) =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('.'))
        {
            files.insert(canonical(name), path);
        }
    }
    Ok(())
}

/// Names are written with either of the two.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output().context("run xz")?;
        ensure!(output.status.success(), "xz could not unpack {}", path.display());
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = memmem::find(module, KEY) else { return Vec::new() };
    let value = &module[at + KEY.len()..];
    let end = memchr::memchr(0, value).unwrap_or(value.len());
    let value = String::from_utf8_lossy(&value[..end]);
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_needs_are_read_from_its_information() {
        assert_eq!(dependencies(b"\x7fELF\0license=GPL\0depends=a-b,c\0name=x\0"), ["a-b", "c"]);
        assert!(dependencies(b"\0depends=\0").is_empty() && dependencies(b"").is_empty());
    }
}
