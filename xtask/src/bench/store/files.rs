//! Whole files over loopback HTTP: one large one, and many small ones.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use culvert_netns::store::receipt;
use daemon::Clock;

use super::super::figures::{Figures, Row};
use super::super::process_time::{cpu_seconds, peak_mebibytes};
use super::machine::{SMALL_BYTES, elapsed, noise, rate, set_aside, small_files};
use super::nginx::Nginx;
use super::{BARE, NGINX, OURS, Options, megabytes, new_store, row};

pub(super) const PUT: Row = row("one file over HTTP, put, MB/s", 0);
const GET: Row = row("one file over HTTP, get, MB/s", 0);
const PUT_CPU: Row = row("  the server's CPU, put, s/GB", 2);
const GET_CPU: Row = row("  the server's CPU, get, s/GB", 2);
const PEAKS: [(u64, Row); 2] = [
    (1, row("  peak memory after a file of 1 MiB, put and got, MiB", 1)),
    (64, row("  peak memory after a file of 64 MiB, put and got, MiB", 1)),
];
const PEAK_LARGE: Row = row("  peak memory after the large file, put and got, MiB", 1);

pub(super) const SMALL: [(u32, Row); 3] = [
    (1, row("64 KiB puts over HTTP, 1 writer, files/s", 0)),
    (8, row("64 KiB puts over HTTP, 8 writers, files/s", 0)),
    (64, row("64 KiB puts over HTTP, 64 writers, files/s", 0)),
];

pub(super) fn large(folder: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    let block = noise(1 << 20);
    let mebibytes = options.file_mebibytes();
    storaged(&folder.join("storaged"), &block, mebibytes, figures)?;
    fs::remove_dir_all(folder).context("tidy")?;
    nginx(&folder.join("nginx"), &block, mebibytes, figures)?;
    fs::remove_dir_all(folder).context("tidy")
}

fn storaged(folder: &Path, block: &[u8], mebibytes: u64, figures: &mut Figures) -> Result<()> {
    let store = new_store(folder)?;
    let daemon = store.start()?;
    let pids = [daemon.pid()];
    let mut client = store.connect()?;
    for (small, row) in PEAKS {
        let stored = receipt(&client.put_repeated(&format!("small-{small}"), block, small)?.expect(201)?)?;
        client.get(&stored.file_id, None, |_| ())?.expect(200)?;
        figures.add(row, OURS, peak_mebibytes(&pids)?);
    }
    let (began, cpu) = (Clock.now(), cpu_seconds(&pids)?);
    let stored = receipt(&client.put_repeated("large", block, mebibytes)?.expect(201)?)?;
    figures.add(PUT, OURS, megabytes(mebibytes) / elapsed(began));
    figures.add(PUT_CPU, OURS, (cpu_seconds(&pids)? - cpu) / megabytes(mebibytes) * 1e3);

    let (began, cpu, mut got) = (Clock.now(), cpu_seconds(&pids)?, 0);
    client.get(&stored.file_id, None, |bytes| got += bytes.len() as u64)?.expect(200)?;
    ensure!(got == mebibytes << 20, "{got} bytes came back");
    figures.add(GET, OURS, megabytes(mebibytes) / elapsed(began));
    figures.add(GET_CPU, OURS, (cpu_seconds(&pids)? - cpu) / megabytes(mebibytes) * 1e3);
    figures.add(PEAK_LARGE, OURS, peak_mebibytes(&pids)?);
    drop(client);
    daemon.stop().map(drop)
}

fn nginx(folder: &Path, block: &[u8], mebibytes: u64, figures: &mut Figures) -> Result<()> {
    let server = Nginx::start(folder)?;
    let pids = server.pids()?;
    let mut client = server.connect()?;
    let (began, cpu) = (Clock.now(), cpu_seconds(&pids)?);
    client.put("large", block, mebibytes)?;
    figures.add(PUT, NGINX, megabytes(mebibytes) / elapsed(began));
    figures.add(PUT_CPU, NGINX, (cpu_seconds(&pids)? - cpu) / megabytes(mebibytes) * 1e3);
    let (began, cpu, mut got) = (Clock.now(), cpu_seconds(&pids)?, 0);
    client.get("large", &mut |bytes| got += bytes.len() as u64)?;
    ensure!(got == mebibytes << 20, "{got} bytes came back");
    figures.add(GET, NGINX, megabytes(mebibytes) / elapsed(began));
    figures.add(GET_CPU, NGINX, (cpu_seconds(&pids)? - cpu) / megabytes(mebibytes) * 1e3);
    Ok(())
}

pub(super) fn small(folder: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    let block = noise(SMALL_BYTES);
    let seconds = options.seconds();
    for (writers, row) in SMALL {
        {
            let store = new_store(&folder.join("storaged"))?;
            let daemon = store.start()?;
            let count = AtomicU64::new(0);
            let rate = rate(writers, seconds, |_| {
                let (mut client, block, count) = (store.connect()?, &block, &count);
                Ok(move || {
                    let name = format!("f-{}", count.fetch_add(1, Ordering::Relaxed));
                    client.put(&name, block)?.expect(201).map(drop)
                })
            })
            .with_context(|| format!("{writers} writers; storaged said:\n{}", daemon.log()))?;
            figures.add(row, OURS, rate);
            daemon.stop()?;
        }
        {
            let server = Nginx::start(&folder.join("nginx"))?;
            let count = AtomicU64::new(0);
            let rate = rate(writers, seconds, |_| {
                let (mut client, block, count) = (server.connect()?, &block, &count);
                Ok(move || client.put(&format!("f-{}", count.fetch_add(1, Ordering::Relaxed)), block, 1))
            })?;
            figures.add(row, NGINX, rate);
        }
        figures.add(row, BARE, small_files(&folder.join("bare"), writers, seconds)?);
        set_aside(folder)?;
    }
    Ok(())
}
