//! `manual DIRECTORY`: manual pages and shell completions, from the definitions that parse the command lines.
//!
//! Invariant: nothing is written by hand, so a page shows what its program takes.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

fn main() -> Result<()> {
    let directory: PathBuf = std::env::args_os().nth(1).context("usage: manual DIRECTORY")?.into();
    write(&directory)
}

/// Section 8 of the manual, programs that the system runs.
fn daemons() -> [Command; 3] {
    [wgd::config::Cli::command(), edge::cli::Cli::command(), storaged::cli::Cli::command()]
}

fn write(directory: &Path) -> Result<()> {
    let pages = directory.join("man");
    fs::create_dir_all(&pages).with_context(|| format!("make {}", pages.display()))?;
    for daemon in daemons() {
        page(&pages, daemon, "8")?;
    }
    let mut culvert = culvert::Cli::command();
    culvert.build();
    commands(&pages, &culvert)?;
    let completions = directory.join("completions");
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let into = completions.join(shell.to_string());
        fs::create_dir_all(&into).with_context(|| format!("make {}", into.display()))?;
        clap_complete::generate_to(shell, &mut culvert::Cli::command(), "culvert", &into)?;
        for mut daemon in daemons() {
            let name = daemon.get_name().to_owned();
            clap_complete::generate_to(shell, &mut daemon, name, &into)?;
        }
    }
    Ok(())
}

/// One page for each command, as `git` has them: `culvert-audit-trail(1)`. `Command::build` has given them these names.
fn commands(pages: &Path, command: &Command) -> Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        commands(pages, inner)?;
    }
    page(pages, command.clone(), "1")
}

fn page(pages: &Path, command: Command, section: &str) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let path = pages.join(format!("{name}.{section}"));
    let mut text = Vec::new();
    clap_mangen::Man::new(command).section(section).render(&mut text)?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_that_names_its_options() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        for (page, option) in [
            ("man/wgd.8", "tun\\-netns"),
            ("man/edge.8", "check\\-config"),
            ("man/storaged.8", "print\\-config"),
            ("man/culvert.1", "\\-\\-json"),
            ("man/culvert-audit-trail.1", "\\-\\-cohort"),
            ("man/culvert-init-storaged.1", "\\-\\-recovery\\-recipient"),
        ] {
            assert!(read(page).contains(option), "{page} without {option}");
        }
        assert!(read("completions/bash/culvert.bash").contains("--recovery-recipient"));
        assert!(read("completions/zsh/_wgd").contains("--tun-netns"));
        assert!(read("completions/fish/edge.fish").contains("check-config"));
    }
}
