//! What an image is made of, in it and beside it: a list of packages, a bill of materials (CycloneDX), and what it was built as.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use appliance::Version;
use serde_json::{Value, json};

use super::Flavour;
use super::kernel::Kernel;
use crate::steps;

/// What of ours is in it.
const PROGRAMS: [&str; 5] = ["appliance-init", "wgd", "edge", "storaged", "culvert"];

/// In the image.
const PLACE: &str = "usr/share/culvert";

pub(super) fn write(
    tree: &Path,
    into: &Path,
    flavour: Flavour,
    version: Version,
    kernel: &Kernel,
) -> Result<()> {
    let place = tree.join(PLACE);
    let packages = fs::read_to_string(place.join("packages.txt")).context("read the list of packages")?;
    let mut components: Vec<Value> = packages.lines().filter_map(package).collect();
    components.push(json!({
        "type": "operating-system", "name": "linux", "version": kernel.release,
        "purl": format!("pkg:deb/debian/linux-image-{}", kernel.release.replace('+', "%2B")),
    }));
    components.extend(crates()?);
    let bill = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": {
            "type": "operating-system", "name": format!("culvert-appliance-{}", flavour.name()),
            "version": version.to_string(),
        } },
        "components": components,
    });
    let bill = serde_json::to_string_pretty(&bill)? + "\n";
    let built_as = json!({
        "version": version.to_string(), "flavour": flavour.name(), "revision": revision()?,
    });
    for (name, text) in [("sbom.cdx.json", bill), ("image.json", format!("{built_as}\n"))] {
        fs::write(place.join(name), &text).with_context(|| format!("write {name} into the image"))?;
        fs::write(into.join(name), &text).with_context(|| format!("write {name} beside the image"))?;
    }
    fs::write(into.join("packages.txt"), packages).context("write the list of packages beside the image")
}

/// `NAME VERSION ARCHITECTURE`.
fn package(line: &str) -> Option<Value> {
    let mut words = line.split(' ');
    let (name, version, architecture) = (words.next()?, words.next()?, words.next()?);
    let purl = format!("pkg:deb/debian/{name}@{}?arch={architecture}", version.replace('+', "%2B"));
    Some(json!({ "type": "library", "name": name, "version": version, "purl": purl }))
}

/// Crates that are linked into our programs.
fn crates() -> Result<Vec<Value>> {
    let mut tree = steps::cargo();
    tree.args([
        "tree",
        "--locked",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--no-dedupe",
    ]);
    tree.args(PROGRAMS.iter().flat_map(|name| ["--package", name]));
    let output = tree.output().context("start cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8(output.stdout)?;
    let mut lines: Vec<(&str, &str)> = text.lines().filter_map(crate_of).collect();
    lines.sort_unstable();
    lines.dedup();
    ensure!(lines.len() > 50, "cargo tree names {} crates", lines.len());
    let component = |(name, version): (&str, &str)| json!({ "type": "library", "name": name, "version": version, "purl": format!("pkg:cargo/{name}@{version}") });
    Ok(lines.into_iter().map(component).collect())
}

/// `NAME vVERSION`, with the path behind it where it is ours.
fn crate_of(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

fn revision() -> Result<String> {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(steps::root()).output()?;
    ensure!(output.status.success(), "git rev-parse failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_names_packages_as_scanners_know_them() {
        let systemd = package("systemd 252.39-1~deb12u2+b1 amd64").unwrap();
        assert_eq!(systemd["purl"], "pkg:deb/debian/systemd@252.39-1~deb12u2%2Bb1?arch=amd64");
        assert_eq!(crate_of("tokio v1.54.1"), Some(("tokio", "1.54.1")));
        assert_eq!(crate_of("wgd v0.1.0 (/somewhere/wgd)"), Some(("wgd", "0.1.0")));
        assert_eq!(crate_of(""), None);
    }
}
