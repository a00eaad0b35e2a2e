//! Debian's kernel for the image: unpacked, not installed, and of its modules those that are asked for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use culvert_netns::kernel_modules;

use crate::{packages, slow_tools};

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// Landlock ABI 6; the one to use
    #[value(name = "6.12")]
    Current,
    /// Debian 12's first one: Landlock ABI 2, no rules for the network
    #[value(name = "6.1")]
    Old,
}

impl Series {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Series::Current => "6.12",
            Series::Old => "6.1",
        }
    }

    /// The package that depends on the newest of them, and where it is unpacked. Not the flavour for clouds: it has few drivers.
    fn package(self) -> (&'static str, &'static str) {
        match self {
            Series::Current => ("linux-image-6.12-amd64", "linux-appliance"),
            Series::Old => ("linux-image-amd64", "linux-appliance-old"),
        }
    }
}

/// An unpacked kernel.
pub(super) struct Kernel {
    tree: PathBuf,
    /// As `uname -r` says it.
    pub(super) release: String,
}

impl Kernel {
    pub(super) fn provide(series: Series) -> Result<Kernel> {
        let (meta, place) = series.package();
        let tree = packages::tools_directory().join(place);
        if !tree.join("boot").is_dir() {
            slow_tools::unpack_kernel(meta, &tree)?;
        }
        let mut releases = fs::read_dir(tree.join("lib/modules")).context("list the kernel's modules")?;
        let release = releases.next().context("the kernel's package has no modules")??.file_name();
        let release = release.into_string().ok().context("the kernel's release is not UTF-8")?;
        ensure!(
            release.starts_with(&format!("{}.", series.name())),
            "{meta} brought Linux {release}: remove {} and try again",
            tree.display()
        );
        Ok(Kernel { tree, release })
    }

    pub(super) fn image(&self) -> PathBuf {
        self.tree.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    fn modules(&self) -> PathBuf {
        self.tree.join("lib/modules").join(&self.release)
    }

    /// `wanted` with what they need, each after it; those that the kernel has inside are left out.
    pub(super) fn in_order(&self, wanted: &[String]) -> Result<Vec<kernel_modules::Module>> {
        let builtin =
            fs::read_to_string(self.modules().join("modules.builtin")).context("read modules.builtin")?;
        let inside: BTreeSet<String> = builtin
            .lines()
            .filter_map(|line| Some(canonical(line.rsplit('/').next()?.strip_suffix(".ko")?)))
            .collect();
        let wanted: Vec<&str> =
            wanted.iter().map(String::as_str).filter(|name| !inside.contains(&canonical(name))).collect();
        kernel_modules::in_order(&self.modules(), &wanted)
    }

    /// A directory `to`/RELEASE of them, for depmod.
    pub(super) fn select_modules(&self, wanted: &[String], to: &Path) -> Result<PathBuf> {
        let directory = to.join(&self.release);
        fs::create_dir_all(directory.join("kernel"))
            .with_context(|| format!("make {}", directory.display()))?;
        let mut order = String::new();
        for module in self.in_order(wanted)? {
            let name = format!("kernel/{}.ko", module.name);
            fs::write(directory.join(&name), &module.content).with_context(|| format!("write {name}"))?;
            order.push_str(&name);
            order.push('\n');
        }
        fs::write(directory.join("modules.order"), order).context("write modules.order")?;
        for index in ["modules.builtin", "modules.builtin.modinfo"] {
            fs::copy(self.modules().join(index), directory.join(index))
                .with_context(|| format!("copy {index}"))?;
        }
        Ok(directory)
    }
}

/// Names are written with either of the two.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}
