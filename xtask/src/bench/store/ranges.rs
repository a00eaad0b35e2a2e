//! How long a piece out of the middle of a large file takes to come, beside the same from the volume's own file: the
//! sealed segments that hold it, without HTTP, records, permission or a key.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use culvert_netns::store::receipt;
use daemon::Clock;

use super::super::figures::{Figures, Row, quantile};
use super::machine::{elapsed, noise};
use super::{LIMIT, OURS, Options, megabytes, new_store, row};

const BUILD: Row = row("large file for ranges, put, MB/s", 0);
const PIECES: [(u64, [Row; 2]); 2] = [
    (4 << 10, [row("range of 4 KiB, median, ms", 2), row("range of 4 KiB, 99 %, ms", 2)]),
    (1 << 20, [row("range of 1 MiB, median, ms", 2), row("range of 1 MiB, 99 %, ms", 2)]),
];
const COUNT: u64 = 500;
/// Of a sealed object; a piece lies in as many as it touches.
const SEGMENT_BYTES: u64 = 256 << 10;

pub(super) fn measure(folder: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    let store = new_store(folder)?;
    let daemon = store.start()?;
    let mut client = store.connect()?;
    let (block, mebibytes) = (noise(1 << 20), options.big_mebibytes());
    let began = Clock.now();
    let stored = receipt(&client.put_repeated("big", &block, mebibytes)?.expect(201)?)?;
    figures.add(BUILD, OURS, megabytes(mebibytes) / elapsed(began));

    let mut objects = store.files("objects")?;
    let object =
        File::open(objects.pop().context("nothing lies on the volume")?).context("open the object")?;
    ensure!(objects.is_empty(), "one file, one object");

    let mut place = 0x2545_f491_4f6c_dd1d_u64;
    for (length, rows) in PIECES {
        let (mut times, mut raw) = (Vec::new(), Vec::new());
        let mut sealed = vec![0; usize::try_from(length.div_ceil(SEGMENT_BYTES) * SEGMENT_BYTES)?];
        for _ in 0..COUNT {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let first = (place >> 16) % ((mebibytes << 20) - length + 1);
            // Elsewhere in the file, so that neither finds in memory what the other has read.
            let segments = (mebibytes << 20) / SEGMENT_BYTES - length.div_ceil(SEGMENT_BYTES);
            let began = Clock.now();
            object.read_exact_at(&mut sealed, (place >> 24) % segments * SEGMENT_BYTES).context("read")?;
            raw.push(elapsed(began) * 1e3);
            let (began, mut got) = (Clock.now(), Vec::new());
            let answer = client.get(&stored.file_id, Some((first, first + length - 1)), |bytes| {
                got.extend_from_slice(bytes)
            })?;
            times.push(elapsed(began) * 1e3);
            ensure!(answer.status == 206, "a range was answered with {}", answer.status);
            let at = usize::try_from(first % (1 << 20))?;
            let right = block.iter().cycle().skip(at).take(got.len());
            ensure!(got.len() as u64 == length && got.iter().eq(right), "other bytes than were sent");
        }
        for (contender, mut times) in [(OURS, times), (LIMIT, raw)] {
            times.sort_by(f64::total_cmp);
            for (row, share) in rows.into_iter().zip([0.5, 0.99]) {
                figures.add(row, contender, quantile(&times, share).context("nothing was measured")?);
            }
        }
    }
    drop(client);
    daemon.stop()?;
    fs::remove_dir_all(folder).context("tidy")
}
