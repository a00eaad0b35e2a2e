//! A volume that is not there, that does not answer, that is full, or that knows more than the ledger.
//!
//! ```text
//!  client ──HTTP── storaged ─┬─ ledger, keys: local disk
//!                            └─ volume: tmpfs, or bindfs that is stopped
//! ```

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{STORAGED_USER, has_many_users};
use culvert_netns::mounts::mount_tmpfs;
use culvert_netns::payload::sha256;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::fuse::Mirrored;
use culvert_netns::store::load::{Load, Sent, Told, content, until_acknowledged};
use culvert_netns::store::{Layout, Store, receipt};
use culvert_netns::wait;
use nix::mount::{MntFlags, umount2};

const PROGRAMS: &[&str] = &["storaged", "culvert"];
const BOUND: Duration = Duration::from_secs(60);
/// What must go on at once while a volume hangs.
const PROMPT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("a_start_without_its_volume_is_refused_and_writes_nothing", unmounted).needs(PROGRAMS),
        Scenario::new("a_volume_that_leaves_while_storaged_runs_takes_nothing_more", leaves).needs(PROGRAMS),
        Scenario::new("yesterdays_ledger_over_todays_volume_deletes_nothing", restored).needs(PROGRAMS),
        Scenario::new("a_full_volume_takes_no_uploads_and_all_else_goes_on", full_volume).needs(PROGRAMS),
        Scenario::new("a_filling_state_directory_stops_uploads_first_and_loses_nothing", full_state)
            .needs(PROGRAMS),
        Scenario::new("a_volume_that_hangs_for_two_minutes_stops_only_its_files", hangs)
            .needs(PROGRAMS)
            .slow(),
    ])
}

/// A volume on a file system of its own, in memory.
fn on_tmpfs(layout: &Layout, bytes: u64) -> Result<()> {
    tmpfs(&layout.volume, bytes)
}

fn tmpfs(at: &Path, bytes: u64) -> Result<()> {
    fs::create_dir_all(at).context("make the mount point")?;
    mount_tmpfs(at, &format!("size={bytes},mode=755"))
}

fn resize(at: &Path, bytes: u64) -> Result<()> {
    finished(Command::new("mount").arg("-o").arg(format!("remount,size={bytes}")).arg(at))
}

fn unmounted(scene: &Scene) -> Result<()> {
    let layout = Layout::below(&scene.world.data().join("store"))?;
    on_tmpfs(&layout, 64 << 20)?;
    let store = Store::init(layout)?;
    let daemon = store.start()?;
    let kept = store.connect()?.store("kept", &content(1, 100_000))?;
    daemon.stop()?;

    let volume = &store.layout().volume;
    // Mounted elsewhere, as what it holds would be on a server that is up.
    let aside = scene.world.data().join("aside");
    fs::create_dir(&aside)?;
    finished(Command::new("mount").arg("--move").arg(volume).arg(&aside))?;
    let mut refused = store.launch_under(&[])?;
    let status = refused.wait(BOUND)?;
    let said = refused.log();
    ensure!(status.code() == Some(78), "it ended with {status}:\n{said}");
    ensure!(said.contains("`main`") && said.contains("mounted"), "{said}");
    let below: Vec<_> = fs::read_dir(volume)?.collect();
    ensure!(below.is_empty(), "something was written below the mount point: {below:?}");

    finished(Command::new("mount").arg("--move").arg(&aside).arg(volume))?;
    let daemon = store.start()?;
    let mut got = Vec::new();
    store.connect()?.get(&kept.file_id, None, |bytes| got.extend_from_slice(bytes))?.expect(200)?;
    ensure!(got == content(1, 100_000), "other bytes came back");
    daemon.stop().map(drop)
}

fn leaves(scene: &Scene) -> Result<()> {
    let layout = Layout::below(&scene.world.data().join("store"))?;
    on_tmpfs(&layout, 64 << 20)?;
    let store = Store::init(layout)?;
    let daemon = store.start()?;
    let kept = store.connect()?.store("kept", b"kept")?;
    // An empty file system in its place, as after a mount that went wrong.
    let volume = &store.layout().volume;
    mount_tmpfs(volume, "size=64m,mode=755")?;
    if has_many_users()? {
        chown(volume, Some(STORAGED_USER), Some(STORAGED_USER)).context("open it to storaged")?;
    }
    wait::until("uploads to be refused", BOUND, || {
        let answer = store.connect()?.put("refused", b"refused")?;
        ensure!(answer.status == 503 && answer.problem()? == "backend-unavailable", "{answer:?}");
        Ok(())
    })?;
    let below: Vec<_> = fs::read_dir(volume)?.collect();
    ensure!(below.is_empty(), "something was written to the wrong file system: {below:?}");
    ensure!(!store.trail()?.is_empty(), "the ledger answers no more");

    umount2(volume, MntFlags::MNT_DETACH).context("take the wrong file system away")?;
    wait::until("uploads to be taken again", BOUND, || store.connect()?.store("again", b"again").map(drop))?;
    store.connect()?.get(&kept.file_id, None, |_| ())?.expect(200)?;
    daemon.stop().map(drop)
}

fn restored(scene: &Scene) -> Result<()> {
    let layout = Layout::below(&scene.world.data().join("store"))?;
    let store = Store::init(layout)?;
    let daemon = store.start()?;
    let old = store.connect()?.store("yesterday", b"yesterday")?;
    daemon.stop()?;
    let (state, backup) = (&store.layout().state, scene.world.data().join("backup"));
    copy(state, &backup)?;

    let daemon = store.start()?;
    let mut new = Vec::new();
    for number in 0..5_u64 {
        let bytes = content(number, 50_000);
        new.push(store.connect()?.store(&format!("today/{number}"), &bytes)?);
    }
    daemon.stop()?;
    let before = store.files("objects")?;
    ensure!(before.len() == 6, "{before:?}");

    fs::remove_dir_all(state).context("lose the state directory")?;
    copy(&backup, state)?;
    // The mirror on the volume knows more: that is said, and nothing is done.
    let mut refused = store.launch_under(&[])?;
    let status = refused.wait(BOUND)?;
    let said = refused.log();
    ensure!(status.code() == Some(78) && said.contains("restored or rolled back"), "{status}:\n{said}");
    ensure!(store.files("objects")? == before, "a refused start changed the objects");

    // Without the mirror nobody can know what today's objects were.
    let mirror = store.layout().volume.join(".journal");
    for entry in fs::read_dir(&mirror).context("list the mirror")? {
        fs::remove_file(entry?.path()).context("lose the mirror")?;
    }
    let daemon = store.start()?;
    let after = store.files("objects")?;
    ensure!(
        before.iter().all(|object| after.contains(object)),
        "an object is gone: {before:?}, then {after:?}"
    );
    store.connect()?.get(&old.file_id, None, |_| ())?.expect(200)?;
    for receipt in &new {
        store.connect()?.get(&receipt.file_id, None, |_| ())?.expect(404)?;
    }
    let counted = format!("storaged_unclaimed_objects {}", new.len());
    wait::until("the unclaimed to be counted", BOUND, || {
        let metrics = store.metrics()?;
        ensure!(metrics.contains(&counted), "{counted} is not in the metrics");
        Ok(())
    })?;
    daemon.stop().map(drop)
}

fn full_volume(scene: &Scene) -> Result<()> {
    let layout = Layout::below(&scene.world.data().join("store"))?;
    on_tmpfs(&layout, 24 << 20)?;
    let store = Store::init(layout)?;
    let daemon = store.start()?;
    let mut told = Told::default();
    let refused = fill(&store, &mut told, 1 << 20, 64)?;
    ensure!(refused == (507, "quota".to_owned()), "answered {refused:?}");
    ensure!(told.acknowledged.len() > 5, "only {} of 1 MiB went onto 24 MiB", told.acknowledged.len());
    // Readers, lists, the trail: the ledger is not on that disk.
    store.keep_acknowledged(&mut told)?;

    resize(&store.layout().volume, 96 << 20)?;
    wait::until("uploads to be taken again", BOUND, || {
        let bytes = content(1000, 1000);
        let receipt = store.connect()?.store("again", &bytes)?;
        let sent = Sent { sha256: sha256(&bytes), size: 1000, seed: 1000 };
        told.acknowledged.insert("again".to_owned(), (receipt.file_id, sent));
        Ok(())
    })?;
    store.keep_promises(&mut told)?;
    daemon.stop().map(drop)
}

fn full_state(scene: &Scene) -> Result<()> {
    const RESERVE: u64 = 4 << 20;
    let mut layout = Layout::below(&scene.world.data().join("store"))?;
    layout.limits = format!("state_reserve_bytes = {RESERVE}\n");
    tmpfs(&layout.state, 256 << 20)?;
    let store = Store::init(layout)?;
    let mut told = Told::default();
    let daemon = store.start()?;
    fill(&store, &mut told, 100, 20)?;
    let state = &store.layout().state;
    let used = || -> Result<u64> {
        let room = nix::sys::statvfs::statvfs(state).context("look at the state directory")?;
        Ok((room.blocks() - room.blocks_free()) * room.fragment_size())
    };
    // What there is, the reserve, and a little: uploads stop while there is room for records.
    resize(state, used()? + RESERVE + (256 << 10))?;
    let refused = fill(&store, &mut told, 100, 20_000)?;
    ensure!(refused == (507, "quota".to_owned()), "answered {refused:?}");
    store.keep_acknowledged(&mut told).context("while only uploads are refused")?;

    // No reserve any more: what cannot be recorded is refused.
    resize(state, used()? + (64 << 10))?;
    let file = told.acknowledged.values().next().context("nothing was acknowledged")?.0.clone();
    wait::until("the ledger to be full", BOUND, || {
        let answer = store.connect()?.get(&file, None, |_| ())?;
        ensure!(answer.status == 503 && answer.problem()? == "ledger-unavailable", "{answer:?}");
        Ok(())
    })?;
    let log = daemon.log();
    ensure!(!log.contains("panicked"), "storaged panicked:\n{log}");

    resize(state, 256 << 20)?;
    daemon.kill()?;
    let daemon = store.start()?;
    told.looked_at.clear();
    store.keep_promises(&mut told).with_context(|| format!("storaged said:\n{}", daemon.log()))?;
    daemon.stop().map(drop)
}

/// Uploads until one is refused, at most `most`; how it was refused.
fn fill(store: &Store, told: &mut Told, size: u64, most: u64) -> Result<(u16, String)> {
    let begin = told.acknowledged.len() as u64;
    let mut client = store.connect()?;
    for number in begin..begin + most {
        let (path, bytes) = (format!("fill/{number}"), content(number, size));
        let sent = Sent { sha256: sha256(&bytes), size, seed: number };
        let answer = client.put(&path, &bytes)?;
        if answer.status != 201 {
            told.refused.insert(path, (answer.status, answer.text(), sent));
            return Ok((answer.status, answer.problem()?));
        }
        told.acknowledged.insert(path, (receipt(&answer)?.file_id, sent));
    }
    Ok((201, String::new()))
}

fn hangs(scene: &Scene) -> Result<()> {
    const HANG: Duration = Duration::from_secs(120);
    let layout = Layout::below(&scene.world.data().join("store"))?;
    let mirrored = Mirrored::mount(&scene.world.data().join("nas"), &layout.volume)?;
    let store = Arc::new(Store::init(layout)?);
    let daemon = store.start()?;
    let mut told = Told::default();
    let load = Load::start(&store, 2, "before", 1);
    until_acknowledged(&load, 20, BOUND)?;
    told.extend(load.finish());
    let kept = told.acknowledged.values().next().context("nothing was acknowledged")?.0.clone();

    mirrored.hang()?;
    let began = wait::now();
    let files: Vec<_> = (0..8_u64)
        .map(|number| {
            let (store, kept) = (Arc::clone(&store), kept.clone());
            std::thread::spawn(move || -> Result<u16> {
                let mut client = store.connect()?;
                client.bound(Duration::from_secs(100))?;
                if number % 2 == 0 {
                    client.put(&format!("hung/{number}"), &content(number, 1000)).map(|answer| answer.status)
                } else {
                    client.get(&kept, None, |_| ()).map(|answer| answer.status)
                }
            })
        })
        .collect();
    // Ledger, metrics and admin go on meanwhile, each answer at once.
    while wait::now().duration_since(began) < HANG {
        let asked = wait::now();
        store.trail()?;
        store.metrics()?;
        let listing = format!("/internal/v1/cohorts/{}/files", culvert_netns::culvert::COHORT);
        store.connect()?.request("GET", &listing)?.expect(200)?;
        let health = store.connect()?.request("GET", "/internal/storage/health")?;
        ensure!(matches!(health.status, 200 | 503), "{health:?}");
        let took = wait::now().duration_since(asked);
        ensure!(took < PROMPT, "ledger, metrics and health took {:.1} s", took.as_secs_f64());
        std::thread::sleep(Duration::from_secs(1));
    }
    for (number, thread) in (0_u64..).zip(files) {
        let status = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        let status = status.with_context(|| format!("request {number}"))?;
        ensure!(status == 503, "request {number} was answered {status} while its volume hung");
        if number % 2 == 0 {
            let bytes = content(number, 1000);
            let sent = Sent { sha256: sha256(&bytes), size: 1000, seed: number };
            told.refused.insert(format!("hung/{number}"), (status, String::new(), sent));
        }
    }
    mirrored.wake()?;
    wait::until("an upload to be taken again", BOUND, || {
        let receipt = store.connect()?.store("woken", b"woken")?;
        let sent = Sent { sha256: receipt.sha256.clone(), size: 5, seed: 0 };
        told.acknowledged.insert("woken".to_owned(), (receipt.file_id, sent));
        Ok(())
    })?;
    wait::until("all to be as it should be", BOUND, || store.keep_acknowledged(&mut told))
        .with_context(|| format!("storaged said:\n{}", daemon.log()))?;
    store.keep_promises(&mut told)?;
    daemon.stop()?;
    drop(mirrored);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    finished(Command::new("cp").arg("-a").arg(from).arg(to))
}

fn finished(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
