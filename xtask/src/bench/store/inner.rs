//! Parts of storaged without HTTP around them, by `storaged/examples/pace.rs`, and a start on a long ledger.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use culvert_netns::lab;
use daemon::Clock;

use super::super::figures::{Figures, Row};
use super::super::process_time::peak_mebibytes;
use super::machine::{elapsed, rows_alone};
use super::postgres::RECORDS;
use super::{LIMIT, OURS, Options, new_store, row};

pub(super) const SEAL: Row = row("pipeline in process: SHA-256 and sealing, MB/s", 0);
const OPEN: Row = row("pipeline in process: opening, MB/s", 0);
const FILL: Row = row("records into a store at rest, 512 writers, records/s", 0);
const START: Row = row("start until healthy with all these records, after an end in order, s", 2);
const START_MEMORY: Row = row("  peak memory of that start, MiB", 1);
const START_AFTER_KILL: Row = row("start until healthy with all these records, after a kill, s", 2);
const VERIFY: Row = row("verification of the log (culvert ledger verify), s per million records", 2);
const LEDGER_BYTES: Row = row("  bytes of the ledger for each record", 0);

/// How often the start is repeated.
const STARTS: u32 = 3;
/// Files that are stored before each kill: what a start has to do again.
const BEFORE_A_KILL: u32 = 100;

pub(super) fn pipeline(options: &Options, figures: &mut Figures) -> Result<()> {
    let said = pace(&["pipeline", &options.file_mebibytes().to_string()])?;
    figures.add(SEAL, OURS, after(&said, "seal")?);
    figures.add(OPEN, OURS, after(&said, "open")?);
    Ok(())
}

pub(super) fn records(folder: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    for (writers, row) in RECORDS {
        let path = folder.to_str().context("a path that is not UTF-8")?;
        let said = pace(&["ledger", path, &writers.to_string(), &options.seconds().to_string()])?;
        figures.add(row, OURS, after(&said, "records")?);
        fs::remove_dir_all(folder).context("tidy")?;
    }
    Ok(())
}

pub(super) fn long_ledger(folder: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    let store = new_store(folder)?;
    // The first start makes what a running store has.
    store.start()?.stop()?;
    let layout = store.layout();
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
    let records = options.records();
    let mirror = layout.volume.join(".journal");
    let root_key = layout.folder.join("root.key");
    let said =
        pace(&["fill", &path(&layout.state)?, &path(&root_key)?, &path(&mirror)?, &records.to_string()])?;
    figures.add(FILL, OURS, after(&said, "records")?);
    let size = fs::metadata(layout.state.join("ledger.redb")).context("look at the ledger")?.len();
    figures.add(LEDGER_BYTES, OURS, super::float(size) / super::float(records));
    let said = pace(&["verify", &path(&layout.state)?, &path(&root_key)?])?;
    figures.add(VERIFY, OURS, 1e6 / after(&said, "records")?);
    figures.add(VERIFY, LIMIT, rows_alone()?);
    give_back(&layout.state)?;
    give_back(&mirror)?;
    for turn in 0..STARTS {
        let began = Clock.now();
        let daemon = store.start()?;
        figures.add(START, OURS, elapsed(began));
        figures.add(START_MEMORY, OURS, peak_mebibytes(&[daemon.pid()])?);
        let mut client = store.connect()?;
        for number in 0..BEFORE_A_KILL {
            client.store(&format!("before-kill-{turn}/{number}"), b"to be done again")?;
        }
        drop(client);
        daemon.kill()?;
        let began = Clock.now();
        let daemon = store.start()?;
        figures.add(START_AFTER_KILL, OURS, elapsed(began));
        daemon.stop()?;
    }
    fs::remove_dir_all(folder).context("tidy")
}

/// To whoever owns the directory: `pace` runs as root.
fn give_back(directory: &Path) -> Result<()> {
    let mut chown = Command::new("chown");
    chown.arg("--recursive").arg("--reference").arg(directory).arg(directory);
    ensure!(chown.status().context("run chown")?.success(), "chown {}", directory.display());
    Ok(())
}

fn pace(arguments: &[&str]) -> Result<String> {
    let program = lab::programs()?.join("examples/pace");
    let output = Command::new(&program).args(arguments).output();
    let output = output.with_context(|| format!("run {}", program.display()))?;
    ensure!(output.status.success(), "pace {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The number that stands behind a word.
fn after(said: &str, word: &str) -> Result<f64> {
    let mut words = said.split_whitespace().skip_while(|&other| other != word);
    let number = words.nth(1).and_then(|number| number.parse().ok());
    number.with_context(|| format!("pace said no {word}: {said}"))
}
