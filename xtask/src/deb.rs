//! `cargo xtask packages`: Debian packages of the four programs, and what belongs to each.
//!
//! Invariant: a package holds what its table says and nothing else; built twice from one commit it is the same file,
//! because its dates are the commit's.

mod contents;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::packages::Program;
use crate::{release, steps};
use contents::{Binary, Package, Source};

const PROGRAMS: [Program; 3] = [
    Program { name: "dpkg-deb", package: "dpkg" },
    Program { name: "strip", package: "binutils" },
    Program { name: "gzip", package: "gzip" },
];

/// What is asked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// From debug builds: quicker, for tests; not to be given to anybody
    #[arg(long)]
    pub(crate) dev: bool,
    /// The package's own revision, behind the version
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) revision: u32,
    /// Where they are put [default: target/packages]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) into: Option<PathBuf>,
}

/// The packages' names, in the order in which they depend on one another.
pub(crate) const NAMES: [&str; 4] = ["culvert", "wgd", "edge", "storaged"];

/// Builds all and says where they are.
pub(crate) fn run(options: &Options) -> Result<Vec<PathBuf>> {
    crate::packages::require(&PROGRAMS)?;
    let into = options.into.clone().unwrap_or_else(|| steps::root().join("target/packages"));
    fs::create_dir_all(&into).with_context(|| format!("make {}", into.display()))?;
    let programs = if options.dev { "debug" } else { "release" };
    // What is given to others is what `cargo xtask release` makes, byte for byte.
    if !options.dev {
        release::build(&steps::root(), &steps::root().join("target"), &NAMES)?;
    }
    let mut build = steps::cargo();
    build.args(["build", "--package", "manual"]);
    if options.dev {
        build.args(NAMES.iter().flat_map(|name| ["--package", name]));
    }
    ensure!(steps::run(&mut build)?, "the programs do not build");
    let manual = steps::target_directory().join("debug/manual");
    let programs =
        if options.dev { steps::target_directory() } else { steps::root().join("target") }.join(programs);
    let generated = into.join("generated");
    let _ = fs::remove_dir_all(&generated);
    ensure!(steps::run(Command::new(manual).arg(&generated))?, "no manual pages");

    let build = Build { programs, generated, into, version: version(options.revision), date: date()? };
    let mut made = Vec::new();
    for package in contents::packages() {
        made.push(build.package(&package).with_context(|| format!("package {}", package.name))?);
    }
    println!();
    for file in &made {
        println!("{}", file.display());
    }
    Ok(made)
}

/// What Debian's own look at packages finds in them; nothing, if they are in order.
pub(crate) fn lint(packages: &[PathBuf]) -> Result<String> {
    let mut lintian = Command::new("lintian");
    // Manual pages, changelogs, permissions, scripts, copyright: warnings count as well.
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]).args(packages);
    let found = lintian.stdin(Stdio::null()).output().context("start lintian")?;
    let said = [found.stdout, found.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    ensure!(found.status.success() || !said.is_empty(), "lintian ended with {}", found.status);
    Ok(said)
}

/// A description as a control file has it (Debian Policy §5.6.13): lines of less than 80 columns behind a blank, and a dot
/// between paragraphs.
fn folded(description: &str) -> String {
    let paragraphs = description.lines().map(|paragraph| {
        let mut lines = vec![String::new()];
        for word in paragraph.split(' ') {
            match lines.last_mut() {
                Some(line) if line.len() + word.len() < 78 => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(format!(" {word}")),
            }
        }
        lines.join("\n")
    });
    paragraphs.collect::<Vec<_>>().join("\n .\n")
}

struct Build {
    programs: PathBuf,
    generated: PathBuf,
    into: PathBuf,
    version: String,
    /// Of the commit, in seconds since 1970.
    date: String,
}

impl Build {
    fn package(&self, package: &Package) -> Result<PathBuf> {
        let tree = self.into.join(package.name);
        let _ = fs::remove_dir_all(&tree);
        for (source, to) in &package.files {
            let to = tree.join(to);
            match source {
                Source::Binary(Binary(name)) => {
                    put(&self.programs.join(name), &to, 0o755)?;
                    ensure!(steps::run(Command::new("strip").arg(&to))?, "strip {name}");
                }
                Source::Deploy(path) => put(&steps::root().join("deploy").join(path), &to, 0o644)?,
                Source::Root(path) => put(&steps::root().join(path), &to, 0o644)?,
                Source::Generated(path) => put(&self.generated.join(path), &to, 0o644)?,
            }
        }
        self.manual_pages(package, &tree)?;
        self.changelog(package, &tree)?;
        self.control(package, &tree)?;
        let file = self.into.join(format!("{}_{}_{}.deb", package.name, self.version, architecture()?));
        let mut build = Command::new("dpkg-deb");
        // gzip is in every dpkg; xz is smaller and several times slower.
        build.args(["--root-owner-group", "-Zgzip", "--build"]).arg(&tree).arg(&file);
        build.env("SOURCE_DATE_EPOCH", &self.date).stdout(Stdio::null());
        ensure!(steps::run(&mut build)?, "dpkg-deb");
        fs::remove_dir_all(&tree)?;
        Ok(file)
    }

    fn manual_pages(&self, package: &Package, tree: &Path) -> Result<()> {
        for entry in fs::read_dir(self.generated.join("man"))? {
            let page = entry?.path();
            let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let of = name.split(['.', '-']).next().unwrap_or_default();
            let Some((_, section)) = name.rsplit_once('.') else { continue };
            if of == package.name {
                let to = tree.join(format!("usr/share/man/man{section}/{name}"));
                put(&page, &to, 0o644)?;
                self.compress(&to)?;
            }
        }
        Ok(())
    }

    fn changelog(&self, package: &Package, tree: &Path) -> Result<()> {
        let directory = tree.join("usr/share/doc").join(package.name);
        let own = directory.join("changelog.Debian");
        let mut date = Command::new("date");
        let date = output(date.args(["--utc", "--rfc-email", "--date"]).arg(format!("@{}", self.date)))?;
        let text = format!(
            "{} ({}) unstable; urgency=medium\n\n  * Built from the source tree; see changelog.gz.\n\n -- {}  {date}\n",
            package.name,
            self.version,
            contents::MAINTAINER,
        );
        fs::write(&own, text)?;
        self.compress(&own)?;
        put(&steps::root().join("CHANGELOG.md"), &directory.join("changelog"), 0o644)?;
        self.compress(&directory.join("changelog"))
    }

    fn compress(&self, file: &Path) -> Result<()> {
        ensure!(Command::new("gzip").args(["-9nf"]).arg(file).status()?.success(), "gzip {}", file.display());
        Ok(())
    }

    fn control(&self, package: &Package, tree: &Path) -> Result<()> {
        let control = tree.join("DEBIAN");
        fs::create_dir_all(&control)?;
        let mut files = Vec::new();
        walk(tree, &mut files)?;
        files.sort();
        let kibibytes =
            files.iter().map(|file| fs::metadata(file).map_or(0, |it| it.len().div_ceil(1024))).sum::<u64>();
        let mut depends = vec![libc()?, "libgcc-s1".to_owned()];
        depends.extend(package.depends.iter().map(|name| name.replace("#VERSION#", &self.version)));
        let optional = [("Recommends", &package.recommends), ("Suggests", &package.suggests)];
        let optional: String = optional
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(field, names)| format!("{field}: {}\n", names.join(", ")))
            .collect();
        let text = format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {kibibytes}\nDepends: \
             {}\n{optional}Section: {}\nPriority: optional\nDescription: {}\n{}\n",
            package.name,
            self.version,
            architecture()?,
            contents::MAINTAINER,
            depends.join(", "),
            package.section,
            package.summary,
            folded(package.description),
        );
        fs::write(control.join("control"), text)?;
        // Everything below /etc is the administrator's to change.
        let below =
            |file: &Path| file.strip_prefix(tree).map(|it| it.display().to_string()).unwrap_or_default();
        let conffiles: String = files
            .iter()
            .map(|it| below(it))
            .filter(|it| it.starts_with("etc/"))
            .map(|it| format!("/{it}\n"))
            .collect();
        if !conffiles.is_empty() {
            fs::write(control.join("conffiles"), conffiles)?;
        }
        let mut sums = Command::new("md5sum");
        sums.current_dir(tree).args(files.iter().map(|it| below(it)).filter(|it| !it.starts_with("etc/")));
        fs::write(control.join("md5sums"), output(&mut sums)? + "\n")?;
        for script in ["postinst", "prerm", "postrm"] {
            let source = steps::root().join(format!("deploy/debian/{}.{script}", package.name));
            if source.is_file() {
                put(&source, &control.join(script), 0o755)?;
            }
        }
        Ok(())
    }
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
        // Whatever the umask says.
        for directory in directory.ancestors().take_while(|it| !it.ends_with("packages")) {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        }
    }
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.ends_with("DEBIAN") {
            continue;
        }
        if path.is_dir() { walk(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn version(revision: u32) -> String {
    format!("{}-{revision}", env!("CARGO_PKG_VERSION"))
}

/// Of the commit, in seconds since 1970, unless SOURCE_DATE_EPOCH says another.
pub(crate) fn date() -> Result<String> {
    if let Ok(date) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(date);
    }
    let mut log = Command::new("git");
    output(log.args(["log", "-1", "--format=%ct"]).current_dir(steps::root()))
}

fn architecture() -> Result<String> {
    output(Command::new("dpkg").arg("--print-architecture"))
}

/// What was linked against, which an older one may not stand in for.
fn libc() -> Result<String> {
    let version = output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "libc6"]))?;
    let upstream = version.split('-').next().unwrap_or(&version);
    Ok(format!("libc6 (>= {upstream})"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_folded_as_policy_has_them() {
        let words = ["word"; 30].join(" ");
        let folded = folded(&format!("{words}\nmore"));
        assert!(folded.lines().all(|line| line.starts_with(' ') && line.len() < 80), "{folded}");
        assert!(folded.ends_with("\n .\n more"), "{folded}");
        assert_eq!(folded.matches("word").count(), 30);
        for package in contents::packages() {
            assert!(!package.description.contains("  "), "{}", package.name);
        }
    }
}
