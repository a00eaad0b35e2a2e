//! How fast parts of storaged are without HTTP around them: what `cargo xtask bench store` starts.
//!
//! ```text
//! pace pipeline MEBIBYTES                     seal | open, MB/s
//! pace ledger DIRECTORY WRITERS SECONDS       records/s, the journal mirror beside the ledger
//! pace fill STATE ROOT_KEY MIRROR RECORDS     records/s, into a store that does not run
//! pace verify STATE ROOT_KEY                  records/s, the walk over all of its log
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use daemon::Clock;
use daemon::logging::{LogFormat, LogOptions};
use sha2::{Digest as _, Sha256};
use storaged::init::LEDGER_FILE;
use storaged::keys::root::RootKey;
use storaged::keys::{KeyStore, Keys};
use storaged::ledger::writer::Observer;
use storaged::ledger::{
    self, Action, Ending, Ledger, MirrorPlace, Note, Opened, Origin, Phase, Record, StoreId, verify,
};
use storaged::metrics::LedgerTime;
use storaged::offline::Offline;
use store_proto::{ServerRole, UserName};
use vault::Key256;
use vault::stream::{Layout, Opener, SEGMENT_BYTES, SEGMENT_OVERHEAD_BYTES, Sealer};

fn main() -> Result<()> {
    // The cause of a refusal is in the log and nowhere else.
    daemon::logging::init(&LogOptions {
        level: Some("warn".into()),
        format: Some(LogFormat::Text),
        quiet: &[],
    })?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["pipeline", mebibytes] => pipeline(mebibytes.parse()?),
        ["ledger", directory, writers, seconds] => {
            fresh(Path::new(directory), writers.parse()?, seconds.parse()?)
        }
        ["fill", state, root_key, mirror, records] => {
            fill(Path::new(state), root_key, Path::new(mirror), records.parse()?)
        }
        ["verify", state, root_key] => verify(Path::new(state), root_key),
        _ => bail!(
            "pipeline MEBIBYTES, ledger DIRECTORY WRITERS SECONDS, fill STATE ROOT_KEY MIRROR RECORDS or verify \
             STATE ROOT_KEY"
        ),
    }
}

/// What happens to each byte of an upload before it is written: SHA-256 over it, sealed, in one thread.
fn pipeline(mebibytes: u64) -> Result<()> {
    let layout = Layout::new(SEGMENT_BYTES).context("the store's own segments")?;
    let key = Key256::generate()?;
    let (mut sealer, header) = Sealer::new(&key, b"pace", layout)?;
    let plain = vec![7; SEGMENT_BYTES as usize];
    let mut segment = Vec::with_capacity(plain.len());
    let mut hash = Sha256::new();
    let (mut left, mut last) = (mebibytes << 20, Vec::new());
    let began = Clock.now();
    while left > 0 {
        let length = sealer.next_plain_bytes().min(usize::try_from(left)?);
        left -= length as u64;
        hash.update(&plain[..length]);
        segment.clear();
        segment.extend_from_slice(&plain[..length]);
        segment.resize(length + SEGMENT_OVERHEAD_BYTES, 0);
        sealer.seal_segment(&mut segment, left == 0)?;
        if last.is_empty() {
            last.clone_from(&segment);
        }
    }
    std::hint::black_box(hash.finalize());
    let sealed = rate(mebibytes << 20, began) / 1e6;

    // The same segment, again and again: opening has no order.
    let opener = Opener::new(&key, b"pace", &header, layout)?;
    let (began, mut opened) = (Clock.now(), 0);
    while opened < mebibytes << 20 {
        segment.clone_from(&last);
        opened += opener.open_segment(0, false, &mut segment)? as u64;
    }
    println!("seal {sealed} open {}", rate(opened, began) / 1e6);
    Ok(())
}

/// A new ledger, keys in memory.
fn fresh(directory: &Path, writers: u64, seconds: u64) -> Result<()> {
    std::fs::create_dir_all(directory.join("mirror")).context("make the directory")?;
    let store = StoreId::random()?;
    let keys: Arc<dyn KeyStore> = Arc::new(Keys::in_memory(store)?);
    let path = directory.join(LEDGER_FILE);
    let host = storaged::host::describe(ServerRole::Testing);
    let mut first = Record::new(Action::AdminInit, Phase::Outcome, host, Origin::default());
    first.ending = Some(Ending::Succeeded);
    ledger::create(&path, store, &keys, first)?;
    let opened = ledger::open(&path)?;
    let end = End::After(Duration::from_secs(seconds));
    run(opened, keys, &directory.join("mirror"), writers, end)
}

/// The ledger of a store that `culvert init storaged` made.
fn fill(state: &Path, root_key: &str, mirror: &Path, records: u64) -> Result<()> {
    let keys: Arc<dyn KeyStore> = Arc::new(Keys::open(state, RootKey::read(root_key)?)?);
    let opened = ledger::open(&state.join(LEDGER_FILE))?;
    run(opened, keys, mirror, 512, End::Records(records))
}

/// What `culvert ledger verify` does.
fn verify(state: &Path, root_key: &str) -> Result<()> {
    let store = Offline::open_at(state, root_key)?;
    let began = Clock.now();
    let walked = verify::verify(&store.reader, &store.log_key, &[], |_| ControlFlow::Continue(()))?;
    ensure!(walked.findings == 0, "the log that was just written has {} findings", walked.findings);
    println!("records {}", rate(walked.records, began));
    Ok(())
}

#[derive(Clone, Copy)]
enum End {
    After(Duration),
    Records(u64),
}

fn run(opened: Opened, keys: Arc<dyn KeyStore>, mirror: &Path, writers: u64, end: End) -> Result<()> {
    let host = storaged::host::describe(ServerRole::Testing);
    let patience = Duration::from_secs(60);
    let mirror =
        MirrorPlace { directory: mirror.to_owned(), patience, delay: storaged::limits::JOURNAL_DELAY };
    let (ledger, thread) =
        Ledger::start(opened, keys, Some(mirror), host, LedgerTime::new(Clock), Unwatched)?;
    // As many threads as the daemon has on such a machine.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let limit = match end {
        End::After(_) => u64::MAX,
        End::Records(records) => records,
    };
    let began = Clock.now();
    let outcome = runtime.block_on(async {
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let (ledger, done, stop) = (ledger.clone(), Arc::clone(&done), Arc::clone(&stop));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) && done.fetch_add(1, Ordering::Relaxed) < limit {
                        ledger.submit(note()).await?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        if let End::After(time) = end {
            tokio::time::sleep(time).await;
            stop.store(true, Ordering::Relaxed);
        }
        for task in tasks {
            task.await??;
        }
        anyhow::Ok(())
    });
    outcome?;
    println!("records {}", rate(done.load(Ordering::Relaxed).min(limit), began));
    drop(ledger);
    thread.join().ok().context("the ledger's thread panicked")
}

/// About as long as the record of an upload.
fn note() -> Note {
    let origin = Origin { user: UserName::parse("ada").ok(), ..Origin::default() };
    let mut note = Note::new(Action::AccessListed, Ending::Succeeded, origin);
    note.detail = Some("0123456789abcdef".repeat(20));
    note
}

struct Unwatched;

impl Observer for Unwatched {
    fn committed(&self, _commands: usize, _seconds: f64) {}
    fn failed(&self, _commands: usize) {}
}

#[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
fn rate(count: u64, began: Instant) -> f64 {
    count as f64 / Clock.now().duration_since(began).as_secs_f64().max(1e-9)
}
