//! How fast objects are sealed and stored in this process, beside the machine's own limits: SHA-256 alone, and
//! a bare loop of write, fsync, rename and directory fsync. `cargo run --release --example objects_pace -- DIR`.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "it prints figures"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use storaged::ledger::StoreId;
use storaged::ledger::tables::random_id;
use storaged::objects::part::associated_data;
use storaged::objects::{Backend, Buffers, NasVolume, Part, Pipeline, Pool};
use store_proto::{Cohort, FileId};
use vault::Key256;

const FRAME: usize = 128 * 1024;
const SMALL: usize = 64 * 1024;

fn main() {
    let folder: PathBuf = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("pace-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let total: usize = 1 << 30;
    let alone = seconds(|| sha_alone(total));
    println!("SHA-256 alone                {:6.0} MB/s", megabytes(total, alone));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let volume = volume(&folder);
    let pool = Pool::start(8).unwrap();
    for round in 0..3 {
        let taken = seconds(|| runtime.block_on(put(&volume, &pool, total, FRAME)));
        let ratio = alone / taken;
        println!(
            "pipeline, 1 GiB, round {round}     {:6.0} MB/s, {ratio:.2} of SHA-256 alone",
            megabytes(total, taken)
        );
    }
    for writers in [1, 8, 64] {
        let count = if writers == 1 { 1000 } else { 3000 };
        let bare = folder.join(format!("bare-{writers}"));
        let bare = count as f64 / seconds(|| bare_loop(&bare, writers, count));
        let ours = count as f64 / seconds(|| runtime.block_on(puts(&volume, &pool, writers, count)));
        println!("64 KiB, {writers:2} writers: bare {bare:6.0}/s, sealed {ours:6.0}/s, {:.2}", ours / bare);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begun = daemon::Clock.now();
    work();
    (daemon::Clock.now() - begun).as_secs_f64()
}

fn megabytes(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 / 1e6 / seconds
}

fn sha_alone(total: usize) {
    let bytes = vec![7; 256 * 1024];
    let mut hash = Sha256::new();
    for _ in 0..total / bytes.len() {
        hash.update(&bytes);
    }
    assert_ne!(hash.finalize()[..], [0; 32]);
}

fn volume(folder: &Path) -> Arc<dyn Backend> {
    let store = StoreId(FileId::from_bytes([1; 16]));
    let path = folder.join("volume");
    NasVolume::create("main", &path, store, FileId::from_bytes([2; 16])).unwrap();
    Arc::new(NasVolume::open("main", &path, store).unwrap())
}

async fn put(volume: &Arc<dyn Backend>, pool: &Pool, total: usize, frame: usize) {
    let (object, cohort) = (random_id().unwrap(), Cohort::parse("c1").unwrap());
    let key = Key256::generate().unwrap();
    let part = Part { object, key, aad: associated_data(object, 1, &cohort) };
    let slot = Buffers::new(1).own_slot(Duration::from_secs(60)).await.unwrap();
    let mut pipeline = Pipeline::new(pool.clone(), slot, Arc::clone(volume), part, Sha256::new()).await;
    let bytes = vec![7; frame];
    for _ in 0..total / frame {
        pipeline.push(&bytes).await.unwrap();
    }
    pipeline.digest();
    pipeline.finish().await.unwrap();
}

async fn puts(volume: &Arc<dyn Backend>, pool: &Pool, writers: usize, count: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let tasks = (0..writers).map(|_| {
        let (volume, pool, next) = (Arc::clone(volume), pool.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                put(&volume, &pool, SMALL, SMALL).await;
            }
        })
    });
    futures_util::future::join_all(tasks.collect::<Vec<_>>()).await;
}

/// What every store must do for a file at least, on as many threads as there are writers.
fn bare_loop(folder: &Path, writers: usize, count: usize) {
    for shard in 0..256 {
        std::fs::create_dir_all(folder.join(format!("{shard:02x}"))).unwrap();
    }
    std::fs::create_dir_all(folder.join("tmp")).unwrap();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                let bytes = vec![7; SMALL];
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let temporary = folder.join("tmp").join(number.to_string());
                    let mut file = File::create_new(&temporary).unwrap();
                    file.write_all(&bytes).unwrap();
                    file.sync_data().unwrap();
                    let shard = folder.join(format!("{:02x}", number.wrapping_mul(167) % 256));
                    std::fs::rename(&temporary, shard.join(number.to_string())).unwrap();
                    File::open(&shard).unwrap().sync_all().unwrap();
                }
            });
        }
    });
}
