//! A store that shows less than it has shown: an edge that saw more takes no upload, until a restore has opened a new
//! epoch and somebody has accepted that.
//!
//! ```text
//!  curl ── edge (keeps the highest checkpoint it saw) ── storaged ─┬─ ledger, keys
//!                                                                  └─ volume, journal mirror
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::COHORT;
use culvert_netns::lab;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::{Edge, Layout, Store};
use culvert_netns::wait;
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    runner::main(&[Scenario::new("an_edge_refuses_a_rollback_until_a_new_epoch_is_accepted", rollback)
        .needs(&["edge", "storaged", "culvert"])])
}

struct Site {
    store: Store,
    edge: Edge,
    folder: PathBuf,
}

fn rollback(scene: &Scene) -> Result<()> {
    let folder = scene.world.data().join("site");
    let store = Store::init(Layout::below(&folder)?)?;
    let storaged = store.start()?;
    let edge = store.start_edge("edge", "")?;
    let site = Site { store, edge, folder };
    site.taken("yesterday")?;
    storaged.stop()?;
    // All that the store knows, as of yesterday: ledger, keys, and the mirror that would give it away.
    let journal = site.store.layout().volume.join(".journal");
    let (state, old) = (site.store.layout().state.clone(), site.folder.join("old"));
    fs::create_dir(&old)?;
    copy(&state, &old.join("state"))?;
    copy(&journal, &old.join("journal"))?;

    let storaged = site.store.start()?;
    for name in ["today", "and-more", "and-more-2"] {
        wait::until("an upload to be taken again", BOUND, || site.taken(name))?;
    }
    let records = site.store.trail()?.len() as u64;
    wait::until("edge to have seen today's log", BOUND, || {
        let shown = site.shown()?;
        ensure!(shown["records"].as_u64().is_some_and(|seen| seen >= records), "{shown}");
        Ok(())
    })?;
    let seen = site.shown()?;
    storaged.stop()?;

    for (from, to) in [("state", &state), ("journal", &journal)] {
        fs::remove_dir_all(to)?;
        copy(&old.join(from), to)?;
    }
    let storaged = site.store.start().context("a store that was set back as a whole cannot know it")?;
    site.refuses_uploads("rollback")?;
    // What it has can still be read.
    site.curl("yesterday", None)?.context("read yesterday's file")?;
    storaged.stop()?;

    // The operator says what happened, with what the edge saw.
    let note = seen["checkpoint"].as_str().context("edge has seen a checkpoint")?;
    let mut lines = note.lines().skip(1);
    let (size, root) = (lines.next().context("a size")?, lines.next().context("a root")?);
    let config = site.folder.join("storaged.toml").display().to_string();
    let knows = format!("{size}:{root}");
    // The mirror was set back too: brought forward it is whole by itself, and less than what was seen.
    let replay = culvert(&["restore", "--replay", "--seen", &knows, "--config", &config])?;
    let said = String::from_utf8_lossy(&replay.stderr).into_owned();
    ensure!(replay.status.code() == Some(1) && said.contains("the last of them are missing"), "{said}");
    let restore =
        ["restore", "--new-epoch", "--reason", "set back", "--seen", &knows, "--config", &config, "--json"];
    let opened = culvert(&restore)?;
    ensure!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    let opened: Value = serde_json::from_slice(&opened.stdout).context("read what it printed")?;
    ensure!(opened["epoch"] == 1 && opened["old_size"].as_u64() == size.parse().ok(), "{opened}");

    let storaged = site.store.start()?;
    site.refuses_uploads("epoch")?;
    wait::until("the new epoch to be accepted", BOUND, || {
        let socket = site.socket();
        let accepted = culvert(&["checkpoint", "accept", "--epoch", "1", "--socket", &socket])?;
        ensure!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
        Ok(())
    })?;
    wait::until("an upload to be taken", BOUND, || site.taken("tomorrow"))?;
    let lost = site.store.command(&["volume", "unclaimed"])?;
    ensure!(lost.lines().count() == 3, "today's objects are kept:\n{lost}");
    site.edge.kill()?;
    storaged.stop().map(drop)
}

impl Site {
    fn socket(&self) -> String {
        self.folder.join("edge.sock").display().to_string()
    }

    /// What edge holds of the log, whatever it thinks of the store.
    fn shown(&self) -> Result<Value> {
        let shown = culvert(&["checkpoint", "show", "--json", "--socket", &self.socket()])?;
        serde_json::from_slice(&shown.stdout)
            .with_context(|| format!("read {}", String::from_utf8_lossy(&shown.stderr)))
    }

    /// The status of a request through the edge; with a body it is an upload.
    fn curl(&self, name: &str, body: Option<&str>) -> Result<Result<String>> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "20"]);
        curl.args(["--header", &format!("Authorization: Bearer {}", self.store.token())]);
        if let Some(body) = body {
            curl.args(["--request", "PUT", "--data-binary", body]);
        }
        curl.arg(format!("http://{}/v1/cohorts/{COHORT}/files/{name}", self.edge.public()));
        let output = curl.output().context("run curl")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(if output.status.success() { Ok(said) } else { Err(anyhow::anyhow!(said)) })
    }

    fn taken(&self, name: &str) -> Result<()> {
        self.curl(name, Some(name))?.map(drop)
    }

    fn refuses_uploads(&self, fault: &str) -> Result<()> {
        wait::until("edge to see what is wrong", BOUND, || {
            let shown = self.shown()?;
            ensure!(shown["fault_kind"] == fault && shown["uploads"] == "refused", "{shown}");
            Ok(())
        })?;
        match self.curl("refused", Some("refused"))? {
            Ok(said) => Err(anyhow::anyhow!("it was taken: {said}")),
            Err(said) => {
                ensure!(said.to_string().contains("ledger-unavailable"), "{said}");
                Ok(())
            }
        }
    }
}

fn culvert(arguments: &[&str]) -> Result<Output> {
    Command::new(lab::programs()?.join("culvert")).args(arguments).output().context("run culvert")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().context("run cp")?;
    ensure!(copied.success(), "cp {} {}", from.display(), to.display());
    Ok(())
}
