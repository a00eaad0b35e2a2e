//! A disk that fails under storaged: at each sync, rename and write of an upload, at each of a start, and when it is
//! full.
//!
//! ```text
//!  client ──HTTP── storaged ─┬─ ledger, keys ─┐
//!                            └─ volume ───────┴─ calls that fail: EIO, ENOSPC
//! ```
//!
//! Whatever fails, an acknowledgement means durable and recorded, a refusal names its cause, and the daemon comes back.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::http::Response;
use culvert_netns::payload::sha256;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::faults::{Fault, injected};
use culvert_netns::store::load::{Sent, Told, content};
use culvert_netns::store::{Connection, Daemon, Layout, Store, receipt};
use culvert_netns::wait;

const PROGRAMS: &[&str] = &["storaged", "culvert"];

/// What makes a file or a record durable, and what brings bytes and names to a file system. Not `write`: that is the
/// runtime's own wake-up too, which no disk can fail.
const CALLS: [&str; 10] = [
    "fdatasync",
    "fsync",
    "syncfs",
    "pwrite64",
    "renameat",
    "renameat2",
    "openat2",
    "mkdirat",
    "unlinkat",
    "fallocate",
];

/// More calls of one kind and thread than an upload or a start makes.
const MOST: u32 = 60;

/// For the daemon to find its way back.
const BACK_BOUND: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("a_sync_that_fails_once_is_never_acknowledged", |scene| {
            uploads(scene, &["fdatasync", "fsync", "syncfs"], "EIO", false)
        })
        .needs(PROGRAMS),
        Scenario::new("whatever_fails_once_with_eio_is_never_acknowledged", |scene| {
            uploads(scene, &CALLS, "EIO", false)
        })
        .needs(PROGRAMS)
        .slow(),
        Scenario::new("whatever_fails_once_with_enospc_is_never_acknowledged", |scene| {
            uploads(scene, &CALLS, "ENOSPC", false)
        })
        .needs(PROGRAMS)
        .slow(),
        Scenario::new("whatever_fails_with_eio_from_some_call_on_is_never_acknowledged", |scene| {
            uploads(scene, &CALLS, "EIO", true)
        })
        .needs(PROGRAMS)
        .slow(),
        Scenario::new("whatever_fails_with_enospc_from_some_call_on_is_never_acknowledged", |scene| {
            uploads(scene, &CALLS, "ENOSPC", true)
        })
        .needs(PROGRAMS)
        .slow(),
        Scenario::new("a_ledger_that_cannot_sync_refuses_and_says_so", ledger).needs(PROGRAMS),
        Scenario::new("a_start_that_fails_anywhere_can_be_repeated", starts).needs(PROGRAMS).slow(),
    ])
}

/// Every call of three uploads fails in turn.
fn uploads(scene: &Scene, calls: &[&'static str], error: &'static str, lasting: bool) -> Result<()> {
    let (mut cases, mut failed) = (0, 0);
    for &call in calls {
        // What is checked grows with a store's life: each kind of call has one of its own.
        let folder = scene.world.data().join(call);
        let store = Store::init(Layout::below(&folder)?)?;
        let mut told = Told::default();
        for nth in 1..MOST {
            let fault = Fault { call, error, nth, lasting, file: None };
            let struck = one_fault(&store, &fault, &folder, &mut told)
                .with_context(|| format!("{call} with {error}, number {nth}"))?;
            cases += 1;
            failed += struck;
            if struck == 0 {
                break;
            }
        }
        std::fs::remove_dir_all(&folder).context("remove the store")?;
    }
    runner::say(&format!("{cases} cases, {failed} calls that failed"));
    ensure!(failed > 0, "no call failed: nothing was shown");
    Ok(())
}

/// How many calls failed.
fn one_fault(store: &Store, fault: &Fault, folder: &Path, told: &mut Told) -> Result<usize> {
    let daemon = store.start()?;
    let log = folder.join("strace");
    let faulty = fault.strike(&daemon, &log)?;
    let label = format!("{}-{}-{}", fault.call, fault.error, fault.nth);
    let outcome = send_three(store, &label, told);
    let struck = faulty.lift()?;
    outcome.with_context(|| format!("while it fails; storaged said:\n{}", daemon.log()))?;
    no_panic(&daemon)?;
    // By itself, or by a start: both are ways back, and neither loses anything.
    let by_itself = wait::until("an upload to be taken again", Duration::from_millis(500), || {
        let mut client = store.connect()?;
        let answer = client.put(&format!("{label}/after"), b"after")?;
        remember(told, &format!("{label}/after"), b"after", &answer)
    });
    if by_itself.is_err() {
        daemon.kill()?;
    } else {
        daemon.stop()?;
    }
    let daemon = store.start().context("start it again")?;
    store.keep_promises(told).with_context(|| format!("afterwards; storaged said:\n{}", daemon.log()))?;
    daemon.stop()?;
    Ok(struck)
}

fn send_three(store: &Store, label: &str, told: &mut Told) -> Result<()> {
    for (number, size) in [(1, 300), (2, 300 << 10), (3, 5000)] {
        let (path, bytes) = (format!("{label}/{number}"), content(number, size));
        let mut client: Connection = store.connect()?;
        let answer = client.put(&path, &bytes).with_context(|| format!("{path} was not answered"))?;
        // Refused is fine; a refusal without a known cause is not.
        let _ = remember(told, &path, &bytes, &answer);
        if !matches!(answer.status, 200 | 201) {
            let problem = answer.problem()?;
            let known = ["ledger-unavailable", "backend-unavailable", "quota"];
            ensure!(known.contains(&problem.as_str()), "answered {} {problem}", answer.status);
        }
    }
    Ok(())
}

fn remember(told: &mut Told, path: &str, bytes: &[u8], answer: &Response) -> Result<()> {
    let mut seed = 0;
    for (candidate, size) in [(1, 300), (2, 300 << 10), (3, 5000)] {
        if content(candidate, size) == bytes {
            seed = candidate;
        }
    }
    let sent = Sent { sha256: sha256(bytes), size: bytes.len() as u64, seed };
    if matches!(answer.status, 200 | 201) {
        told.acknowledged.insert(path.to_owned(), (receipt(answer)?.file_id, sent));
        return Ok(());
    }
    if seed != 0 {
        told.refused.insert(path.to_owned(), (answer.status, answer.text(), sent));
    }
    bail!("answered {}: {}", answer.status, answer.text())
}

fn no_panic(daemon: &Daemon) -> Result<()> {
    let log = daemon.log();
    ensure!(!log.contains("panicked"), "storaged panicked:\n{log}");
    Ok(())
}

fn ledger(scene: &Scene) -> Result<()> {
    let folder = scene.world.data().join("store");
    let store = Store::init(Layout::below(&folder)?)?;
    let mut told = Told::default();
    let daemon = store.start()?;
    let mut client = store.connect()?;
    let before = client.store("before", b"before")?;
    // The log ahead alone: each group goes to the databases durably instead.
    let ahead = Some(store.layout().state.join("ledger.ahead"));
    let fault = Fault { call: "fdatasync", error: "EIO", nth: 1, lasting: true, file: ahead };
    let faulty = fault.strike(&daemon, &folder.join("strace-ahead"))?;
    let meanwhile = client.store("meanwhile", b"meanwhile")?;
    ensure!(faulty.lift()? > 0, "no call failed");
    let fault = Fault { call: "fdatasync", error: "EIO", nth: 1, lasting: true, file: None };
    let faulty = fault.strike(&daemon, &folder.join("strace"))?;
    let answer = store.connect()?.put("during", b"during");
    let answer = answer.with_context(|| format!("storaged said:\n{}", daemon.log()))?;
    ensure!(answer.status == 503 && answer.problem()? == "ledger-unavailable", "{answer:?}");
    // What cannot be recorded is not served either.
    let answer = store.connect()?.get(&before.file_id, None, |_| ())?;
    ensure!(answer.status == 503 && answer.problem()? == "ledger-unavailable", "{answer:?}");
    ensure!(faulty.lift()? > 0, "no call failed");
    no_panic(&daemon)?;
    daemon.kill()?;
    let daemon = store.start()?;
    let sent = |bytes: &[u8]| Sent { sha256: sha256(bytes), size: bytes.len() as u64, seed: 0 };
    told.acknowledged.insert("before".to_owned(), (before.file_id, sent(b"before")));
    told.acknowledged.insert("meanwhile".to_owned(), (meanwhile.file_id, sent(b"meanwhile")));
    told.refused.insert("during".to_owned(), (503, String::new(), sent(b"during")));
    store.keep_acknowledged(&mut told)?;
    daemon.stop().map(drop)
}

fn starts(scene: &Scene) -> Result<()> {
    let folder = scene.world.data().join("store");
    let store = Store::init(Layout::below(&folder)?)?;
    let mut told = Told::default();
    let mut cases = 0;
    for call in ["fdatasync", "fsync", "pwrite64", "unlinkat", "fallocate", "openat2"] {
        for nth in 1..MOST {
            // Something is always open: an upload that a kill cut off.
            let daemon = store.start()?;
            let mut client = store.connect()?;
            client.begin_put(&format!("{call}-{nth}"), 1 << 20)?;
            client.send(&content(9, 300 << 10))?;
            wait::until_true("a temporary file", BACK_BOUND, || {
                store.files("tmp").is_ok_and(|files| !files.is_empty())
            })?;
            daemon.kill()?;

            let fault = Fault { call, error: "EIO", nth, lasting: false, file: None };
            let log = folder.join("strace");
            let words = fault.words(&log);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let begun = store.start_under(&words);
            let struck = injected(&log)?;
            cases += 1;
            match begun {
                Ok(daemon) => {
                    no_panic(&daemon)?;
                    daemon.kill()?;
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    ensure!(struck > 0 && !text.contains("panicked"), "{call} {nth}: {text}");
                }
            }
            let daemon = store.start().with_context(|| format!("after {call} {nth}"))?;
            store.keep_promises(&mut told).with_context(|| format!("after {call} {nth}"))?;
            daemon.stop()?;
            std::fs::remove_file(&log).context("remove strace's notes")?;
            if struck == 0 {
                break;
            }
        }
    }
    runner::say(&format!("{cases} starts"));
    Ok(())
}
