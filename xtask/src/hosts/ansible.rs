//! Ansible, as a controller runs it: from an environment of its own, against the collection in this tree.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::fleet::Fleet;
use crate::{packages, steps};

fn program(name: &str) -> PathBuf {
    packages::tools_directory().join("ansible/bin").join(name)
}

/// The collection.
pub(super) fn collection() -> PathBuf {
    steps::root().join("deploy/ansible/ansible_collections/culvert/appliance")
}

/// A command with nothing of the user's own configuration.
fn command(name: &str, home: &std::path::Path) -> Result<Command> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let directories =
        std::iter::once(packages::tools_directory().join("ansible/bin")).chain(std::env::split_paths(&own));
    let settings = home.join("ansible.cfg");
    std::fs::write(&settings, "")?;
    let mut command = Command::new(program(name));
    command.env("PATH", std::env::join_paths(directories).context("put PATH together")?);
    command
        .env("ANSIBLE_HOME", home.join("ansible"))
        .env("ANSIBLE_LOCAL_TEMP", home.join("ansible/tmp"))
        // Else connections of another run, to other hosts of the same addresses, are gone on with.
        .env("ANSIBLE_SSH_CONTROL_PATH_DIR", home.join("cp"))
        .env("ANSIBLE_CONFIG", settings)
        .env("ANSIBLE_COLLECTIONS_PATH", steps::root().join("deploy/ansible"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("ANSIBLE_PIPELINING", "1")
        .env("ANSIBLE_RETRY_FILES_ENABLED", "0")
        .stdin(Stdio::null());
    Ok(command)
}

/// Runs a playbook; whether it ended well, and what it printed.
pub(super) fn play(fleet: &Fleet, playbook: &str, arguments: &[&str]) -> Result<(bool, String)> {
    let mut play = command("ansible-playbook", &fleet.client.data)?;
    play.arg("-i").arg(fleet.inventory_directory());
    play.arg(format!("culvert.appliance.{playbook}")).args(arguments);
    let output = play.output().context("start ansible-playbook")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

/// The sum of `changed=` over all hosts of a run's last lines.
pub(super) fn changed(said: &str) -> Result<u32> {
    let recap = said.split("PLAY RECAP").nth(1).context("the run has no recap")?;
    let counts = recap.split_whitespace().filter_map(|word| word.strip_prefix("changed="));
    let counts: Vec<u32> = counts.map(str::parse).collect::<Result<_, _>>()?;
    ensure!(!counts.is_empty(), "the recap counts nothing");
    Ok(counts.iter().sum())
}

/// The profile for production, without the network.
pub(super) fn lint(fleet: &mut Fleet) -> Result<()> {
    let mut lint = command("ansible-lint", &fleet.client.data)?;
    lint.current_dir(collection()).args(["--offline", "--profile", "production", "--strict", "--nocolor"]);
    let output = lint.output().context("start ansible-lint")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && said.contains("Passed"), "{said}");
    Ok(())
}
