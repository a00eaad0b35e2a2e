//! `cargo xtask release`: the programs as they are shipped: what they were built from stands in them, and anybody can build the
//! same bytes again.
//!
//! Invariant: no path of the machine that built them is in a program, so two builds of one commit with one compiler are equal
//! wherever they were made; `--reproducible` shows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::{packages, steps};

/// What is shipped.
const PROGRAMS: [&str; 4] = ["wgd", "edge", "storaged", "culvert"];

/// From crates.io: puts the list of dependencies into each program (a section `.dep-v0`, which `cargo audit bin` and others
/// read), and writes it as CycloneDX.
const AUDITABLE: [&str; 2] = ["cargo-auditable", "0.7.7"];
const CYCLONEDX: [&str; 2] = ["cargo-cyclonedx", "0.5.9"];

/// What the section is called.
const SECTION: &[u8] = b".dep-v0";

#[derive(Args)]
pub(crate) struct Options {
    /// These programs alone
    #[arg(long, value_name = "PROGRAM")]
    package: Vec<String>,
    /// Build twice, in directories of different names, and compare
    #[arg(long)]
    reproducible: bool,
    /// Write the bill of materials alone (CycloneDX, JSON)
    #[arg(long, conflicts_with = "reproducible")]
    sbom: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let programs: Vec<&str> = match &options.package[..] {
        [] => PROGRAMS.to_vec(),
        chosen => chosen.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = programs.iter().find(|program| !PROGRAMS.contains(program)) {
        bail!("{unknown} is none of the programs that are shipped: {}", PROGRAMS.join(", "));
    }
    if options.sbom {
        return sbom(&programs);
    }
    if options.reproducible {
        return reproducible(&programs);
    }
    let target = steps::root().join("target");
    build(&steps::root(), &target, &programs)?;
    for (program, sum) in sums(&target, &programs)? {
        println!("{sum}  {program}");
    }
    sbom(&programs)
}

/// Builds all of them into `target/release`, and tells where that is.
pub(crate) fn build_here() -> Result<PathBuf> {
    let target = steps::root().join("target");
    build(&steps::root(), &target, &PROGRAMS)?;
    Ok(target.join("release"))
}

/// Builds as it is shipped: with the list of dependencies inside, and without a path of this machine.
pub(crate) fn build(source: &Path, target: &Path, programs: &[&str]) -> Result<()> {
    let tools = provide(AUDITABLE)?;
    let mut build = Command::new(tools.join("cargo-auditable"));
    build
        .current_dir(source)
        .args(["auditable", "build", "--release", "--locked", "--target-dir"])
        .arg(target);
    build.args(programs.iter().flat_map(|program| ["--package", program]));
    build.env("RUSTFLAGS", flags(source, target)?).env("CARGO_INCREMENTAL", "0");
    // It would tell the two builds apart by when they were made.
    build.env("SOURCE_DATE_EPOCH", "0").env_remove("CARGO_TARGET_DIR");
    ensure!(steps::run(&mut build)?, "the programs do not build");
    for program in programs {
        let content = fs::read(target.join("release").join(program))?;
        ensure!(
            content.windows(SECTION.len()).any(|window| window == SECTION),
            "{program} has no list of its dependencies"
        );
    }
    Ok(())
}

/// Every directory that the compiler would write down has a name that is the same everywhere.
fn flags(source: &Path, target: &Path) -> Result<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    let mut flags = Vec::new();
    // Of several that fit the last one is taken, so the narrower come later.
    for (directory, name) in [(home.as_path(), "/cargo"), (source, "/culvert"), (target, "/target")] {
        let directory =
            directory.to_str().with_context(|| format!("{} is not UTF-8", directory.display()))?;
        ensure!(
            !directory.contains(char::is_whitespace),
            "{directory}: a space in it cannot be told to the compiler"
        );
        flags.push(format!("--remap-path-prefix={directory}={name}"));
    }
    Ok(flags.join(" "))
}

fn sums(target: &Path, programs: &[&str]) -> Result<Vec<(String, String)>> {
    let sum = |program: &&str| {
        let path = target.join("release").join(program);
        let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let sum: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(((*program).to_owned(), sum))
    };
    programs.iter().map(sum).collect()
}

/// Two copies of what is committed, two builds, one comparison.
fn reproducible(programs: &[&str]) -> Result<ExitCode> {
    let place = steps::root().join("target/reproducible");
    let commit = head()?;
    println!("Building {commit} twice");
    let mut all = Vec::new();
    // Names of different length and depth, for a path may be cut or padded somewhere.
    for name in ["one", "another/place/with-a-longer-name"] {
        let source = place.join(name);
        let _ = fs::remove_dir_all(&source);
        fs::create_dir_all(&source).with_context(|| format!("create {}", source.display()))?;
        copy_committed(&commit, &source)?;
        let target = source.join("target");
        build(&source, &target, programs)?;
        for program in programs {
            no_path_in(&target.join("release").join(program), &source)?;
        }
        all.push(sums(&target, programs)?);
        // Gigabytes, of which the sums are all that is needed.
        fs::remove_dir_all(&source).with_context(|| format!("remove {}", source.display()))?;
    }
    let [first, second] = &all[..] else { bail!("two builds were made") };
    let mut differ = 0;
    for ((program, one), (_, other)) in first.iter().zip(second) {
        let word = if one == other { "equal" } else { "DIFFERENT" };
        differ += usize::from(one != other);
        println!("{program}: {word}\n  {one}\n  {other}");
    }
    println!("\n{} passed, {differ} failed", first.len() - differ);
    Ok(if differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The commit that is checked out: one for both builds, whatever is committed while they run.
fn head() -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(steps::root()).args(["rev-parse", "--verify", "HEAD"]);
    let output = git.output().context("start git")?;
    ensure!(output.status.success(), "git knows no HEAD: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What git has at a commit: what is not committed is in no release.
fn copy_committed(commit: &str, to: &Path) -> Result<()> {
    let archive = to.join("source.tar");
    let mut git = Command::new("git");
    git.current_dir(steps::root()).args(["archive", "--format=tar", "-o"]).arg(&archive).arg(commit);
    ensure!(steps::run(&mut git)?, "git archive");
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(to);
    ensure!(steps::run(&mut tar)?, "unpack the copy");
    fs::remove_file(&archive).context("remove the archive")
}

fn no_path_in(program: &Path, source: &Path) -> Result<()> {
    let path = source.to_str().context("a path")?.as_bytes();
    let content = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    ensure!(
        !content.windows(path.len()).any(|window| window == path),
        "{} names the directory that it was built in",
        program.display()
    );
    Ok(())
}

fn sbom(programs: &[&str]) -> Result<ExitCode> {
    let tools = provide(CYCLONEDX)?;
    let to = steps::root().join("target/sbom");
    fs::create_dir_all(&to).with_context(|| format!("create {}", to.display()))?;
    for program in programs {
        let manifest = steps::root().join(program).join("Cargo.toml");
        let mut command = Command::new(tools.join("cargo-cyclonedx"));
        command
            .args(["cyclonedx", "--format", "json", "--manifest-path"])
            .arg(&manifest)
            .args(["--describe", "crate"]);
        command.env("SOURCE_DATE_EPOCH", "0");
        ensure!(steps::run(&mut command)?, "no bill of materials for {program}");
        // It writes one beside each manifest of the workspace.
        let made = written(&steps::root())?;
        for path in made {
            let name = path.file_name().context("a file has a name")?.to_owned();
            let is_wanted = name.to_string_lossy().starts_with(&format!("{program}."));
            if is_wanted {
                fs::copy(&path, to.join(format!("{program}.cdx.json")))
                    .context("keep the bill of materials")?;
            }
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        let path = to.join(format!("{program}.cdx.json"));
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let bill: serde_json::Value = serde_json::from_slice(&text).context("read the bill of materials")?;
        let components = bill["components"].as_array().map_or(0, Vec::len);
        ensure!(components > 10, "{} lists {components} components", path.display());
        println!("{}: {components} components", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The files that the tool leaves in the tree.
fn written(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?.flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(".cdx.json") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Installs a tool of cargo's into `target/tools`, unless it is there; gives the directory of its program.
fn provide([name, version]: [&str; 2]) -> Result<PathBuf> {
    let tools = packages::tools_directory();
    let programs = tools.join("bin");
    if !programs.join(name).is_file() {
        let mut install = steps::cargo();
        install.args(["install", name, "--version", version, "--locked", "--root"]).arg(&tools);
        install.arg("--target-dir").arg(tools.join("cargo-build"));
        ensure!(steps::run(&mut install)?, "{name} does not build");
        fs::remove_dir_all(tools.join("cargo-build")).context("remove intermediate files")?;
    }
    Ok(programs)
}
