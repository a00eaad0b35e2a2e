//! storaged is killed at any moment, under load or while it starts, and owes nothing afterwards.
//!
//! ```text
//!  writers ──HTTP── storaged ─┬─ ledger, keys
//!                     ↑       └─ volume
//!                  kill -9
//! ```
//!
//! Each round starts the real daemon, lets several writers upload, kills it, starts it again and asks for everything
//! that was ever acknowledged.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::load::{Load, Numbers, Told};
use culvert_netns::store::{Layout, Store};

/// Set to repeat a run.
const SEED_VARIABLE: &str = "CULVERT_SEED";

/// Rounds in one store's life: what is checked grows with it.
const ROUNDS_OF_ONE_STORE: u64 = 25;

const PROGRAMS: &[&str] = &["storaged", "culvert"];
const WRITERS: u64 = 4;

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("after_20_kills_everything_acknowledged_is_there", |scene| kills(scene, 0, 20))
            .needs(PROGRAMS),
        // A thousand, in portions that end within a scenario's bound.
        Scenario::new("after_kills_1_to_250_everything_acknowledged_is_there", |scene| kills(scene, 1, 250))
            .needs(PROGRAMS)
            .slow(),
        Scenario::new("after_kills_251_to_500_everything_acknowledged_is_there", |scene| {
            kills(scene, 2, 250)
        })
        .needs(PROGRAMS)
        .slow(),
        Scenario::new("after_kills_501_to_750_everything_acknowledged_is_there", |scene| {
            kills(scene, 3, 250)
        })
        .needs(PROGRAMS)
        .slow(),
        Scenario::new("after_kills_751_to_1000_everything_acknowledged_is_there", |scene| {
            kills(scene, 4, 250)
        })
        .needs(PROGRAMS)
        .slow(),
    ])
}

fn kills(scene: &Scene, portion: u64, rounds: u64) -> Result<()> {
    let seed = seed()?.wrapping_add(portion);
    runner::say(&format!("{SEED_VARIABLE}={seed}"));
    let mut numbers = Numbers::new(seed);
    let mut left = rounds;
    while left > 0 {
        let these = left.min(ROUNDS_OF_ONE_STORE);
        left -= these;
        let folder = scene.world.data().join(format!("store-{left}"));
        one_store(&folder, these, &mut numbers)
            .with_context(|| format!("with {left} rounds to go; repeat with {SEED_VARIABLE}={seed}"))?;
        fs::remove_dir_all(&folder).context("remove the store")?;
    }
    Ok(())
}

fn one_store(folder: &std::path::Path, rounds: u64, numbers: &mut Numbers) -> Result<()> {
    let store = Arc::new(Store::init(Layout::below(folder)?)?);
    let mut told = Told::default();
    let mut uploads = 0;
    for round in 1..=rounds {
        if numbers.below(4) == 0 {
            // A start tidies: it can be killed in the midst of that too.
            let starting = store.launch_under(&[])?;
            std::thread::sleep(Duration::from_millis(numbers.below(150)));
            starting.kill().context("while it started")?;
        }
        let daemon = store.start()?;
        store
            .keep_promises(&mut told)
            .with_context(|| format!("round {round}; it said:\n{}", daemon.log()))?;
        let load = Load::start(&store, WRITERS, &format!("r{round}"), numbers.below(1 << 32));
        std::thread::sleep(Duration::from_micros(numbers.below(250_000)));
        daemon.kill()?;
        let new = load.finish();
        uploads += new.acknowledged.len();
        told.extend(new);
    }
    // All of it once more, the oldest too.
    told.looked_at.clear();
    let daemon = store.start()?;
    store.keep_promises(&mut told).with_context(|| format!("at the end; it said:\n{}", daemon.log()))?;
    daemon.stop()?;
    runner::say(&format!("{uploads} uploads were acknowledged before {rounds} kills"));
    Ok(())
}

fn seed() -> Result<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(given) => given.parse().with_context(|| format!("{SEED_VARIABLE}={given}")),
        Err(_) => {
            let drawn = fs::read_to_string("/proc/sys/kernel/random/uuid").context("draw a seed")?;
            u64::from_str_radix(&drawn[..8], 16).context("draw a seed")
        }
    }
}
